/* SPDX-License-Identifier: Apache-2.0
 * linear.h - matrix products of a step, as the threads of a region share them.
 *
 * Every function here but linear_tiles is called by all threads of a region with the same
 * arguments; each is a stage (threads.h): it returns when all outputs are there. Which
 * thread does what never changes a bit (doc/NUMERICS.md, 1).
 */
#ifndef CE_ENGINE_LINEAR_H
#define CE_ENGINE_LINEAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/kernels.h"
#include "engine/threads.h"

/* Who I am in the region. */
struct worker_id {
    struct threads *pool;
    int tid;
    uint8_t *room; /* my own, for tiles of matrices that are not packed; or NULL */
    size_t room_bytes;
};

/* threads_take for this worker. */
static inline bool
worker_take(struct worker_id id, size_t n, size_t grain, size_t *from, size_t *to)
{
    return threads_take(id.pool, id.tid, n, grain, from, to);
}

/* Rows of activations, in one or both forms. */
struct act_rows {
    float *x;                 /* [n_rows, n] */
    struct act_group *groups; /* [n_rows, n / 32] */
    size_t n;                 /* elements of a row */
    bool quantised;           /* some reader needs groups; n is a multiple of 32 */
    bool plain;               /* some reader needs x; only linear_gated asks */
};

/* 64-byte aligned array of n elements; NULL when there is no memory or n * size
 * overflows. Free with free(). */
void *linear_alloc(size_t n, size_t size);

/* Allocate max_rows rows of n; CE_ENOMEM. The groups only when n allows them. */
int act_rows_init(struct act_rows *a, size_t max_rows, size_t n) CE_MUSTCHECK;
void act_rows_fini(struct act_rows *a);

/* Groups of elements [from, to) of row r, when quantised. Bounds: whole groups. */
void act_rows_quantise(const struct kernels *k, const struct act_rows *a, size_t row,
                       size_t from, size_t to);

/* The first n_rows rows as kernels take them. */
static inline struct activations
act_rows_view(const struct act_rows *a, size_t n_rows)
{
    return (struct activations){ .groups = a->groups, .x = a->x, .n_rows = n_rows };
}

/* Where a thread keeps products until they are added or combined: a few tiles wide, so
 * that it stays in the cache. Written straight into rows of the step, a tile touches a
 * page per row: for 240 rows of 1,536 outputs that cost a fifth of the product's time. */
struct linear_scratch {
    float *y;          /* per thread 2 x [max_rows, LINEAR_WIDTH] */
    size_t per_thread; /* floats */
};

#define LINEAR_WIDTH 64 /* outputs of a run: two groups, four tiles */

int linear_scratch_init(struct linear_scratch *s, size_t max_rows,
                        int n_threads) CE_MUSTCHECK; /* CE_ENOMEM */
void linear_scratch_fini(struct linear_scratch *s);

struct linear_job {
    const struct packed *w;
    float *y; /* [n_rows, w->n_out] */
};

/* y = W a for tiles [from, to) of one matrix, by this thread alone: no stage. A matrix
 * that is not packed goes through id.room. y: from the first output of tile `from` on,
 * rows y_stride apart. */
void linear_tiles(const struct kernels *k, struct worker_id id, const struct packed *w,
                  size_t from, size_t to, const struct activations *a, float *y,
                  size_t y_stride);

/* y = W a for several matrices that read the same rows. */
void linear_many(const struct kernels *k, struct worker_id id,
                 const struct linear_job *jobs, int n_jobs, const struct activations *a);

/* x += W a, with x [n_rows, w->n_out]. */
void linear_add(const struct kernels *k, struct worker_id id, const struct packed *w,
                const struct activations *a, const struct linear_scratch *s, float *x);

/* out = silu(Wgate a) * (Wup a), in the forms that its readers need. */
void linear_gated(const struct kernels *k, struct worker_id id, const struct packed *gate,
                  const struct packed *up, const struct activations *a,
                  const struct linear_scratch *s, const struct act_rows *out);

#endif
