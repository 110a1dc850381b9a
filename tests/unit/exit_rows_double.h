/* SPDX-License-Identifier: Apache-2.0
 * exit_rows_double.h - rows of exits in memory, for tests of training: the reading
 * functions of tools/exit_rows.h.
 */
#ifndef CE_TESTS_UNIT_EXIT_ROWS_DOUBLE_H
#define CE_TESTS_UNIT_EXIT_ROWS_DOUBLE_H

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "tools/exit_rows.h"

struct exit_rows {
    volatile sig_atomic_t *stop; /* set after so many reads; NULL: never */
    long stop_after;
    struct exit_rows_shape shape;
    size_t n[2], cap; /* rows to train on, and held out */
    float *states[2]; /* [cap, n_exits, d] */
    int32_t *ids[2];  /* [cap, n_top] */
    float *logp[2];
    double *xx[MODEL_MAX_EXITS], *xy[MODEL_MAX_EXITS];
};

static inline struct exit_rows *
exit_rows_double_new(const struct exit_rows_shape *shape, size_t cap)
{
    struct exit_rows *r = calloc(1, sizeof(*r));
    size_t d = (size_t)shape->d_model;

    r->shape = *shape;
    r->cap = cap;
    for (int h = 0; h < 2; h++) {
        r->states[h] = calloc(cap * (size_t)shape->n_exits * d, sizeof(float));
        r->ids[h] = calloc(cap * (size_t)shape->n_top, sizeof(int32_t));
        r->logp[h] = calloc(cap * (size_t)shape->n_top, sizeof(float));
    }
    for (int e = 0; e < shape->n_exits; e++) {
        r->xx[e] = calloc((d + 1) * (d + 1), sizeof(double));
        r->xy[e] = calloc((d + 1) * d, sizeof(double));
    }
    return r;
}

static inline void
exit_rows_double_free(struct exit_rows *r)
{
    for (int h = 0; h < 2; h++) {
        free(r->states[h]);
        free(r->ids[h]);
        free(r->logp[h]);
    }
    for (int e = 0; e < r->shape.n_exits; e++) {
        free(r->xx[e]);
        free(r->xy[e]);
    }
    free(r);
}

static inline void
exit_rows_double_sum(struct exit_rows *r, int e, const float *x, const float *last)
{
    size_t d = (size_t)r->shape.d_model;
    double squares = 0;

    for (size_t i = 0; i < d; i++)
        squares += (double)last[i] * (double)last[i];
    squares = sqrt(squares / (double)d);
    for (size_t i = 0; i <= d; i++) {
        double a = i < d ? (double)x[i] : 1;

        for (size_t j = 0; j <= d; j++)
            r->xx[e][i * (d + 1) + j] += a * (j < d ? (double)x[j] : 1);
        for (size_t j = 0; j < d; j++)
            r->xy[e][i * d + j] += a * (double)last[j] / squares;
    }
}

/* states [n_exits][d], last [d], logits [n_vocab]. */
static inline void
exit_rows_double_add(struct exit_rows *r, const float *const *states, const float *last,
                     const float *logits, bool held_out)
{
    size_t d = (size_t)r->shape.d_model, n_top = (size_t)r->shape.n_top;
    size_t at = r->n[held_out]++;
    double sum = 0;
    int32_t *ids = r->ids[held_out] + at * n_top;

    for (int e = 0; e < r->shape.n_exits; e++) {
        memcpy(r->states[held_out] + (at * (size_t)r->shape.n_exits + (size_t)e) * d,
               states[e], d * sizeof(float));
        if (!held_out)
            exit_rows_double_sum(r, e, states[e], last);
    }
    for (int i = 0; i < r->shape.n_vocab; i++)
        sum += exp((double)logits[i]);
    for (size_t t = 0; t < n_top; t++) {
        int32_t best = -1;

        for (int32_t i = 0; i < r->shape.n_vocab; i++) {
            bool taken = false;

            for (size_t u = 0; u < t; u++)
                taken |= ids[u] == i;
            if (!taken && (best < 0 || logits[i] > logits[best]))
                best = i;
        }
        ids[t] = best;
        r->logp[held_out][at * n_top + t] = (float)((double)logits[best] - log(sum));
    }
}

const struct exit_rows_shape *
exit_rows_shape(const struct exit_rows *r)
{
    return &r->shape;
}

size_t
exit_rows_count(const struct exit_rows *r, bool held_out)
{
    return r->n[held_out];
}

int
exit_rows_read(const struct exit_rows *r, bool held_out, size_t i, float *const *states,
               int32_t *ids, float *logp, struct err *err)
{
    size_t d = (size_t)r->shape.d_model, n_top = (size_t)r->shape.n_top;

    if (r->stop && __atomic_sub_fetch((long *)&r->stop_after, 1, __ATOMIC_SEQ_CST) == 0)
        *r->stop = 1;
    if (i >= r->n[held_out])
        return err_set(err, CE_EINVAL, "no row %zu", i);
    for (int e = 0; e < r->shape.n_exits; e++) {
        if (states[e])
            memcpy(states[e],
                   r->states[held_out] + (i * (size_t)r->shape.n_exits + (size_t)e) * d,
                   d * sizeof(float));
    }
    memcpy(ids, r->ids[held_out] + i * n_top, n_top * sizeof(*ids));
    memcpy(logp, r->logp[held_out] + i * n_top, n_top * sizeof(*logp));
    return 0;
}

void
exit_rows_sums(const struct exit_rows *r, int k, const double **xx, const double **xy,
               size_t *n)
{
    *xx = r->xx[k];
    *xy = r->xy[k];
    *n = r->n[0];
}

#endif
