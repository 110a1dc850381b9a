/* SPDX-License-Identifier: Apache-2.0
 * decode_world.h - a backend and a cloud that only count, for tests of the decode loop.
 *
 * The fake backend refuses any hole (as the real one does) and mixes every token
 * into the states, so a wrong or missing catch-up shows in the ids: the token an
 * exit or the cloud gives at a position is a function of the whole text before it.
 * Confidences come from a script, one per position and exit; so do the screens' errors.
 *
 * Static functions in a header: each test is one program of one file.
 */
#ifndef CE_TESTS_DECODE_WORLD_H
#define CE_TESTS_DECODE_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/decode.h"

enum { LAYERS = 6, D = 2, CTX = 64, EOG = 2000 };

static const int exit_layers[] = { 2, 4 };

/* ---- the fake backend: one sequence ---- */

struct fake_backend {
    struct backend base;
    int32_t past[LAYERS];
    float sum[LAYERS]; /* of all states a block has seen: its "KV" */
    bool open;
    int heads;       /* heads computed */
    int below;       /* of them, ended by the screen */
    char asked[256]; /* of exits: "1/0.8 " is exit 1 with its screen at 0.8 */
};

static float conf[2][CTX];    /* scripted, by exit and position */
static bool mistaken[2][CTX]; /* the screen says "below" whatever the confidence */

static int
fb_open(struct backend *b, int *seq, struct err *err)
{
    struct fake_backend *f = (struct fake_backend *)b;

    (void)err;
    assert_false(f->open);
    memset(f->past, 0, sizeof(f->past));
    memset(f->sum, 0, sizeof(f->sum));
    f->open = true;
    *seq = 0;
    return 0;
}

static void
fb_close(struct backend *b, int seq)
{
    (void)seq;
    ((struct fake_backend *)b)->open = false;
}

/* A block: adds up all it has seen, kept small. */
static float
block(struct fake_backend *f, int layer, float x)
{
    f->sum[layer] += x;
    while (f->sum[layer] >= 1009)
        f->sum[layer] -= 1009;
    return f->sum[layer];
}

/* What a head makes of state h at pos; a screened result is of no use but for that. */
static void
head(struct fake_backend *f, const struct batch *batch, float h, int pos,
     struct head_result *r)
{
    int k = batch->head - HEAD_EXIT(0);
    size_t n = strlen(f->asked);

    f->heads++;
    memset(r, 0, sizeof(*r));
    r->argmax = (int32_t)h;
    r->hash = batch->want_hash ? (uint64_t)h + 1 : 0;
    r->confidence = 1;
    if (batch->head == HEAD_FINAL)
        return;
    snprintf(f->asked + n, sizeof(f->asked) - n, "%d/%g ", k + 1,
             (double)batch->screen_theta);
    r->confidence = conf[k][pos];
    r->below = batch->screen_theta > 0 &&
               (r->confidence < batch->screen_theta || mistaken[k][pos]);
    if (r->below) {
        f->below++;
        r->argmax = 777777; /* must not come out anywhere */
        r->confidence = 1;
        r->hash = 0;
    }
}

static int
fb_run(struct backend *b, const struct batch *batch, struct err *err)
{
    struct fake_backend *f = (struct fake_backend *)b;
    const struct batch_item *it = &batch->items[0];
    float h = 0;

    assert_int_equal(batch->n_items, 1);
    for (int r = 0; r < it->n_rows; r++) {
        h = it->tokens != NULL ? (float)it->tokens[r] : it->hidden[(size_t)r * D];
        for (int l = batch->layer_from; l < batch->layer_to; l++) {
            if (f->past[l] != it->pos + r)
                return err_set(err, CE_EGAP, "block %d has %d, not %d", l, f->past[l],
                               it->pos + r);
            f->past[l]++;
            h = block(f, l, h);
        }
        if (it->hidden_out != NULL) {
            it->hidden_out[(size_t)r * D] = h;
            it->hidden_out[(size_t)r * D + 1] = 0;
        }
    }
    if (it->head_rows == 0)
        return 0;
    head(f, batch, h, it->pos + it->n_rows - 1, it->results);
    return 0;
}

static const struct backend_ops fb_ops = { .seq_open = fb_open,
                                           .seq_close = fb_close,
                                           .run = fb_run };

/* ---- the fake cloud ---- */

struct fake_port {
    struct cloud_port base;
    struct fake_backend far; /* blocks from 2 on */
    float rows[CTX];
    int32_t n_rows, done, released;
    int infers, closes;
    int lose_at; /* the request that fails, from 1 */
    int back_at; /* the question `back` that says yes, from 1; -1: none will */
    int n_backs;
    char log[512];
};

static void
fp_log(struct fake_port *p, const char *what, int a)
{
    size_t n = strlen(p->log);
    snprintf(p->log + n, sizeof(p->log) - n, "%s%d ", what, a);
}

static int
fp_open(struct cloud_port *c, int32_t max_pos, struct err *err)
{
    struct fake_port *p = (struct fake_port *)c;

    (void)max_pos;
    (void)err;
    p->n_rows = p->done = p->released = 0;
    memset(p->far.sum, 0, sizeof(p->far.sum));
    return 0;
}

static int
fp_put(struct cloud_port *c, int32_t pos, int n, const float *rows, struct err *err)
{
    struct fake_port *p = (struct fake_port *)c;

    (void)err;
    assert_int_equal(pos, p->n_rows);
    for (int i = 0; i < n; i++)
        p->rows[p->n_rows++] = rows[(size_t)i * D];
    return 0;
}

static void
fp_release(struct cloud_port *c, int32_t n)
{
    struct fake_port *p = (struct fake_port *)c;

    if (n <= p->released)
        return;
    p->released = n;
    fp_log(p, "r", n);
}

static int
fp_infer(struct cloud_port *c, int32_t pos, const struct cloud_want *want,
         struct cloud_answer *out, struct err *err)
{
    struct fake_port *p = (struct fake_port *)c;
    float h = 0;

    fp_log(p, "i", pos);
    if (++p->infers == p->lose_at)
        return err_set(err, CE_ECLOSED, "cloud: gone");
    assert_true(pos < p->n_rows);
    memset(out, 0, sizeof(*out));
    out->rows = (uint32_t)(pos + 1 - p->done);
    for (; p->done <= pos; p->done++) {
        h = p->rows[p->done];
        for (int l = 2; l < LAYERS; l++)
            h = block(&p->far, l, h);
    }
    out->head.argmax = out->token = (int32_t)h;
    out->head.confidence = 1;
    out->head.hash = want->want_hash ? (uint64_t)h + 1 : 0;
    out->pos = pos;
    return 0;
}

static int
fp_back(struct cloud_port *c)
{
    struct fake_port *p = (struct fake_port *)c;

    return ++p->n_backs == p->back_at ? 1 : p->back_at < 0 ? -1 : 0;
}

static void
fp_close(struct cloud_port *c)
{
    ((struct fake_port *)c)->closes++;
}

static uint64_t
fp_bytes(const struct cloud_port *c)
{
    (void)c;
    return 0;
}

static const struct cloud_port_ops fp_ops = { .open = fp_open,
                                              .put_states = fp_put,
                                              .release = fp_release,
                                              .infer = fp_infer,
                                              .close = fp_close,
                                              .bytes_up = fp_bytes };

static const struct cloud_port_ops fp_ops_back = { .open = fp_open,
                                                   .put_states = fp_put,
                                                   .release = fp_release,
                                                   .infer = fp_infer,
                                                   .close = fp_close,
                                                   .back = fp_back,
                                                   .bytes_up = fp_bytes };

/* ---- the run ---- */

static const char *
piece(const void *ctx, int32_t id, size_t *len)
{
    (void)ctx;
    (void)id;
    *len = 1;
    return ".";
}

static bool
ends(const void *ctx, int32_t id)
{
    (void)ctx;
    return id == EOG;
}

struct run {
    struct fake_backend backend;
    struct fake_port port;
    struct policy policy;
    struct decoder *decoder;
    struct decode_result result;
    struct err err;
    bool trace, no_hash;
    char origins[CTX]; /* '1' '2' exits, C cloud, F fallback, W whole model */
    int32_t ids[CTX];
    uint64_t hashes[CTX];
    int n, cells;
};

static void
on_token(void *ctx, const struct reply_token *t)
{
    struct run *r = ctx;
    char c = t->origin == REPLY_CLOUD      ? 'C'
             : t->origin == REPLY_FULL     ? 'W'
             : t->origin == REPLY_FALLBACK ? 'F'
             : t->layer == 2               ? '1'
                                           : '2';
    r->origins[r->n] = c;
    r->origins[r->n + 1] = '\0';
    r->ids[r->n] = t->id;
    r->hashes[r->n] = t->hash;
    r->cells += t->n_cells;
    r->n++;
}

static struct run *
run_new(enum policy_mode mode, double theta1, double theta2)
{
    struct run *r = calloc(1, sizeof(*r));

    assert_non_null(r);
    r->backend.base.ops = &fb_ops;
    r->backend.base.info =
        (struct backend_info){ .d_model = D, .n_layers = LAYERS, .n_ctx = CTX };
    r->port.base.ops = &fp_ops;
    r->policy =
        (struct policy){ .mode = mode, .n_exits = 2, .theta = { theta1, theta2 } };
    return r;
}

static void
run_free(struct run *r)
{
    decode_free(r->decoder);
    free(r);
}

static const int32_t prompt[] = { 3, 1, 4, 1, 5 };

static int
run_prompt(struct run *r, int max_tokens)
{
    struct decode_setup setup = { .backend = &r->backend.base,
                                  .port = &r->port.base,
                                  .vocab = { piece, ends, NULL },
                                  .exit_layers = exit_layers,
                                  .cut_layer = 2,
                                  .n_layers = LAYERS,
                                  .n_ctx = 16,
                                  .prefill_chunk = 2,
                                  .trace = r->trace };
    struct decode_hooks hooks = { on_token, NULL, r };
    struct decode_request q = { .prompt = prompt,
                                .n_prompt = 5,
                                .max_tokens = max_tokens,
                                .want_hash = !r->no_hash };

    sampler_params_init(&q.sampling);
    assert_int_equal(decode_new(&r->decoder, &setup, &r->policy, &hooks, &r->err), 0);
    return decode_answer(r->decoder, &q, &r->result, &r->err);
}

static void
script(const char *exit1, const char *exit2) /* digits: tenths, from position 4 */
{
    for (int i = 0; exit1[i] != '\0'; i++) {
        conf[0][4 + i] = (float)(exit1[i] - '0') / 10;
        conf[1][4 + i] = (float)(exit2[i] - '0') / 10;
    }
}

#endif
