/* SPDX-License-Identifier: Apache-2.0
 * cmd_eval_exits.c - cecollm-model eval-exits: what a model's exits are worth.
 *
 * The model answers prompts; along its answers each exit is judged place by place
 * (exit_figures.h), and then answers are written as edge and cloud would write them, for
 * many thresholds (exit_frontier.h). Of these the best for a wish can be chosen, and put
 * into the file of exits, from where agents take it.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "tools/command.h"
#include "tools/exit_report.h"
#include "tools/exits_record.h"

#define STEP_ROWS 256
#define FLOOR     0.85

static const double default_thetas[] = { 0.6,  0.65, 0.7,  0.75, 0.8,  0.85, 0.9,
                                         0.93, 0.95, 0.96, 0.97, 0.98, 0.99, 0.995 };

struct eval {
    const char *path, *json, *plots, *choose, *thetas_text;
    const char *edge_ms, *cloud_ms, *rtt_ms;
    struct options_texts prompts;
    bool record, no_frontier;
    int limit, max_tokens, width;
    struct engine_options engine;
    double thetas[EXIT_FIGURES_MAX_THETAS];
    int n_thetas;
    struct exit_wish wish;
    struct loaded loaded;
    struct tokenizer *vocab;
    struct staged staged;
    struct exit_set *sets; /* [prompts.n] */
    struct exit_report report;
};

/* ---- the command line's texts ---- */

static int
parse_thetas(struct eval *e, struct err *err)
{
    const char *s = e->thetas_text;

    if (!s) {
        e->n_thetas = (int)(sizeof(default_thetas) / sizeof(default_thetas[0]));
        memcpy(e->thetas, default_thetas, sizeof(default_thetas));
        return 0;
    }
    for (;;) {
        char *end;
        double v = strtod(s, &end), last = e->n_thetas ? e->thetas[e->n_thetas - 1] : 0;

        if (end == s || !(v > last && v < 1) || (*end != ',' && *end != '\0'))
            return err_set(err, CE_EINVAL,
                           "--thetas: \"%s\" is not a list of ascending numbers between "
                           "0 and 1",
                           e->thetas_text);
        if (e->n_thetas == EXIT_FIGURES_MAX_THETAS)
            return err_set(err, CE_EINVAL, "--thetas: more than %d numbers",
                           EXIT_FIGURES_MAX_THETAS);
        e->thetas[e->n_thetas++] = v;
        if (*end == '\0')
            return 0;
        s = end + 1;
    }
}

/* A time in milliseconds; NAN when it is not given. */
static int
parse_ms(double *out, const char *option, const char *text, struct err *err)
{
    char *end;

    *out = NAN;
    if (!text)
        return 0;
    *out = strtod(text, &end);
    if (end == text || *end != '\0' || !(*out >= 0 && *out < 1e9))
        return err_set(err, CE_EINVAL, "%s: \"%s\" is not a time in milliseconds", option,
                       text);
    return 0;
}

static int
parse_texts(struct eval *e, struct err *err)
{
    struct exit_times *t = &e->wish.times;
    int rc;

    if (e->prompts.n == 0)
        return err_set(err, CE_EINVAL, "--prompts is missing");
    if ((rc = parse_thetas(e, err)) ||
        (rc = parse_ms(&t->edge_block, "--edge-ms-block", e->edge_ms, err)) ||
        (rc = parse_ms(&t->cloud, "--cloud-ms", e->cloud_ms, err)) ||
        (rc = parse_ms(&t->round_trip, "--rtt-ms", e->rtt_ms, err)))
        return rc;
    if (e->choose && exit_wish_parse(&e->wish, e->choose, err) != 0)
        return err_prefix(err, "--choose");
    if (e->choose && e->wish.aim == EXIT_AIM_TIME && isnan(t->cloud + t->round_trip))
        return err_set(err, CE_EINVAL, "--choose %s needs --cloud-ms and --rtt-ms",
                       e->choose);
    if (e->no_frontier && e->choose)
        return err_set(err, CE_EINVAL, "--choose chooses from the frontier");
    if (e->record && !e->choose)
        return err_set(err, CE_EINVAL, "--record records what --choose finds");
    return 0;
}

/* ---- the work ---- */

static int
load(struct eval *e, struct err *err)
{
    struct backend_options opt = { .final_head = true,
                                   .exit_heads = true,
                                   .max_seqs = e->width + 1 };
    int rc = command_load(&e->loaded, e->path, &e->engine, &opt, "judging exits", err);
    const struct model *m = e->loaded.model;

    if (rc != 0)
        return rc;
    if (m->n_exits == 0)
        return err_set(err, CE_ENOTFOUND,
                       "%s: has no exits, neither beside it nor of its own; --exits "
                       "names a file of them",
                       e->path);
    if (e->record && (m->exits_chosen || !m->exits_file))
        return err_set(err, CE_EUNSUPPORTED,
                       "%s: its exits are in no file of their own, to be recorded in",
                       e->path);
    return tokenizer_open(&e->vocab, m->file, err);
}

/* "alpaca" of "data/alpaca.jsonl". */
static void
name_set(struct exit_set *s)
{
    const char *slash = strrchr(s->path, '/'), *name = slash ? slash + 1 : s->path;
    const char *dot = strrchr(name, '.');
    size_t len = dot && dot > name ? (size_t)(dot - name) : strlen(name);

    snprintf(s->name, sizeof(s->name), "%.*s", (int)len, name);
    for (char *c = s->name; *c != '\0'; c++) {
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.",
                    *c))
            *c = '_';
    }
}

static int
read_prompts(struct eval *e, struct err *err)
{
    const struct prompt_format format = { e->loaded.model->file, e->vocab,
                                          e->loaded.backend->info.n_ctx - e->max_tokens };
    int rc = 0;

    if (format.max_ids < 1)
        return err_set(err, CE_EINVAL, "--max-tokens %d: the context is %d",
                       e->max_tokens, e->loaded.backend->info.n_ctx);
    e->sets = mem_array_alloc((size_t)e->prompts.n, sizeof(*e->sets));
    if (!e->sets)
        return err_set(err, CE_ENOMEM, "no memory for %d files", e->prompts.n);
    for (int i = 0; rc == 0 && i < e->prompts.n; i++) {
        e->sets[i].path = e->prompts.v[i];
        name_set(&e->sets[i]);
        rc = prompt_file_read(&e->sets[i].prompts, e->sets[i].path, e->limit, &format,
                              err);
    }
    return rc;
}

static int
prepare(struct eval *e, struct err *err)
{
    struct backend *b = e->loaded.backend;
    struct staged_stop stops[STAGED_MAX_STOPS];
    int n = staged_all_stops(stops, b);
    int rows = e->width > STEP_ROWS ? e->width : STEP_ROWS;
    const struct gguf *exits =
        e->loaded.model->exits_file ? e->loaded.model->exits_file : e->loaded.model->file;

    e->report = (struct exit_report){ .model = e->path,
                                      .exits_file = gguf_path(exits),
                                      .backend = b->info.name,
                                      .max_tokens = e->max_tokens,
                                      .limit = e->limit,
                                      .n_exits = b->info.n_exits,
                                      .costs = { NAN, NAN, NAN, NAN },
                                      .sets = e->sets,
                                      .n_sets = e->prompts.n,
                                      .wish = e->choose ? &e->wish : NULL };
    if (e->loaded.model->exits_chosen)
        e->report.exits_file = "--exit-layers";
    for (int k = 0; k < b->info.n_exits; k++) {
        e->report.layers[k] = b->info.exit_layers[k];
        e->report.screens[k] = b->info.exit_screens[k];
        e->report.trusts[k] = e->loaded.model->exits[k].trust != NULL;
    }
    return staged_init(&e->staged, b, stops, n, rows, e->width, err);
}

static int
judge(struct eval *e, struct exit_set *s, struct err *err)
{
    const struct exit_frontier_params p = { .thetas = e->thetas,
                                            .n_thetas = e->n_thetas,
                                            .floor = FLOOR,
                                            .layers = e->report.layers,
                                            .screens = e->report.screens,
                                            .costs = e->report.costs };
    int rc;

    s->answers = (struct exit_answers){ .staged = &e->staged,
                                        .vocab = e->vocab,
                                        .prompts = &s->prompts,
                                        .width = e->width,
                                        .max_tokens = e->max_tokens,
                                        .label = s->name };
    rc = exit_answers_begin(&s->answers, err);
    for (int i = 0; rc == 0 && i < s->prompts.n; i++)
        s->n_tokens += (size_t)s->answers.full[i].n;
    for (int k = 0; rc == 0 && k < e->report.n_exits; k++)
        exit_figures_count(&s->figures[k], &s->answers, k, e->thetas, e->n_thetas);
    if (rc == 0 && !e->no_frontier)
        rc = exit_frontier_make(&s->frontier, &s->answers, &p, err);
    return rc == 0 ? 0 : err_prefix(err, "%s", s->path);
}

/* Leaves report.choice NULL when nothing reaches the target. */
static int
choose(struct eval *e, struct err *err)
{
    int rc;

    if (!e->choose)
        return 0;
    if (isnan(e->wish.times.edge_block))
        e->wish.times.edge_block = e->report.costs.block_seconds * 1e3;
    rc = exit_frontier_choose(&e->sets[0].frontier, &e->wish, &e->report.choice, err);
    if (rc != 0)
        e->report.choice = NULL;
    return rc == 0 ? 0 : err_prefix(err, "--choose");
}

/* ---- results ---- */

static int
write_json(const struct eval *e, struct err *err)
{
    json_t *json = exit_report_json(&e->report);
    int rc = 0;

    if (strcmp(e->json, "-") == 0)
        return command_print_json(json, true, err);
    if (!json)
        return err_set(err, CE_ENOMEM, "no memory for JSON");
    if (json_dump_file(json, e->json,
                       JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(6) | JSON_INDENT(1)) !=
        0)
        rc = err_set(err, CE_EIO, "%s: %s", e->json, strerror(errno));
    json_decref(json);
    return rc;
}

static int
record(const struct eval *e, struct err *err)
{
    const struct exit_point *p = e->report.choice;
    const struct exit_set *set = &e->sets[0];
    struct exits_record r = { .request_rate = (float)p->request_rate,
                              .rouge_l = (float)p->rouge_l,
                              .identical = (float)p->identical,
                              .prompts = set->prompts.n,
                              .max_tokens = e->max_tokens };

    for (int k = 0; k < e->report.n_exits; k++) {
        r.theta[k] = (float)p->setting.theta[k];
        r.agreement[k] = (float)set->figures[k].agreement;
    }
    snprintf(r.set, sizeof(r.set), "%s", set->name);
    return exits_record_write(&r, e->loaded.model, err);
}

static int
put_results(const struct eval *e, struct err *err)
{
    int rc = 0;

    if (!e->json || strcmp(e->json, "-") != 0)
        exit_report_print(&e->report);
    if (e->json)
        rc = write_json(e, err);
    if (rc == 0 && e->record && e->report.choice)
        rc = record(e, err);
    if (rc == 0 && e->plots)
        rc = exit_plots_write(&e->report, e->plots, err);
    return rc;
}

static int
run(struct eval *e, struct err *err)
{
    struct err no_choice = { 0 };
    int rc;

    if ((e->plots && (rc = exit_plots_check(err))) || (rc = load(e, err)) ||
        (rc = read_prompts(e, err)) || (rc = prepare(e, err)))
        return rc;
    if (!e->no_frontier)
        rc =
            exit_costs_measure(&e->report.costs, e->loaded.model, e->loaded.backend, err);
    for (int i = 0; rc == 0 && i < e->prompts.n; i++)
        rc = judge(e, &e->sets[i], err);
    if (rc != 0)
        return rc;
    (void)choose(e, &no_choice); /* the figures are worth having all the same */
    rc = put_results(e, err);
    if (rc == 0 && no_choice.code != 0) {
        *err = no_choice;
        rc = err->code;
    }
    return rc;
}

static void
release(struct eval *e)
{
    for (int i = 0; e->sets && i < e->prompts.n; i++) {
        exit_frontier_free(&e->sets[i].frontier);
        exit_answers_free(&e->sets[i].answers);
        prompt_file_free(&e->sets[i].prompts);
    }
    mem_free(e->sets);
    staged_fini(&e->staged);
    tokenizer_free(e->vocab);
    command_unload(&e->loaded);
}

static bool
parse(struct eval *e, int argc, char **argv, int *status)
{
    const struct option_spec specs[] = {
        { "prompts", 'p', OPTIONS_TEXTS, &e->prompts, "FILE...",
          "prompts to answer: JSON lines with \"prompt\"", 0, 0 },
        { "limit", 'n', OPTIONS_INT, &e->limit, "N",
          "the first N prompts of each file (default 100)", 1, 1000000 },
        { "max-tokens", 0, OPTIONS_INT, &e->max_tokens, "N", "of an answer (default 96)",
          1, 65536 },
        { "thetas", 0, OPTIONS_TEXT, &e->thetas_text, "T,T,...",
          "thresholds to try (default: 14 from 0.6 to 0.995)", 0, 0 },
        { "no-frontier", 0, OPTIONS_FLAG, &e->no_frontier, NULL,
          "judge exits place by place only", 0, 0 },
        { "choose", 0, OPTIONS_TEXT, &e->choose, "AIM",
          "thresholds for rouge=SHARE, requests=SHARE or time=MS", 0, 0 },
        { "edge-ms-block", 0, OPTIONS_TEXT, &e->edge_ms, "MS",
          "the edge's time of a token in a block (default: measured here)", 0, 0 },
        { "cloud-ms", 0, OPTIONS_TEXT, &e->cloud_ms, "MS",
          "the cloud's time for a request", 0, 0 },
        { "rtt-ms", 0, OPTIONS_TEXT, &e->rtt_ms, "MS", "the link's round trip", 0, 0 },
        { "record", 0, OPTIONS_FLAG, &e->record, NULL,
          "put what was chosen into the file of exits", 0, 0 },
        { "json", 0, OPTIONS_TEXT, &e->json, "FILE", "all figures; -: instead of tables",
          0, 0 },
        { "plots", 0, OPTIONS_TEXT, &e->plots, "DIR", "pictures, by gnuplot", 0, 0 },
        { "width", 0, OPTIONS_INT, &e->width, "N",
          "answers written side by side (default 64)", 1, 1024 },
        COMMAND_EXITS_OPTION(&e->engine.exits),
        COMMAND_EXIT_LAYERS_OPTION(&e->engine.exit_layers),
        COMMAND_ENGINE_OPTIONS(&e->engine),
        { 0 }
    };
    const struct options_page page = {
        "eval-exits MODEL --prompts FILE... [options]",
        "Judge a model's exits on its own answers to prompts: agreement with the final\n"
        "layer, calibration, and for each threshold exits and precision; then answers\n"
        "written freely with exits: how many tokens ask the cloud, and how like the "
        "full\n"
        "model's answers they are (ROUGE-L). --choose works on the first file. Screens\n"
        "are left out of the answers; they only make more tokens ask.",
        specs, 1, 1
    };
    struct err err = { 0 };
    int n;

    if (!command_options(&page, argc, argv, &n, status))
        return false;
    e->path = argv[1];
    if (parse_texts(e, &err) == 0)
        return true;
    *status = command_usage("eval-exits", &err);
    return false;
}

int
cmd_eval_exits(int argc, char **argv)
{
    struct eval e = { .limit = 100, .max_tokens = 96, .width = 64 };
    struct err err = { 0 };
    int status, rc;

    if (!parse(&e, argc, argv, &status))
        return status;
    rc = run(&e, &err);
    release(&e);
    return rc == 0 ? COMMAND_OK : command_failed("eval-exits", &err);
}
