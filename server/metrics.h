/* SPDX-License-Identifier: Apache-2.0
 * metrics.h - what the server counts about itself while it works.
 *
 * One `struct metrics` holds every histogram and total. The threads that work call
 * the functions below at the place where something happens; each is a few relaxed
 * atomic operations, and all of them accept NULL, so that parts can be tested
 * without. What is *held* at a moment (sessions, KV pages) is not here: whoever
 * makes a page looks at it then (struct metrics_view).
 *
 * Thread: counting from any thread, the tenants' table from the I/O thread.
 */
#ifndef CE_SERVER_METRICS_H
#define CE_SERVER_METRICS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/bytebuf.h"
#include "common/counters.h"
#include "common/error.h"
#include "server/content.h"
#include "server/histogram.h"
#include "server/usage.h"

enum metrics_count {
    METRICS_ACCEPTED, /* connections */
    METRICS_SESSIONS, /* begun */
    METRICS_BYTES_IN, /* of frames */
    METRICS_BYTES_OUT,
    METRICS_REQUESTS, /* INFER and GENERATE */
    METRICS_TOKENS,   /* sent */
    METRICS_STEPS,
    METRICS_STEP_FAILURES,
    METRICS_ROWS,       /* computed */
    METRICS_EAGER_ROWS, /* of them: before anybody asked */
    METRICS_SCRAPES,
    METRICS_HTTP_REFUSED, /* by the metrics listener */
    METRICS_N,
};

/* Refused before there was a channel to say so; the others are told an error code
 * in an ERROR frame. */
enum metrics_refusal {
    METRICS_REFUSED_CONNECTIONS = -(CE_EINTERNAL) + 1, /* max_connections */
    METRICS_REFUSED_ADDRESS,                           /* max_connections_per_address */
    METRICS_REFUSED_HANDSHAKE,
    METRICS_REFUSED_CERTIFICATE, /* or no ALPN */
    METRICS_N_REFUSALS,
};

#define METRICS_MAX_FRAME 32 /* types of frames, 0 for unknown ones */

struct metrics {
    int64_t start_us;      /* monotonic */
    int64_t start_wall_us; /* since 1970 */
    struct histogram handshake, queue, token, step, step_rows, loop_delay;
    struct counter counts[METRICS_N];
    _Atomic int64_t
        refusals[METRICS_N_REFUSALS]; /* by -code, then enum metrics_refusal */
    _Atomic int64_t frames_in[METRICS_MAX_FRAME], frames_out[METRICS_MAX_FRAME];
    _Atomic int64_t evictions[CONTENT_N_EVICTIONS];
    struct usage usage;
    /* When the backend thread's present turn began; 0 while it waits for work. A turn
     * is at most one step and the messages before it. */
    _Atomic int64_t turn_since_us;
};

/* max_tenants: names shown, the rest being "other". */
int metrics_init(struct metrics *m, size_t max_tenants, struct err *err) CE_MUSTCHECK;
void metrics_fini(struct metrics *m);

/* "quota", "max_connections": the label of a reason. */
const char *metrics_refusal_name(int reason);

/* ---- counting ---- */

static inline void
metrics_add(struct metrics *m, enum metrics_count which, int64_t n)
{
    if (m)
        counter_add(&m->counts[which], n);
}

/* A connection's handshake is done. */
void metrics_handshake(struct metrics *m, int64_t took_us);

/* reason: -CE_E* or METRICS_REFUSED_*; t: of which tenant, or NULL. */
void metrics_refused(struct metrics *m, struct tenant_usage *t, int reason);

/* A frame (FRAME_* of common/frame.h) came or went. */
void metrics_frame_in(struct metrics *m, struct tenant_usage *t, int type, size_t bytes);
void metrics_frame_out(struct metrics *m, struct tenant_usage *t, int type, size_t bytes);

/* A request was answered: when it arrived, when its rows were there and it was
 * runnable, when its step began, and now. */
void metrics_answered(struct metrics *m, int64_t asked_us, int64_t ready_us,
                      int64_t start_us, int64_t now_us);

/* A step ended well. */
void metrics_step(struct metrics *m, size_t n_rows, int64_t took_us);

/* Something of a sequence was given up for others. */
void metrics_evicted(struct metrics *m, struct tenant_usage *t,
                     enum content_eviction why);
const char *metrics_eviction_name(enum content_eviction why); /* a label */

/* The backend thread begins a turn, or (0) waits. */
void metrics_turn(struct metrics *m, int64_t now_us);

/* A timer of the loop ran so late. */
void metrics_loop_delay(struct metrics *m, int64_t late_us);

/* ---- showing ---- */

/* What is held at this moment, filled by who knows. Strings are borrowed. */
struct metrics_view {
    int64_t now_us;
    const char *version, *backend, *numerics, *model;
    uint8_t fingerprint[32];
    uint32_t connections, sessions, paused;
    uint32_t max_connections, max_sessions, max_seqs;
    size_t seqs, rows, content_bytes;
    size_t runnable;                 /* sequences with something to compute */
    size_t wants;                    /* sequences that wait for memory */
    size_t row_bytes, states_budget; /* of hidden states waiting */
    size_t kv_promised;              /* bytes of pages, used or kept for an answer */
    size_t step_rows;                /* that the last step could have had */
    double step_cost_us[3]; /* learnt: of a step, a row, a position looked back to */
    size_t kv_bytes, kv_page_bytes, kv_budget; /* budget 0: none */
    size_t weight_bytes;
    bool loading; /* the model; what it would say is 0 and "" */
    bool draining;
    int64_t stall_us; /* a turn longer than this is a stall */
};

/* May requests be sent here? false: *why says why not, in one line. */
bool metrics_ready(const struct metrics *m, const struct metrics_view *v, char why[80]);

/* Everything, in Prometheus' text format. */
void metrics_page(const struct metrics *m, const struct metrics_view *v,
                  struct bytebuf *out);

#endif
