/* SPDX-License-Identifier: Apache-2.0
 * exit_collect.c - see exit_collect.h.
 */
#include "tools/exit_collect.h"

#include <stdio.h>
#include <string.h>

#include "common/memory.h"
#include "common/random.h"
#include "common/sha256.h"
#include "engine/chat_template.h"
#include "engine/sampler.h"
#include "tools/answer_batch.h"
#include "tools/exit_invent.h"
#include "tools/exit_prompts.h"
#include "tools/progress.h"
#include "tools/text_windows.h"

#define LEAST_PER_COLUMN 4 /* training rows for each column of the model, at least */

struct writing { /* an answer */
    bool busy, held_out;
    uint32_t round, number;
    int32_t *prompt; /* [n_ctx] */
    int32_t *output; /* [max_answer] */
};

struct collect {
    const struct exit_collect *c;
    struct staged staged;
    struct tokenizer *vocab;
    const struct chat_template *chat;
    struct text_windows windows;
    struct exit_prompts prompts;
    struct writing *writing; /* [width] */
    struct exit_rows *rows;
    size_t next, n_answers, answer_rows; /* prompts begun, of all rounds; rows */
    struct sampler_params sampler;
    struct progress progress;
    struct err err; /* the first, from callbacks that return none */
    int rc;
};

static bool
stopped(const struct collect *k)
{
    return k->rc != 0 || (k->c->stop && *k->c->stop);
}

/* Positions that a sequence may have. */
static int
context(const struct exit_collect *c)
{
    int n = c->backend->info.n_ctx;

    return n < EXIT_COLLECT_CTX ? n : EXIT_COLLECT_CTX;
}

/* ---- the recipe ---- */

static int
add_files(char *text, size_t cap, size_t *n, const char *kind,
          const struct options_texts *files, struct err *err)
{
    for (int i = 0; i < files->n; i++) {
        uint8_t digest[SHA256_BYTES];
        char hex[SHA256_TEXT];
        int rc = sha256_file(files->v[i], digest, err);

        if (rc != 0)
            return rc;
        sha256_text(digest, hex);
        *n += (size_t)snprintf(text + *n, cap - *n, "%s %s\n", kind, hex);
    }
    return 0;
}

int
exit_collect_recipe(const struct exit_collect *c, uint8_t out[32], struct err *err)
{
    size_t cap = 4096 + 3 * OPTIONS_MAX_TEXTS * (SHA256_TEXT + 16), n;
    char *text = mem_array_alloc(cap, 1);
    int rc;

    if (!text)
        return err_set(err, CE_ENOMEM, "no memory for a recipe");
    n = (size_t)snprintf(text, cap,
                         "rows 1 window %d width %d invent %zu summaries %zu answers %zu "
                         "of %d top %d seed %llu\n",
                         EXIT_COLLECT_WINDOW, EXIT_COLLECT_WIDTH, c->n_invent,
                         c->n_summaries, c->n_answer_rows, c->max_answer, c->n_top,
                         (unsigned long long)c->seed);
    for (int i = 0; i < c->n_exits; i++)
        n += (size_t)snprintf(text + n, cap - n, "layer %d\n", c->layers[i]);
    if ((rc = add_files(text, cap, &n, "data", c->data, err)) == 0 &&
        (rc = add_files(text, cap, &n, "self", c->self, err)) == 0 &&
        (rc = add_files(text, cap, &n, "exclude", c->exclude, err)) == 0)
        rc = sha256_bytes(text, n, out, err);
    mem_free(text);
    return rc;
}

/* ---- preparing ---- */

static int
read_texts(struct collect *k, struct err *err)
{
    int n_ctx = context(k->c), rc = 0;

    k->windows.length = n_ctx < EXIT_COLLECT_WINDOW ? n_ctx : EXIT_COLLECT_WINDOW;
    for (int i = 0; rc == 0 && i < k->c->data->n; i++)
        rc = text_windows_add(&k->windows, k->vocab, k->c->data->v[i], err);
    return rc;
}

static int
read_prompts(struct collect *k, struct err *err)
{
    const struct exit_collect *c = k->c;
    int rc = 0;

    for (int i = 0; rc == 0 && i < c->exclude->n; i++)
        rc = exit_prompts_exclude(&k->prompts, c->exclude->v[i], err);
    for (int i = 0; rc == 0 && i < c->self->n; i++)
        rc = exit_prompts_add_file(&k->prompts, c->self->v[i], err);
    return rc;
}

/* Refuse what is too little before the model runs. */
static int
check_amount(const struct collect *k, struct err *err)
{
    const struct exit_collect *c = k->c;
    size_t text = k->windows.n_ids - k->windows.n, answers = 0;
    size_t least = LEAST_PER_COLUMN * (size_t)c->backend->info.d_model;

    if (k->prompts.n + c->n_invent + c->n_summaries > 0)
        answers = c->n_answer_rows;
    if (c->max_answer >= context(c) && answers > 0)
        return err_set(
            err, CE_EINVAL,
            "answers of %d tokens and their prompts do not fit a context of %d",
            c->max_answer, context(c));
    if (text + answers < least || (k->windows.n < 2 && answers == 0))
        return err_set(err, CE_EINVAL,
                       "too little to train on: %zu positions of texts and %zu of "
                       "answers; a model of width %d needs %zu",
                       text, answers, c->backend->info.d_model, least);
    return 0;
}

static int
prepare(struct collect *k, struct err *err)
{
    const struct exit_collect *c = k->c;
    struct staged_stop stops[STAGED_MAX_STOPS];
    bool answers = c->self->n > 0 || c->n_invent > 0 || c->n_summaries > 0;
    int n_ctx = context(c), rc;

    for (int i = 0; i < c->n_exits; i++)
        stops[i] = (struct staged_stop){ c->layers[i], HEAD_NONE };
    stops[c->n_exits] = (struct staged_stop){ c->backend->info.n_layers, HEAD_FINAL };
    if ((rc = tokenizer_open(&k->vocab, c->model->file, err)))
        return rc;
    if (answers && (rc = chat_template_find(&k->chat, c->model->file, NULL, err)))
        return rc;
    if ((rc = read_texts(k, err)) || (rc = read_prompts(k, err)) ||
        (rc = check_amount(k, err)) ||
        (rc = staged_init(&k->staged, c->backend, stops, c->n_exits + 1,
                          EXIT_COLLECT_STEP, EXIT_COLLECT_WIDTH, err)))
        return rc;
    k->writing = mem_array_alloc(EXIT_COLLECT_WIDTH, sizeof(*k->writing));
    for (int i = 0; k->writing && answers && i < EXIT_COLLECT_WIDTH; i++) {
        struct writing *w = &k->writing[i];

        w->prompt = mem_array_alloc((size_t)n_ctx, sizeof(*w->prompt));
        w->output = mem_array_alloc((size_t)c->max_answer, sizeof(*w->output));
        if (!w->prompt || !w->output)
            return err_set(err, CE_ENOMEM, "no memory for %d answers",
                           EXIT_COLLECT_WIDTH);
    }
    return k->writing ? 0 : err_set(err, CE_ENOMEM, "no memory for answers");
}

static int
create_rows(struct collect *k, const uint8_t recipe[32], const char *path,
            struct err *err)
{
    const struct exit_collect *c = k->c;
    struct exit_rows_shape shape = { .n_exits = c->n_exits,
                                     .d_model = c->backend->info.d_model,
                                     .n_vocab = c->backend->info.n_vocab,
                                     .n_top = c->n_top };

    memcpy(shape.layers, c->layers, sizeof(shape.layers));
    memcpy(shape.fingerprint, c->model->fingerprint, sizeof(shape.fingerprint));
    memcpy(shape.recipe, recipe, sizeof(shape.recipe));
    return exit_rows_create(&k->rows, path, &shape, err);
}

/* ---- texts ---- */

/* The staged rows' `state_row`, with the final result `row`. */
static int
add_row(struct collect *k, int row, int state_row, bool held_out, struct err *err)
{
    const float *states[MODEL_MAX_EXITS];
    size_t at = (size_t)state_row * (size_t)k->c->backend->info.d_model;
    int n = k->c->n_exits;

    for (int i = 0; i < n; i++)
        states[i] = k->staged.states[i] + at;
    return exit_rows_add(k->rows, states, k->staged.states[n] + at,
                         &k->staged.results[n][row], held_out, err);
}

static bool
window_held_out(size_t i, size_t n)
{
    return n < EXIT_ROWS_HELD_OUT ? i == n / 2
                                  : i % EXIT_ROWS_HELD_OUT == EXIT_ROWS_HELD_OUT / 2;
}

static int
run_window(struct collect *k, size_t i, struct err *err)
{
    const struct text_window *w = &k->windows.list[i];
    struct backend *b = k->c->backend;
    struct staged_item item = { .tokens = k->windows.ids + w->at,
                                .n_rows = w->n,
                                .head_rows = w->n - 1 };
    bool held_out = window_held_out(i, k->windows.n);
    int rc;

    if (w->n < 2)
        return 0;
    if ((rc = backend_seq_open(b, &item.seq, err)))
        return rc;
    rc = staged_run(&k->staged, &item, 1, k->c->n_top, err);
    backend_seq_close(b, item.seq);
    for (int r = 0; rc == 0 && r < item.head_rows; r++)
        rc = add_row(k, r, r + 1, held_out, err);
    return rc;
}

static int
run_windows(struct collect *k, struct err *err)
{
    int rc = 0;

    progress_start(&k->progress, "reading texts", k->windows.n_ids);
    for (size_t i = 0; rc == 0 && i < k->windows.n && !stopped(k); i++) {
        rc = run_window(k, i, err);
        progress_set(&k->progress, k->windows.list[i].at + (size_t)k->windows.list[i].n,
                     NULL);
    }
    progress_end(&k->progress);
    return rc;
}

/* ---- answers ---- */

/* All prompts, in an order that makes any beginning a fair sample. */
static int
gather_prompts(struct collect *k, struct err *err)
{
    const struct exit_collect *c = k->c;
    struct exit_invent invent = { &k->staged, EXIT_COLLECT_WIDTH,
                                  k->vocab,   k->chat,
                                  c->seed,    c->stop };
    uint64_t random = c->seed ^ 0x70726f6d70747321;
    int rc = 0;

    if (c->n_invent > 0)
        rc = exit_invent_run(&invent, &k->prompts, c->n_invent, err);
    if (rc == 0)
        rc = exit_prompts_add_summaries(&k->prompts, c->data->v, c->data->n,
                                        c->n_summaries, c->seed, err);
    for (size_t i = 0; i + 1 < k->prompts.n; i++) {
        size_t j = i + (size_t)(random_next(&random) % (k->prompts.n - i));
        char *p = k->prompts.list[i];

        k->prompts.list[i] = k->prompts.list[j];
        k->prompts.list[j] = p;
    }
    if (rc == 0 && c->save_prompts)
        rc = exit_prompts_save(&k->prompts, c->save_prompts, err);
    return rc;
}

/* A prompt through the template; false when it is too long. */
static bool
encode(const struct collect *k, const char *text, struct writing *w, size_t *n)
{
    struct chat_message m = { "user", text, strlen(text) };
    size_t room = (size_t)(context(k->c) - k->c->max_answer);

    return chat_template_encode(k->chat, k->vocab, &m, 1, true, w->prompt, room, n,
                                NULL) == 0 &&
           *n > 0;
}

static bool
next_answer(void *ctx, struct answer *a)
{
    struct collect *k = ctx;
    struct writing *w = k->writing;
    size_t n = 0, all = k->prompts.n, i = 0, tries = 0;

    if (stopped(k) || k->answer_rows >= k->c->n_answer_rows)
        return false;
    while (w->busy) /* one is free: at most `width` run */
        w++;
    do {
        if (tries++ == all)
            return false; /* not one fits */
        i = k->next++;
    } while (!encode(k, k->prompts.list[i % all], w, &n));
    w->busy = true;
    w->round = (uint32_t)(i / all);
    w->number = (uint32_t)i;
    w->held_out = window_held_out(i % all, all);
    a->prompt = w->prompt;
    a->n_prompt = (int)n;
    a->output = w->output;
    a->max_output = k->c->max_answer;
    a->user = w;
    return true;
}

static int32_t
sample(const struct collect *k, const struct writing *w, const struct head_result *h,
       int position)
{
    int32_t ids[BACKEND_MAX_TOP];
    float logits[BACKEND_MAX_TOP];
    struct sampler_row row = { h->n_top, ids, logits, h->lse };

    for (int i = 0; i < h->n_top; i++) {
        ids[i] = h->top[i].id;
        logits[i] = h->top[i].logit;
    }
    return sampler_pick(&k->sampler, &row, NULL, 0, w->number, (uint32_t)position, NULL);
}

static int32_t
choose(void *ctx, struct answer *a, const struct staged *s, int row, int state_row)
{
    struct collect *k = ctx;
    const struct writing *w = a->user;
    const struct head_result *h = &s->results[s->n_stops - 1][row];

    if (stopped(k) || h->argmax < 0 || k->answer_rows >= k->c->n_answer_rows)
        return -1;
    k->rc = add_row(k, row, state_row, w->held_out, &k->err);
    k->answer_rows++;
    return w->round == 0 ? h->argmax : sample(k, w, h, a->n_output);
}

static int
answered(void *ctx, struct answer *a, struct err *err)
{
    struct collect *k = ctx;
    struct writing *w = a->user;
    char note[64];

    w->busy = false;
    k->n_answers++;
    snprintf(note, sizeof(note), "%zu answers to %zu prompts", k->n_answers,
             k->prompts.n);
    progress_set(&k->progress, k->answer_rows, note);
    if (k->rc != 0 && err)
        *err = k->err;
    return k->rc;
}

static int
run_answers(struct collect *k, struct err *err)
{
    struct answer_batch batch = { .staged = &k->staged,
                                  .vocab = k->vocab,
                                  .width = EXIT_COLLECT_WIDTH,
                                  .n_top = k->c->n_top,
                                  .next = next_answer,
                                  .choose = choose,
                                  .done = answered,
                                  .ctx = k };
    int rc;

    if (!k->chat || k->c->n_answer_rows == 0)
        return 0;
    if ((rc = gather_prompts(k, err)) || k->prompts.n == 0)
        return rc;
    sampler_params_init(&k->sampler);
    k->sampler.temperature = 0.8;
    k->sampler.seed = k->c->seed;
    progress_start(&k->progress, "answering", k->c->n_answer_rows);
    rc = answer_batch_run(&batch, err);
    progress_end(&k->progress);
    return rc;
}

/* ---- all of it ---- */

static void
release(struct collect *k)
{
    for (int i = 0; k->writing && i < EXIT_COLLECT_WIDTH; i++) {
        mem_free(k->writing[i].prompt);
        mem_free(k->writing[i].output);
    }
    mem_free(k->writing);
    staged_fini(&k->staged);
    exit_prompts_free(&k->prompts);
    text_windows_free(&k->windows);
    tokenizer_free(k->vocab);
    exit_rows_close(k->rows);
}

static int
check_rows(const struct collect *k, const char *path, struct err *err)
{
    size_t n = exit_rows_count(k->rows, false), held = exit_rows_count(k->rows, true);
    size_t least = LEAST_PER_COLUMN * (size_t)k->c->backend->info.d_model;

    if (n >= least / 2 && held > 0)
        return 0;
    return err_set(err, CE_EINVAL,
                   "%s: %zu rows to train on and %zu held out are too few for a model of "
                   "width %d",
                   path, n, held, k->c->backend->info.d_model);
}

int
exit_collect_run(const struct exit_collect *c, const uint8_t recipe[32], const char *path,
                 struct exit_rows **out, struct err *err)
{
    struct collect k = { .c = c };
    int rc;

    *out = NULL;
    if ((rc = prepare(&k, err)) == 0 && (rc = create_rows(&k, recipe, path, err)) == 0 &&
        (rc = run_windows(&k, err)) == 0)
        rc = run_answers(&k, err);
    if (rc == 0 && stopped(&k))
        exit_rows_cut_short(k.rows);
    if (rc == 0 && (rc = exit_rows_finish(k.rows, err)) == 0 &&
        (rc = check_rows(&k, path, err)) == 0) {
        *out = k.rows;
        k.rows = NULL;
    }
    release(&k);
    return rc;
}
