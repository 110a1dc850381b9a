/* SPDX-License-Identifier: Apache-2.0
 * content_double.h - a model and a cache small enough to predict, for tests of
 * the content manager.
 *
 * A hidden state is two floats: a value and the position. The "cache" keeps the
 * values; the token after position p is a hash of the values 0 .. p. So a token
 * is right exactly when the right rows, in the right order, were computed.
 *
 * Static functions in a header: each test is one program of one file.
 */
#ifndef CE_TESTS_CONTENT_DOUBLE_H
#define CE_TESTS_CONTENT_DOUBLE_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <string.h>
#include <cmocka.h>

#include "common/memory.h"
#include "server/content.h"

#define D_MODEL 2
#ifndef MAX_KV /* sequences */
#define MAX_KV 4
#endif
#define MAX_POS     256
#define MAX_RUNS    (2 * MAX_KV)
#define SESSION     7
#define MAX_ANSWERS 4096

struct kv {
    bool open;
    uint32_t n;
    uint32_t values[MAX_POS];
};

struct answer {
    enum frame_type type;
    uint64_t session;
    uint32_t seq, branch, pos, id, limit, token, rows;
    int code; /* ERROR: negative */
    bool last;
    int n_top;
};

struct double_state {
    struct content *content;
    struct kv kv[MAX_KV];
    int64_t now_us;
    uint32_t rows_run;
    int n_answers, n_seen;
    int n_evicted[CONTENT_N_EVICTIONS];
    struct answer answers[MAX_ANSWERS];
};

static inline uint32_t
hash_values(const uint32_t *values, uint32_t n)
{
    uint32_t h = 2166136261u, i;

    for (i = 0; i < n; i++)
        h = (h ^ values[i]) * 16777619u;
    return (h ^ h >> 13) % 30000;
}

static void
double_reply(void *arg, uint64_t session, const struct frame *f)
{
    struct double_state *d = arg;
    struct answer *a = &d->answers[d->n_answers];

    assert_true(d->n_answers < MAX_ANSWERS);
    d->n_answers++;
    memset(a, 0, sizeof(*a));
    a->type = f->type;
    a->session = session;
    switch (f->type) {
    case FRAME_CREDIT:
        a->seq = f->u.credit.seq;
        a->limit = f->u.credit.limit;
        break;
    case FRAME_NEED:
        a->seq = f->u.need.seq;
        a->branch = f->u.need.branch;
        a->pos = f->u.need.pos;
        a->id = f->u.need.id;
        a->limit = f->u.need.limit;
        break;
    case FRAME_TOKEN:
        a->seq = f->u.token.seq;
        a->branch = f->u.token.branch;
        a->pos = f->u.token.pos;
        a->token = f->u.token.token;
        a->rows = f->u.token.rows;
        a->last = f->u.token.last;
        a->n_top = f->u.token.n_top;
        break;
    case FRAME_ERROR:
        a->seq = f->u.error.seq;
        a->code = -(int)f->u.error.code;
        assert_true(f->u.error.has_seq);
        break;
    default:
        fail_msg("a reply of type %s", frame_type_name(f->type));
    }
}

static int
double_kv_open(void *arg, int *kv, struct err *err)
{
    struct double_state *d = arg;

    for (*kv = 0; *kv < MAX_KV; ++*kv)
        if (!d->kv[*kv].open) {
            d->kv[*kv].open = true;
            d->kv[*kv].n = 0;
            return 0;
        }
    return err_set(err, CE_ENOMEM, "full");
}

static void
double_kv_truncate(void *arg, int kv, uint32_t n)
{
    struct double_state *d = arg;

    assert_true(d->kv[kv].open);
    if (d->kv[kv].n > n)
        d->kv[kv].n = n;
}

static void
double_kv_close(void *arg, int kv)
{
    struct double_state *d = arg;

    assert_true(d->kv[kv].open);
    d->kv[kv].open = false;
}

/* Greedy; a token below 300 ends. */
static int32_t
double_pick(void *arg, const struct content_sampling *how, const struct head_result *row,
            const int32_t *ids, size_t n, bool *end)
{
    (void)arg;
    (void)how;
    (void)ids;
    (void)n;
    *end = row->argmax < 300;
    return row->argmax;
}

/* For the next double_init. */
static enum content_eager double_eager;
static size_t double_kv_budget, double_states_budget; /* a page is one byte */
static int64_t double_seq_idle_us;
static size_t double_kv_limit; /* of tenant 1, the only one with a limit of its own */

/* Whose frames are put: SESSION, or others in between. Its tenant is session % 10, of
 * weight 1. */
static uint64_t double_session = SESSION;

static uint64_t
double_tenant(void *arg, uint64_t session, uint32_t *weight)
{
    (void)arg;
    *weight = 1;
    return session % 10;
}

static size_t
double_limit(void *arg, uint64_t session)
{
    (void)arg;
    return session % 10 == 1 ? double_kv_limit : 0;
}

static void
double_evicted(void *arg, uint64_t session, enum content_eviction why)
{
    struct double_state *d = arg;

    (void)session;
    d->n_evicted[why]++;
}

static void
double_init(struct double_state *d, uint32_t window)
{
    struct content_config config = { .d_model = D_MODEL,
                                     .n_vocab = 30000,
                                     .n_ctx = MAX_POS,
                                     .window = window,
                                     .n_layers = 4,
                                     .eager = double_eager,
                                     .kv_page_bytes = 1,
                                     .kv_budget = double_kv_budget,
                                     .states_budget = double_states_budget,
                                     .seq_idle_us = double_seq_idle_us };
    struct content_hooks hooks = { .arg = d,
                                   .reply = double_reply,
                                   .kv_open = double_kv_open,
                                   .kv_truncate = double_kv_truncate,
                                   .kv_close = double_kv_close,
                                   .pick = double_pick,
                                   .tenant = double_tenant,
                                   .evicted = double_evicted,
                                   .kv_limit = double_limit };
    struct err err;

    memset(d, 0, offsetof(struct double_state, answers));
    d->now_us = 1;
    assert_int_equal(content_new(&d->content, &config, &hooks, &err), 0);
}

static void
double_fini(struct double_state *d)
{
    int i;

    content_free(d->content);
    for (i = 0; i < MAX_KV; i++)
        assert_false(d->kv[i].open);
}

/* ---- frames ---- */

static inline void
put_open(struct double_state *d, uint32_t seq, uint32_t max_pos, bool keep_kv)
{
    struct frame_open f = { 1, seq, frame_str_of("f32", 3), max_pos, keep_kv };

    content_open(d->content, double_session, &f, 2, d->now_us);
}

static inline void
put_states(struct double_state *d, uint32_t seq, uint32_t branch, uint32_t id,
           uint32_t pos, const uint32_t *values, uint32_t n)
{
    float rows[MAX_POS * D_MODEL];
    uint8_t bytes[sizeof(rows)];
    struct frame_states f = { 1, seq, branch, id, pos, n, bytes, n * D_MODEL * 4 };
    struct content_chunk *chunk;
    uint32_t i;

    for (i = 0; i < n; i++) {
        rows[i * 2] = (float)values[i];
        rows[i * 2 + 1] = (float)(pos + i);
    }
    states_encode(STATES_F32, rows, n, D_MODEL, bytes);
    chunk = content_chunk_new(&f);
    assert_non_null(chunk);
    content_states(d->content, double_session, chunk, d->now_us);
}

static inline void
put_infer(struct double_state *d, uint32_t seq, uint32_t branch, uint32_t pos)
{
    struct frame_infer f = { .epoch = 1, .seq = seq, .branch = branch, .pos = pos };

    content_infer(d->content, double_session, &f, d->now_us);
}

static inline void
put_truncate(struct double_state *d, uint32_t seq, uint32_t branch, uint32_t pos)
{
    struct frame_truncate f = { 1, seq, branch, pos };

    content_truncate(d->content, double_session, &f, d->now_us);
}

/* ---- the backend ---- */

static inline void
double_run(struct double_state *d, const struct content_run *run, const float *hidden,
           const int32_t *tokens)
{
    struct kv *kv = &d->kv[run->kv];
    struct head_result results[MAX_POS];
    uint32_t i, first = run->n_rows - run->head_rows;

    assert_true(kv->open);
    assert_int_equal(kv->n, run->pos);
    assert_true(run->pos + run->n_rows <= MAX_POS);
    memset(results, 0, run->head_rows * sizeof(results[0]));
    for (i = 0; i < run->n_rows; i++) {
        if (run->is_tokens) {
            kv->values[kv->n++] = (uint32_t)tokens[i];
        } else {
            assert_int_equal((uint32_t)hidden[i * 2 + 1], run->pos + i);
            kv->values[kv->n++] = (uint32_t)hidden[i * 2];
        }
        if (i >= first)
            results[i - first].argmax = (int32_t)hash_values(kv->values, kv->n);
    }
    d->rows_run += run->n_rows;
    d->now_us += 10;
    content_run_done(d->content, run, results, d->now_us - 5, d->now_us);
}

/* One step of everything runnable, at most max_rows each. Returns the runs. */
static inline int
double_step(struct double_state *d, uint32_t max_rows)
{
    struct content_work work[MAX_RUNS];
    size_t i, n;

    (void)content_settle(d->content, d->now_us);
    n = content_runnable(d->content, work, MAX_RUNS);

    for (i = 0; i < n; i++) {
        float hidden[MAX_POS * D_MODEL];
        int32_t tokens[MAX_POS];
        struct content_run run;
        uint32_t rows = work[i].n_rows < max_rows ? work[i].n_rows : max_rows;

        assert_true(work[i].n_rows >= 1);
        if (content_run_begin(d->content, work[i].seq, rows, hidden, tokens, &run) == 0)
            double_run(d, &run, hidden, tokens);
    }
    return (int)n;
}

static inline void
double_drain(struct double_state *d, uint32_t max_rows)
{
    int turns = 0;

    while (double_step(d, max_rows) > 0)
        assert_true(turns++ < 10000);
}

/* The next reply that was not looked at yet; fails when there is none. */
static inline const struct answer *
next_answer(struct double_state *d)
{
    assert_true(d->n_seen < d->n_answers);
    return &d->answers[d->n_seen++];
}

#endif
