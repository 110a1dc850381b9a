/* SPDX-License-Identifier: Apache-2.0
 * cmd_fit_screens.c - cecollm-model fit-screens: give a model's exits their screens.
 *
 * The model runs over texts; what each exit's output matrix reads there says which
 * directions matter, and the screen is the matrix's best stand-in of low rank for those
 * (low_rank.h). The new file of exits is written, opened again, and checked on a tenth of
 * the text that was set apart: what a screen must not do too often is turn away a row
 * that could have left, and what it is for is turning away the others.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/memory.h"
#include "tools/command.h"
#include "tools/exits_file.h"
#include "tools/progress.h"
#include "tools/screen_check.h"
#include "tools/screen_fit.h"
#include "tools/screen_rows.h"
#include "tools/text_windows.h"
#include "tools/units.h"

#include "engine/quant.h"

#define WINDOW        512
#define ROWS_PER_RANK SCREEN_FIT_ROWS_PER_RANK

struct fit_screens {
    const char *path, *out;
    struct options_texts data;
    int rank, n_candidates, max_rows;
    uint32_t up_type;
    bool adapters_q8_0, json;
    uint64_t seed;
    struct engine_options engine;
    struct loaded loaded;
    struct text_windows windows;
    struct screen_rows rows;
    struct exits_screen screens[MODEL_MAX_EXITS]; /* down and up are owned */
    struct threads *pool;
    struct screen_check checks[MODEL_MAX_EXITS * SCREEN_CHECK_THETAS];
    size_t file_bytes;
};

/* ---- what can be known to fail before the work ---- */

static int
check_model(const struct fit_screens *f, struct err *err)
{
    const struct model *m = f->loaded.model;

    if (m->n_exits == 0)
        return err_set(
            err, CE_ENOTFOUND,
            "%s: has no exits, neither beside it nor of its own; --exits names "
            "a file of them",
            f->path);
    if (m->layer_from != 0)
        return err_set(err, CE_EUNSUPPORTED,
                       "%s: holds blocks %d to %d; the exits' rows need those before",
                       f->path, m->layer_from, m->layer_to - 1);
    if (f->rank > m->config.d_model)
        return err_set(err, CE_EINVAL, "--rank %d: more than the model's width of %d",
                       f->rank, m->config.d_model);
    if (f->n_candidates > m->config.n_vocab)
        return err_set(err, CE_EINVAL, "--candidates %d: the model has %d tokens",
                       f->n_candidates, m->config.n_vocab);
    for (int i = 0; i < m->n_exits; i++) {
        if (m->exits[i].kind == MODEL_EXIT_OWN)
            return err_set(err, CE_EUNSUPPORTED,
                           "%s: the exit after block %d is of kind own; screens are for "
                           "kinds mlp and shared",
                           f->path, m->exits[i].layer);
    }
    return exits_file_check(m, err);
}

/* ---- the steps ---- */

static int
load(struct fit_screens *f, const char *exits, struct err *err)
{
    struct backend_options opt = { .exit_heads = true, .max_seqs = 1 };
    struct engine_options engine = f->engine;

    engine.exits = exits;
    return command_load(&f->loaded, f->path, &engine, &opt, NULL, err);
}

static int
read_data(struct fit_screens *f, struct err *err)
{
    struct tokenizer *t = NULL;
    struct progress progress;
    size_t n_fit, n_check;
    int n_ctx = f->loaded.backend->info.n_ctx, rc;

    if ((rc = tokenizer_open(&t, f->loaded.model->file, err)))
        return rc;
    f->windows.length = n_ctx < WINDOW ? n_ctx : WINDOW;
    progress_start(&progress, "tokenising", (size_t)f->data.n);
    for (int i = 0; rc == 0 && i < f->data.n; i++) {
        rc = text_windows_add(&f->windows, t, f->data.v[i], err);
        progress_set(&progress, (size_t)i + 1, NULL);
    }
    progress_end(&progress);
    tokenizer_free(t);
    if (rc != 0)
        return rc;
    text_windows_thin(&f->windows, (size_t)f->max_rows);
    n_fit = text_windows_count(&f->windows, false);
    n_check = text_windows_count(&f->windows, true);
    if (n_fit < (size_t)f->rank * ROWS_PER_RANK || n_check == 0)
        return err_set(
            err, CE_EINVAL,
            "--data: too little text: %zu tokens to fit rank %d to, which needs "
            "%d, and %zu set apart for the check",
            n_fit, f->rank, f->rank * ROWS_PER_RANK, n_check);
    return 0;
}

static int
fit_all(struct fit_screens *f, struct err *err)
{
    struct screen_fit_params p = { (size_t)f->rank, f->up_type, f->seed };

    return screen_fit_run(f->screens, f->loaded.model, &f->rows, &p, f->pool, err);
}

static int
write_file(const struct fit_screens *f, struct err *err)
{
    struct exits_file file = { f->loaded.model, f->screens,       (size_t)f->rank,
                               f->n_candidates, f->adapters_q8_0, NULL };

    return exits_file_write(&file, f->out, err);
}

/* The file as others will find it. */
static int
check_file(struct fit_screens *f, struct err *err)
{
    int rc;

    command_unload(&f->loaded);
    if ((rc = load(f, f->out, err)))
        return rc;
    f->file_bytes = gguf_size_bytes(f->loaded.model->exits_file);
    return screen_check_run(f->checks, f->loaded.backend, &f->rows, err);
}

static int
run(struct fit_screens *f, struct err *err)
{
    int rc;

    if ((rc = command_check_output(f->out, f->path, err)) ||
        (rc = load(f, f->engine.exits, err)) || (rc = check_model(f, err)) ||
        (rc = read_data(f, err)) ||
        (rc = threads_new(&f->pool, f->engine.threads, err)) ||
        (rc = screen_rows_collect(&f->rows, f->loaded.backend, &f->windows, f->pool,
                                  err)) ||
        (rc = fit_all(f, err)) || (rc = write_file(f, err)))
        return rc;
    return check_file(f, err);
}

static void
release(struct fit_screens *f)
{
    screen_fit_free(f->screens, MODEL_MAX_EXITS);
    screen_rows_free(&f->rows);
    text_windows_free(&f->windows);
    threads_free(f->pool);
    command_unload(&f->loaded);
}

/* ---- output ---- */

/* part / whole; null for none of none. */
static json_t *
json_share(size_t part, size_t whole)
{
    return whole > 0 ? json_real((double)part / (double)whole) : json_null();
}

static json_t *
result_json(const struct fit_screens *f)
{
    json_t *list = json_array();

    for (int i = 0; i < f->rows.n_exits * SCREEN_CHECK_THETAS; i++) {
        const struct screen_check *c = &f->checks[i];

        json_array_append_new(
            list, json_pack("{s:i, s:f, s:o, s:o, s:o}", "layer", c->layer, "theta",
                            (double)c->theta, "exit_rate",
                            json_share(c->n_above, c->n_above + c->n_below),
                            "below_turned_away", json_share(c->n_turned, c->n_below),
                            "above_kept", json_share(c->n_kept, c->n_above)));
    }
    return json_pack("{s:s, s:I, s:i, s:i, s:s, s:I, s:I, s:o}", "file", f->out,
                     "file_bytes", (json_int_t)f->file_bytes, "rank", f->rank,
                     "candidates", f->n_candidates, "up_type", gguf_type_name(f->up_type),
                     "rows_fitted", (json_int_t)f->rows.n_fit, "rows_checked",
                     (json_int_t)f->rows.n_check, "checks", list);
}

static const char *
share_text(char out[UNITS_TEXT], size_t part, size_t whole)
{
    if (whole == 0)
        return "-";
    snprintf(out, UNITS_TEXT, "%.1f %%", 100 * (double)part / (double)whole);
    return out;
}

static void
print_result(const struct fit_screens *f)
{
    char a[UNITS_TEXT], b[UNITS_TEXT], c[UNITS_TEXT];

    printf("%s: %s; rank %d, %s, %d candidates\n", f->out,
           units_bytes(a, (double)f->file_bytes), f->rank, gguf_type_name(f->up_type),
           f->n_candidates);
    printf("fitted to %s rows, checked on %s others:\n\n", units_count(a, f->rows.n_fit),
           units_count(b, f->rows.n_check));
    printf("after block  theta     exits  below it, turned away  others, kept\n");
    for (int i = 0; i < f->rows.n_exits * SCREEN_CHECK_THETAS; i++) {
        const struct screen_check *s = &f->checks[i];

        printf("%11d   %.2f  %8s  %21s  %12s\n", s->layer, (double)s->theta,
               share_text(a, s->n_above, s->n_above + s->n_below),
               share_text(b, s->n_turned, s->n_below),
               share_text(c, s->n_kept, s->n_above));
    }
}

/* ---- the command line ---- */

static int
read_names(struct fit_screens *f, const char *up_type, const char *adapters,
           struct err *err)
{
    static const uint32_t types[] = { GGUF_Q4_1, GGUF_Q4_0, GGUF_Q8_0, GGUF_F16 };
    bool known = false;

    if (f->data.n == 0)
        return err_set(err, CE_EINVAL, "--data is missing");
    if (!f->out)
        return err_set(err, CE_EINVAL, "--output is missing");
    if (strcmp(f->out, "none") == 0)
        return err_set(err, CE_EINVAL, "--output none: no program would read that name");
    if (f->rank % QUANT_BLOCK != 0)
        return err_set(err, CE_EINVAL, "--rank %d: not a multiple of %d", f->rank,
                       QUANT_BLOCK);
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        if (strcasecmp(up_type, gguf_type_name(types[i])) == 0) {
            f->up_type = types[i];
            known = true;
        }
    }
    if (!known)
        return err_set(err, CE_EINVAL,
                       "--up-type: \"%s\" is none of q4_1, q4_0, q8_0, f16", up_type);
    f->adapters_q8_0 = strcasecmp(adapters, "q8_0") == 0;
    if (!f->adapters_q8_0 && strcmp(adapters, "keep") != 0)
        return err_set(err, CE_EINVAL, "--adapters: \"%s\" is neither keep nor q8_0",
                       adapters);
    return 0;
}

/* Called with the options' defaults in *f; the tables are long, the code is not. */
static bool
parse(struct fit_screens *f, int argc, char **argv, int *status)
{
    const char *up_type = "q4_1", *adapters = "keep";
    const struct option_spec specs[] = {
        { "data", 'd', OPTIONS_TEXTS, &f->data, "FILE...", "texts to run the model over",
          0, 0 },
        { "output", 'o', OPTIONS_TEXT, &f->out, "FILE", "the file of exits to write", 0,
          0 },
        COMMAND_EXITS_OPTION(&f->engine.exits),
        { "rank", 0, OPTIONS_INT, &f->rank, "N",
          "of the screens, a multiple of 32 (default 96)", 32, 65536 },
        { "candidates", 0, OPTIONS_INT, &f->n_candidates, "N",
          "ids whose exact logits are computed (default 256)", 1, MODEL_MAX_CANDIDATES },
        { "rows", 0, OPTIONS_INT, &f->max_rows, "N",
          "at most so many tokens of the texts, spread over them (default 30000)",
          2 * WINDOW, 1 << 30 },
        { "up-type", 0, OPTIONS_TEXT, &up_type, "NAME",
          "format of the larger matrix: q4_1 (default), q4_0, q8_0, f16", 0, 0 },
        { "adapters", 0, OPTIONS_TEXT, &adapters, "keep|q8_0",
          "q8_0: also store the adapters in 8 bits (default: keep)", 0, 0 },
        { "seed", 0, OPTIONS_U64, &f->seed, "N", "default 1", 0, 0 },
        COMMAND_ENGINE_OPTIONS(&f->engine),
        { "json", 0, OPTIONS_FLAG, &f->json, NULL, "for programs", 0, 0 },
        { 0 }
    };
    const struct options_page page = {
        "fit-screens MODEL --data FILE... -o OUT [options]",
        "Fit a screen to each exit of a model: a small matrix that tells cheaply which\n"
        "tokens surely do not leave there. OUT gets the exits with their screens; it "
        "may\n"
        "be the file that they come from. Of the texts, at most 4 MiB each, every tenth\n"
        "window of 512 tokens is set apart, and the screens are checked on it. The same\n"
        "options give the same bytes. Memory: the model, and for each exit a tenth of\n"
        "--rows times the model's width, in floats.",
        specs, 1, 1
    };
    struct err err = { 0 };
    int n;

    if (!command_options(&page, argc, argv, &n, status))
        return false;
    f->path = argv[1];
    if (read_names(f, up_type, adapters, &err) == 0)
        return true;
    *status = command_usage("fit-screens", &err);
    return false;
}

int
cmd_fit_screens(int argc, char **argv)
{
    struct fit_screens f = {
        .rank = 96, .n_candidates = 256, .max_rows = 30000, .seed = 1
    };
    struct err err = { 0 };
    int status, rc;

    if (!parse(&f, argc, argv, &status))
        return status;
    rc = run(&f, &err);
    if (rc == 0 && f.json)
        rc = command_print_json(result_json(&f), true, &err);
    else if (rc == 0)
        print_result(&f);
    release(&f);
    return rc == 0 ? COMMAND_OK : command_failed("fit-screens", &err);
}
