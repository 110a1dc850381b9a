/* SPDX-License-Identifier: Apache-2.0
 * edge.c - see edge.h.
 *
 * In front of stage k stand rows first .. end-1: tokens for stage 0, hidden states
 * for the others. Advancing a stage runs all of them, in chunks, and appends what
 * comes out in front of the next stage. So at any time
 *     end of stage k+1's queue == first of stage k's queue,
 * and only positions that nobody has needed deeper yet take memory. The newest row
 * out of each stage is kept besides, so that a head can be computed later.
 */
#include "agent/edge.h"

#include <string.h>

#include "common/memory.h"

struct queue { /* rows waiting in front of a stage */
    int32_t first, end;
    size_t off;      /* rows at the front of the memory that are done with */
    size_t cap;      /* rows that `tokens` or `rows` has room for */
    int32_t *tokens; /* stage 0: [cap] */
    float *rows;     /* others: [cap, d_model] */
};

struct stage {
    int layer_from, layer_to, head;
    struct queue in;
    float *last;      /* [d_model] newest row out */
    int64_t rows_run; /* since edge_new */
};

struct edge {
    struct backend *backend; /* borrowed */
    struct edge_hooks hooks;
    int seq; /* of the backend; -1 when none is open */
    int chunk;
    size_t d_model;
    int n_stages;
    struct stage stages[EDGE_MAX_STAGES];
    float *out; /* [chunk, d_model] of the step */
};

int
edge_new(struct edge **out, struct backend *b, const struct edge_stage *stages, int n,
         int chunk, const struct edge_hooks *hooks, struct err *err)
{
    struct edge *e = mem_array_alloc(1, sizeof(*e));
    bool ok = e != NULL;

    *out = NULL;
    if (!ok)
        return err_set(err, CE_ENOMEM, "edge: out of memory");
    e->backend = b;
    e->hooks = *hooks;
    e->seq = -1;
    e->chunk = chunk;
    e->d_model = (size_t)b->info.d_model;
    e->n_stages = n;
    e->out = mem_array_alloc((size_t)chunk * e->d_model, sizeof(float));
    ok = e->out != NULL;
    for (int k = 0; k < n; k++) {
        struct stage *s = &e->stages[k];
        s->layer_from = k > 0 ? stages[k - 1].layer_to : 0;
        s->layer_to = stages[k].layer_to;
        s->head = stages[k].head;
        s->last = mem_array_alloc(e->d_model, sizeof(float));
        ok = ok && s->last != NULL;
    }
    if (!ok) {
        edge_free(e);
        return err_set(err, CE_ENOMEM, "edge: out of memory");
    }
    *out = e;
    return 0;
}

void
edge_free(struct edge *e)
{
    if (e == NULL)
        return;
    edge_end(e);
    for (int k = 0; k < e->n_stages; k++) {
        mem_free(e->stages[k].in.tokens);
        mem_free(e->stages[k].in.rows);
        mem_free(e->stages[k].last);
    }
    mem_free(e->out);
    mem_free(e);
}

int
edge_begin(struct edge *e, struct err *err)
{
    edge_end(e);
    for (int k = 0; k < e->n_stages; k++) {
        struct queue *q = &e->stages[k].in;
        q->first = q->end = 0;
        q->off = 0;
    }
    return backend_seq_open(e->backend, &e->seq, err);
}

void
edge_end(struct edge *e)
{
    if (e->seq >= 0)
        backend_seq_close(e->backend, e->seq);
    e->seq = -1;
}

/* ---- queues ---- */

static size_t
queue_len(const struct queue *q)
{
    return (size_t)(q->end - q->first);
}

static float *
queue_row(const struct queue *q, size_t i, size_t row)
{
    return q->rows + (q->off + i) * row;
}

/* Room for n more rows behind the last; what is done with makes place first. */
static int
queue_reserve(struct queue *q, size_t n, size_t row)
{
    size_t len = queue_len(q), cap = q->cap < 64 ? 64 : q->cap;
    void *p;

    if (q->off > 0 && q->off + len + n > q->cap) {
        if (q->tokens != NULL)
            memmove(q->tokens, q->tokens + q->off, len * sizeof(int32_t));
        if (q->rows != NULL)
            memmove(q->rows, queue_row(q, 0, row), len * row * sizeof(float));
        q->off = 0;
    }
    if (q->off + len + n <= q->cap)
        return 0;
    while (cap < len + n)
        cap *= 2;
    p = row == 0 ? mem_array_resize(q->tokens, cap, sizeof(int32_t))
                 : mem_array_resize(q->rows, cap, row * sizeof(float));
    if (p == NULL)
        return CE_ENOMEM;
    if (row == 0)
        q->tokens = p;
    else
        q->rows = p;
    q->cap = cap;
    return 0;
}

/* Drop n rows from the front. */
static void
queue_consume(struct queue *q, size_t n)
{
    q->first += (int32_t)n;
    q->off = q->first == q->end ? 0 : q->off + n;
}

int
edge_push(struct edge *e, const int32_t *tokens, int n, struct err *err)
{
    struct queue *q = &e->stages[0].in;

    if (queue_reserve(q, (size_t)n, 0) < 0)
        return err_set(err, CE_ENOMEM, "edge: no memory for %d tokens", n);
    memcpy(q->tokens + q->off + queue_len(q), tokens, (size_t)n * sizeof(int32_t));
    q->end += n;
    return 0;
}

/* ---- running ---- */

static int
stopped(const struct edge *e, struct err *err)
{
    if (e->hooks.stop != NULL && atomic_load(e->hooks.stop))
        return err_set(err, CE_EAGAIN, "interrupted");
    return 0;
}

static void
want_head(struct batch *batch, int head, const struct edge_want *want)
{
    batch->head = head;
    batch->n_top = want->n_top;
    batch->want_hash = want->hash;
    batch->screen_theta = want->screen_theta;
}

/* One backend step: the first n rows in front of stage k, the head on the last one
 * when `res` is not NULL. */
static int
run_rows(struct edge *e, int k, int n, struct head_result *res,
         const struct edge_want *want, struct err *err)
{
    struct stage *s = &e->stages[k];
    struct batch_item item = {
        .seq = e->seq,
        .pos = s->in.first,
        .n_rows = n,
        .tokens = k == 0 ? s->in.tokens + s->in.off : NULL,
        .hidden = k == 0 ? NULL : queue_row(&s->in, 0, e->d_model),
        .hidden_out = e->out,
        .head_rows = res != NULL ? 1 : 0,
        .results = res,
    };
    struct batch batch = {
        .layer_from = s->layer_from,
        .layer_to = s->layer_to,
        .head = HEAD_NONE,
        .n_items = 1,
        .items = &item,
    };
    if (res != NULL)
        want_head(&batch, s->head, want);
    return backend_run(e->backend, &batch, err);
}

/* Hand what came out of stage k to the next stage and to whoever listens. */
static int
pass_on(struct edge *e, int k, int n, struct err *err)
{
    struct stage *s = &e->stages[k];

    memcpy(s->last, e->out + (size_t)(n - 1) * e->d_model, e->d_model * sizeof(float));
    if (k + 1 < e->n_stages) {
        struct queue *q = &e->stages[k + 1].in;
        if (queue_reserve(q, (size_t)n, e->d_model) < 0)
            return err_set(err, CE_ENOMEM, "edge: no memory for %d hidden states", n);
        memcpy(queue_row(q, queue_len(q), e->d_model), e->out,
               (size_t)n * e->d_model * sizeof(float));
        q->end += n;
    }
    if (k == 0 && e->hooks.rows != NULL)
        return e->hooks.rows(e->hooks.ctx, s->in.first, n, e->out, err);
    return 0;
}

/* The head on the newest row, which stage k has run already. */
static int
head_alone(struct edge *e, int k, struct head_result *res, const struct edge_want *want,
           struct err *err)
{
    struct stage *s = &e->stages[k];
    struct batch_item item = {
        .seq = e->seq,
        .pos = s->in.end - 1,
        .n_rows = 1,
        .hidden = s->last,
        .head_rows = 1,
        .results = res,
    };
    struct batch batch = {
        .layer_from = s->layer_to,
        .layer_to = s->layer_to,
        .n_items = 1,
        .items = &item,
    };
    want_head(&batch, s->head, want);
    return backend_run(e->backend, &batch, err);
}

/* Run all that waits in front of stage k. *headed: res was filled on the way. */
static int
run_stage(struct edge *e, int k, struct head_result *res, const struct edge_want *want,
          bool *headed, struct err *err)
{
    struct queue *q = &e->stages[k].in;
    int32_t total = (int32_t)queue_len(q), done = 0;
    int rc;

    while (q->first < q->end) {
        int n = q->end - q->first < e->chunk ? q->end - q->first : e->chunk;
        bool last = q->first + n == q->end;
        rc = stopped(e, err);
        if (rc < 0)
            return rc;
        rc = run_rows(e, k, n, last ? res : NULL, want, err);
        if (rc < 0)
            return rc;
        rc = pass_on(e, k, n, err);
        queue_consume(q, (size_t)n);
        if (rc < 0)
            return rc;
        e->stages[k].rows_run += n;
        done += n;
        *headed = last && res != NULL;
        if (e->hooks.progress != NULL && total > e->chunk)
            e->hooks.progress(e->hooks.ctx, done, total);
    }
    return 0;
}

int
edge_advance(struct edge *e, int stage, struct head_result *res,
             const struct edge_want *want, struct err *err)
{
    bool headed = false;

    for (int k = 0; k <= stage; k++) {
        int rc = run_stage(e, k, k == stage ? res : NULL, want, &headed, err);
        if (rc < 0)
            return rc;
    }
    if (res == NULL || headed)
        return 0;
    return head_alone(e, stage, res, want, err);
}

int
edge_truncate(struct edge *e, int32_t n, struct err *err)
{
    if (n > edge_n_positions(e))
        return err_set(err, CE_EINVAL, "edge: cannot keep %d of %d positions", n,
                       edge_n_positions(e));
    for (int k = 0; k < e->n_stages; k++) {
        struct queue *q = &e->stages[k].in;
        if (q->end > n)
            q->end = n;
        if (q->first >= q->end) {
            q->first = q->end;
            q->off = 0;
        }
    }
    return backend_truncate(e->backend, e->seq, n);
}

int32_t
edge_n_positions(const struct edge *e)
{
    return e->stages[0].in.end;
}

int
edge_n_stages(const struct edge *e)
{
    return e->n_stages;
}

int64_t
edge_rows_run(const struct edge *e, int stage)
{
    return e->stages[stage].rows_run;
}
