/* SPDX-License-Identifier: Apache-2.0
 * dial.h - "HOST:PORT" to a connected TCP socket.
 *
 * Thread: any. Resolving a name blocks, connecting waits at most for the timeout.
 */
#ifndef CE_AGENT_DIAL_H
#define CE_AGENT_DIAL_H

#include <stdint.h>

#include "common/error.h"

struct dial_address {
    char host[256]; /* name or address, without brackets */
    char port[8];
};

/* HOST:PORT or [ADDRESS]:PORT. CE_EINVAL with a text. */
int dial_parse(struct dial_address *a, const char *text, struct err *err) CE_MUSTCHECK;

/* Connect to one of the host's addresses, in the resolver's order. The socket is
 * non-blocking, with TCP_NODELAY. */
int dial(const struct dial_address *a, int64_t timeout_us, int *fd,
         struct err *err) CE_MUSTCHECK;

#endif
