/* SPDX-License-Identifier: Apache-2.0
 * backend_thread.h - the thread that computes: the only owner of the backend,
 * the content manager and the scheduler.
 *
 * Mailbox in (work), mailbox out (replies). Between two steps it takes all work
 * that has come, so that a TRUNCATE or a vanished session is known before
 * anything more is computed for it; then everything runnable of all sessions
 * goes into one ragged step per layer range.
 *
 * Thread: start, post and stop from the I/O thread.
 */
#ifndef CE_SERVER_BACKEND_THREAD_H
#define CE_SERVER_BACKEND_THREAD_H

#include "common/error.h"
#include "engine/backend.h"
#include "server/cost_model.h"
#include "server/handover.h"

struct metrics;
struct tokenizer;
struct backend_thread;

struct backend_thread_config {
    struct backend *backend;           /* taken: closed by stop */
    const struct tokenizer *tokenizer; /* end tokens of GENERATE; NULL without */
    uint32_t window;                   /* rows a sequence may have waiting */
    uint32_t step_rows;                /* most rows of a step, >= 1 */
    int64_t step_budget_us;            /* time of a step; 0: step_rows alone counts */
    enum content_eager eager;
    uint32_t max_seqs;       /* in all */
    size_t states_budget;    /* bytes of rows waiting; 0: no limit */
    int64_t seq_idle_us;     /* silent sequences end; 0: never */
    struct metrics *metrics; /* borrowed, outlives the thread; NULL: none */
};

/* `replies` is borrowed and outlives the thread. On failure the backend is
 * still the caller's. */
int backend_thread_start(struct backend_thread **out,
                         const struct backend_thread_config *config,
                         struct mailbox *replies, struct err *err) CE_MUSTCHECK;

/* Takes the message. */
void backend_thread_post(struct backend_thread *t, struct work_msg *w);

/* Finish the step under way, drop everything, close the backend, join. Accepts
 * NULL. */
void backend_thread_stop(struct backend_thread *t);

/* What is held, as of the last turn; any thread. */
struct backend_thread_figures {
    size_t seqs, rows, content_bytes, kv_bytes;
    size_t runnable;             /* sequences with something to compute */
    size_t wants;                /* sequences that wait for memory */
    size_t row_bytes;            /* of hidden states waiting */
    size_t kv_promised;          /* bytes of KV pages, used or kept for an answer */
    size_t step_rows;            /* that the last step could have had */
    double step_cost_us[COST_N]; /* learnt: of a step, a row, a position */
};
void backend_thread_figures(struct backend_thread *t, struct backend_thread_figures *out);

#endif
