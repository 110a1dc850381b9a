/* SPDX-License-Identifier: Apache-2.0
 * swarm_conn.h - one connection of a recorded agent: TCP, TLS and frames, on an event
 * loop.
 *
 * Thousands of these live in one thread, so an idle one holds no buffers. Besides what an
 * honest agent needs, a connection can send bytes that are no frames, stop reading, leave
 * without a word, and go without TLS.
 *
 * A closed connection is freed by the loop, so any callback may close the one it came
 * from; no callback comes after conn_finish or conn_abort.
 *
 * Thread: the loop's.
 */
#ifndef CE_BENCH_SWARM_CONN_H
#define CE_BENCH_SWARM_CONN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include <event2/event.h>
#include <openssl/ssl.h>

#include "common/error.h"
#include "common/frame.h"

struct conn;

struct conn_events {
    void (*ready)(void *arg); /* connected, the handshake done */
    void (*frame)(void *arg, const struct frame *f);
    /* The connection ended or broke; it is closed already. */
    void (*lost)(void *arg, const char *why);
};

/* Where to, and how; borrowed by connections for their life. */
struct conn_target {
    struct sockaddr_storage address;
    socklen_t address_len;
    char host[256]; /* the certificate must be for it */
    char port[16];
};

/* "host:port" or "[v6]:port", resolved. CE_EINVAL, CE_ENOTFOUND. */
int conn_target_find(struct conn_target *t, const char *text,
                     struct err *err) CE_MUSTCHECK;

/* ctx: NULL for plain TCP. source: 0, or the last byte and more of a 127.0.0.0/8 address
 * to come from. */
int conn_open(struct conn **out, struct event_base *base, SSL_CTX *ctx,
              const struct conn_target *to, uint32_t source, enum frame_place place,
              const struct conn_events *events, void *arg, struct err *err) CE_MUSTCHECK;

void conn_set_place(struct conn *c, enum frame_place place);

/* Queue; goes out at the end of the loop's turn. Trouble is told by `lost`, later. */
void conn_send(struct conn *c, const struct frame *f);
void conn_send_bytes(struct conn *c, const void *bytes, size_t n);
size_t conn_unsent(const struct conn *c);

/* Ask for small socket buffers on this side. */
void conn_small_window(struct conn *c);

/* Stop or go on reading. */
void conn_pause(struct conn *c, bool paused);

/* Read a little of what a paused connection has, and handle the frames in it. */
void conn_sip(struct conn *c);

/* Has the other side ended a connection that is not read? */
bool conn_peer_gone(const struct conn *c);

void conn_finish(struct conn *c); /* send what is queued, close; accepts NULL */
void conn_abort(struct conn *c);  /* with a reset, at once; accepts NULL */

uint64_t conn_bytes_sent(void); /* by all connections of this process */
uint64_t conn_bytes_received(void);
uint32_t conn_count(void); /* open now, those being closed included */

#endif
