/* SPDX-License-Identifier: Apache-2.0
 * model_walk.h - a model file through every layer that reads it: model, vocabulary,
 * template, exits, backend; and a few rows through all blocks and each head.
 *
 * For files that may be broken: every layer either refuses with a code and a text, or
 * what it gives must hold. Anything else aborts, which is what both users of this file
 * report: a fuzz target and a test of seeded mutations.
 *
 * Thread: any; no state.
 */
#ifndef CE_TESTS_UNIT_MODEL_WALK_H
#define CE_TESTS_UNIT_MODEL_WALK_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/backend.h"
#include "engine/chat_template.h"
#include "engine/model.h"
#include "engine/tokenizer.h"

/* How many files came past each layer. */
struct walk {
    int model, tokenizer, backend, step, exit;
};

#define WALK_ROWS 3

static inline void
walk_must(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "%s\n", what);
    abort();
}

/* A refusal has a code and a text. */
static inline bool
walk_accepted(int rc, struct err *err)
{
    bool told = err->code < 0 && err->text[0] != '\0' && !strchr(err->text, '\n');

    if (rc != 0)
        walk_must(rc < 0 && told, "refused without a line that says why");
    *err = (struct err){ 0 };
    return rc == 0;
}

/* WALK_ROWS rows from the start through the blocks up to `to` and a head; true when
 * logits came out. */
static inline bool
walk_step(struct backend *b, int to, int head, float theta)
{
    const struct backend_info *info = &b->info;
    const int32_t ids[WALK_ROWS] = { 0, info->n_vocab / 2, info->n_vocab - 1 };
    int n = info->n_ctx < WALK_ROWS ? info->n_ctx : WALK_ROWS;
    float *state = calloc((size_t)n * (size_t)info->d_model, sizeof(*state));
    struct head_result results[WALK_ROWS];
    struct batch_item item = { .n_rows = n,
                               .head_rows = head == HEAD_NONE ? 0 : n,
                               .results = results };
    struct batch batch = { .layer_from = info->layer_from,
                           .layer_to = to,
                           .head = head,
                           .n_top = 4,
                           .want_hash = true,
                           .screen_theta = theta,
                           .n_items = 1,
                           .items = &item };
    struct err err = { 0 };
    bool ok;

    walk_must(state != NULL, "no memory");
    if (info->layer_from == 0)
        item.tokens = ids;
    else
        item.hidden = state;
    ok = walk_accepted(backend_seq_open(b, &item.seq, &err), &err);
    walk_must(ok, "no sequence");
    ok = walk_accepted(backend_run(b, &batch, &err), &err);
    for (int i = 0; ok && head != HEAD_NONE && i < n; i++)
        walk_must(results[i].argmax >= 0 && results[i].argmax < info->n_vocab &&
                      results[i].confidence >= 0 && results[i].confidence <= 1,
                  "a head's result that is none");
    backend_seq_close(b, item.seq);
    free(state);
    return ok;
}

static inline void
walk_backend(const struct model *m, bool scalar, struct walk *w)
{
    const struct backend_options options = { .n_threads = 1,
                                             .cpu = scalar ? "scalar" : NULL,
                                             .layer_from = m->layer_from,
                                             .layer_to = m->layer_to,
                                             .final_head =
                                                 m->layer_to == m->config.n_layers,
                                             .exit_heads = m->n_exits > 0,
                                             .n_ctx = m->config.n_ctx < 16 ? 0 : 16,
                                             .max_seqs = 1 };
    struct err err = { 0 };
    struct backend *b;

    if (!walk_accepted(backend_cpu_open(&b, m, &options, &err), &err))
        return;
    w->backend++;
    w->step += walk_step(b, m->layer_to, options.final_head ? HEAD_FINAL : HEAD_NONE, 0);
    for (int i = 0; i < b->info.n_exits; i++) {
        w->exit += walk_step(b, b->info.exit_layers[i], HEAD_EXIT(i), 0);
        if (b->info.exit_screens[i])
            (void)walk_step(b, b->info.exit_layers[i], HEAD_EXIT(i), 0.9f);
    }
    backend_close(b);
}

static inline void
walk_tokenizer(const struct model *m, struct walk *w)
{
    static const char text[] = " what you <|im_end|>\n1 \xc3\xa9";
    struct tokenizer *t;
    struct err err = { 0 };
    int32_t ids[64];
    char back[256];
    size_t n;

    if (!walk_accepted(tokenizer_open(&t, m->file, &err), &err))
        return;
    w->tokenizer++;
    if (walk_accepted(
            tokenizer_encode(t, text, sizeof(text) - 1, true, ids, 64, &n, &err), &err))
        /* A vocabulary may well have pieces that are longer than this. */
        (void)!tokenizer_decode(t, ids, n, true, back, sizeof(back), &n);
    tokenizer_free(t);
}

/* The file at `path`, without a side file; computed by the scalar kernels or by this
 * machine's best. */
static inline void
walk_model(const char *path, bool scalar, struct walk *w)
{
    const struct chat_template *t;
    struct err err = { 0 };
    struct model *m;

    if (!walk_accepted(model_open(&m, path, "none", &err), &err))
        return;
    w->model++;
    walk_tokenizer(m, w);
    (void)walk_accepted(chat_template_find(&t, m->file, NULL, &err), &err);
    walk_backend(m, scalar, w);
    model_close(m);
}

#endif
