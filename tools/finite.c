/* SPDX-License-Identifier: Apache-2.0
 * finite.c - see finite.h.
 *
 * All threads decode rows of one tensor; each keeps the first bad row that it saw, and
 * the least of these is told, so the answer does not depend on their number.
 */
#include "tools/finite.h"

#include <math.h>
#include <stdlib.h>

#include "engine/quant.h"
#include "tools/progress.h"

#define GRAIN 16 /* rows */
#define NONE  SIZE_MAX

struct scan {
    struct threads *pool;
    float *rows; /* [threads][longest] */
    size_t longest;
    const struct gguf_tensor *t;
    size_t n_rows, row_bytes;
    struct {
        size_t row, column; /* NONE: all were finite */
    } bad[THREADS_MAX];
};

static size_t
rows_of(const struct gguf_tensor *t)
{
    return t->ne[1] * t->ne[2] * t->ne[3];
}

/* Column of the first value of a row that is not finite, or NONE. */
static size_t
scan_row(const struct scan *s, size_t row, float *x)
{
    const unsigned char *data = (const unsigned char *)s->t->data + row * s->row_bytes;
    size_t n = s->t->ne[0];

    if (quant_dequantise_row(s->t->type, data, x, n) != 0)
        return 0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(x[i]))
            return i;
    }
    return NONE;
}

static void
scan_rows(void *arg, int tid, int n_threads)
{
    struct scan *s = arg;
    size_t from, to;

    (void)n_threads;
    s->bad[tid].row = NONE;
    while (threads_take(s->pool, tid, s->n_rows, GRAIN, &from, &to)) {
        for (size_t r = from; r < to; r++) {
            size_t column = r < s->bad[tid].row
                                ? scan_row(s, r, s->rows + (size_t)tid * s->longest)
                                : NONE;

            if (column == NONE)
                continue;
            s->bad[tid].row = r;
            s->bad[tid].column = column;
        }
    }
}

static int
scan_tensor(struct scan *s, const struct gguf *g, const struct gguf_tensor *t,
            struct err *err)
{
    int first = 0;

    s->t = t;
    s->n_rows = rows_of(t);
    s->row_bytes = quant_row_bytes(t->type, t->ne[0]);
    if (s->row_bytes == 0)
        return err_set(err, CE_EUNSUPPORTED, "%s: tensor %s: format %s cannot be decoded",
                       gguf_path(g), t->name, gguf_type_name(t->type));
    threads_run(s->pool, scan_rows, s);
    for (int i = 1; i < threads_count(s->pool); i++) {
        if (s->bad[i].row < s->bad[first].row)
            first = i;
    }
    if (s->bad[first].row == NONE)
        return 0;
    return err_set(err, CE_EFORMAT,
                   "%s: tensor %s: row %zu, column %zu: the value is not finite",
                   gguf_path(g), t->name, s->bad[first].row, s->bad[first].column);
}

int
finite_check(const struct gguf *g, struct threads *pool, uint64_t *n_values,
             struct err *err)
{
    size_t floats, threads = (size_t)threads_count(pool);
    struct scan *s = calloc(1, sizeof(*s));
    struct progress progress;
    uint64_t bytes = 0, n = 0;
    int rc = 0;

    if (!s)
        return err_set(err, CE_ENOMEM, "%s: no memory", gguf_path(g));
    s->pool = pool;
    s->longest = 1;
    for (int i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);

        s->longest = t->ne[0] > s->longest ? t->ne[0] : s->longest;
    }
    if (!__builtin_mul_overflow(s->longest, threads * sizeof(float), &floats))
        s->rows = malloc(floats);
    if (!s->rows)
        rc = err_set(err, CE_ENOMEM, "%s: no memory", gguf_path(g));
    progress_start(&progress, "looking for values that are not finite, MB",
                   gguf_size_bytes(g) / 1000000);
    for (int i = 0; i < gguf_n_tensors(g) && rc == 0; i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);

        if (t->type == GGUF_I32)
            continue; /* no weights */
        rc = scan_tensor(s, g, t, err);
        n += (uint64_t)t->ne[0] * rows_of(t);
        bytes += t->size_bytes;
        progress_set(&progress, (size_t)(bytes / 1000000), t->name);
    }
    progress_end(&progress);
    if (n_values)
        *n_values = n;
    free(s->rows);
    free(s);
    return rc;
}
