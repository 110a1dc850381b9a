/* SPDX-License-Identifier: Apache-2.0
 * exit_report.h - what `cecollm-model eval-exits` found: pages, JSON, plots.
 *
 * Thread: one owner.
 */
#ifndef CE_TOOLS_EXIT_REPORT_H
#define CE_TOOLS_EXIT_REPORT_H

#include <jansson.h>

#include "common/error.h"
#include "engine/model.h"
#include "tools/exit_figures.h"
#include "tools/exit_frontier.h"

/* What one file of prompts came to. */
struct exit_set {
    const char *path;
    char name[64]; /* the file's, without folder and ending */
    struct prompt_file prompts;
    struct exit_answers answers;
    size_t n_tokens; /* of the full model's answers */
    struct exit_figures figures[MODEL_MAX_EXITS];
    struct exit_frontier frontier; /* no points: not asked for */
};

struct exit_report {
    const char *model, *exits_file, *backend;
    int max_tokens, limit;
    int n_exits;
    int layers[MODEL_MAX_EXITS];
    bool screens[MODEL_MAX_EXITS], trusts[MODEL_MAX_EXITS];
    struct exit_costs costs;
    const struct exit_set *sets; /* [n_sets] */
    int n_sets;
    const struct exit_wish *wish;    /* NULL: nothing was to be chosen */
    const struct exit_point *choice; /* of the first set */
};

/* A point of the paper (arXiv 2411.02829v2, table 2, Alpaca: a 7B model trained with
 * exits). */
struct exit_paper_point {
    double theta, request_rate, rouge_l;
};
#define EXIT_PAPER_POINTS 2
#define EXIT_PAPER        "CE-CoLLM, table 2, Alpaca, 7B"
extern const struct exit_paper_point exit_paper[EXIT_PAPER_POINTS];

void exit_report_print(const struct exit_report *r);
json_t *exit_report_json(const struct exit_report *r);

/* CE_ENOTFOUND when there is no gnuplot. */
int exit_plots_check(struct err *err) CE_MUSTCHECK;

/* SVG files in the folder `dir`, which is made: for each set SET-frontier.svg and
 * SET-exits.svg. CE_ENOTFOUND when there is no gnuplot. */
int exit_plots_write(const struct exit_report *r, const char *dir,
                     struct err *err) CE_MUSTCHECK;

#endif
