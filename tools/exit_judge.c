/* SPDX-License-Identifier: Apache-2.0
 * exit_judge.c - see exit_judge.h.
 */
#include "tools/exit_judge.h"

#include "common/memory.h"
#include "tools/exit_spread.h"

#define STEP     ((size_t)256)
#define N_THETAS 7

static const float thetas[N_THETAS] = { 0.6f, 0.7f, 0.8f, 0.9f, 0.95f, 0.98f, 0.99f };

struct judge {
    struct backend *b;
    const struct exit_rows *rows;
    size_t n;      /* rows looked at */
    float *states; /* [STEP, d] */
    struct head_result *results;
    int32_t final[STEP]; /* argmax of each row */
    size_t agree, left[N_THETAS], right[N_THETAS];
};

static int
run_step(struct judge *j, int i, size_t from, size_t n, struct err *err)
{
    const struct exit_spread spread = { j->rows, true, j->n };
    const struct exit_spread_out out = { j->states, j->final, j->results, NULL };
    int rc = exit_spread_run(&spread, j->b, i, from, n, &out, err);

    for (size_t r = 0; rc == 0 && r < n; r++) {
        bool right = j->results[r].argmax == j->final[r];

        j->agree += right;
        for (int t = 0; t < N_THETAS; t++) {
            bool leaves = j->results[r].confidence >= thetas[t];

            j->left[t] += leaves;
            j->right[t] += leaves && right;
        }
    }
    return rc;
}

static void
conclude(struct exit_judgement *out, const struct judge *j)
{
    int t = 0;

    while (t < N_THETAS - 1 &&
           (double)j->right[t] < EXIT_JUDGE_PRECISION * (double)j->left[t])
        t++;
    *out = (struct exit_judgement){
        .agreement = (double)j->agree / (double)j->n,
        .theta = thetas[t],
        .exit_rate = (double)j->left[t] / (double)j->n,
        .precision = j->left[t] > 0 ? (double)j->right[t] / (double)j->left[t] : 1,
    };
}

int
exit_judge_run(struct exit_judgement *out, struct backend *b,
               const struct exit_rows *rows, size_t max_rows, struct err *err)
{
    struct judge *j = mem_array_alloc(1, sizeof(*j));
    size_t count = exit_rows_count(rows, true), d = (size_t)b->info.d_model;
    int rc = 0;

    if (!j)
        return err_set(err, CE_ENOMEM, "no memory");
    j->b = b;
    j->rows = rows;
    j->n = count < max_rows ? count : max_rows;
    j->states = mem_array_alloc(STEP * d, sizeof(float));
    j->results = mem_array_alloc(STEP, sizeof(*j->results));
    if (!j->states || !j->results)
        rc = err_set(err, CE_ENOMEM, "no memory for %zu rows", STEP);
    else if (j->n == 0)
        rc = err_set(err, CE_EINVAL, "no rows are held out");
    for (int i = 0; rc == 0 && i < b->info.n_exits; i++) {
        j->agree = 0;
        for (int t = 0; t < N_THETAS; t++)
            j->left[t] = j->right[t] = 0;
        for (size_t from = 0, n; rc == 0 && from < j->n; from += n) {
            n = j->n - from < STEP ? j->n - from : STEP;
            rc = run_step(j, i, from, n, err);
        }
        if (rc == 0)
            conclude(&out[i], j);
    }
    mem_free(j->states);
    mem_free(j->results);
    mem_free(j);
    return rc;
}
