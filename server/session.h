/* SPDX-License-Identifier: Apache-2.0
 * session.h - one agent's authenticated presence: an infer channel and, most of
 * the time, an upload channel.
 *
 * session.c makes and ends sessions; session_frames.c has one handler per frame
 * type. Together they check everything that can be checked without knowing what
 * has been computed: who, which epoch, is the sequence open, is there credit,
 * are the rows whole and finite. What passes goes to the backend thread.
 *
 * Thread: the I/O thread's.
 */
#ifndef CE_SERVER_SESSION_H
#define CE_SERVER_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/frame.h"
#include "common/states.h"
#include "server/channel.h"
#include "server/metrics.h"
#include "server/server.h"

enum session_state {
    SESSION_READY,  /* infer channel only */
    SESSION_PAIRED, /* with an upload channel */
    SESSION_ENDED,
};

/* A sequence as the I/O side sees it: enough to check STATES. */
struct session_seq {
    bool open;
    uint32_t seq;
    enum states_codec codec;
    uint32_t id;                  /* the last NEED's */
    uint32_t limit, limit_before; /* rows below may be sent; with an older id */
    uint32_t granted;             /* by the content manager; limit is what was told */
    uint32_t received;            /* one past the last row that came */
    bool answered;                /* a CREDIT was sent */
    bool generating;
    int64_t hidden_bytes; /* charged to the tenant */
};

struct session {
    struct server *srv;
    struct session *prev, *next;
    enum session_state state;
    uint32_t number; /* for logs */
    uint32_t epoch;
    int layer_from;
    bool whole_model;
    uint8_t id[16], secret[16], cert[32];
    uint8_t token_hash[32]; /* zeros: came without */
    struct tenant *tenant;  /* the link's */
    bool held;              /* in srv->held */
    struct session *held_prev, *held_next;
    struct channel *infer, *upload; /* upload may be NULL */
    struct session_link *link;
    struct tenant_usage *usage; /* of whom; NULL when nothing is counted */
    int64_t since_us;
    uint64_t bytes_in, bytes_out; /* of frames */
    uint32_t n_open;
    struct session_seq *seqs; /* [srv->max_seqs] */
};

/* A whole frame that may arrive at this place. Any session may be ended by it. */
void session_frame(struct channel *ch, const struct frame *f);

/* Make a session of a channel whose HELLO was right. The tenant's reference is taken,
 * also on failure: CE_ENOMEM; *out is then left alone. */
int session_new(struct session **out, struct channel *ch, const struct frame_hello *h,
                struct tenant *tenant, struct err *err) CE_MUSTCHECK;

/* The session with this id and secret, or NULL; takes equally long for any secret. */
struct session *session_find(struct server *srv, const uint8_t id[16],
                             const uint8_t secret[16]);

/* End it: with code < 0 ERROR goes to both channels, then BYE. Frees the session;
 * its channels close by themselves. */
void session_end(struct session *s, int code, const char *text);

void session_set_state(struct session *s, enum session_state state);

struct session_seq *session_seq_find(struct session *s, uint32_t seq);
struct session_seq *session_seq_add(struct session *s, uint32_t seq); /* NULL: full */
void session_seq_remove(struct session *s, struct session_seq *q);

/* Send ERROR for one sequence. */
void session_refuse_seq(struct session *s, uint32_t seq, int code, uint32_t retry_ms,
                        const char *text);

/* Hand work over; pauses the channel when the session has too much waiting. */
void session_post(struct session *s, struct channel *ch, struct work_msg *w);

#endif
