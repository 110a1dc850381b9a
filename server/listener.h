/* SPDX-License-Identifier: Apache-2.0
 * listener.h - accepts connections and gives each a TLS stream and a channel.
 *
 * Refuses by limits (connections in all and per address) before any TLS work,
 * and what has no verified certificate and ALPN before any frame is read.
 *
 * Thread: the I/O thread's.
 */
#ifndef CE_SERVER_LISTENER_H
#define CE_SERVER_LISTENER_H

#include <stddef.h>
#include <stdint.h>

#include <event2/event.h>
#include <openssl/ssl.h>

#include "common/error.h"
#include "server/server.h"

struct listener_config {
    uint32_t max_connections, max_per_address;
    size_t max_out;     /* bytes waiting for a peer that does not read */
    int64_t silence_us; /* see sockets_tune */
};

struct listener;

/* Takes fd, a bound TCP socket, also on failure; base and srv are borrowed, ctx gets a
 * reference. Nobody is accepted yet. */
int listener_new(struct listener **out, struct event_base *base, struct server *srv,
                 int fd, SSL_CTX *ctx, const struct listener_config *config,
                 struct err *err) CE_MUSTCHECK;

/* Listen, unless the socket does already, and accept. */
int listener_start(struct listener *l, struct err *err) CE_MUSTCHECK;

/* For connections accepted from now on; the others keep what they have. */
void listener_set(struct listener *l, SSL_CTX *ctx, const struct listener_config *config);

const char *listener_host(const struct listener *l); /* the real address */
int listener_port(const struct listener *l);

/* Connections now, handshakes included. */
uint32_t listener_n_connections(const struct listener *l);

/* Drop what has not finished its handshake in time. */
void listener_tick(struct listener *l, int64_t now_us);

/* Accept no more; what is open stays. */
void listener_stop(struct listener *l);

/* Closes every connection at once; runs the loop to let them go. Accepts NULL. */
void listener_free(struct listener *l);

#endif
