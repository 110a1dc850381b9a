/* SPDX-License-Identifier: Apache-2.0
 * cost_model.c - least squares with three unknowns and a short memory; see the
 * header.
 *
 * Each remembered step counts by its relative error, so that single tokens are
 * fitted as well as long prompts, and loses 3 % of its weight with every later
 * one. "Relative" is to what the present fit says, not to what it took: else the
 * steps from before a slow-down would outweigh all after it.
 *
 * What the steps say nothing about stays as it was: hours of single tokens tell
 * what step and row cost together but not each, so a weak pull holds the fit where
 * it was in the directions that nothing else decides. The first measurement only
 * scales the guess we begin with.
 *
 * A step that took over 2.5 times what is expected counts as 2.5 times: one
 * hiccup of the machine changes little, a lasting change is followed in a few
 * dozen steps. No cost is negative: where the best fit has one, it is set to
 * zero and the others are fitted again.
 */
#include "server/cost_model.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#define KEEP       0.97 /* of a step's weight, with each later step */
#define PULL       0.02 /* towards the last fit; one step weighs 1 */
#define SURPRISE   2.5  /* times the expected time, at most */
#define FIRST_ROWS 16   /* of a step before anything was measured */
#define GROWTH     4    /* times the rows of the largest step so far */
#define LEAST_US   1.0  /* no step is shorter; keeps divisions sane */

/* SmolLM2-135M's cloud part on two cores, roughly. Only the proportions matter
 * once a step has run. */
static const double guess_us[COST_N] = { 2000, 200, 0.1 };

/* The normal equations of the remembered steps. */
struct sums {
    double moment[COST_N][COST_N]; /* of x xT */
    double target[COST_N];         /* of x t */
};

void
cost_model_init(struct cost_model *m)
{
    memset(m, 0, sizeof(*m));
    memcpy(m->us, guess_us, sizeof(m->us));
}

static double
dot(const double a[COST_N], const double b[COST_N])
{
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

double
cost_model_time(const struct cost_model *m, uint32_t rows, double positions)
{
    const double x[COST_N] = { 1, rows, positions };

    return fmax(dot(m->us, x), LEAST_US);
}

/* Solve a x = b, symmetric and positive definite, for the unknowns that are not
 * fixed at zero. */
static void
solve(double a[COST_N][COST_N], double b[COST_N], const bool fixed[COST_N],
      double x[COST_N])
{
    int i, j, k;

    for (i = 0; i < COST_N; i++)
        for (j = i + 1; j < COST_N && !fixed[i]; j++) {
            double f = fixed[j] ? 0 : a[j][i] / a[i][i];

            for (k = i; k < COST_N; k++)
                a[j][k] -= f * a[i][k];
            b[j] -= f * b[i];
        }
    for (i = COST_N - 1; i >= 0; i--) {
        x[i] = b[i];
        for (k = i + 1; k < COST_N; k++)
            x[i] -= a[i][k] * x[k];
        x[i] = fixed[i] ? 0 : x[i] / a[i][i];
    }
}

static void
sum_up(const struct cost_model *m, struct sums *sums)
{
    double age = 1;
    uint32_t n;
    int i, j;

    memset(sums, 0, sizeof(*sums));
    for (n = 0; n < m->n_steps; n++, age *= KEEP) {
        uint32_t at = (m->newest + COST_MEMORY - n) % COST_MEMORY;
        const double *x = m->steps[at].x;
        double expected = fmax(dot(m->us, x), LEAST_US);
        double took = fmin(m->steps[at].us, expected * SURPRISE);
        double weight = age / (expected * expected);

        for (i = 0; i < COST_N; i++) {
            for (j = 0; j < COST_N; j++)
                sums->moment[i][j] += weight * x[i] * x[j];
            sums->target[i] += weight * x[i] * took;
        }
    }
}

/* What the guess is to be multiplied by on this machine: the best fit with that
 * one unknown. */
static double
scale_of(const struct sums *sums)
{
    double square = 0;
    int i;

    for (i = 0; i < COST_N; i++)
        square += guess_us[i] * dot(sums->moment[i], guess_us);
    return dot(sums->target, guess_us) / square;
}

/* Fit anew. In units of the scaled guess, so that the three unknowns are of a
 * size and the pull means the same for each. */
static void
fit(struct cost_model *m)
{
    double a[COST_N][COST_N], b[COST_N], unit[COST_N], x[COST_N];
    bool fixed[COST_N] = { false };
    struct sums sums;
    int i, j, round, worst;

    sum_up(m, &sums);
    for (i = 0; i < COST_N; i++)
        unit[i] = guess_us[i] * scale_of(&sums);
    for (round = 0; round < COST_N; round++) {
        for (i = 0; i < COST_N; i++) {
            for (j = 0; j < COST_N; j++)
                a[i][j] = sums.moment[i][j] * unit[i] * unit[j];
            a[i][i] += PULL;
            b[i] = sums.target[i] * unit[i] + PULL * m->us[i] / unit[i];
        }
        solve(a, b, fixed, x);
        for (worst = -1, i = 0; i < COST_N; i++)
            if (x[i] < 0 && (worst < 0 || x[i] < x[worst]))
                worst = i;
        if (worst < 0)
            break;
        fixed[worst] = true;
        x[worst] = 0;
    }
    for (i = 0; i < COST_N; i++)
        m->us[i] = fmax(x[i], 0) * unit[i];
}

void
cost_model_ran(struct cost_model *m, uint32_t rows, double positions, double time_us)
{
    const double x[COST_N] = { 1, rows, positions };
    int i;

    time_us = fmax(time_us, LEAST_US);
    if (m->n_steps == 0)
        for (i = 0; i < COST_N; i++)
            m->us[i] = guess_us[i] * time_us / dot(guess_us, x);
    m->newest = (m->newest + 1) % COST_MEMORY;
    memcpy(m->steps[m->newest].x, x, sizeof(x));
    m->steps[m->newest].us = time_us;
    if (m->n_steps < COST_MEMORY)
        m->n_steps++;
    if (rows > m->most_rows)
        m->most_rows = rows;
    fit(m);
}

uint32_t
cost_model_rows(const struct cost_model *m, double budget_us, double lookback,
                uint32_t max_rows)
{
    double left = fmax(budget_us - m->us[0], m->us[0]);
    double row = m->us[1] + m->us[2] * lookback;
    double known = fmax(FIRST_ROWS, (double)m->most_rows * GROWTH);
    double rows = row > 0 ? fmin(left / row, known) : known;

    rows = fmin(rows, max_rows);
    return rows > 1 ? (uint32_t)rows : 1;
}
