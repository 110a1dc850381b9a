/* SPDX-License-Identifier: Apache-2.0
 * suite.c - the checks: layer ranges compose, batches do not mix, lengths are kept
 * apart, errors change nothing.
 *
 * "Equal" always means the same bits. The yardstick of most checks is one prefill of
 * the whole sequence, alone, through all blocks (`whole`).
 */
#include "tests/backend/suite.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define N_SEQS 8

struct bench { /* an open backend and its yardstick */
    const struct suite *s;
    struct backend *b;
    int n, n_layers, n_vocab;
    size_t d;
    int32_t *tokens[N_SEQS];           /* [n] each */
    struct head_result *whole[N_SEQS]; /* [n] each: results of every row */
};

int32_t
suite_token(const struct model *m, int which, int i)
{
    uint32_t h = (uint32_t)(which * 7919 + i * 104729 + 12345);

    h ^= h >> 15;
    h *= 0x2c1b3c6dU;
    h ^= h >> 12;
    return (int32_t)(h % (uint32_t)m->config.n_vocab);
}

static void *
array(size_t n, size_t size)
{
    void *p = calloc(n, size);

    assert_non_null(p);
    return p;
}

static void
step(struct backend *b, int from, int to, int head, struct batch_item *items, int n)
{
    struct batch batch = { .layer_from = from,
                           .layer_to = to,
                           .head = head,
                           .n_top = 5,
                           .want_hash = true,
                           .n_items = n,
                           .items = items };
    struct err err;

    if (backend_run(b, &batch, &err) != 0)
        fail_msg("%s", err.text);
}

static int
open_seq(struct backend *b)
{
    int seq;

    assert_int_equal(backend_seq_open(b, &seq, NULL), 0);
    return seq;
}

static void
equal_results(const struct head_result *a, const struct head_result *b, int n)
{
    for (int i = 0; i < n; i++) {
        assert_int_equal(a[i].argmax, b[i].argmax);
        assert_int_equal(a[i].hash, b[i].hash);
        assert_memory_equal(&a[i], &b[i], sizeof(a[i]));
    }
}

/* Rows [at, at + n) of sequence w, from tokens to results, through all blocks. */
static void
run_rows(struct bench *t, int seq, int w, int at, int n, struct head_result *out)
{
    struct batch_item item = { .seq = seq,
                               .pos = at,
                               .n_rows = n,
                               .tokens = t->tokens[w] + at,
                               .head_rows = n,
                               .results = out };

    step(t->b, 0, t->n_layers, HEAD_FINAL, &item, 1);
}

static void
bench_open(struct bench *t, const struct suite *s)
{
    struct backend_options o = s->options;
    struct err err;

    o.final_head = true;
    o.exit_heads = true;
    memset(t, 0, sizeof(*t));
    t->s = s;
    if (s->open(&t->b, s->model, &o, &err) != 0)
        fail_msg("%s", err.text);
    t->n = s->n_tokens;
    t->n_layers = t->b->info.n_layers;
    t->n_vocab = t->b->info.n_vocab;
    t->d = (size_t)t->b->info.d_model;
    for (int w = 0; w < N_SEQS; w++) {
        int seq = open_seq(t->b);

        t->tokens[w] = array((size_t)t->n, sizeof(int32_t));
        t->whole[w] = array((size_t)t->n, sizeof(struct head_result));
        for (int i = 0; i < t->n; i++)
            t->tokens[w][i] = suite_token(s->model, w, i);
        run_rows(t, seq, w, 0, t->n, t->whole[w]);
        backend_seq_close(t->b, seq);
    }
    assert_int_equal(backend_kv_bytes(t->b, -1), 0);
}

static void
bench_close(struct bench *t)
{
    for (int w = 0; w < N_SEQS; w++) {
        free(t->tokens[w]);
        free(t->whole[w]);
    }
    backend_close(t->b);
}

/* ---- layer ranges ---- */

/* 0..a, then a..L on what came out, is 0..L. */
static void
check_ranges_compose(struct bench *t)
{
    float *x = array((size_t)t->n * t->d, sizeof(float));
    struct head_result *r = array((size_t)t->n, sizeof(*r));

    for (int a = 1; a<t->n_layers; a += t->n_layers> 8 ? 7 : 1) {
        struct batch_item item = { .n_rows = t->n,
                                   .tokens = t->tokens[0],
                                   .hidden_out = x };

        item.seq = open_seq(t->b);
        step(t->b, 0, a, HEAD_NONE, &item, 1);
        assert_int_equal(backend_n_past(t->b, item.seq, a - 1), t->n);
        assert_int_equal(backend_n_past(t->b, item.seq, a), 0);
        item.tokens = NULL;
        item.hidden = x;
        item.hidden_out = NULL;
        item.head_rows = t->n;
        item.results = r;
        step(t->b, a, t->n_layers, HEAD_FINAL, &item, 1);
        equal_results(r, t->whole[0], t->n);
        backend_seq_close(t->b, item.seq);
    }
    free(x);
    free(r);
}

/* Only the last row's head, nothing kept of the others, is the last row of all; and
 * the cache behind it is the same. */
static void
check_last_row_only(struct bench *t)
{
    int n = t->n - 1, seq = open_seq(t->b);
    struct head_result r[1];
    struct batch_item item = {
        .seq = seq, .n_rows = n, .tokens = t->tokens[1], .head_rows = 1, .results = r
    };

    step(t->b, 0, t->n_layers, HEAD_FINAL, &item, 1);
    equal_results(r, t->whole[1] + n - 1, 1);
    run_rows(t, seq, 1, n, 1, r);
    equal_results(r, t->whole[1] + n, 1);

    backend_truncate(t->b, seq, 0); /* and with no head at all before the last */
    item.head_rows = 0;
    step(t->b, 0, t->n_layers, HEAD_NONE, &item, 1);
    run_rows(t, seq, 1, n, 1, r);
    equal_results(r, t->whole[1] + n, 1);
    backend_seq_close(t->b, seq);
}

/* Exits: the head on a step's end is the head alone on its hidden states. */
static void
check_exits(struct bench *t)
{
    const struct backend_info *info = &t->b->info;
    float *x = array((size_t)t->n * t->d, sizeof(float));
    struct head_result *a = array((size_t)t->n, sizeof(*a));
    struct head_result *b = array((size_t)t->n, sizeof(*b));

    for (int i = 0; i < info->n_exits; i++) {
        struct batch_item item = { .n_rows = t->n,
                                   .tokens = t->tokens[2],
                                   .hidden_out = x,
                                   .head_rows = t->n,
                                   .results = a };

        item.seq = open_seq(t->b);
        step(t->b, 0, info->exit_layers[i], HEAD_EXIT(i), &item, 1);
        backend_seq_close(t->b, item.seq);
        item.tokens = NULL;
        item.hidden = x;
        item.hidden_out = NULL;
        item.results = b;
        step(t->b, info->exit_layers[i], info->exit_layers[i], HEAD_EXIT(i), &item, 1);
        equal_results(a, b, t->n);
        assert_int_equal(a[0].n_top, 5);
        assert_int_equal(a[0].top[0].id, a[0].argmax);
        assert_true(a[0].confidence > 0 && a[0].confidence <= 1);
    }
    free(x);
    free(a);
    free(b);
}

/* ---- company, pieces, catching up ---- */

/* Eight sequences of different lengths and starts in one step. */
static void
check_ragged(struct bench *t)
{
    struct head_result *r = array((size_t)(N_SEQS * t->n), sizeof(*r));
    struct batch_item items[N_SEQS];
    int start[N_SEQS];

    memset(items, 0, sizeof(items));
    for (int w = 0; w < N_SEQS; w++) {
        items[w].seq = open_seq(t->b);
        start[w] = w * (t->n - 2) / N_SEQS;
        if (start[w] > 0)
            run_rows(t, items[w].seq, w, 0, start[w], r);
    }
    for (int w = 0; w < N_SEQS; w++) {
        struct batch_item *item = &items[w];

        item->pos = start[w];
        item->n_rows = w % 3 == 2 ? 1 : t->n - start[w];
        item->tokens = t->tokens[w] + start[w];
        item->head_rows = w % 2 ? 1 : item->n_rows;
        item->results = r + w * t->n;
    }
    step(t->b, 0, t->n_layers, HEAD_FINAL, items, N_SEQS);
    for (int w = 0; w < N_SEQS; w++) {
        int last = items[w].pos + items[w].n_rows, n = items[w].head_rows;

        equal_results(items[w].results, t->whole[w] + last - n, n);
        backend_seq_close(t->b, items[w].seq);
    }
    free(r);
}

static void
check_pieces(struct bench *t)
{
    static const int sizes[] = { 1, 7, 32 };
    struct head_result *r = array((size_t)t->n, sizeof(*r));

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        int seq = open_seq(t->b);

        for (int at = 0; at < t->n; at += sizes[i])
            run_rows(t, seq, 3, at, at + sizes[i] < t->n ? sizes[i] : t->n - at, r + at);
        equal_results(r, t->whole[3], t->n);
        backend_seq_close(t->b, seq);
    }
    free(r);
}

/* Shallow blocks one position at a time, deep ones catching up now and then. */
static void
check_catch_up(struct bench *t)
{
    int a = t->n_layers / 2, seq = open_seq(t->b), done = 0;
    float *x = array((size_t)t->n * t->d, sizeof(float));
    struct head_result *r = array((size_t)t->n, sizeof(*r));

    for (int i = 0; i < t->n; i++) {
        struct batch_item item = { .seq = seq,
                                   .pos = i,
                                   .n_rows = 1,
                                   .tokens = &t->tokens[4][i],
                                   .hidden_out = x + (size_t)i * t->d };

        step(t->b, 0, a, HEAD_NONE, &item, 1);
        if (i % 5 != 3 && i % 11 != 10 && i != t->n - 1)
            continue;
        item = (struct batch_item){ .seq = seq,
                                    .pos = done,
                                    .n_rows = i + 1 - done,
                                    .hidden = x + (size_t)done * t->d,
                                    .head_rows = i + 1 - done,
                                    .results = r + done };
        step(t->b, a, t->n_layers, HEAD_FINAL, &item, 1);
        done = i + 1;
        assert_int_equal(backend_n_past(t->b, seq, t->n_layers - 1), done);
    }
    equal_results(r, t->whole[4], t->n);
    backend_seq_close(t->b, seq);
    free(x);
    free(r);
}

/* ---- truncate, close ---- */

static void
check_truncate(struct bench *t)
{
    int seq = open_seq(t->b), keep = t->n / 3;
    struct head_result *r = array((size_t)t->n, sizeof(*r));
    size_t bytes;

    run_rows(t, seq, 5, 0, keep, r);
    bytes = backend_kv_bytes(t->b, seq);
    for (int i = keep; i < t->n; i++) /* a wrong branch */
        run_rows(t, seq, 5, i, 1, r + i);
    assert_int_equal(backend_truncate(t->b, seq, keep), 0);
    assert_int_equal(backend_kv_bytes(t->b, seq), bytes);
    run_rows(t, seq, 5, keep, t->n - keep, r + keep);
    equal_results(r, t->whole[5], t->n);
    assert_int_equal(backend_truncate(t->b, seq, 0), 0);
    run_rows(t, seq, 6, 0, t->n, r); /* another text on the same handle */
    equal_results(r, t->whole[6], t->n);
    assert_int_equal(backend_truncate(t->b, seq, t->n + 100), 0);
    assert_int_equal(backend_n_past(t->b, seq, 0), t->n);
    backend_seq_close(t->b, seq);
    assert_int_not_equal(backend_truncate(t->b, seq, 0), 0);
    assert_int_equal(backend_kv_bytes(t->b, -1), 0);
    free(r);
}

/* ---- errors change nothing ---- */

/* One step that must fail with `code` and leave the sequence as it was. */
static void
refused(struct bench *t, const struct batch *batch, int code)
{
    int seq = batch->items[0].seq;
    int32_t before = backend_n_past(t->b, seq, 0);
    size_t bytes = backend_kv_bytes(t->b, -1);
    struct err err = { 0 };

    assert_int_equal(backend_run(t->b, batch, &err), code);
    assert_true(err.text[0] != '\0');
    assert_int_equal(backend_n_past(t->b, seq, 0), before);
    assert_int_equal(backend_kv_bytes(t->b, -1), bytes);
}

static void
check_bad_items(struct bench *t, const struct batch *good)
{
    struct batch_item item = *good->items, two[2];
    struct batch batch = *good;
    int32_t bad_token = t->n_vocab;

    batch.items = &item;
#define TRY(code, change)                                                                \
    do {                                                                                 \
        item = *good->items;                                                             \
        change;                                                                          \
        refused(t, &batch, code);                                                        \
    } while (0)
    TRY(CE_EGAP, item.pos++);
    TRY(CE_EGAP, item.pos--);
    TRY(CE_EGAP, item.pos = -1);
    TRY(CE_EINVAL, item.n_rows = 0);
    TRY(CE_EINVAL, item.tokens = &bad_token);
    TRY(CE_EINVAL, item.tokens = NULL);
    TRY(CE_EINVAL, item.head_rows = 2);
    TRY(CE_EINVAL, item.head_rows = -1);
    TRY(CE_EINVAL, item.results = NULL);
    bad_token = -1;
    TRY(CE_EINVAL, item.tokens = &bad_token);
#undef TRY
    two[0] = two[1] = *good->items;
    batch.items = two;
    batch.n_items = 2;
    refused(t, &batch, CE_EINVAL);
    two[1].seq = 200; /* never opened */
    refused(t, &batch, CE_ENOTFOUND);
}

static void
check_errors(struct bench *t)
{
    struct head_result r;
    struct batch_item item = { .seq = open_seq(t->b),
                               .n_rows = 1,
                               .tokens = t->tokens[0],
                               .head_rows = 1,
                               .results = &r };
    struct batch good = {
        .layer_to = t->n_layers, .head = HEAD_FINAL, .n_items = 1, .items = &item
    };
    struct batch batch;
    int32_t *many = array((size_t)t->b->info.n_ctx + 1, sizeof(*many));

    run_rows(t, item.seq, 0, 0, 1, &r);
    item.pos = 1;
    check_bad_items(t, &good);
#define TRY(code, change)                                                                \
    do {                                                                                 \
        batch = good;                                                                    \
        change;                                                                          \
        refused(t, &batch, code);                                                        \
    } while (0)
    TRY(CE_EINVAL, batch.layer_to = t->n_layers + 1);
    TRY(CE_EINVAL, batch.layer_from = -1);
    TRY(CE_EINVAL, batch.layer_to = t->n_layers - 1);
    TRY(CE_EINVAL, batch.head = HEAD_EXIT(t->b->info.n_exits));
    TRY(CE_EINVAL, batch.head = HEAD_NONE);
    TRY(CE_EINVAL, batch.head = -7);
    TRY(CE_EINVAL, batch.n_top = BACKEND_MAX_TOP + 1);
    TRY(CE_EINVAL, batch.n_items = 0);
    TRY(CE_EINVAL, batch.layer_from = 1); /* would need hidden states */
#undef TRY
    item.tokens = many;
    item.n_rows = t->b->info.n_ctx;
    refused(t, &good, CE_ECONTEXT);
    item.tokens = t->tokens[0] + 1;
    item.n_rows = 1;
    step(t->b, 0, t->n_layers, HEAD_FINAL, &item, 1); /* still good */
    equal_results(&r, t->whole[0] + 1, 1);
    backend_seq_close(t->b, item.seq);
    free(many);
}

/* ---- the page budget, and what closing leaves behind ---- */

static void
check_budget(const struct suite *s)
{
    struct suite small = *s;
    struct backend_options o = s->options;
    int n_layers = s->model->config.n_layers, a, b, c;
    int32_t tokens[BACKEND_PAGE + 1];
    struct head_result r, fresh;
    struct batch_item item = { .n_rows = BACKEND_PAGE, .head_rows = 1, .results = &r };
    struct batch batch = {
        .layer_to = n_layers, .head = HEAD_FINAL, .n_items = 1, .items = &item
    };
    struct backend *be;

    for (int i = 0; i <= BACKEND_PAGE; i++)
        tokens[i] = suite_token(s->model, 9, i);
    item.tokens = tokens;
    o.final_head = true;
    o.max_seqs = 2;
    assert_int_equal(small.open(&be, s->model, &o, NULL), 0);
    o.kv_budget_bytes = be->info.kv_page_bytes * (size_t)n_layers * 2 - 1;
    backend_close(be);
    assert_int_equal(small.open(&be, s->model, &o, NULL), 0);
    a = item.seq = open_seq(be);
    assert_int_equal(backend_run(be, &batch, NULL), 0);
    fresh = r;
    b = item.seq = open_seq(be); /* one page short */
    assert_int_equal(backend_run(be, &batch, NULL), CE_ENOMEM);
    assert_int_equal(backend_n_past(be, b, 0), 0);
    assert_int_equal(backend_kv_bytes(be, b), 0);
    assert_int_not_equal(backend_seq_open(be, &c, NULL), 0); /* table full */
    item.seq = a;
    item.pos = BACKEND_PAGE;
    item.n_rows = 1;
    item.tokens = tokens + BACKEND_PAGE;
    assert_int_equal(backend_run(be, &batch, NULL), CE_ENOMEM);
    assert_int_equal(backend_n_past(be, a, n_layers - 1), BACKEND_PAGE);
    backend_seq_close(be, a); /* its pages serve another, who finds nothing there */
    item = (struct batch_item){
        .seq = b, .n_rows = BACKEND_PAGE, .tokens = tokens, .head_rows = 1, .results = &r
    };
    assert_int_equal(backend_run(be, &batch, NULL), 0);
    assert_memory_equal(&r, &fresh, sizeof(r));
    backend_close(be);
}

void
suite_run(const struct suite *s)
{
    struct bench t;

    bench_open(&t, s);
    check_ranges_compose(&t);
    check_last_row_only(&t);
    check_exits(&t);
    check_ragged(&t);
    check_pieces(&t);
    check_catch_up(&t);
    check_truncate(&t);
    check_errors(&t);
    assert_int_equal(backend_kv_bytes(t.b, -1), 0);
    bench_close(&t);
    check_budget(s);
}

/* ---- traces ---- */

void
suite_trace_take(struct suite_trace *t, const struct suite *s)
{
    struct bench b;
    struct batch_item item = { 0 };
    size_t n;

    bench_open(&b, s);
    n = (size_t)b.n;
    t->n_rows = n;
    t->n_floats = n * b.d;
    t->n_results = n * (size_t)(1 + b.b->info.n_exits);
    t->hidden = array(t->n_floats, sizeof(float));
    t->results = array(t->n_results, sizeof(*t->results));
    item.n_rows = b.n;
    item.tokens = b.tokens[0];
    item.hidden_out = t->hidden;
    item.head_rows = b.n;
    for (int i = b.b->info.n_exits; i >= 0; i--) { /* hidden: of the final head's run */
        int to = i == 0 ? b.n_layers : b.b->info.exit_layers[i - 1];

        item.seq = open_seq(b.b);
        item.results = t->results + (size_t)i * n;
        step(b.b, 0, to, i == 0 ? HEAD_FINAL : HEAD_EXIT(i - 1), &item, 1);
        backend_seq_close(b.b, item.seq);
    }
    bench_close(&b);
}

void
suite_trace_equal(const struct suite_trace *a, const struct suite_trace *b)
{
    assert_int_equal(a->n_floats, b->n_floats);
    assert_int_equal(a->n_results, b->n_results);
    assert_memory_equal(a->hidden, b->hidden, a->n_floats * sizeof(float));
    equal_results(a->results, b->results, (int)a->n_results);
}

void
suite_trace_free(struct suite_trace *t)
{
    free(t->hidden);
    free(t->results);
    memset(t, 0, sizeof(*t));
}
