/* SPDX-License-Identifier: Apache-2.0
 * exit_frontier.h - what thresholds of exits cost and bring: requests and time against
 * likeness to the full model's answers.
 *
 * Each exit alone is tried at every threshold; then pairs of exits, of thresholds that
 * alone keep the likeness above a floor, for two exits together change the text more than
 * each of them does. A point is on the frontier when no other has fewer requests and at
 * least its likeness.
 *
 * The time of a token, in blocks of one token's decoding at the edge, and milliseconds:
 *
 *   edge     blocks up to the exit that decides, or up to the last exit that is on; the
 *            checks on the way; and for blocks between that exit and the last one that is
 *            on, which run later together with other rows, what such a row costs
 *   a check  with a screen: the screen alone when the token goes on, screen and product
 *            when it leaves; without: the product. (fit-screens tells how far a screen is
 *            from this.)
 *   request  the link's round trip and the cloud's time, for each token that no exit
 *            decides. States travel while the edge computes, and cost nothing.
 *
 * Thread: the backend's owner.
 */
#ifndef CE_TOOLS_EXIT_FRONTIER_H
#define CE_TOOLS_EXIT_FRONTIER_H

#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"
#include "tools/exit_answers.h"

/* What things cost at the edge, in blocks of one token; NAN: not known. */
struct exit_costs {
    double block_seconds;
    double check_blocks;  /* an exit's whole check */
    double screen_blocks; /* its screen alone */
    double row_blocks;    /* a further row in a step of several, through one block */
};

/* By timing them on `b`, a backend over the whole model with its exits; some seconds. */
int exit_costs_measure(struct exit_costs *out, const struct model *m, struct backend *b,
                       struct err *err) CE_MUSTCHECK;

struct exit_point {
    struct exit_setting setting;
    struct exit_tally tally;
    double request_rate; /* tokens that no exit decided, of all */
    double rouge_l;      /* mean over the prompts, against the full model's text */
    double identical;    /* answers that are the full model's */
    double edge_blocks;  /* a token's mean at the edge; NAN when costs are not known */
    bool best;           /* on the frontier */
};

struct exit_frontier {
    const int *layers; /* [n_exits], borrowed */
    const bool *screens;
    int n_exits;
    struct exit_point *points; /* [n], owned; the first has all exits off; by setting */
    int n;
};

struct exit_frontier_params {
    const double *thetas; /* [n_thetas] to try, ascending, each below 1 */
    int n_thetas;
    double floor; /* ROUGE-L of a threshold alone that is still tried in pairs */
    const int *layers;
    const bool *screens; /* [n_exits] does an exit have a screen? */
    struct exit_costs costs;
};

/* Answers come from `a`, after exit_answers_begin. Errors as exit_answers_complete.
 * Zero-initialise `out`; exit_frontier_free in any case. */
int exit_frontier_make(struct exit_frontier *out, struct exit_answers *a,
                       const struct exit_frontier_params *p,
                       struct err *err) CE_MUSTCHECK;
void exit_frontier_free(struct exit_frontier *f);

/* Blocks of a token's mean at the edge. */
double exit_frontier_edge_blocks(const struct exit_frontier *f,
                                 const struct exit_setting *s, const struct exit_tally *t,
                                 const struct exit_costs *costs);

/* "18=1,24=0.9", what the agent's `theta` takes. out: [cap]; returns it. */
const char *exit_frontier_theta(char *out, size_t cap, const struct exit_frontier *f,
                                const struct exit_setting *s);

/* ---- choosing ---- */

enum exit_aim { EXIT_AIM_ROUGE, EXIT_AIM_REQUESTS, EXIT_AIM_TIME };

/* Milliseconds; NAN: not given. */
struct exit_times {
    double edge_block; /* one token through one block */
    double cloud;      /* of a request: what the cloud computes for it */
    double round_trip;
};

struct exit_wish {
    enum exit_aim aim;
    double target; /* at least so much ROUGE-L; at most so many requests, milliseconds */
    struct exit_times times;
};

/* "rouge=0.95", "requests=0.6" or "time=40". CE_EINVAL with what is wrong. */
int exit_wish_parse(struct exit_wish *out, const char *text,
                    struct err *err) CE_MUSTCHECK;

/* Predicted milliseconds of a token; NAN when a time is not given. */
double exit_point_time(const struct exit_point *p, const struct exit_times *t);

/* The point that is best for the wish. With all times known, the fastest one of enough
 * likeness, or the most alike of few enough requests or little enough time. Without, the
 * one with the fewest requests instead of the fastest; an exit that makes the edge slower
 * than it is without it is then left off. CE_ENOTFOUND when no point reaches the target,
 * with the nearest. */
int exit_frontier_choose(const struct exit_frontier *f, const struct exit_wish *w,
                         const struct exit_point **out, struct err *err) CE_MUSTCHECK;

/* The same setting with exit k off; NULL when it was not tried. */
const struct exit_point *exit_frontier_without(const struct exit_frontier *f,
                                               const struct exit_point *p, int k);

#endif
