/* SPDX-License-Identifier: Apache-2.0
 * figures.h - the samples of several cases, and what they come to.
 *
 * Samples are taken in rounds: each round prepares every case anew, does its work once
 * without counting, and adds some samples. Between rounds something else may be
 * measured, so that a figure and what it is compared with share what the machine was
 * doing. The median is taken over the samples of all rounds.
 *
 * Thread: the backend's owner.
 */
#ifndef CE_TOOLS_FIGURES_H
#define CE_TOOLS_FIGURES_H

#include "common/error.h"
#include "engine/backend.h"
#include "tools/cases.h"

#define FIGURES_MAX_SAMPLES 100

struct figure {
    struct bench_case c;
    double samples[FIGURES_MAX_SAMPLES]; /* seconds; ascending once summed up */
    int n_samples;
    struct backend_times spent; /* in all samples; zeros when the backend keeps none */
    /* Set by figures_sum_up: */
    double seconds;           /* median */
    double tokens_per_second; /* of the median */
};

struct figures {
    struct figure list[CASES_MAX];
    int n;
};

/* Take the n cases whose names are in `names`, separated by commas; all of them when it
 * is NULL. CE_EINVAL when a name is none of theirs. */
int figures_choose(struct figures *out, const struct bench_case *cases, int n,
                   const char *names, struct err *err) CE_MUSTCHECK;

/* A round of n more samples of each, at most FIGURES_MAX_SAMPLES in all. `label` is for
 * the progress line. */
int figures_sample(struct figures *f, struct backend *b, int n, const char *label,
                   struct err *err) CE_MUSTCHECK;

/* Sort the samples and set the medians; each figure must have a sample. */
void figures_sum_up(struct figures *f);

/* What an exit's check costs in decoding at the edge. NAN where the figures for it are
 * missing. */
struct check_cost {
    double block_seconds; /* one token through one block */
    double check_blocks;  /* an exit's whole check, in blocks */
    double screen_blocks; /* a check that ends with the screen */
};

/* From the edge figures, summed up: what each has more than the blocks alone. */
struct check_cost figures_check_cost(const struct figures *f);

/* NULL when there is none of that name. */
const struct figure *figures_find(const struct figures *f, const char *name);

#endif
