/* SPDX-License-Identifier: Apache-2.0
 * linear.h - matrix products of a step, as the threads of a region share them.
 *
 * Every function here is called by all threads of a region with the same arguments;
 * each is a stage (threads.h): it returns when all outputs are there. Which thread does
 * what never changes a bit (doc/NUMERICS.md, 1).
 */
#ifndef CE_ENGINE_LINEAR_H
#define CE_ENGINE_LINEAR_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/kernels.h"
#include "engine/threads.h"

/* Who I am in the region. */
struct worker_id {
    struct threads *pool;
    int tid;
};

/* threads_take for this worker. */
static inline bool
worker_take(struct worker_id id, size_t n, size_t grain, size_t *from, size_t *to)
{
    return threads_take(id.pool, id.tid, n, grain, from, to);
}

/* Rows of activations, in both forms; `quantised` says whether groups are made. */
struct act_rows {
    float *x;                 /* [n_rows, n] */
    struct act_group *groups; /* [n_rows, n / 32] */
    size_t n;                 /* elements of a row */
    bool quantised;           /* some reader needs groups; n is a multiple of 32 */
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

struct linear_job {
    const struct packed *w;
    float *y; /* [n_rows, w->n_out] */
};

/* y = W a for several matrices that read the same rows. */
void linear_many(const struct kernels *k, struct worker_id id,
                 const struct linear_job *jobs, int n_jobs, const struct activations *a);

/* x += W a, with x [n_rows, w->n_out]; y is scratch of the same shape. */
void linear_add(const struct kernels *k, struct worker_id id, const struct packed *w,
                const struct activations *a, float *y, float *x);

/* out = silu(Wgate a) * (Wup a), quantised too when out->quantised; u is scratch,
 * [n_rows, out->n]. */
void linear_gated(const struct kernels *k, struct worker_id id, const struct packed *gate,
                  const struct packed *up, const struct activations *a, float *u,
                  const struct act_rows *out);

#endif
