/* SPDX-License-Identifier: Apache-2.0
 * edge.h - the edge partition of one sequence: blocks in stages, and what each
 * stage has not seen yet.
 *
 * Stage k runs the blocks between two bounds and ends where a head may be: stage 0
 * from the embeddings to l_ee1, stage 1 from there to l_ee2, and so on. A token that
 * leaves at exit 1 never runs stage 1; its hidden state waits in front of it. The
 * next position that goes deeper takes all that wait along as one small prefill:
 * exact catch-up, no state is ever copied or guessed (design section 3.2).
 *
 * Owns one KV sequence of the backend and, in front of each stage, the waiting rows.
 * Thread: the backend's owner, that is the decode worker.
 */
#ifndef CE_AGENT_EDGE_H
#define CE_AGENT_EDGE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "engine/backend.h"

#define EDGE_MAX_STAGES 17 /* as many exits as a model can have, and the rest */

struct edge_stage {
    int layer_to; /* blocks up to here; the first stage starts at block 0 */
    int head;     /* HEAD_*, or HEAD_NONE */
};

/* What is wanted of a head. */
struct edge_want {
    int n_top; /* largest logits */
    bool hash;
    float screen_theta; /* > 0: only whether the confidence reaches it, if the head has a
                           screen (batch.screen_theta); 0: the whole result */
};

/* Called with what comes out of stage 0, in order, as it comes. rows: [n, d_model],
 * borrowed. A failure ends the advance with that code. */
typedef int edge_rows_fn(void *ctx, int32_t pos, int n, const float *rows,
                         struct err *err);

/* Called after each chunk of a long advance: rows done of all. */
typedef void edge_progress_fn(void *ctx, int32_t done, int32_t total);

struct edge_hooks {
    edge_rows_fn *rows;         /* NULL when nobody wants them */
    edge_progress_fn *progress; /* NULL likewise */
    void *ctx;
    const atomic_bool *stop; /* looked at between chunks; NULL: never stops */
};

struct edge;

/* stages: [n], layer_to ascending. chunk: most rows of one backend step. `b` and
 * `hooks` are borrowed until edge_free. */
int edge_new(struct edge **out, struct backend *b, const struct edge_stage *stages, int n,
             int chunk, const struct edge_hooks *hooks, struct err *err) CE_MUSTCHECK;
void edge_free(struct edge *e); /* accepts NULL */

/* Begin an empty sequence, ending the one before. */
int edge_begin(struct edge *e, struct err *err) CE_MUSTCHECK;
void edge_end(struct edge *e);

/* Put n tokens behind the last position. Nothing runs yet. */
int edge_push(struct edge *e, const int32_t *tokens, int n, struct err *err) CE_MUSTCHECK;

/* Bring stages 0 .. stage up to the newest position, each with all that waits in
 * front of it. With res: what `want` says of the stage's head on the newest position;
 * without, want may be NULL. May be called again for the same position with a deeper
 * stage, or for a head that was not wanted, or not all of it, before.
 * CE_EAGAIN when *stop was set; what was done stays done. */
int edge_advance(struct edge *e, int stage, struct head_result *res,
                 const struct edge_want *want, struct err *err) CE_MUSTCHECK;

/* Keep positions 0 .. n-1 in every stage that has more. */
int edge_truncate(struct edge *e, int32_t n, struct err *err) CE_MUSTCHECK;

int32_t edge_n_positions(const struct edge *e); /* pushed */
int edge_n_stages(const struct edge *e);

/* Rows run through stage k since edge_new, for tests and the summary. */
int64_t edge_rows_run(const struct edge *e, int stage);

#endif
