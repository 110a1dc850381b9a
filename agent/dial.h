/* SPDX-License-Identifier: Apache-2.0
 * dial.h - "HOST:PORT" to a connected TCP socket.
 *
 * Thread: any. Resolving a name blocks, connecting waits at most for the timeout.
 */
#ifndef CE_AGENT_DIAL_H
#define CE_AGENT_DIAL_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

struct dial_address {
    char host[256]; /* name or address, without brackets */
    char port[8];
    char name[256]; /* that the certificate must be for; "": host */
};

/* HOST:PORT or [ADDRESS]:PORT. CE_EINVAL with a text. */
int dial_parse(struct dial_address *a, const char *text, struct err *err) CE_MUSTCHECK;

/* Where the upload channel of a session goes: WELCOME's `node` for a session whose
 * infer channel went to `infer`. "": there too. HOST:PORT: there. A bare NAME: to the
 * same address as before, asking for NAME: a balancer routes by it. CE_EPROTO. */
int dial_node(struct dial_address *out, const struct dial_address *infer,
              const char *node, struct err *err) CE_MUSTCHECK;

/* The name that TLS asks for and checks. */
const char *dial_name(const struct dial_address *a);

/* Asked now and then by those who wait: true when nobody wants the result any more. The
 * wait then fails with CE_EAGAIN. NULL wherever one is taken: never. */
struct dial_stop {
    bool (*now)(void *ctx);
    void *ctx;
};

/* poll() on one descriptor until the deadline: 0 when there is something; CE_ETIMEOUT,
 * CE_EAGAIN as above, CE_EIO with errno. */
int dial_poll(int fd, short events, int64_t deadline_us, const struct dial_stop *stop);

/* Connect to one of the host's addresses, in the resolver's order. The socket is
 * non-blocking, with TCP_NODELAY. */
int dial(const struct dial_address *a, int64_t timeout_us, const struct dial_stop *stop,
         int *fd, struct err *err) CE_MUSTCHECK;

#endif
