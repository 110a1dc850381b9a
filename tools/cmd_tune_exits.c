/* SPDX-License-Identifier: Apache-2.0
 * cmd_tune_exits.c - cecollm-model tune-exits: give a model exits of its own.
 *
 * The model runs once over texts and its own answers; what it was like after each exit's
 * blocks, and what it said in the end, is kept in a file of rows (exit_rows.h). Adapters
 * are trained on them (exit_tune.h) and written beside OUT, so that the engine itself can
 * judge them on rows held out and screens can be fitted to what they compute; then OUT is
 * written. Until that moment an earlier OUT is as it was.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/memory.h"
#include "engine/quant.h"
#include "tools/command.h"
#include "tools/exit_collect.h"
#include "tools/exit_judge.h"
#include "tools/exit_rows.h"
#include "tools/exit_trust.h"
#include "tools/exit_tune.h"
#include "tools/exits_file.h"
#include "tools/screen_check.h"
#include "tools/screen_fit.h"
#include "tools/screen_rows.h"
#include "tools/tune_report.h"

#define MAX_FIT   30000 /* rows that screens are fitted to */
#define MAX_TRUST 60000 /* and trusts */
#define MAX_CHECK 10000 /* held-out rows that exits are judged on */

struct tune_exits {
    const char *path, *out, *rows_path;
    char *own_rows, *state, *trained; /* OUT.rows, OUT.state, OUT.adapters */
    struct options_list layers, widths, steps;
    struct options_texts data, self, exclude, more_rows;
    int invent, summaries, answer_rows, max_answer, n_top;
    int batch, patience, rank, n_candidates;
    double rate, dropout;
    const char *save_prompts;
    uint32_t type; /* of the adapters */
    bool collect_only, no_screens, no_trust, resume, json;
    uint64_t seed;
    struct engine_options engine;
    struct loaded loaded;
    struct exit_rows *rows;
    struct exit_adapter adapters[MODEL_MAX_EXITS];
    struct exit_judgement judged[MODEL_MAX_EXITS];
    struct exit_trust trusts[MODEL_MAX_EXITS];
    struct exits_screen screens[MODEL_MAX_EXITS];
    struct screen_rows screen_rows;
    struct screen_check checks[MODEL_MAX_EXITS * SCREEN_CHECK_THETAS];
    struct threads *pool;
    struct tune_report report;
};

static volatile sig_atomic_t interrupted;

static void
on_interrupt(int sig)
{
    (void)sig;
    interrupted = 1;
}

/* ---- what can be known to fail before the work ---- */

static int
check_layers(const struct tune_exits *t, struct err *err)
{
    int last = t->loaded.model->config.n_layers - 1;

    for (int i = 0; i < t->layers.n; i++) {
        if (t->layers.v[i] > last)
            return err_set(err, CE_EINVAL,
                           "--layers: an exit after %d blocks; the model has %d, exits "
                           "come after 1 to %d",
                           t->layers.v[i], last + 1, last);
    }
    return 0;
}

static int
check_sizes(const struct tune_exits *t, struct err *err)
{
    const struct model_config *c = &t->loaded.model->config;

    if (!t->no_screens && t->rank > c->d_model)
        return err_set(err, CE_EINVAL, "--rank %d: more than the model's width of %d",
                       t->rank, c->d_model);
    if (!t->no_screens && t->n_candidates > c->n_vocab)
        return err_set(err, CE_EINVAL, "--candidates %d: the model has %d tokens",
                       t->n_candidates, c->n_vocab);
    if (t->type == GGUF_Q8_0 && c->d_model % QUANT_BLOCK != 0)
        return err_set(err, CE_EINVAL,
                       "--adapters q8_0: the model's width of %d is no multiple of %d",
                       c->d_model, QUANT_BLOCK);
    return 0;
}

static int
load(struct tune_exits *t, struct err *err)
{
    struct backend_options opt = { .final_head = true, .max_seqs = EXIT_COLLECT_WIDTH };
    struct engine_options engine = t->engine;
    int rc;

    engine.exits = "none";
    if ((rc = command_load(&t->loaded, t->path, &engine, &opt, "training exits", err)) ||
        (rc = check_layers(t, err)))
        return rc;
    if (t->n_top > t->loaded.model->config.n_vocab)
        t->n_top = t->loaded.model->config.n_vocab;
    return t->collect_only ? 0 : check_sizes(t, err);
}

/* ---- rows ---- */

static struct exit_collect
collect_options(const struct tune_exits *t)
{
    struct exit_collect c = { .model = t->loaded.model,
                              .backend = t->loaded.backend,
                              .n_exits = t->layers.n,
                              .data = &t->data,
                              .self = &t->self,
                              .exclude = &t->exclude,
                              .n_invent = (size_t)t->invent,
                              .n_summaries = (size_t)t->summaries,
                              .n_answer_rows = (size_t)t->answer_rows,
                              .max_answer = t->max_answer,
                              .n_top = t->n_top,
                              .seed = t->seed,
                              .save_prompts = t->save_prompts,
                              .stop = &interrupted };

    memcpy(c.layers, t->layers.v, (size_t)t->layers.n * sizeof(c.layers[0]));
    return c;
}

/* Rows of an earlier run, when they were made from the same. *taken says so. */
static int
take_rows(struct tune_exits *t, const uint8_t recipe[32], bool *taken, struct err *err)
{
    const struct exit_rows_shape *s;
    int rc = exit_rows_open(&t->rows, t->rows_path, err);

    *taken = false;
    if (rc == CE_ENOTFOUND)
        return 0;
    if (rc != 0)
        return rc;
    s = exit_rows_shape(t->rows);
    if (memcmp(s->fingerprint, t->loaded.model->fingerprint, 32) != 0)
        return err_set(err, CE_EMISMATCH, "%s: holds rows of another model",
                       t->rows_path);
    if (memcmp(s->recipe, recipe, 32) != 0)
        return err_set(err, CE_EMISMATCH,
                       "%s: holds rows of other data or options; remove it, or give "
                       "--rows another name",
                       t->rows_path);
    *taken = true;
    return 0;
}

static int
get_rows(struct tune_exits *t, struct err *err)
{
    struct exit_collect c = collect_options(t);
    uint8_t recipe[32];
    bool taken;
    int rc;

    if ((rc = exit_collect_recipe(&c, recipe, err)) ||
        (rc = take_rows(t, recipe, &taken, err)))
        return rc;
    if (taken) {
        fprintf(stderr, "%s: taken again%s\n", t->rows_path,
                exit_rows_shape(t->rows)->cut_short
                    ? "; they are of an interrupted run: remove the file to collect all"
                    : "");
        return 0;
    }
    rc = exit_collect_run(&c, recipe, t->rows_path, &t->rows, err);
    if (rc == 0 && interrupted)
        fprintf(stderr, "interrupted: going on with the rows so far\n");
    interrupted = 0;
    return rc;
}

/* Rows that other runs collected, with other seeds or on other machines. */
static int
add_rows(struct tune_exits *t, struct err *err)
{
    int rc = 0;

    for (int i = 0; rc == 0 && i < t->more_rows.n; i++) {
        struct exit_rows *more;

        if ((rc = exit_rows_open(&more, t->more_rows.v[i], err)) == 0)
            rc = exit_rows_append(t->rows, more, err);
    }
    return rc;
}

static int
collect(struct tune_exits *t, struct err *err)
{
    int64_t start = clock_us();
    int rc = get_rows(t, err);

    if (rc == 0 && !t->collect_only)
        rc = add_rows(t, err);
    t->report.collect_seconds = (double)(clock_us() - start) / 1e6;
    if (rc == 0) {
        t->report.n_rows = exit_rows_count(t->rows, false);
        t->report.n_held = exit_rows_count(t->rows, true);
    }
    backend_close(t->loaded.backend);
    t->loaded.backend = NULL;
    return rc;
}

/* ---- adapters ---- */

static int
train(struct tune_exits *t, struct err *err)
{
    struct exit_tune_params p = { .batch = t->batch,
                                  .rate = t->rate,
                                  .dropout = t->dropout,
                                  .patience = t->patience,
                                  .seed = t->seed,
                                  .threads = t->engine.threads,
                                  .cpu = t->engine.cpu,
                                  .checkpoint = t->state,
                                  .resume = t->resume,
                                  .stop = &interrupted };
    int64_t start = clock_us();
    int rc;

    for (int i = 0; i < t->layers.n; i++) {
        p.widths[i] = t->widths.v[t->widths.n == 1 ? 0 : i];
        p.steps[i] = (size_t)t->steps.v[t->steps.n == 1 ? 0 : i];
    }
    rc =
        exit_tune_run(t->adapters, &t->report.n_steps, t->loaded.model, t->rows, &p, err);
    t->report.train_seconds = (double)(clock_us() - start) / 1e6;
    if (rc == 0 && interrupted)
        rc = err_set(err, CE_ECLOSED,
                     "interrupted after %zu steps; %s holds what was learnt, and "
                     "--resume goes on",
                     t->report.n_steps, t->state);
    return rc;
}

static int
write_adapters(const struct tune_exits *t, struct err *err)
{
    struct exits_adapters a = { .model = t->loaded.model,
                                .n_exits = t->layers.n,
                                .layers = t->layers.v,
                                .adapters = t->adapters,
                                .trusts = t->trusts,
                                .type = t->type,
                                .n_rows = t->report.n_rows,
                                .n_steps = t->report.n_steps,
                                .seed = t->seed };

    return exits_file_write_adapters(&a, t->trained, err);
}

/* The model with the exits in `exits`, as others will find them. */
static int
load_with(struct tune_exits *t, const char *exits, struct err *err)
{
    struct backend_options opt = { .exit_heads = true, .max_seqs = 1 };
    struct engine_options engine = t->engine;

    command_unload(&t->loaded);
    engine.exits = exits;
    return command_load(&t->loaded, t->path, &engine, &opt, NULL, err);
}

static int
fit_screens(struct tune_exits *t, struct err *err)
{
    struct screen_fit_params p = { (size_t)t->rank, GGUF_Q4_1, t->seed };
    int rc;

    if ((rc = threads_new(&t->pool, t->engine.threads, err)) ||
        (rc = screen_rows_from_exits(&t->screen_rows, t->loaded.backend, t->rows, MAX_FIT,
                                     MAX_CHECK, t->pool, err)))
        return rc;
    if (t->screen_rows.n_fit < p.rank * SCREEN_FIT_ROWS_PER_RANK)
        return err_set(
            err, CE_EINVAL,
            "--rank %d: its screens need %d rows to fit them to; there are %zu", t->rank,
            t->rank * SCREEN_FIT_ROWS_PER_RANK, t->screen_rows.n_fit);
    return screen_fit_run(t->screens, t->loaded.model, &t->screen_rows, &p, t->pool, err);
}

static int
write_exits(struct tune_exits *t, struct err *err)
{
    float theta[MODEL_MAX_EXITS];
    struct exits_file file = { .model = t->loaded.model,
                               .screens = t->no_screens ? NULL : t->screens,
                               .rank = (size_t)t->rank,
                               .n_candidates = t->n_candidates,
                               .theta = theta };

    for (int i = 0; i < t->layers.n; i++)
        theta[i] = t->judged[i].theta;
    return exits_file_write(&file, t->out, err);
}

/* Trusts are of what the stored adapters compute, so these are written again with them.
 */
static int
store(struct tune_exits *t, struct err *err)
{
    int rc;

    if ((rc = write_adapters(t, err)) || (rc = load_with(t, t->trained, err)) ||
        t->no_trust)
        return rc;
    if ((rc = exit_trust_fit(t->trusts, t->loaded.backend, t->rows, MAX_TRUST, t->seed,
                             err)) ||
        (rc = write_adapters(t, err)))
        return rc;
    return load_with(t, t->trained, err);
}

/* From adapters in memory to the finished file. */
static int
finish(struct tune_exits *t, struct err *err)
{
    int rc;

    if ((rc = store(t, err)) ||
        (rc = exit_judge_run(t->judged, t->loaded.backend, t->rows, MAX_CHECK, err)) ||
        (!t->no_screens && (rc = fit_screens(t, err))) || (rc = write_exits(t, err)) ||
        (rc = load_with(t, t->out, err)))
        return rc;
    t->report.file_bytes = gguf_size_bytes(t->loaded.model->exits_file);
    if (!t->no_screens)
        rc = screen_check_run(t->checks, t->loaded.backend, &t->screen_rows, err);
    return rc;
}

static int
run(struct tune_exits *t, struct err *err)
{
    struct sigaction action = { .sa_handler = on_interrupt };
    int rc;

    if ((!t->collect_only && (rc = exit_tune_check(err))) ||
        (t->out && (rc = command_check_output(t->out, t->path, err))) ||
        (rc = command_check_output(t->rows_path, t->path, err)) || (rc = load(t, err)))
        return rc;
    sigaction(SIGINT, &action, NULL);
    if ((rc = collect(t, err)) || t->collect_only || (rc = train(t, err)))
        return rc;
    signal(SIGINT, SIG_DFL);
    if ((rc = finish(t, err)))
        return rc;
    unlink(t->state);
    if (t->own_rows)
        unlink(t->own_rows);
    return 0;
}

/* What the pages need besides the figures that were counted on the way. */
static void
fill_report(struct tune_exits *t)
{
    t->report.file = t->collect_only ? t->rows_path : t->out;
    if (t->collect_only)
        return;
    t->report.n_exits = t->layers.n;
    t->report.layers = t->layers.v;
    t->report.adapters = t->adapters;
    t->report.judged = t->judged;
    t->report.checks = t->no_screens ? NULL : t->checks;
}

static void
release(struct tune_exits *t)
{
    for (int i = 0; i < MODEL_MAX_EXITS; i++)
        exit_adapter_free(&t->adapters[i]);
    exit_trust_free(t->trusts, MODEL_MAX_EXITS);
    screen_fit_free(t->screens, MODEL_MAX_EXITS);
    screen_rows_free(&t->screen_rows);
    threads_free(t->pool);
    exit_rows_close(t->rows);
    command_unload(&t->loaded);
    if (t->trained)
        unlink(t->trained);
    mem_free(t->own_rows);
    mem_free(t->state);
    mem_free(t->trained);
}

/* ---- the command line ---- */

/* `stem` and `tail` together, or NULL; to be freed. */
static char *
name_beside(const char *stem, const char *tail)
{
    size_t cap = strlen(stem) + strlen(tail) + 1;
    char *name = mem_array_alloc(cap, 1);

    if (name)
        snprintf(name, cap, "%s%s", stem, tail);
    return name;
}

static int
name_files(struct tune_exits *t, struct err *err)
{
    if (!t->out)
        return 0;
    t->state = name_beside(t->out, ".state");
    t->trained = name_beside(t->out, ".adapters");
    if (!t->rows_path)
        t->rows_path = t->own_rows = name_beside(t->out, ".rows");
    if (!t->state || !t->trained || !t->rows_path)
        return err_set(err, CE_ENOMEM, "no memory");
    return 0;
}

static int
check_training(const struct tune_exits *t, struct err *err)
{
    if (t->widths.n != 1 && t->widths.n != t->layers.n)
        return err_set(err, CE_EINVAL, "--width: %d numbers for %d exits", t->widths.n,
                       t->layers.n);
    if (t->steps.n != 1 && t->steps.n != t->layers.n)
        return err_set(err, CE_EINVAL, "--steps: %d numbers for %d exits", t->steps.n,
                       t->layers.n);
    for (int i = 0; i < t->widths.n; i++) {
        if (t->widths.v[i] % QUANT_BLOCK != 0)
            return err_set(err, CE_EINVAL, "--width %d: not a multiple of %d",
                           t->widths.v[i], QUANT_BLOCK);
    }
    if (t->rank % QUANT_BLOCK != 0)
        return err_set(err, CE_EINVAL, "--rank %d: not a multiple of %d", t->rank,
                       QUANT_BLOCK);
    return 0;
}

static int
check_options(struct tune_exits *t, const char *adapters, struct err *err)
{
    if (t->layers.n == 0)
        return err_set(err, CE_EINVAL, "--layers is missing");
    for (int i = 1; i < t->layers.n; i++) {
        if (t->layers.v[i] <= t->layers.v[i - 1])
            return err_set(err, CE_EINVAL, "--layers: %d after %d does not ascend",
                           t->layers.v[i], t->layers.v[i - 1]);
    }
    if (t->data.n == 0 && t->self.n == 0)
        return err_set(err, CE_EINVAL, "--data is missing");
    if (!t->out && !t->collect_only)
        return err_set(err, CE_EINVAL, "--output is missing");
    if (!t->out && !t->rows_path)
        return err_set(err, CE_EINVAL, "--collect-only needs --rows or --output");
    if (t->out && strcmp(t->out, "none") == 0)
        return err_set(err, CE_EINVAL, "--output none: no program would read that name");
    t->type = strcasecmp(adapters, "f16") == 0 ? GGUF_F16 : GGUF_Q8_0;
    if (t->type == GGUF_Q8_0 && strcasecmp(adapters, "q8_0") != 0)
        return err_set(err, CE_EINVAL, "--adapters: \"%s\" is neither q8_0 nor f16",
                       adapters);
    return check_training(t, err);
}

/* Called with the options' defaults in *t; the tables are long, the code is not. */
static bool
parse(struct tune_exits *t, int argc, char **argv, int *status)
{
    const char *adapters = "q8_0";
    const struct option_spec specs[] = {
        { "layers", 0, OPTIONS_LIST, &t->layers, "L,L", "blocks before each exit", 1,
          1023 },
        { "data", 'd', OPTIONS_TEXTS, &t->data, "FILE...", "texts to run the model over",
          0, 0 },
        { "output", 'o', OPTIONS_TEXT, &t->out, "FILE", "the file of exits to write", 0,
          0 },
        { "self", 0, OPTIONS_TEXTS, &t->self, "FILE...",
          "prompts for the model to answer: texts or .jsonl", 0, 0 },
        { "invent", 0, OPTIONS_INT, &t->invent, "N",
          "further prompts that the model writes itself (default 0)", 0, 1 << 24 },
        { "summaries", 0, OPTIONS_INT, &t->summaries, "N",
          "prompts to summarise passages of --data (default 0)", 0, 1 << 24 },
        { "tokens", 0, OPTIONS_INT, &t->answer_rows, "N",
          "of answers in all (default 1200000)", 1, 1 << 30 },
        { "answer-tokens", 0, OPTIONS_INT, &t->max_answer, "N",
          "of an answer at most (default 192)", 1, EXIT_COLLECT_CTX / 2 },
        { "exclude", 0, OPTIONS_TEXTS, &t->exclude, "FILE...",
          ".jsonl with prompts that are never taken", 0, 0 },
        { "save-prompts", 0, OPTIONS_TEXT, &t->save_prompts, "FILE",
          "write the prompts there, as .jsonl", 0, 0 },
        { "rows", 0, OPTIONS_TEXT, &t->rows_path, "FILE",
          "keep what was collected, or take it again (default: OUT.rows)", 0, 0 },
        { "more-rows", 0, OPTIONS_TEXTS, &t->more_rows, "FILE...",
          "rows to train on as well, of runs with --collect-only", 0, 0 },
        { "collect-only", 0, OPTIONS_FLAG, &t->collect_only, NULL,
          "end when the rows are there", 0, 0 },
        { "top", 0, OPTIONS_INT, &t->n_top, "N",
          "likeliest tokens that a row keeps (default 64)", 1, BACKEND_MAX_TOP },
        { "width", 0, OPTIONS_LIST, &t->widths, "W,W",
          "of the adapters, multiples of 32, 0: affine; one, or each (default 1152)", 0,
          1 << 16 },
        { "steps", 0, OPTIONS_LIST, &t->steps, "N,N",
          "at most: one, or each exit's (default 12000)", 1, 1 << 24 },
        { "batch", 0, OPTIONS_INT, &t->batch, "N", "rows of a step (default 192)", 1,
          65536 },
        { "rate", 0, OPTIONS_REAL, &t->rate, "X", "of learning (default 0.0012)", 0, 0 },
        { "dropout", 0, OPTIONS_REAL, &t->dropout, "X",
          "share of an adapter that a step leaves out (default 0.1)", 0, 0 },
        { "patience", 0, OPTIONS_INT, &t->patience, "N",
          "end after N checks without progress; 0: never (default 0)", 0, 1 << 24 },
        { "adapters", 0, OPTIONS_TEXT, &adapters, "q8_0|f16",
          "how they are stored (default q8_0)", 0, 0 },
        { "rank", 0, OPTIONS_INT, &t->rank, "N",
          "of the screens, a multiple of 32 (default 96)", 32, 65536 },
        { "candidates", 0, OPTIONS_INT, &t->n_candidates, "N",
          "of the screens (default 256)", 1, MODEL_MAX_CANDIDATES },
        { "no-trust", 0, OPTIONS_FLAG, &t->no_trust, NULL,
          "confidence is the largest probability alone", 0, 0 },
        { "no-screens", 0, OPTIONS_FLAG, &t->no_screens, NULL, "fit none", 0, 0 },
        { "resume", 0, OPTIONS_FLAG, &t->resume, NULL,
          "go on with an interrupted training", 0, 0 },
        { "seed", 0, OPTIONS_U64, &t->seed, "N", "default 1", 0, 0 },
        COMMAND_ENGINE_OPTIONS(&t->engine),
        { "json", 0, OPTIONS_FLAG, &t->json, NULL, "for programs", 0, 0 },
        { 0 }
    };
    const struct options_page page = {
        "tune-exits MODEL --layers L,L --data FILE... -o OUT [options]",
        "Train exits after these blocks to foretell the model's own tokens, on texts "
        "and\n"
        "on its own answers, and fit their screens. The model runs first and keeps what "
        "it saw\n"
        "in OUT.rows, some 3 kB a token, until OUT is written; interrupted (Ctrl-C) it "
        "goes\n"
        "on with what it has. Interrupted in training it keeps OUT.state for --resume. "
        "An\n"
        "earlier OUT is as it was until the new one is complete. The same options give "
        "the\n"
        "same rows on every machine, and the same exits on equal ones.",
        specs, 1, 1
    };
    struct err err = { 0 };
    int n;

    if (!command_options(&page, argc, argv, &n, status))
        return false;
    t->path = argv[1];
    if (check_options(t, adapters, &err) == 0 && name_files(t, &err) == 0)
        return true;
    *status = command_usage("tune-exits", &err);
    return false;
}

int
cmd_tune_exits(int argc, char **argv)
{
    struct tune_exits t = { .answer_rows = 1200000,
                            .max_answer = 192,
                            .n_top = 64,
                            .widths = { 1, { 1152 } },
                            .steps = { 1, { 12000 } },
                            .batch = 192,
                            .rate = 0.0012,
                            .dropout = 0.1,
                            .rank = 96,
                            .n_candidates = 256,
                            .seed = 1 };
    struct err err = { 0 };
    int status = COMMAND_OK, rc;

    if (parse(&t, argc, argv, &status)) {
        rc = run(&t, &err);
        fill_report(&t);
        if (rc == 0 && t.json)
            rc = command_print_json(tune_report_json(&t.report), true, &err);
        else if (rc == 0)
            tune_report_print(&t.report);
        status = rc == 0 ? COMMAND_OK : command_failed("tune-exits", &err);
    }
    release(&t);
    return status;
}
