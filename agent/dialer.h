/* SPDX-License-Identifier: Apache-2.0
 * dialer.h - dial.h for an event loop: one connection attempt in a thread of its own.
 *
 * Resolving a name blocks for as long as the resolver likes, which a loop that also
 * serves a terminal cannot afford.
 *
 * Thread: the event loop; the attempt's own thread ends by itself.
 */
#ifndef CE_AGENT_DIALER_H
#define CE_AGENT_DIALER_H

#include <stdint.h>

#include "agent/dial.h"
#include "common/error.h"

struct dialer;

int dialer_start(struct dialer **out, const struct dial_address *where,
                 int64_t timeout_us, struct err *err) CE_MUSTCHECK;

/* Readable when the attempt has ended. Owned by the dialer. */
int dialer_fd(const struct dialer *d);

/* What became of it: 0 and the socket, which is the caller's, or dial's error;
 * CE_EAGAIN while it goes on. */
int dialer_take(struct dialer *d, int *fd, struct err *err) CE_MUSTCHECK;

/* Forget it, whether it has ended or not; never waits. Accepts NULL. */
void dialer_drop(struct dialer *d);

#endif
