/* SPDX-License-Identifier: Apache-2.0
 * exit_figures.c - see exit_figures.h.
 */
#include "tools/exit_figures.h"

#include <math.h>

struct counts {
    size_t n, agree;
    size_t left[EXIT_FIGURES_MAX_THETAS], right[EXIT_FIGURES_MAX_THETAS];
    size_t final_above[EXIT_FIGURES_MAX_THETAS];
    struct {
        size_t n, agree;
        double confidence, mass;
    } bins[EXIT_FIGURES_BINS];
};

static int
bin_of(double confidence)
{
    int bin = (int)(confidence * EXIT_FIGURES_BINS);

    return bin < EXIT_FIGURES_BINS ? bin : EXIT_FIGURES_BINS - 1;
}

static void
count_place(struct counts *c, const struct heard *exit, const struct heard *final,
            const double *thetas, int n)
{
    double confidence = (double)exit->confidence;
    int bin = bin_of(confidence);
    bool agrees = exit->argmax == final->argmax;

    c->n++;
    c->agree += agrees;
    c->bins[bin].n++;
    c->bins[bin].agree += agrees;
    c->bins[bin].confidence += confidence;
    c->bins[bin].mass += (double)exit->mass;
    for (int t = 0; t < n; t++) {
        bool leaves = confidence >= thetas[t];

        c->left[t] += leaves;
        c->right[t] += leaves && agrees;
        c->final_above[t] += (double) final->confidence >= thetas[t];
    }
}

static double
share(size_t part, size_t whole)
{
    return whole > 0 ? (double)part / (double)whole : 0;
}

static void
sum_bins(struct exit_figures *out, const struct counts *c)
{
    for (int i = 0; i < EXIT_FIGURES_BINS; i++) {
        size_t n = c->bins[i].n;

        out->bins[i].n = n;
        if (n == 0)
            continue;
        out->bins[i].confidence = c->bins[i].confidence / (double)n;
        out->bins[i].mass = c->bins[i].mass / (double)n;
        out->bins[i].agreement = share(c->bins[i].agree, n);
        out->mass_error +=
            share(n, c->n) * fabs(out->bins[i].confidence - out->bins[i].mass);
        out->agreement_error +=
            share(n, c->n) * fabs(out->bins[i].confidence - out->bins[i].agreement);
    }
}

void
exit_figures_count(struct exit_figures *out, const struct exit_answers *a, int k,
                   const double *thetas, int n)
{
    struct counts c = { 0 };
    int n_heads = a->n_exits + 1;

    for (int i = 0; i < a->prompts->n; i++) {
        const struct written *w = &a->full[i];

        for (int j = 0; j < w->n; j++) {
            const struct heard *h = &w->heard[(size_t)j * (size_t)n_heads];

            count_place(&c, &h[k], &h[a->n_exits], thetas, n);
        }
    }
    *out = (struct exit_figures){ .n_places = c.n,
                                  .agreement = share(c.agree, c.n),
                                  .n_thetas = n };
    sum_bins(out, &c);
    for (int t = 0; t < n; t++) {
        out->at[t].theta = thetas[t];
        out->at[t].exit_rate = share(c.left[t], c.n);
        out->at[t].precision = c.left[t] > 0 ? share(c.right[t], c.left[t]) : NAN;
        out->at[t].final_above = share(c.final_above[t], c.n);
    }
}
