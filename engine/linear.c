/* SPDX-License-Identifier: Apache-2.0
 * linear.c - matrix products shared by output tile.
 *
 * A thread takes a run of tiles (16 outputs each) for all rows of the step, so
 * every weight is read once per step by one core. The gated pair works in small runs
 * of tiles, so that gate and up are still in the cache when they are combined, and
 * a run is whole groups of 32 outputs, so that the same thread can quantise them.
 */
#include "engine/linear.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define GATED_TILES 4 /* outputs of a run: 64, two groups */

void *
linear_alloc(size_t n, size_t size)
{
    size_t bytes;

    if (__builtin_mul_overflow(n, size, &bytes) || bytes > SIZE_MAX - 63)
        return NULL;
    bytes = (bytes + 63) & ~(size_t)63;
    return aligned_alloc(64, bytes ? bytes : 64);
}

int
act_rows_init(struct act_rows *a, size_t max_rows, size_t n)
{
    size_t total;

    memset(a, 0, sizeof(*a));
    a->n = n;
    if (__builtin_mul_overflow(max_rows, n, &total))
        return CE_ENOMEM;
    a->x = linear_alloc(total, sizeof(*a->x));
    a->groups = linear_alloc(total / ACT_GROUP, sizeof(*a->groups));
    if (!a->x || !a->groups) {
        act_rows_fini(a);
        return CE_ENOMEM;
    }
    return 0;
}

void
act_rows_fini(struct act_rows *a)
{
    free(a->x);
    free(a->groups);
    memset(a, 0, sizeof(*a));
}

void
act_rows_quantise(const struct kernels *k, const struct act_rows *a, size_t row,
                  size_t from, size_t to)
{
    if (a->quantised)
        k->quantise(a->groups + row * (a->n / ACT_GROUP) + from / ACT_GROUP,
                    a->x + row * a->n + from, to - from);
}

static void
matmul(const struct kernels *k, const struct packed *w, size_t from, size_t to,
       const struct activations *a, float *y)
{
    if (from < to)
        k->matmul[w->format](y, w->n_out, w, from, to, a);
}

/* Tiles from .. to of the jobs' tiles counted one after another. */
static void
run_jobs(const struct kernels *k, const struct linear_job *jobs, int n_jobs,
         const struct activations *a, size_t from, size_t to)
{
    size_t base = 0;

    for (int i = 0; i < n_jobs; i++) {
        size_t n = jobs[i].w->n_tiles;
        size_t lo = from > base ? from - base : 0, hi = to > base ? to - base : 0;

        matmul(k, jobs[i].w, lo, hi < n ? hi : n, a, jobs[i].y);
        base += n;
    }
}

void
linear_many(const struct kernels *k, struct worker_id id, const struct linear_job *jobs,
            int n_jobs, const struct activations *a)
{
    size_t total = 0, from, to;

    for (int i = 0; i < n_jobs; i++)
        total += jobs[i].w->n_tiles;
    while (worker_take(id, total, 1, &from, &to))
        run_jobs(k, jobs, n_jobs, a, from, to);
}

/* First output past tile `to`. */
static size_t
tile_end(const struct packed *w, size_t to)
{
    return to * PACKED_ROWS < w->n_out ? to * PACKED_ROWS : w->n_out;
}

void
linear_add(const struct kernels *k, struct worker_id id, const struct packed *w,
           const struct activations *a, float *y, float *x)
{
    size_t from, to;

    while (worker_take(id, w->n_tiles, 1, &from, &to)) {
        size_t first = from * PACKED_ROWS, n = tile_end(w, to) - first;

        matmul(k, w, from, to, a, y);
        for (size_t r = 0; r < a->n_rows; r++)
            k->add(x + r * w->n_out + first, y + r * w->n_out + first, n);
    }
}

/* Gate, up and SwiGLU of tiles from .. to. */
static void
gate_tiles(const struct kernels *k, const struct packed *gate, const struct packed *up,
           const struct activations *a, float *u, const struct act_rows *out, size_t from,
           size_t to)
{
    size_t first = from * PACKED_ROWS, past = tile_end(gate, to);

    matmul(k, gate, from, to, a, out->x);
    matmul(k, up, from, to, a, u);
    for (size_t r = 0; r < a->n_rows; r++) {
        float *g = out->x + r * out->n + first;

        k->swiglu(g, g, u + r * out->n + first, past - first);
        act_rows_quantise(k, out, r, first, past);
    }
}

void
linear_gated(const struct kernels *k, struct worker_id id, const struct packed *gate,
             const struct packed *up, const struct activations *a, float *u,
             const struct act_rows *out)
{
    size_t from, to;

    while (worker_take(id, gate->n_tiles, GATED_TILES, &from, &to)) {
        for (size_t t = from; t < to; t += GATED_TILES)
            gate_tiles(k, gate, up, a, u, out, t,
                       t + GATED_TILES < to ? t + GATED_TILES : to);
    }
}
