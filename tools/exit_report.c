/* SPDX-License-Identifier: Apache-2.0
 * exit_report.c - see exit_report.h; plots are in exit_plots.c.
 */
#include "tools/exit_report.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tools/revision.h"

const struct exit_paper_point exit_paper[EXIT_PAPER_POINTS] = { { 0.8, 0.4958, 0.9499 },
                                                                { 0.9, 0.58, 0.9839 } };

/* ---- for people ---- */

/* "12.3 %", or "-" when there is no such figure. */
static const char *
percent(char out[16], double share)
{
    if (isnan(share))
        snprintf(out, 16, "-");
    else
        snprintf(out, 16, "%.1f %%", 100 * share);
    return out;
}

/* From what the exit's confidence is meant to foretell. */
static double
calibration_error(const struct exit_report *r, const struct exit_figures *f, int k)
{
    return r->trusts[k] ? f->agreement_error : f->mass_error;
}

static void
print_exits(const struct exit_report *r, const struct exit_set *set)
{
    char a[16], b[16], c[16];

    for (int k = 0; k < r->n_exits; k++) {
        const struct exit_figures *f = &set->figures[k];

        printf("\nexit after block %d agrees with the final layer at %s of the places\n"
               "  calibration error %.3f (%s; %.3f of %s)\n"
               "  theta    exits  precision  final layer above\n",
               r->layers[k], percent(a, f->agreement), calibration_error(r, f, k),
               r->trusts[k] ? "of agreement" : "of the final probability",
               r->trusts[k] ? f->mass_error : f->agreement_error,
               r->trusts[k] ? "the final probability" : "agreement");
        for (int t = 0; t < f->n_thetas; t++)
            printf("  %5g  %7s  %9s  %17s\n", f->at[t].theta,
                   percent(a, f->at[t].exit_rate), percent(b, f->at[t].precision),
                   percent(c, f->at[t].final_above));
    }
}

static void
print_thetas(const struct exit_report *r, const struct exit_setting *s)
{
    for (int k = 0; k < r->n_exits; k++) {
        if (s->theta[k] < 1)
            printf("  %6g", s->theta[k]);
        else
            printf("  %6s", "off");
    }
}

static bool
is_alone(const struct exit_report *r, const struct exit_setting *s)
{
    int on = 0;

    for (int k = 0; k < r->n_exits; k++)
        on += s->theta[k] < 1;
    return on <= 1;
}

static void
print_point(const struct exit_report *r, const struct exit_point *p)
{
    char a[16], b[16];

    printf("%c", p->best ? '*' : ' ');
    print_thetas(r, &p->setting);
    printf("  %8s  %7.3f  %9s", percent(a, p->request_rate), p->rouge_l,
           percent(b, p->identical));
    if (!isnan(p->edge_blocks))
        printf("  %11.2f", p->edge_blocks);
    if (r->wish) {
        double ms = exit_point_time(p, &r->wish->times);

        if (!isnan(ms))
            printf("  %8.2f", ms);
    }
    printf("\n");
}

/* Exits alone, and of the others those of the frontier. */
static void
print_frontier(const struct exit_report *r, const struct exit_set *set)
{
    const struct exit_frontier *f = &set->frontier;
    char a[16];
    int left_out = 0;

    printf("\nanswers of up to %d tokens, written freely; *: no other has fewer requests "
           "and\nat least its ROUGE-L. Edge: blocks of a token's mean time there.\n\n ",
           r->max_tokens);
    for (int k = 0; k < r->n_exits; k++)
        printf("  exit%2d", r->layers[k]);
    printf("  requests  ROUGE-L  identical%s%s\n",
           isnan(r->costs.block_seconds) ? "" : "  edge blocks",
           r->wish && !isnan(exit_point_time(&f->points[0], &r->wish->times))
               ? "        ms"
               : "");
    for (int i = 0; i < f->n; i++) {
        if (f->points[i].best || is_alone(r, &f->points[i].setting))
            print_point(r, &f->points[i]);
        else
            left_out++;
    }
    for (int i = 0; i < EXIT_PAPER_POINTS; i++)
        printf("   theta %g: %s  %.3f   (%s)\n", exit_paper[i].theta,
               percent(a, exit_paper[i].request_rate), exit_paper[i].rouge_l, EXIT_PAPER);
    if (left_out > 0)
        printf("%d more settings of several exits are in --json\n", left_out);
}

static void
print_costs(const struct exit_report *r)
{
    const struct exit_costs *c = &r->costs;

    if (isnan(c->block_seconds))
        return;
    printf("a block %.3f ms; an exit's check %.1f blocks", c->block_seconds * 1e3,
           c->check_blocks);
    if (!isnan(c->screen_blocks))
        printf(", its screen %.1f", c->screen_blocks);
    printf("; a further row of a step %.2f blocks each\n", c->row_blocks);
}

/* What an exit earns beside those deeper: the chosen setting with and without it. */
static void
print_earnings(const struct exit_report *r)
{
    const struct exit_frontier *f = &r->sets[0].frontier;

    for (int k = 0; k < r->n_exits; k++) {
        const struct exit_point *with = NULL, *without = NULL;

        for (int i = 0; i < f->n; i++) {
            const struct exit_point *p = &f->points[i];

            if (p->setting.theta[k] >= 1 || is_alone(r, &p->setting))
                continue;
            if (!with || p->edge_blocks - exit_frontier_without(f, p, k)->edge_blocks <
                             with->edge_blocks - without->edge_blocks) {
                with = p;
                without = exit_frontier_without(f, p, k);
            }
        }
        if (with && k + 1 < r->n_exits && !isnan(with->edge_blocks)) {
            char a[128], b[128];

            printf("exit %d: at best %s takes %.2f blocks of the edge for a token,\n"
                   "  %s takes %.2f: it %s\n",
                   r->layers[k], exit_frontier_theta(a, sizeof(a), f, &with->setting),
                   with->edge_blocks,
                   exit_frontier_theta(b, sizeof(b), f, &without->setting),
                   without->edge_blocks,
                   with->edge_blocks < without->edge_blocks ? "can pay" : "does not pay");
        }
    }
}

static void
print_choice(const struct exit_report *r)
{
    char theta[256], a[16], b[16];

    exit_frontier_theta(theta, sizeof(theta), &r->sets[0].frontier, &r->choice->setting);
    printf("\nchosen by %s: %s requests, ROUGE-L %.3f, %s identical\ntheta = %s\n",
           r->sets[0].name, percent(a, r->choice->request_rate), r->choice->rouge_l,
           percent(b, r->choice->identical), theta);
}

void
exit_report_print(const struct exit_report *r)
{
    printf("%s, exits of %s, on %s\n", r->model, r->exits_file, r->backend);
    print_costs(r);
    for (int i = 0; i < r->n_sets; i++) {
        const struct exit_set *set = &r->sets[i];

        printf("\n== %s: %d prompts, %zu tokens of the full model's answers ==\n",
               set->name, set->prompts.n, set->n_tokens);
        print_exits(r, set);
        if (set->frontier.n > 0)
            print_frontier(r, set);
    }
    if (r->sets[0].frontier.n > 0) {
        printf("\n");
        print_earnings(r);
    }
    if (r->choice)
        print_choice(r);
}

/* ---- for programs ---- */

/* JSON knows no NAN. */
static json_t *
number(double v)
{
    return isnan(v) ? json_null() : json_real(v);
}

static json_t *
bins_json(const struct exit_figures *f)
{
    json_t *list = json_array();

    for (int i = 0; i < EXIT_FIGURES_BINS; i++)
        json_array_append_new(
            list, json_pack("{s:I, s:f, s:f, s:f}", "places", (json_int_t)f->bins[i].n,
                            "confidence", f->bins[i].confidence, "probability",
                            f->bins[i].mass, "agreement", f->bins[i].agreement));
    return list;
}

static json_t *
exits_json(const struct exit_report *r, const struct exit_set *set)
{
    json_t *list = json_array();

    for (int k = 0; k < r->n_exits; k++) {
        const struct exit_figures *f = &set->figures[k];

        for (int t = 0; t < f->n_thetas; t++)
            json_array_append_new(
                list,
                json_pack("{s:i, s:f, s:f, s:o, s:f, s:b, s:f, s:f, s:f, s:f, s:o, s:o}",
                          "layer", r->layers[k], "theta", f->at[t].theta, "exit_rate",
                          f->at[t].exit_rate, "precision", number(f->at[t].precision),
                          "agreement", f->agreement, "trust", r->trusts[k],
                          "calibration_error", calibration_error(r, f, k),
                          "agreement_error", f->agreement_error, "mass_error",
                          f->mass_error, "final_above", f->at[t].final_above,
                          "check_blocks", number(r->costs.check_blocks), "screen_blocks",
                          r->screens[k] ? number(r->costs.screen_blocks) : json_null()));
    }
    return list;
}

static json_t *
point_json(const struct exit_report *r, const struct exit_frontier *f,
           const struct exit_point *p)
{
    char theta[256];
    json_t *thetas = json_array(), *left = json_array(), *o;

    for (int k = 0; k < r->n_exits; k++) {
        json_array_append_new(thetas, json_real(p->setting.theta[k]));
        json_array_append_new(
            left, json_real((double)p->tally.left[k] / (double)p->tally.n_tokens));
    }
    o = json_pack("{s:s, s:o, s:f, s:f, s:f, s:o, s:I, s:o, s:b}", "theta",
                  exit_frontier_theta(theta, sizeof(theta), f, &p->setting), "thetas",
                  thetas, "request_rate", p->request_rate, "rouge_l", p->rouge_l,
                  "identical", p->identical, "exit_rates", left, "tokens",
                  (json_int_t)p->tally.n_tokens, "edge_blocks", number(p->edge_blocks),
                  "best", p->best);
    if (o && r->wish)
        json_object_set_new(o, "milliseconds",
                            number(exit_point_time(p, &r->wish->times)));
    return o;
}

static json_t *
frontier_json(const struct exit_report *r, const struct exit_set *set)
{
    json_t *list = json_array();

    for (int i = 0; i < set->frontier.n; i++)
        json_array_append_new(list,
                              point_json(r, &set->frontier, &set->frontier.points[i]));
    return list;
}

static json_t *
set_json(const struct exit_report *r, const struct exit_set *set)
{
    json_t *bins = json_object();
    char layer[16];

    for (int k = 0; k < r->n_exits; k++) {
        snprintf(layer, sizeof(layer), "%d", r->layers[k]);
        json_object_set_new(bins, layer, bins_json(&set->figures[k]));
    }
    return json_pack("{s:s, s:i, s:I, s:o, s:o, s:o}", "name", set->name, "prompts",
                     set->prompts.n, "tokens", (json_int_t)set->n_tokens, "exits",
                     exits_json(r, set), "calibration", bins, "frontier",
                     frontier_json(r, set));
}

static json_t *
paper_json(void)
{
    json_t *list = json_array();

    for (int i = 0; i < EXIT_PAPER_POINTS; i++)
        json_array_append_new(
            list, json_pack("{s:f, s:f, s:f, s:s}", "theta", exit_paper[i].theta,
                            "request_rate", exit_paper[i].request_rate, "rouge_l",
                            exit_paper[i].rouge_l, "source", EXIT_PAPER));
    return list;
}

static const char *
file_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

json_t *
exit_report_json(const struct exit_report *r)
{
    json_t *sets = json_array(), *o;

    for (int i = 0; i < r->n_sets; i++)
        json_array_append_new(sets, set_json(r, &r->sets[i]));
    o = json_pack("{s:s, s:s, s:s, s:s, s:i, s:i, s:o, s:o, s:o, s:o, s:o, s:o, s:o}",
                  "model", r->model, "exits_file", file_name(r->exits_file), "backend",
                  r->backend, "revision", revision, "max_tokens", r->max_tokens, "limit",
                  r->limit, "block_milliseconds", number(r->costs.block_seconds * 1e3),
                  "row_blocks", number(r->costs.row_blocks), "set",
                  json_string(r->sets[0].name), "exits", exits_json(r, &r->sets[0]),
                  "frontier", frontier_json(r, &r->sets[0]), "paper", paper_json(),
                  "sets", sets);
    if (o && r->choice)
        json_object_set_new(o, "choice", point_json(r, &r->sets[0].frontier, r->choice));
    return o;
}
