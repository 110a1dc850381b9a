/* SPDX-License-Identifier: Apache-2.0
 * channel.h - one connection as a stream of frames (doc/PROTOCOL.md sections 1, 2).
 *
 * Cuts bytes into frames, checking each header against the channel's place
 * before it waits for the body; hands frames to session_frame; sends frames.
 * It knows no sockets and no TLS: bytes come in through channel_input and leave
 * by the channel_io functions, so a test or fuzzer can be the network.
 *
 * Life: channel_new when the peer is known -> first frame makes it an infer or
 * upload channel of a session -> channel_close (ours) or channel_lost (theirs) ->
 * channel_free when the connection is really gone.
 *
 * Thread: the I/O thread's.
 */
#ifndef CE_SERVER_CHANNEL_H
#define CE_SERVER_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/frame.h"
#include "common/tls.h"
#include "server/server.h"

struct channel_io {
    void *arg;
    int (*send)(void *arg, const uint8_t *data, size_t n); /* negative: give it up */
    void (*pause)(void *arg, bool paused);
    void (*finish)(void *arg); /* flush, then close */
    void (*abort)(void *arg);  /* close now */
    /* None of them frees the channel before its caller has returned. */
};

struct channel {
    struct server *srv;
    struct channel *prev, *next; /* in srv->channels */
    struct channel *paused_prev, *paused_next;
    struct channel_io io;
    enum frame_place place;
    struct session *session; /* NULL before the first frame and after the end */
    bool closed;             /* nothing more is sent or handled */
    bool paused;
    bool cut;              /* the last frame was a TRUNCATE */
    int64_t since_us;      /* accepted */
    int64_t last_us;       /* last whole frame */
    int64_t idle_us;       /* silent for so long it is closed; what its agent was told */
    uint32_t retry_ms;     /* told with the ERROR that refuses the first frame; 0: not */
    struct tls_peer *peer; /* who it is, owned; NULL once the first frame was right */
    uint8_t cert[32];      /* SHA-256 of the peer's certificate; zeros without one */
    char name[256];        /* its name */
    char address[80];      /* for logs */
};

/* Most bytes of input a channel may ask to see at once. */
#define CHANNEL_MAX_IN (FRAME_HEADER_SIZE + FRAME_MAX_MAP + 4 * (size_t)FRAME_MAX_PROMPT)

/* NULL without memory. The peer and its address are copied. */
struct channel *channel_new(struct server *srv, const struct channel_io *io,
                            const struct tls_peer *peer, const char *address,
                            int64_t now_us);
void channel_free(struct channel *ch); /* its session, if any, ends */

/* Bytes in; returns how many were used. */
size_t channel_input(struct channel *ch, const uint8_t *data, size_t len, int64_t now_us);

/* Nothing is sent once the channel is closed. */
void channel_send(struct channel *ch, const struct frame *f);
void channel_send_error(struct channel *ch, int code, const char *text);

/* Free what is remembered of the peer's certificate: it is known whose this is. */
void channel_forget_peer(struct channel *ch);

/* BYE, then close. */
void channel_close(struct channel *ch);

/* The connection broke. Ends the session when it is its infer channel. */
void channel_lost(struct channel *ch, const char *why);

/* Stop reading until the session's work has been taken. */
void channel_pause(struct channel *ch, bool paused);

#endif
