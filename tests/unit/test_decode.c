/* SPDX-License-Identifier: Apache-2.0
 * test_decode.c - the decode loop against a backend and a cloud that only count.
 *
 * The fake backend refuses any hole (as the real one does) and mixes every token
 * into the states, so a wrong or missing catch-up shows in the ids: the token an
 * exit or the cloud gives at a position is a function of the whole text before it.
 * Confidences come from a script, one per position and exit; so do the screens' errors.
 */
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

static void
origins_follow_confidence(void **state)
{
    struct run *r = run_new(POLICY_COLLABORATIVE, 0.8, 0.8);

    (void)state;
    script("9191181", "0901101");
    assert_int_equal(run_prompt(r, 7), 0);
    assert_string_equal(r->origins, "12"
                                    "1"
                                    "CC"
                                    "1"
                                    "C");
    assert_int_equal(r->result.by_exit[0], 3);
    assert_int_equal(r->result.by_exit[1], 1);
    assert_int_equal(r->result.by_cloud, 3);
    assert_int_equal(r->result.requests, 3);
    assert_int_equal(r->result.stalls, 3);
    assert_int_equal(r->result.end, DECODE_END_LENGTH);
    assert_int_equal(r->port.closes, 1);
    assert_false(r->backend.open);
    /* Stage 0 ran every position; stage 1 caught up all 11 by the last request. */
    assert_int_equal(decode_rows_run(r->decoder, 0), 11);
    assert_int_equal(decode_rows_run(r->decoder, 1), 11);
    run_free(r);
}

static void
skipped_positions_wait(void **state)
{
    struct run *r = run_new(POLICY_COLLABORATIVE, 0.8, 0.8);

    (void)state;
    script("9999", "0000");
    assert_int_equal(run_prompt(r, 4), 0);
    assert_string_equal(r->origins, "1111");
    assert_int_equal(decode_rows_run(r->decoder, 0), 8);
    assert_int_equal(decode_rows_run(r->decoder, 1), 0);
    assert_int_equal(r->result.requests, 0);
    run_free(r);
}

static void
theta_one_equals_the_whole_model(void **state)
{
    struct run *whole = run_new(POLICY_EDGE_FULL, 1, 1);
    struct run *split = run_new(POLICY_COLLABORATIVE, 1, 1);
    struct run *naive = run_new(POLICY_NAIVE, 0.1, 0.1);

    (void)state;
    script("99999999", "99999999");
    assert_int_equal(run_prompt(whole, 8), 0);
    assert_int_equal(run_prompt(split, 8), 0);
    assert_int_equal(run_prompt(naive, 8), 0);
    assert_string_equal(whole->origins, "WWWWWWWW");
    assert_string_equal(split->origins, "CCCCCCCC");
    assert_memory_equal(whole->ids, split->ids, sizeof(whole->ids));
    assert_memory_equal(whole->hashes, split->hashes, sizeof(whole->hashes));
    assert_memory_equal(whole->ids, naive->ids, sizeof(whole->ids));
    assert_int_equal(split->backend.heads, 0); /* no exit head was computed */
    run_free(whole);
    run_free(split);
    run_free(naive);
}

/* Mixed origins: every token must still be a function of the whole text. The exits
 * computed from scratch over the same ids must give the same. */
static void
catch_up_is_exact(void **state)
{
    struct run *r = run_new(POLICY_COLLABORATIVE, 0.8, 0.8);
    struct fake_backend again = { .base = r->backend.base };
    int32_t text[CTX];
    float h = 0;

    (void)state;
    script("9911919191", "0019000900");
    assert_int_equal(run_prompt(r, 10), 0);
    memcpy(text, prompt, sizeof(prompt));
    memcpy(text + 5, r->ids, sizeof(int32_t) * 10);
    for (int p = 0; p < 14; p++) {
        float at[LAYERS + 1] = { (float)text[p] };
        h = at[0];
        for (int l = 0; l < LAYERS; l++)
            at[l + 1] = h = block(&again, l, h);
        if (p < 4)
            continue;
        char o = r->origins[p - 4];
        int layer = o == '1' ? 2 : o == '2' ? 4 : LAYERS;
        assert_int_equal(r->ids[p - 4], (int32_t)at[layer]);
    }
    run_free(r);
}

static void
upload_triggers(void **state)
{
    struct run *r = run_new(POLICY_COLLABORATIVE, 0.8, 1);

    (void)state;
    script("9959", "0000");
    assert_int_equal(run_prompt(r, 4), 0);
    /* chunks of 2, each released as it comes; requests at position 6 */
    assert_string_equal(r->port.log, "r2 r4 r5 r6 r7 i6 r8 ");
    run_free(r);

    r = run_new(POLICY_COLLABORATIVE, 0.8, 1);
    r->policy.upload = POLICY_UPLOAD_BELOW;
    r->policy.upload_theta = 0.6;
    assert_int_equal(run_prompt(r, 4), 0);
    assert_string_equal(r->port.log, "r2 r4 r7 i6 ");
    run_free(r);

    r = run_new(POLICY_COLLABORATIVE, 0.8, 1);
    r->policy.upload = POLICY_UPLOAD_ON_REQUEST;
    assert_int_equal(run_prompt(r, 4), 0);
    assert_string_equal(r->port.log, "i6 "); /* which releases what it needs */
    run_free(r);
}

static void
standalone_needs_no_cloud(void **state)
{
    struct run *r = run_new(POLICY_STANDALONE, 0.8, 0.8);

    (void)state;
    script("9111", "0900");
    assert_int_equal(run_prompt(r, 4), 0);
    assert_string_equal(r->origins, "1222");
    assert_string_equal(r->port.log, "");
    run_free(r);
}

static void
losing_the_cloud(void **state)
{
    struct run *r = run_new(POLICY_COLLABORATIVE, 0.8, 0.8);

    (void)state;
    script("191191", "011191");
    r->port.lose_at = 2;
    assert_int_equal(run_prompt(r, 6), CE_ECLOSED);
    assert_string_equal(r->err.text, "cloud: gone");
    assert_string_equal(r->origins, "C1");
    assert_int_equal(r->result.end, DECODE_END_ERROR);
    assert_int_equal(r->port.closes, 1);
    run_free(r);

    r = run_new(POLICY_COLLABORATIVE, 0.8, 0.8);
    r->port.lose_at = 2;
    r->policy.on_loss = POLICY_LOSS_EDGE;
    assert_int_equal(run_prompt(r, 6), 0);
    assert_string_equal(r->origins, "C1FF1F");
    assert_true(r->result.cloud_lost);
    assert_string_equal(r->result.loss.text, "cloud: gone");
    assert_int_equal(r->port.infers, 2); /* not asked again */
    assert_int_equal(r->result.by_fallback, 3);
    run_free(r);
}

static void
trace_computes_every_head(void **state)
{
    struct run *r = run_new(POLICY_COLLABORATIVE, 0.8, 0.8);
    struct run *plain = run_new(POLICY_COLLABORATIVE, 0.8, 0.8);

    (void)state;
    script("91191", "01910");
    r->trace = true;
    assert_int_equal(run_prompt(r, 5), 0);
    assert_int_equal(run_prompt(plain, 5), 0);
    assert_int_equal(r->cells, 15);
    assert_string_equal(r->origins, plain->origins);
    assert_memory_equal(r->ids, plain->ids, sizeof(r->ids));
    assert_int_equal(r->result.requests, plain->result.requests);
    assert_int_equal(r->result.probes, 5 - r->result.requests);
    run_free(r);
    run_free(plain);
}

/* ---- screens ---- */

static struct run *
run_screened(enum policy_mode mode, double theta1, double theta2)
{
    struct run *r = run_new(mode, theta1, theta2);

    r->policy.screens = true;
    r->no_hash = true;
    memset(mistaken, 0, sizeof(mistaken));
    return r;
}

static void
screens_change_no_token(void **state)
{
    struct run *plain = run_new(POLICY_COLLABORATIVE, 0.8, 0.7);
    struct run *r = run_screened(POLICY_COLLABORATIVE, 0.8, 0.7);

    (void)state;
    script("9191181", "0901101");
    plain->no_hash = true;
    assert_int_equal(run_prompt(plain, 7), 0);
    assert_int_equal(run_prompt(r, 7), 0);
    assert_string_equal(r->origins, "121CC1C");
    assert_string_equal(plain->origins, r->origins);
    assert_memory_equal(plain->ids, r->ids, sizeof(r->ids));
    assert_string_equal(plain->port.log, r->port.log);
    assert_string_equal(r->backend.asked, "1/0.8 "
                                          "1/0.8 2/0.7 "
                                          "1/0.8 "
                                          "1/0.8 2/0.7 "
                                          "1/0.8 2/0.7 "
                                          "1/0.8 "
                                          "1/0.8 2/0.7 ");
    assert_int_equal(r->result.screened, 7);
    assert_int_equal(r->backend.below, 7);
    assert_int_equal(plain->result.screened, 0);
    assert_int_equal(plain->backend.heads, r->backend.heads);
    run_free(plain);
    run_free(r);
}

/* A mistaken screen sends a token deeper; what comes from there is whole. */
static void
a_mistaken_screen_goes_deeper(void **state)
{
    struct run *r = run_screened(POLICY_COLLABORATIVE, 0.8, 0.8);

    (void)state;
    script("9999", "9099");
    mistaken[0][4] = mistaken[0][5] = mistaken[0][7] = mistaken[1][7] = true;
    assert_int_equal(run_prompt(r, 4), 0);
    assert_string_equal(r->origins, "2C1C");
    for (int i = 0; i < r->n; i++)
        assert_true(r->ids[i] != 777777);
    assert_int_equal(r->result.screened, 5);
    run_free(r);
}

/* The last exit's token counts, whatever its confidence. */
static void
standalone_screens_all_but_the_last(void **state)
{
    struct run *r = run_screened(POLICY_STANDALONE, 0.8, 0.8);

    (void)state;
    script("911", "091");
    assert_int_equal(run_prompt(r, 3), 0);
    assert_string_equal(r->origins, "122");
    assert_string_equal(r->backend.asked, "1/0.8 1/0.8 2/0 1/0.8 2/0 ");
    assert_int_equal(r->result.screened, 2);
    run_free(r);
}

/* Lost in the middle of a position: the last exit has said "below" and is asked again,
 * on the same row; the first one's answer still holds. */
static void
a_fallback_asks_in_full(void **state)
{
    struct run *r = run_screened(POLICY_COLLABORATIVE, 0.8, 0.7);
    struct run *plain = run_new(POLICY_COLLABORATIVE, 0.8, 0.7);

    (void)state;
    script("191", "010");
    plain->policy.on_loss = r->policy.on_loss = POLICY_LOSS_EDGE;
    plain->port.lose_at = r->port.lose_at = 1;
    assert_int_equal(run_prompt(plain, 3), 0);
    assert_int_equal(run_prompt(r, 3), 0);
    assert_string_equal(r->origins, "F1F");
    assert_memory_equal(plain->ids, r->ids, sizeof(r->ids));
    assert_string_equal(r->backend.asked, "1/0.8 2/0.7 2/0 "
                                          "1/0.8 "
                                          "1/0.8 2/0 ");
    assert_int_equal(r->result.screened, 2); /* and one that had to be done after all */
    run_free(r);
    run_free(plain);
}

/* The first exit's confidence has two thresholds: the smaller one is screened. */
static void
upload_trigger_and_screen(void **state)
{
    static const struct {
        double theta, upload;
        const char *origins, *log, *asked;
    } cases[] = {
        { 0.8, 0.6, "11C1", "r2 r4 r7 i6 ", "1/0.6 1/0.6 1/0.6 1/0.6 " },
        { 0.6, 0.8, "11C1", "r2 r4 r7 i6 ", "1/0.6 1/0.6 1/0.6 1/0.6 " },
        { 1.0, 0.6, "CCCC", "r2 r4 i4 i5 r7 i6 i7 ", "1/0.6 1/0.6 1/0.6 1/0.6 " },
    };

    (void)state;
    script("9959", "0000");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct run *r = run_screened(POLICY_COLLABORATIVE, cases[i].theta, 1);
        r->policy.upload = POLICY_UPLOAD_BELOW;
        r->policy.upload_theta = cases[i].upload;
        assert_int_equal(run_prompt(r, 4), 0);
        assert_string_equal(r->origins, cases[i].origins);
        assert_string_equal(r->port.log, cases[i].log);
        assert_string_equal(r->backend.asked, cases[i].asked);
        run_free(r);
    }
}

static void
nothing_is_screened_that_is_shown(void **state)
{
    struct run *traced = run_screened(POLICY_COLLABORATIVE, 0.8, 0.8);
    struct run *hashed = run_screened(POLICY_COLLABORATIVE, 0.8, 0.8);
    struct run *off = run_screened(POLICY_COLLABORATIVE, 0.8, 0.8);

    (void)state;
    script("191", "091");
    traced->trace = true;
    hashed->no_hash = false;
    off->policy.screens = false;
    assert_int_equal(run_prompt(traced, 3), 0);
    assert_int_equal(run_prompt(hashed, 3), 0);
    assert_int_equal(run_prompt(off, 3), 0);
    assert_null(strstr(traced->backend.asked, "/0."));
    assert_null(strstr(hashed->backend.asked, "/0."));
    assert_null(strstr(off->backend.asked, "/0."));
    assert_int_equal(traced->result.screened, 0);
    run_free(traced);
    run_free(hashed);
    run_free(off);
}

static void
ends_of_answers(void **state)
{
    struct run *r = run_new(POLICY_EDGE_FULL, 1, 1);

    (void)state;
    assert_int_equal(run_prompt(r, 100), 0); /* the context: 16 positions, 5 taken */
    assert_int_equal(r->result.end, DECODE_END_CONTEXT);
    assert_int_equal(r->n, 12); /* the last one needs no place of its own */
    run_free(r);

    int32_t longer[17] = { 0 };
    struct decode_request q = { .prompt = longer, .n_prompt = 17, .max_tokens = 1 };
    sampler_params_init(&q.sampling);
    r = run_new(POLICY_EDGE_FULL, 1, 1);
    assert_int_equal(run_prompt(r, 1), 0);
    assert_int_equal(decode_answer(r->decoder, &q, &r->result, &r->err), CE_ECONTEXT);
    assert_string_equal(r->err.text, "the prompt has 17 tokens, the context holds 16");
    q.n_prompt = 0;
    assert_int_equal(decode_answer(r->decoder, &q, &r->result, &r->err), CE_EINVAL);
    static const int32_t forced[] = { 7, 8, EOG, 9 };
    q.n_prompt = 2;
    q.forced = forced;
    q.n_forced = 4;
    assert_int_equal(decode_answer(r->decoder, &q, &r->result, &r->err), 0);
    assert_int_equal(r->result.end, DECODE_END_FORCED);
    assert_int_equal(r->result.n_tokens, 4);
    decode_interrupt(r->decoder);
    assert_int_equal(decode_answer(r->decoder, &q, &r->result, &r->err), 0);
    assert_int_equal(r->result.end, DECODE_END_INTERRUPT);
    assert_int_equal(r->result.n_tokens, 0);
    run_free(r);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(origins_follow_confidence),
        cmocka_unit_test(skipped_positions_wait),
        cmocka_unit_test(theta_one_equals_the_whole_model),
        cmocka_unit_test(catch_up_is_exact),
        cmocka_unit_test(upload_triggers),
        cmocka_unit_test(standalone_needs_no_cloud),
        cmocka_unit_test(losing_the_cloud),
        cmocka_unit_test(trace_computes_every_head),
        cmocka_unit_test(screens_change_no_token),
        cmocka_unit_test(a_mistaken_screen_goes_deeper),
        cmocka_unit_test(standalone_screens_all_but_the_last),
        cmocka_unit_test(a_fallback_asks_in_full),
        cmocka_unit_test(upload_trigger_and_screen),
        cmocka_unit_test(nothing_is_screened_that_is_shown),
        cmocka_unit_test(ends_of_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
