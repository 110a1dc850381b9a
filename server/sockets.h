/* SPDX-License-Identifier: Apache-2.0
 * sockets.h - listening sockets before anybody listens, and how long a peer's
 * silence on the network is believed.
 *
 * Binding and listening are apart: an address in use is found, and a port below 1024
 * taken as root, long before the model is loaded; until then who connects is refused
 * at once instead of waiting.
 *
 * Thread: any.
 */
#ifndef CE_SERVER_SOCKETS_H
#define CE_SERVER_SOCKETS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

/* A TCP socket bound to the first address of `text` ("host:port", "*:port") that can
 * be had; non-blocking, closed by exec, not listening. `key` names the setting in
 * errors. */
int sockets_bind(const char *key, const char *text, int *fd,
                 struct err *err) CE_MUSTCHECK;

/* Only this machine can reach it. */
bool sockets_is_loopback(int fd);

/* For an accepted connection: small frames leave at once; the kernel ends it when the
 * peer has not acknowledged data, or answered probes of a silent connection, for
 * silence_us (0: the system's own patience). */
void sockets_tune(int fd, int64_t silence_us);

#endif
