/* SPDX-License-Identifier: Apache-2.0
 * exits_world.h - a synthetic model with two exits, and prompts of several lengths, for
 * tests of answers written side by side.
 */
#ifndef CE_TESTS_EXITS_WORLD_H
#define CE_TESTS_EXITS_WORLD_H

#include <unistd.h>

#include "common/memory.h"
#include "engine/synth.h"
#include "tools/answer_batch.h"
#include "tools/prompt_file.h"

#define WORLD_PROMPTS 9
#define WORLD_TOKENS  24 /* of an answer */
#define WORLD_ROWS    32
#define WORLD_WIDTH   5

struct exits_world {
    struct model *model;
    struct backend *backend;
    struct tokenizer *vocab;
    struct staged staged;
    struct prompt_file prompts;
};

static inline void
exits_world_open(struct exits_world *w, const char *model, const char *exits)
{
    struct synth_params p;
    struct backend_options opt = {
        .final_head = true, .exit_heads = true, .max_seqs = WORLD_WIDTH, .n_threads = 1
    };
    struct staged_stop stops[STAGED_MAX_STOPS];
    struct err err = { 0 };
    uint64_t x = 88172645463325252u;

    synth_params_init(&p);
    p.n_ctx = 128;
    assert_int_equal(synth_model(&p, model, &err), 0);
    assert_int_equal(synth_exits(&p, model, (int[]){ 1, 3 }, 2, 32, exits, &err), 0);
    assert_int_equal(model_open(&w->model, model, exits, &err), 0);
    assert_int_equal(backend_cpu_open(&w->backend, w->model, &opt, &err), 0);
    assert_int_equal(tokenizer_open(&w->vocab, w->model->file, &err), 0);
    assert_int_equal(staged_init(&w->staged, w->backend, stops,
                                 staged_all_stops(stops, w->backend), WORLD_ROWS,
                                 WORLD_WIDTH, &err),
                     0);
    w->prompts.n = WORLD_PROMPTS;
    w->prompts.list = mem_array_alloc(WORLD_PROMPTS, sizeof(*w->prompts.list));
    assert_non_null(w->prompts.list);
    for (int i = 0; i < WORLD_PROMPTS; i++) {
        struct prompt *q = &w->prompts.list[i];

        q->n = 1 + 11 * i; /* one token, up to several steps' worth */
        q->ids = mem_array_alloc((size_t)q->n, sizeof(*q->ids));
        assert_non_null(q->ids);
        for (int j = 0; j < q->n; j++) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            q->ids[j] = (int32_t)(3 + (x >> 33) % 300);
        }
    }
}

static inline void
exits_world_close(struct exits_world *w, const char *model, const char *exits)
{
    prompt_file_free(&w->prompts);
    staged_fini(&w->staged);
    tokenizer_free(w->vocab);
    backend_close(w->backend);
    model_close(w->model);
    unlink(model);
    unlink(exits);
}

/* ---- answers by the plain rule, one way and no tree ---- */

struct plain_answer {
    int32_t tokens[WORLD_TOKENS];
    int n, n_requests;
    int left[2];
};

struct plain_run {
    const struct prompt_file *prompts;
    const double *theta; /* [2] */
    struct plain_answer answers[WORLD_PROMPTS];
    int begun, most; /* most: running at one time */
    int running;
};

static inline bool
plain_next(void *ctx, struct answer *a)
{
    struct plain_run *r = ctx;

    if (r->begun == r->prompts->n)
        return false;
    a->prompt = r->prompts->list[r->begun].ids;
    a->n_prompt = r->prompts->list[r->begun].n;
    a->output = r->answers[r->begun].tokens;
    a->max_output = WORLD_TOKENS;
    a->user = &r->answers[r->begun];
    r->begun++;
    if (++r->running > r->most)
        r->most = r->running;
    return true;
}

static inline int32_t
plain_choose(void *ctx, struct answer *a, const struct staged *s, int row, int state_row)
{
    struct plain_run *r = ctx;
    struct plain_answer *p = a->user;

    (void)state_row;
    for (int k = 0; k < 2; k++) {
        if (r->theta[k] < 1 && (double)s->results[k][row].confidence >= r->theta[k]) {
            p->left[k]++;
            return s->results[k][row].argmax;
        }
    }
    p->n_requests++;
    return s->results[2][row].argmax;
}

static inline int
plain_done(void *ctx, struct answer *a, struct err *err)
{
    struct plain_run *r = ctx;

    (void)err;
    ((struct plain_answer *)a->user)->n = a->n_output;
    r->running--;
    return 0;
}

/* Answers under theta, `width` side by side. */
static inline void
plain_answers(struct plain_run *r, struct exits_world *w, const double *theta, int width)
{
    struct answer_batch batch = { .staged = &w->staged,
                                  .vocab = w->vocab,
                                  .width = width,
                                  .next = plain_next,
                                  .choose = plain_choose,
                                  .done = plain_done,
                                  .ctx = r };
    struct err err = { 0 };

    memset(r, 0, sizeof(*r));
    r->prompts = &w->prompts;
    r->theta = theta;
    assert_int_equal(answer_batch_run(&batch, &err), 0);
    assert_int_equal(r->begun, w->prompts.n);
    assert_int_equal(r->running, 0);
}

#endif
