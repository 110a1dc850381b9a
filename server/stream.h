/* SPDX-License-Identifier: Apache-2.0
 * stream.h - one TLS connection as a stream of bytes on an event loop.
 *
 * OpenSSL is called directly on a non-blocking socket, because three things
 * must be exact: bytes that OpenSSL holds decrypted are read before waiting for
 * the network again; reading can be paused and resumed without losing sight of
 * them; and a peer that does not read costs a bounded buffer, then its connection.
 *
 * Ending: stream_finish sends what is queued, then close_notify, and waits a
 * moment for the peer to be done, so that a last ERROR is not lost to a reset.
 * stream_abort closes at once. Either way the stream is freed by the loop, never
 * under a caller's feet, and `closed` is the last callback.
 *
 * Thread: the event loop's.
 */
#ifndef CE_SERVER_STREAM_H
#define CE_SERVER_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <event2/event.h>
#include <openssl/ssl.h>

#include "common/error.h"

struct stream;

struct stream_events {
    void *arg;
    /* The handshake is done. */
    void (*ready)(void *arg);
    /* Bytes are waiting. Returns how many were used; the others come again with
     * more behind them. May call any stream function. */
    size_t (*data)(void *arg, const uint8_t *data, size_t len);
    /* The connection broke or the peer ended it (`why` says which). The stream is
     * closing by itself. Not called after finish or abort. */
    void (*lost)(void *arg, const char *why);
    void (*closed)(void *arg);
};

/* Server side of a connection: takes fd and ssl, also on failure. max_in, max_out:
 * most bytes buffered each way. */
int stream_new(struct stream **out, struct event_base *base, int fd, SSL *ssl,
               size_t max_in, size_t max_out, const struct stream_events *events,
               struct err *err) CE_MUSTCHECK;

SSL *stream_ssl(struct stream *s); /* borrowed */

/* Queue bytes; they go out at the end of the loop's turn. CE_EQUOTA when
 * max_out would be passed, CE_ENOMEM: nothing was queued, give the stream up. */
int stream_send(struct stream *s, const uint8_t *data, size_t n) CE_MUSTCHECK;

/* Stop or go on reading. What has been read already is offered again. */
void stream_pause(struct stream *s, bool paused);

void stream_finish(struct stream *s);
void stream_abort(struct stream *s);

#endif
