/* SPDX-License-Identifier: Apache-2.0
 * exit_figures.h - how good a model's exits are at each place of its own answers.
 *
 * All of it is counted along the full model's answers ("teacher-forced"): the exit sees
 * what the full model wrote before, so each place is judged by itself.
 *
 * Thread: any.
 */
#ifndef CE_TOOLS_EXIT_FIGURES_H
#define CE_TOOLS_EXIT_FIGURES_H

#include <stddef.h>

#include "tools/exit_answers.h"

#define EXIT_FIGURES_BINS       15
#define EXIT_FIGURES_MAX_THETAS 32

/* Of one exit over all places. Shares from 0 to 1. */
struct exit_figures {
    size_t n_places;
    double agreement; /* places where its argmax is the final head's */
    /* Expected calibration errors: over BINS equal bins of confidence, weighted by their
     * places, the mean distance of confidence from what it is to foretell. The largest
     * probability of an exit that was trained on the final distribution foretells the
     * probability that the final head gives to the exit's token; whether that is also the
     * final argmax is another question, to which even the final head's own probability is
     * no answer (it agrees with itself always, however unsure). A trust answers it. */
    double mass_error;      /* from the final head's probability of its token */
    double agreement_error; /* from the agreement */
    struct {
        size_t n;
        double confidence, mass, agreement; /* means; 0 without places */
    } bins[EXIT_FIGURES_BINS];
    struct {
        double theta;
        double exit_rate;   /* places where its confidence reaches theta */
        double precision;   /* of those, where it agrees; NAN without any */
        double final_above; /* places where the final head's confidence reaches theta */
    } at[EXIT_FIGURES_MAX_THETAS];
    int n_thetas;
};

/* Figures of exit k (n_exits: of the final head itself). thetas: [n], n up to
 * EXIT_FIGURES_MAX_THETAS. */
void exit_figures_count(struct exit_figures *out, const struct exit_answers *a, int k,
                        const double *thetas, int n);

#endif
