/* SPDX-License-Identifier: Apache-2.0
 * linear.c - matrix products shared by output tile.
 *
 * A thread takes a run of tiles (16 outputs each) for all rows of the step, so
 * every weight is read once per step by one core. Products that are not results by
 * themselves (gate, up, what is added to the residual stream) are made in small runs of
 * tiles and combined while they are in the cache; a run is whole groups of 32 outputs,
 * so that the same thread can quantise them. Packing tiles just before they are read
 * changes nothing of this.
 */
#include "engine/linear.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define RUN_TILES (LINEAR_WIDTH / PACKED_ROWS)

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

/* Packed tiles from .. to as a matrix of their own. */
static struct packed
some_tiles(const struct packed *w, size_t from, size_t to)
{
    struct packed part = *w;
    size_t left = w->n_out - from * PACKED_ROWS, wide = (to - from) * PACKED_ROWS;

    part.data += from * w->tile_bytes;
    part.n_tiles = to - from;
    part.n_out = wide < left ? wide : left;
    return part;
}

void
linear_tiles(const struct kernels *k, struct worker_id id, const struct packed *w,
             size_t from, size_t to, const struct activations *a, float *y,
             size_t y_stride)
{
    size_t run = w->data ? to - from : id.room_bytes / w->tile_bytes;

    for (; from < to; from += run, y += run * PACKED_ROWS) {
        struct packed part;

        if (run > to - from)
            run = to - from;
        if (w->data)
            part = some_tiles(w, from, from + run);
        else
            packed_piece(&part, w, from, run, id.room);
        k->matmul[w->format](y, y_stride, &part, 0, run, a);
    }
}

/* Tiles from .. to of the jobs' tiles counted one after another. */
static void
run_jobs(const struct kernels *k, struct worker_id id, const struct linear_job *jobs,
         int n_jobs, const struct activations *a, size_t from, size_t to)
{
    size_t base = 0;

    for (int i = 0; i < n_jobs; i++) {
        size_t n = jobs[i].w->n_tiles;
        size_t lo = from > base ? from - base : 0, hi = to > base ? to - base : 0;

        hi = hi < n ? hi : n;
        if (lo < hi)
            linear_tiles(k, id, jobs[i].w, lo, hi, a, jobs[i].y + lo * PACKED_ROWS,
                         jobs[i].w->n_out);
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
        run_jobs(k, id, jobs, n_jobs, a, from, to);
}

int
linear_scratch_init(struct linear_scratch *s, size_t max_rows, int n_threads)
{
    s->per_thread = 2 * max_rows * LINEAR_WIDTH;
    s->y = linear_alloc((size_t)n_threads * s->per_thread, sizeof(*s->y));
    return s->y ? 0 : CE_ENOMEM;
}

void
linear_scratch_fini(struct linear_scratch *s)
{
    free(s->y);
    memset(s, 0, sizeof(*s));
}

/* y = W a, [n_rows, LINEAR_WIDTH], for one run of tiles. Returns its outputs. */
static size_t
run_product(const struct kernels *k, struct worker_id id, const struct packed *w,
            size_t from, size_t to, const struct activations *a, float *y)
{
    size_t past = to * PACKED_ROWS < w->n_out ? to * PACKED_ROWS : w->n_out;

    linear_tiles(k, id, w, from, to, a, y, LINEAR_WIDTH);
    return past - from * PACKED_ROWS;
}

static void
add_run(const struct kernels *k, struct worker_id id, const struct packed *w,
        const struct activations *a, float *y, float *x, size_t from, size_t to)
{
    size_t n = run_product(k, id, w, from, to, a, y);

    for (size_t r = 0; r < a->n_rows; r++)
        k->add(x + r * w->n_out + from * PACKED_ROWS, y + r * LINEAR_WIDTH, n);
}

/* The end of the run that starts at `from`, of tiles up to `to`. */
static size_t
run_end(size_t from, size_t to)
{
    return to - from < RUN_TILES ? to : from + RUN_TILES;
}

void
linear_add(const struct kernels *k, struct worker_id id, const struct packed *w,
           const struct activations *a, const struct linear_scratch *s, float *x)
{
    float *y = s->y + (size_t)id.tid * s->per_thread;
    size_t from, to;

    while (worker_take(id, w->n_tiles, 1, &from, &to)) {
        for (size_t t = from; t < to; t = run_end(t, to))
            add_run(k, id, w, a, y, x, t, run_end(t, to));
    }
}

/* Gate, up and SwiGLU of one run; y has room for both products. */
static void
gate_run(const struct kernels *k, struct worker_id id, const struct packed *gate,
         const struct packed *up, const struct activations *a, float *y,
         const struct act_rows *out, size_t from, size_t to)
{
    float *u = y + a->n_rows * LINEAR_WIDTH;
    size_t first = from * PACKED_ROWS, n = run_product(k, id, gate, from, to, a, y);

    (void)run_product(k, id, up, from, to, a, u);
    for (size_t r = 0; r < a->n_rows; r++, y += LINEAR_WIDTH, u += LINEAR_WIDTH) {
        k->swiglu(y, y, u, n);
        if (out->quantised)
            k->quantise(out->groups + (r * out->n + first) / ACT_GROUP, y, n);
        if (out->plain)
            memcpy(out->x + r * out->n + first, y, n * sizeof(*y));
    }
}

void
linear_gated(const struct kernels *k, struct worker_id id, const struct packed *gate,
             const struct packed *up, const struct activations *a,
             const struct linear_scratch *s, const struct act_rows *out)
{
    float *y = s->y + (size_t)id.tid * s->per_thread;
    size_t from, to;

    while (worker_take(id, gate->n_tiles, RUN_TILES, &from, &to)) {
        for (size_t t = from; t < to; t = run_end(t, to))
            gate_run(k, id, gate, up, a, y, out, t, run_end(t, to));
    }
}
