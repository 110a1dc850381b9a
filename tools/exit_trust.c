/* SPDX-License-Identifier: Apache-2.0
 * exit_trust.c - see exit_trust.h.
 *
 * Columns are brought to mean 0 and deviation 1 first, so that one rate and one penalty
 * suit them all; the result is folded back into weights of the numbers themselves.
 */
#include "tools/exit_trust.h"

#include <math.h>
#include <string.h>

#include "common/memory.h"
#include "common/random.h"
#include "engine/mathfn.h"
#include "engine/trust.h"
#include "tools/adam.h"
#include "tools/exit_spread.h"
#include "tools/progress.h"

#define STEP    ((size_t)256) /* rows of a call of the backend */
#define BATCH   ((size_t)128) /* rows of a step of Adam */
#define EPOCHS  12
#define RATE    2e-3f
#define PENALTY 0.02f /* half of it times the sum of squared weights */
#define RMS_EPS 1e-5  /* the adapters' */

struct fit {
    struct backend *b;
    const struct exit_rows *rows;
    size_t n, d, cols;           /* rows; d_model; 2 d */
    float *x;                    /* [n, cols] n and h of each row */
    float *odds;                 /* [n] */
    uint8_t *agrees;             /* [n] */
    float *mean, *scale;         /* [cols]; scale: 1 / deviation */
    float *p, *m, *v, *g;        /* [cols + 2] weights, factor of the odds, constant */
    float *states;               /* [STEP, d] */
    float *head_in;              /* [STEP, d] */
    struct head_result *results; /* [STEP] */
    uint32_t *order;             /* [n] */
    int32_t final[STEP];
};

static void
release(struct fit *f)
{
    mem_free(f->x);
    mem_free(f->odds);
    mem_free(f->agrees);
    mem_free(f->mean);
    mem_free(f->scale);
    mem_free(f->p);
    mem_free(f->m);
    mem_free(f->v);
    mem_free(f->g);
    mem_free(f->states);
    mem_free(f->head_in);
    mem_free(f->results);
    mem_free(f->order);
    mem_free(f);
}

static int
make(struct fit **out, struct backend *b, const struct exit_rows *rows, size_t max_rows)
{
    struct fit *f = mem_array_alloc(1, sizeof(*f));
    size_t count = exit_rows_count(rows, false);

    *out = f;
    if (!f)
        return CE_ENOMEM;
    f->b = b;
    f->rows = rows;
    f->n = count < max_rows ? count : max_rows;
    f->d = (size_t)b->info.d_model;
    f->cols = 2 * f->d;
    f->x = mem_array_alloc(f->n, f->cols * sizeof(float));
    f->odds = mem_array_alloc(f->n, sizeof(*f->odds));
    f->agrees = mem_array_alloc(f->n, 1);
    f->mean = mem_array_alloc(f->cols, sizeof(float));
    f->scale = mem_array_alloc(f->cols, sizeof(float));
    f->p = mem_array_alloc(f->cols + 2, sizeof(float));
    f->m = mem_array_alloc(f->cols + 2, sizeof(float));
    f->v = mem_array_alloc(f->cols + 2, sizeof(float));
    f->g = mem_array_alloc(f->cols + 2, sizeof(float));
    f->states = mem_array_alloc(STEP * f->d, sizeof(float));
    f->head_in = mem_array_alloc(STEP * f->d, sizeof(float));
    f->results = mem_array_alloc(STEP, sizeof(*f->results));
    f->order = mem_array_alloc(f->n, sizeof(*f->order));
    return f->x && f->odds && f->agrees && f->mean && f->scale && f->p && f->m && f->v &&
                   f->g && f->states && f->head_in && f->results && f->order
               ? 0
               : CE_ENOMEM;
}

/* ---- what the exit says ---- */

static void
keep_row(struct fit *f, size_t at, size_t r)
{
    const float *state = f->states + r * f->d, *in = f->head_in + r * f->d;
    float *x = f->x + at * f->cols;
    double squares = 0, by;

    for (size_t i = 0; i < f->d; i++)
        squares += (double)state[i] * (double)state[i];
    by = 1 / sqrt(squares / (double)f->d + RMS_EPS);
    for (size_t i = 0; i < f->d; i++) {
        x[i] = in[i];
        x[f->d + i] = (float)((double)state[i] * by);
    }
    f->odds[at] = (float)trust_odds(f->results[r].confidence);
    f->agrees[at] = f->results[r].argmax == f->final[r];
}

static int
run_step(struct fit *f, int exit, size_t from, size_t n, struct err *err)
{
    const struct exit_spread spread = { f->rows, false, f->n };
    const struct exit_spread_out out = { f->states, f->final, f->results, f->head_in };
    int rc = exit_spread_run(&spread, f->b, exit, from, n, &out, err);

    for (size_t r = 0; rc == 0 && r < n; r++)
        keep_row(f, from + r, r);
    return rc;
}

/* ---- the regression ---- */

static void
standardise(struct fit *f)
{
    for (size_t c = 0; c < f->cols; c++) {
        double sum = 0, squares = 0, mean, spread;

        for (size_t r = 0; r < f->n; r++) {
            double y = (double)f->x[r * f->cols + c];

            sum += y;
            squares += y * y;
        }
        mean = sum / (double)f->n;
        spread = squares / (double)f->n - mean * mean;
        f->mean[c] = (float)mean;
        f->scale[c] = spread > 1e-12 ? (float)(1 / sqrt(spread)) : 0;
    }
    for (size_t r = 0; r < f->n; r++) {
        for (size_t c = 0; c < f->cols; c++)
            f->x[r * f->cols + c] = (f->x[r * f->cols + c] - f->mean[c]) * f->scale[c];
    }
}

/* Add row r's share of the gradient. */
static void
add_row(struct fit *f, size_t r, float by)
{
    const float *x = f->x + r * f->cols;
    float t = f->p[f->cols] * f->odds[r] + f->p[f->cols + 1], off;

    for (size_t c = 0; c < f->cols; c++)
        t += f->p[c] * x[c];
    off = by * (1.0f / (1.0f + mathfn_expf(-t)) - (float)f->agrees[r]);
    for (size_t c = 0; c < f->cols; c++)
        f->g[c] += off * x[c];
    f->g[f->cols] += off * f->odds[r];
    f->g[f->cols + 1] += off;
}

static void
learn(struct fit *f, uint64_t seed)
{
    size_t per_epoch = (f->n + BATCH - 1) / BATCH, steps = EPOCHS * per_epoch;
    uint64_t state = seed ^ 0x7472757374u;

    memset(f->p, 0, (f->cols + 2) * sizeof(float));
    memset(f->m, 0, (f->cols + 2) * sizeof(float));
    memset(f->v, 0, (f->cols + 2) * sizeof(float));
    f->p[f->cols] = 1; /* begin as the probability itself */
    for (size_t i = 0; i < f->n; i++)
        f->order[i] = (uint32_t)i;
    for (size_t s = 0; s < steps; s++) {
        size_t from = s % per_epoch * BATCH, left = f->n - from;
        size_t n = left < BATCH ? left : BATCH;
        struct adam adam = { adam_rate(RATE, s, steps), 1, s + 1 };

        if (from == 0)
            random_shuffle(f->order, f->n, &state);
        memset(f->g, 0, (f->cols + 2) * sizeof(float));
        for (size_t i = 0; i < n; i++)
            add_row(f, f->order[from + i], 1 / (float)n);
        for (size_t c = 0; c < f->cols; c++)
            f->g[c] += PENALTY * f->p[c];
        adam_step(&adam, f->p, f->m, f->v, f->g, f->cols + 2);
        if (f->p[f->cols] < 0)
            f->p[f->cols] = 0;
    }
}

static int
conclude(struct exit_trust *out, const struct fit *f)
{
    double constant = (double)f->p[f->cols + 1];

    out->weight = mem_array_alloc(f->cols, sizeof(float));
    if (!out->weight)
        return CE_ENOMEM;
    for (size_t c = 0; c < f->cols; c++) {
        out->weight[c] = f->p[c] * f->scale[c];
        constant -= (double)out->weight[c] * (double)f->mean[c];
    }
    out->bias[0] = f->p[f->cols];
    out->bias[1] = (float)constant;
    return isfinite(constant) && isfinite(out->bias[0]) ? 0 : CE_EINTERNAL;
}

static int
fit_exit(struct fit *f, struct exit_trust *out, int exit, uint64_t seed, struct err *err)
{
    int rc = 0;

    for (size_t from = 0, n; rc == 0 && from < f->n; from += n) {
        n = f->n - from < STEP ? f->n - from : STEP;
        rc = run_step(f, exit, from, n, err);
    }
    if (rc != 0)
        return rc;
    standardise(f);
    learn(f, seed + (uint64_t)exit);
    rc = conclude(out, f);
    return rc == 0 ? 0
                   : err_set(err, rc, "the trust of the exit after block %d: %s",
                             f->b->info.exit_layers[exit],
                             rc == CE_ENOMEM ? "no memory" : "not finite");
}

int
exit_trust_fit(struct exit_trust *trusts, struct backend *b, const struct exit_rows *rows,
               size_t max_rows, uint64_t seed, struct err *err)
{
    struct progress progress;
    struct fit *f;
    int rc = make(&f, b, rows, max_rows);

    if (rc != 0)
        err_set(err, rc, "no memory for %zu rows", max_rows);
    progress_start(&progress, "weighing", (size_t)b->info.n_exits);
    for (int i = 0; rc == 0 && i < b->info.n_exits; i++) {
        rc = fit_exit(f, &trusts[i], i, seed, err);
        progress_set(&progress, (size_t)i + 1, NULL);
    }
    progress_end(&progress);
    if (f)
        release(f);
    return rc;
}

void
exit_trust_free(struct exit_trust *trusts, int n)
{
    for (int i = 0; i < n; i++) {
        mem_free(trusts[i].weight);
        trusts[i].weight = NULL;
    }
}
