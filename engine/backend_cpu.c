/* SPDX-License-Identifier: Apache-2.0
 * backend_cpu.c - the CPU implementation of backend.h.
 *
 * A step is checked completely and its cache pages reserved before anything is
 * computed, and nothing that is computed can fail; hence all or nothing. Then the
 * step runs chunk by chunk (chunk.h), each chunk as one region of the worker pool:
 * load, blocks, hidden states out, head.
 *
 * Memory: packed weights (or room for tiles, weights.h), the cache's pages, and scratch
 * for one chunk, allocated at open. Running a step allocates only cache pages.
 */
#include "engine/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "engine/chunk.h"
#include "engine/heads.h"
#include "engine/kernels.h"
#include "engine/kv_cache.h"
#include "engine/layers.h"
#include "engine/model.h"
#include "engine/threads.h"
#include "engine/weights.h"

#define NUMERICS_ID  "cecollm-1/cpu/kv-f16"
#define MAX_ROWS     256 /* rows of a chunk: their activations stay near the core */
#define DEFAULT_SEQS 256
#define MAX_SEQS     (1 << 20)

_Static_assert(BACKEND_PAGE == KV_PAGE, "page sizes of backend.h and kernels.h");

struct backend_cpu {
    struct backend base; /* first */
    char name[32];
    int exit_layers[MODEL_MAX_EXITS];
    bool exit_screens[MODEL_MAX_EXITS];
    int max_seqs;
    const struct model *model;
    const struct kernels *kernels;
    struct threads *pool;
    struct weights weights;
    struct kv_cache *kv;
    struct layers *layers;
    struct heads *heads;   /* NULL without any head */
    struct kv_need *needs; /* [max_seqs] of the step */
    uint64_t *seen;        /* [max_seqs] number of the last step with this sequence */
    uint64_t n_steps;
    int64_t run_ns;                /* computing steps so far */
    struct span_list rows, wanted; /* of the chunk */
    struct head_row *head_rows;    /* [MAX_ROWS] of the chunk */
};

static struct backend_cpu *
impl(struct backend *b)
{
    return (struct backend_cpu *)b;
}

/* ---- sequences ---- */

static int
cpu_seq_open(struct backend *base, int *seq, struct err *err)
{
    struct backend_cpu *b = impl(base);

    if (kv_cache_open(b->kv, seq) != 0)
        return err_set(err, CE_ENOMEM, "all %d sequences of the backend are in use",
                       b->max_seqs);
    return 0;
}

static void
cpu_seq_close(struct backend *base, int seq)
{
    kv_cache_close(impl(base)->kv, seq);
}

static int
cpu_truncate(struct backend *base, int seq, int32_t n_positions)
{
    return kv_cache_truncate(impl(base)->kv, seq, n_positions);
}

static int32_t
cpu_n_past(const struct backend *base, int seq, int layer)
{
    return kv_cache_n_past(((const struct backend_cpu *)base)->kv, seq, layer);
}

static size_t
cpu_kv_bytes(const struct backend *base, int seq)
{
    return kv_cache_bytes(((const struct backend_cpu *)base)->kv, seq);
}

/* ---- checking a step ---- */

static int
check_head(const struct backend_cpu *b, const struct batch *batch, struct err *err)
{
    const struct backend_info *info = &b->base.info;

    if (batch->head == HEAD_NONE)
        return 0;
    if (batch->head < 0 || batch->head > info->n_exits)
        return err_set(err, CE_EINVAL, "head %d does not exist", batch->head);
    if (batch->head == HEAD_FINAL) {
        if (!info->has_final_head)
            return err_set(err, CE_EINVAL, "the final head is not loaded");
        if (batch->layer_to != info->n_layers)
            return err_set(err, CE_EINVAL, "the final head after %d of %d blocks",
                           batch->layer_to, info->n_layers);
    } else if (info->exit_layers[batch->head - HEAD_EXIT(0)] != batch->layer_to) {
        return err_set(err, CE_EINVAL, "the exit of layer %d after %d blocks",
                       info->exit_layers[batch->head - HEAD_EXIT(0)], batch->layer_to);
    }
    return 0;
}

static int
check_batch(const struct backend_cpu *b, const struct batch *batch, struct err *err)
{
    const struct backend_info *info = &b->base.info;

    if (batch->layer_from < info->layer_from || batch->layer_to > info->layer_to ||
        batch->layer_from > batch->layer_to)
        return err_set(err, CE_EINVAL, "blocks %d to %d asked for; %d to %d are loaded",
                       batch->layer_from, batch->layer_to, info->layer_from,
                       info->layer_to);
    if (batch->n_items < 1 || !batch->items || batch->n_items > b->max_seqs)
        return err_set(err, CE_EINVAL, "a step of %d sequences", batch->n_items);
    if (batch->n_top < 0 || batch->n_top > BACKEND_MAX_TOP)
        return err_set(err, CE_EINVAL, "%d top logits asked for; 0 to %d are possible",
                       batch->n_top, BACKEND_MAX_TOP);
    return check_head(b, batch, err);
}

/* The rows of an item: what comes in, what goes out. */
static int
check_rows(const struct backend_cpu *b, const struct batch *batch,
           const struct batch_item *item, struct err *err)
{
    bool from_tokens = batch->layer_from == 0 && batch->layer_to > 0;
    int n_vocab = b->base.info.n_vocab;

    if (item->n_rows < 1)
        return err_set(err, CE_EINVAL, "a step of %d rows", item->n_rows);
    if (item->head_rows < 0 || item->head_rows > item->n_rows)
        return err_set(err, CE_EINVAL, "%d rows of %d through the head", item->head_rows,
                       item->n_rows);
    if (item->head_rows > 0 && (batch->head == HEAD_NONE || !item->results))
        return err_set(err, CE_EINVAL, "rows for a head, but no head or no results");
    if (from_tokens ? !item->tokens || item->hidden : !item->hidden || item->tokens)
        return err_set(err, CE_EINVAL, "a step from block %d starts with %s",
                       batch->layer_from, from_tokens ? "tokens" : "hidden states");
    for (int i = 0; from_tokens && i < item->n_rows; i++) {
        if (item->tokens[i] < 0 || item->tokens[i] >= n_vocab)
            return err_set(err, CE_EINVAL, "token %d is not one of %d", item->tokens[i],
                           n_vocab);
    }
    return 0;
}

/* The positions of an item: the next ones of every block, and within the context. */
static int
check_positions(struct backend_cpu *b, const struct batch *batch,
                const struct batch_item *item, struct err *err)
{
    if (!kv_cache_is_open(b->kv, item->seq))
        return err_set(err, CE_ENOTFOUND, "sequence %d is not open", item->seq);
    if (b->seen[item->seq] == b->n_steps)
        return err_set(err, CE_EINVAL, "sequence %d is twice in a step", item->seq);
    b->seen[item->seq] = b->n_steps;
    for (int i = batch->layer_from; i < batch->layer_to; i++) {
        int32_t next = kv_cache_n_past(b->kv, item->seq, i);

        if (item->pos != next)
            return err_set(err, CE_EGAP, "position %d given, but block %d is at %d",
                           item->pos, i, next);
    }
    if (item->n_rows > b->base.info.n_ctx - item->pos)
        return err_set(err, CE_ECONTEXT, "position %d and %d more: the context has %d",
                       item->pos, item->n_rows, b->base.info.n_ctx);
    return 0;
}

static int
check_items(struct backend_cpu *b, const struct batch *batch, struct err *err)
{
    b->n_steps++;
    for (int i = 0; i < batch->n_items; i++) {
        const struct batch_item *item = &batch->items[i];
        int rc = check_rows(b, batch, item, err);

        if (rc == 0 && batch->layer_from < batch->layer_to)
            rc = check_positions(b, batch, item, err);
        if (rc != 0)
            return rc;
        b->needs[i] = (struct kv_need){ item->seq, item->n_rows };
    }
    return 0;
}

/* ---- running a step ---- */

struct region {
    struct backend_cpu *b;
    const struct batch *batch;
    const struct span_list *ends; /* the rows that the residual stream holds at last */
    int n_head_rows;
};

/* The chunk's rows that go through the head, and where their results go. */
static int
collect_head_rows(struct backend_cpu *b, const struct batch *batch,
                  const struct span_list *ends)
{
    size_t d = (size_t)b->base.info.d_model, n_vocab = (size_t)b->base.info.n_vocab;
    int n = 0;

    for (int i = 0; i < ends->n_spans; i++) {
        const struct span *s = &ends->spans[i];
        const struct batch_item *item = &batch->items[s->item];
        int first = item->n_rows - item->head_rows;

        for (int j = 0; j < s->n_rows; j++) {
            int at = s->item_row + j - first;

            if (at < 0)
                continue;
            b->head_rows[n++] = (struct head_row){
                .x = layers_x(b->layers) + (size_t)(s->row + j) * d,
                .result = &item->results[at],
                .logits = item->logits ? item->logits + (size_t)at * n_vocab : NULL,
                .head_in = item->head_in ? item->head_in + (size_t)at * d : NULL,
            };
        }
    }
    return n;
}

static void
store_hidden(const struct region *r, struct worker_id id)
{
    size_t d = (size_t)r->b->base.info.d_model;
    const float *x = layers_x(r->b->layers);
    size_t from, to;

    while (worker_take(id, (size_t)r->ends->n_spans, 1, &from, &to)) {
        for (size_t i = from; i < to; i++) {
            const struct span *s = &r->ends->spans[i];
            float *out = r->batch->items[s->item].hidden_out;

            if (out)
                memcpy(out + (size_t)s->item_row * d, x + (size_t)s->row * d,
                       (size_t)s->n_rows * d * sizeof(float));
        }
    }
}

static void
run_chunk(void *arg, int tid, int n_threads)
{
    const struct region *r = arg;
    struct backend_cpu *b = r->b;
    struct worker_id id = { b->pool, tid, weights_room(&b->weights, tid),
                            b->weights.room_bytes };
    struct head_job job = {
        .head = r->batch->head,
        .n_top = r->batch->n_top,
        .want_hash = r->batch->want_hash,
        .screen_theta = r->batch->screen_theta,
        .rows = b->head_rows,
        .n_rows = r->n_head_rows,
    };

    (void)n_threads;
    layers_load(b->layers, id, r->batch, &b->rows);
    if (r->batch->layer_from < r->batch->layer_to)
        layers_run(b->layers, id, &b->rows, &b->wanted, r->batch->layer_from,
                   r->batch->layer_to);
    store_hidden(r, id);
    if (r->n_head_rows > 0)
        heads_run(b->heads, id, &job);
}

static bool
results_finite(const struct batch *batch)
{
    for (int i = 0; i < batch->n_items; i++) {
        for (int j = 0; j < batch->items[i].head_rows; j++) {
            if (batch->items[i].results[j].argmax < 0)
                return false;
        }
    }
    return true;
}

static int
cpu_run(struct backend *base, const struct batch *batch, struct err *err)
{
    struct backend_cpu *b = impl(base);
    bool blocks = batch->layer_from < batch->layer_to;
    struct region region = { .b = b, .batch = batch };
    struct chunk_cursor at = { 0, 0 };
    int64_t begin = clock_ns();
    int rc;

    if ((rc = check_batch(b, batch, err)) || (rc = check_items(b, batch, err)))
        return rc;
    if (blocks && kv_cache_reserve(b->kv, b->needs, batch->n_items, batch->layer_from,
                                   batch->layer_to) != 0)
        return err_set(err, CE_ENOMEM, "the KV cache is full: %zu bytes in use",
                       kv_cache_bytes(b->kv, -1));
    while (chunk_next(batch, &at, MAX_ROWS, &b->rows)) {
        chunk_wanted(batch, &b->rows, &b->wanted);
        region.ends = blocks ? &b->wanted : &b->rows;
        region.n_head_rows = collect_head_rows(b, batch, region.ends);
        threads_run(b->pool, run_chunk, &region);
    }
    if (blocks)
        kv_cache_advance(b->kv, b->needs, batch->n_items, batch->layer_from,
                         batch->layer_to);
    b->run_ns += clock_ns() - begin;
    if (!results_finite(batch))
        return err_set(err, CE_EINTERNAL, "logits are not finite");
    return 0;
}

static struct backend_times
cpu_times(const struct backend *base)
{
    const struct backend_cpu *b = (const struct backend_cpu *)base;

    return (struct backend_times){ (double)b->run_ns * 1e-9,
                                   (double)layers_attend_ns(b->layers) * 1e-9 };
}

/* ---- open and close ---- */

static void
cpu_close(struct backend *base)
{
    struct backend_cpu *b = impl(base);

    free(b->head_rows);
    free(b->wanted.spans);
    free(b->rows.spans);
    free(b->seen);
    free(b->needs);
    heads_free(b->heads);
    layers_free(b->layers);
    kv_cache_free(b->kv);
    weights_free(&b->weights);
    threads_free(b->pool);
    free(b);
}

static const struct backend_ops cpu_ops = {
    .seq_open = cpu_seq_open,
    .seq_close = cpu_seq_close,
    .truncate = cpu_truncate,
    .n_past = cpu_n_past,
    .kv_bytes = cpu_kv_bytes,
    .run = cpu_run,
    .times = cpu_times,
    .close = cpu_close,
};

/* Options with their defaults filled in, or an error. */
static int
check_options(struct backend_options *o, const struct model *m, struct err *err)
{
    const struct model_config *c = &m->config;

    if (o->layer_to == 0)
        o->layer_to = m->layer_to;
    if (o->layer_from < m->layer_from || o->layer_to > m->layer_to ||
        o->layer_from >= o->layer_to)
        return err_set(
            err, CE_EINVAL, "%s: blocks %d to %d asked for; the file has %d to %d",
            gguf_path(m->file), o->layer_from, o->layer_to, m->layer_from, m->layer_to);
    if (o->n_ctx == 0)
        o->n_ctx = c->n_ctx;
    if (o->n_ctx < 1 || o->n_ctx > c->n_ctx)
        return err_set(err, CE_EINVAL, "%s: a context of %d; the model's is %d",
                       gguf_path(m->file), o->n_ctx, c->n_ctx);
    if (o->max_seqs == 0)
        o->max_seqs = DEFAULT_SEQS;
    if (o->max_seqs < 1 || o->max_seqs > MAX_SEQS)
        return err_set(err, CE_EINVAL, "%d sequences asked for; 1 to %d are possible",
                       o->max_seqs, MAX_SEQS);
    if (c->head_dim % KV_HEAD_DIM_STEP != 0 || c->head_dim > KV_MAX_HEAD_DIM)
        return err_set(
            err, CE_EUNSUPPORTED,
            "%s: heads of %d dimensions; the CPU backend computes multiples of "
            "%d up to %d",
            gguf_path(m->file), c->head_dim, KV_HEAD_DIM_STEP, KV_MAX_HEAD_DIM);
    return 0;
}

static void
fill_info(struct backend_cpu *b, const struct backend_options *o)
{
    const struct model_config *c = &b->model->config;
    struct backend_info *info = &b->base.info;

    snprintf(b->name, sizeof(b->name), "cpu/%s", b->kernels->name);
    for (int i = 0; i < b->weights.n_exits; i++) {
        b->exit_layers[i] = b->weights.exits[i].layer;
        b->exit_screens[i] = b->weights.exits[i].n_candidates > 0;
    }
    info->name = b->name;
    info->numerics_id = NUMERICS_ID;
    info->layer_from = o->layer_from;
    info->layer_to = o->layer_to;
    info->n_layers = c->n_layers;
    info->d_model = c->d_model;
    info->n_vocab = c->n_vocab;
    info->n_ctx = o->n_ctx;
    info->n_exits = b->weights.n_exits;
    info->exit_layers = b->exit_layers;
    info->exit_screens = b->exit_screens;
    info->has_final_head = o->final_head && o->layer_to == c->n_layers;
    info->weight_bytes = b->weights.bytes;
    info->kv_page_bytes =
        kv_part_len(c->head_dim) * sizeof(uint16_t) * (size_t)c->n_kv_heads;
    info->kv_budget_bytes = o->kv_budget_bytes;
}

/* Everything that depends on the options; on failure the caller closes. */
static int
build(struct backend_cpu *b, const struct backend_options *o, struct err *err)
{
    struct kv_config kv = { o->layer_from, o->layer_to, o->max_seqs, 0,
                            o->kv_budget_bytes };
    struct weights_config weights = {
        .layer_from = o->layer_from,
        .layer_to = o->layer_to,
        .final = o->final_head && o->layer_to == b->model->config.n_layers,
        .exits = o->exit_heads,
        .packing_off = o->packing_off,
        .packing_cache = o->packing_cache,
    };
    struct layers_config layers = { 0 };
    struct heads_config heads;
    int rc;

    if ((rc = kernels_choose(&b->kernels, o->cpu, err)) ||
        (rc = threads_new(&b->pool, o->n_threads, err)) ||
        (rc = weights_load(&b->weights, b->model, &weights, b->pool, err)))
        return rc;
    fill_info(b, o);
    kv.page_bytes = b->base.info.kv_page_bytes;
    if ((rc = kv_cache_new(&b->kv, &kv, err)))
        return rc;
    layers = (struct layers_config){ b->kernels, b->model, &b->weights,
                                     b->kv,      b->pool,  MAX_ROWS };
    if ((rc = layers_new(&b->layers, &layers, err)))
        return rc;
    heads = (struct heads_config){ b->kernels, b->model, &b->weights, b->pool, MAX_ROWS };
    if ((b->weights.output_norm || b->weights.n_exits > 0) &&
        (rc = heads_new(&b->heads, &heads, err)))
        return rc;
    b->max_seqs = o->max_seqs;
    b->needs = calloc((size_t)o->max_seqs, sizeof(*b->needs));
    b->seen = calloc((size_t)o->max_seqs, sizeof(*b->seen));
    b->rows.spans = calloc(MAX_ROWS, sizeof(*b->rows.spans));
    b->wanted.spans = calloc(MAX_ROWS, sizeof(*b->wanted.spans));
    b->head_rows = calloc(MAX_ROWS, sizeof(*b->head_rows));
    if (!b->needs || !b->seen || !b->rows.spans || !b->wanted.spans || !b->head_rows)
        return err_set(err, CE_ENOMEM, "no memory for %d sequences", o->max_seqs);
    return 0;
}

int
backend_cpu_open(struct backend **out, const struct model *m,
                 const struct backend_options *opt, struct err *err)
{
    struct backend_options o = *opt;
    struct backend_cpu *b;
    int rc;

    *out = NULL;
    rc = check_options(&o, m, err);
    if (rc != 0)
        return rc;
    b = calloc(1, sizeof(*b));
    if (!b)
        return err_set(err, CE_ENOMEM, "no memory for a backend");
    b->base.ops = &cpu_ops;
    b->model = m;
    rc = build(b, &o, err);
    if (rc != 0) {
        cpu_close(&b->base);
        return rc;
    }
    *out = &b->base;
    return 0;
}
