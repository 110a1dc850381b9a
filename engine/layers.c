/* SPDX-License-Identifier: Apache-2.0
 * layers.c - the blocks of the Llama graph, as one stretch of parallel code.
 *
 * A block is a list of stages (threads.h); what the threads take in each:
 *
 *   norm        rows         norm, then int8 form of each row once for all readers
 *   project     tiles        Q, K and V as one pass over their tiles
 *   append      rows x heads biases, norm of a head, rope; K and V into the cache
 *   attend      queries x KV heads, and the int8 form of what came out
 *   add         tiles        output matrix, added to the residual stream
 *   norm        rows         before it the output matrix's bias, if there is one
 *   gated       tiles        gate, up, SwiGLU and its int8 form
 *   add         tiles        down matrix, added to the residual stream
 *
 * In the last block of a step, rows that nobody reads afterwards (all but the last of
 * a catch-up in the cloud) are dropped once their K and V are in the cache: the
 * residual stream and the norms are moved together and the rest runs on fewer rows.
 *
 * A piece of attention is up to ATTENTION_ROWS rows of one sequence and one KV head.
 */
#include "engine/layers.h"

#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "engine/mathfn.h"
#include "engine/quant.h"

#define ATTENTION_ROWS 16

struct layers {
    struct layers_config c;
    size_t d_model, q_dim, kv_dim, d_ff;
    int n_half;           /* pairs of a head that rope turns */
    float *x;             /* [max_rows, d_model] residual stream */
    struct act_rows norm; /* [max_rows, d_model] */
    struct act_rows att;  /* [max_rows, q_dim] what attention gives */
    struct act_rows ff;   /* [max_rows, d_ff] */
    struct linear_scratch scratch;
    float *q;     /* [max_rows, q_dim] */
    float *k, *v; /* [max_rows, kv_dim] */
    void (*rope)(float *x, const float *cos, const float *sin, int n_heads, int head_dim,
                 int n_rot); /* the kernel for the model's order of pairs */
    double *frequencies;     /* [n_half] */
    float *cos, *sin;        /* [max_rows, n_half], by input row */
    int64_t attend_ns;       /* in attend stages so far; thread 0 counts */
};

/* ---- life ---- */

/* Which rows some block reads as int8. */
static void
choose_forms(struct layers *l)
{
    const struct weights *w = l->c.weights;

    for (int i = 0; i < w->layer_to - w->layer_from; i++) {
        const struct block_weights *b = &w->blocks[i];

        l->norm.quantised |= packed_is_quantised(&b->q) || packed_is_quantised(&b->k) ||
                             packed_is_quantised(&b->v) ||
                             packed_is_quantised(&b->gate) || packed_is_quantised(&b->up);
        l->att.quantised |= packed_is_quantised(&b->attn_output);
        l->ff.quantised |= packed_is_quantised(&b->down);
        l->ff.plain |= !packed_is_quantised(&b->down);
    }
}

int
layers_new(struct layers **out, const struct layers_config *config, struct err *err)
{
    const struct model_config *mc = &config->model->config;
    struct layers *l = calloc(1, sizeof(*l));
    size_t rows = (size_t)config->max_rows;

    *out = NULL;
    if (!l)
        return err_set(err, CE_ENOMEM, "no memory for the blocks' scratch");
    l->c = *config;
    l->d_model = (size_t)mc->d_model;
    l->q_dim = (size_t)mc->n_heads * (size_t)mc->head_dim;
    l->kv_dim = (size_t)mc->n_kv_heads * (size_t)mc->head_dim;
    l->d_ff = (size_t)mc->d_ff;
    l->n_half = mc->n_rot / 2;
    l->x = linear_alloc(rows * l->d_model, sizeof(float));
    l->q = linear_alloc(rows * l->q_dim, sizeof(float));
    l->k = linear_alloc(rows * l->kv_dim, sizeof(float));
    l->v = linear_alloc(rows * l->kv_dim, sizeof(float));
    l->cos = linear_alloc(rows * (size_t)l->n_half, sizeof(float));
    l->sin = linear_alloc(rows * (size_t)l->n_half, sizeof(float));
    l->frequencies = linear_alloc((size_t)l->n_half, sizeof(double));
    if (!l->x || !l->q || !l->k || !l->v || !l->cos || !l->sin || !l->frequencies ||
        act_rows_init(&l->norm, rows, l->d_model) != 0 ||
        act_rows_init(&l->att, rows, l->q_dim) != 0 ||
        act_rows_init(&l->ff, rows, l->d_ff) != 0 ||
        linear_scratch_init(&l->scratch, rows, threads_count(config->pool)) != 0) {
        layers_free(l);
        return err_set(err, CE_ENOMEM, "no memory for the blocks' scratch");
    }
    choose_forms(l);
    l->rope = mc->rope_halves ? config->kernels->rope_halves : config->kernels->rope;
    mathfn_rope_frequencies(
        l->frequencies, mc->n_rot, (double)mc->rope_base, (double)mc->rope_factor,
        config->model->rope_freqs ? config->model->rope_freqs->data : NULL);
    *out = l;
    return 0;
}

void
layers_free(struct layers *l)
{
    if (!l)
        return;
    linear_scratch_fini(&l->scratch);
    act_rows_fini(&l->ff);
    act_rows_fini(&l->att);
    act_rows_fini(&l->norm);
    free(l->frequencies);
    free(l->sin);
    free(l->cos);
    free(l->v);
    free(l->k);
    free(l->q);
    free(l->x);
    free(l);
}

float *
layers_x(struct layers *l)
{
    return l->x;
}

int64_t
layers_attend_ns(const struct layers *l)
{
    return l->attend_ns;
}

/* ---- the chunk's rows come in ---- */

/* Row j of a span. */
static void
load_row(const struct layers *l, const struct batch_item *item, const struct span *s,
         int j)
{
    const struct gguf_tensor *embd = l->c.model->token_embd;
    size_t d = l->d_model, half = (size_t)l->n_half;
    size_t row = (size_t)s->row + (size_t)j, in = (size_t)s->item_row + (size_t)j;

    if (item->tokens) {
        size_t at = (size_t)item->tokens[in] * quant_row_bytes(embd->type, d);

        quant_dequantise_row(embd->type, (const char *)embd->data + at, l->x + row * d,
                             d);
    } else {
        memcpy(l->x + row * d, item->hidden + in * d, d * sizeof(float));
    }
    mathfn_rope_row(l->cos + row * half, l->sin + row * half, l->frequencies, l->n_half,
                    s->pos + j);
}

void
layers_load(struct layers *l, struct worker_id id, const struct batch *b,
            const struct span_list *rows)
{
    size_t from, to;

    while (worker_take(id, (size_t)rows->n_rows, 1, &from, &to)) {
        size_t row = 0;

        for (int i = 0; i < rows->n_spans; i++) {
            const struct span *s = &rows->spans[i];

            for (int j = 0; j < s->n_rows; j++, row++) {
                if (row >= from && row < to)
                    load_row(l, &b->items[s->item], s, j);
            }
        }
    }
}

/* ---- stages ---- */

/* bias: added to the rows of the residual stream first; or NULL. */
static void
norm(const struct layers *l, struct worker_id id, const float *weight, const float *bias,
     int n_rows)
{
    const struct kernels *k = l->c.kernels;
    size_t from, to, d = l->d_model;

    while (worker_take(id, (size_t)n_rows, 1, &from, &to)) {
        for (size_t r = from; r < to; r++) {
            if (bias)
                k->add(l->x + r * d, bias, d);
            k->rmsnorm(l->norm.x + r * d, l->x + r * d, weight, d,
                       l->c.model->config.norm_eps);
            act_rows_quantise(k, &l->norm, r, 0, d);
        }
    }
}

static void
project(const struct layers *l, struct worker_id id, const struct block_weights *w,
        int n_rows, bool with_q)
{
    struct activations a = act_rows_view(&l->norm, (size_t)n_rows);
    struct linear_job jobs[3] = { { &w->k, l->k }, { &w->v, l->v }, { &w->q, l->q } };

    linear_many(l->c.kernels, id, jobs, with_q ? 3 : 2, &a);
}

/* The block that is run, as the stage after its projections sees it. */
struct turn {
    const struct block_weights *w;
    int layer;
    bool rope;
};

static struct turn
turn_of(const struct layers *l, const struct block_weights *w, int layer)
{
    int skip = l->c.model->config.rope_skip;

    return (struct turn){ w, layer, skip == 0 || (layer + 1) % skip != 0 };
}

/* Bias, norm of each head and rope of n heads that lie together, in this order. bias: of
 * these heads; bias and weight NULL where the block has none. */
static void
turn_heads(const struct layers *l, const struct turn *t, float *x, const float *bias,
           const float *weight, int n, int input_row)
{
    const struct model_config *mc = &l->c.model->config;
    const struct kernels *k = l->c.kernels;
    size_t hd = (size_t)mc->head_dim, at = (size_t)input_row * (size_t)l->n_half;

    if (bias)
        k->add(x, bias, (size_t)n * hd);
    for (size_t h = 0; weight && h < (size_t)n; h++)
        k->rmsnorm(x + h * hd, x + h * hd, weight, hd, mc->norm_eps);
    if (t->rope)
        l->rope(x, l->cos + at, l->sin + at, n, mc->head_dim, mc->n_rot);
}

/* The query heads that share KV head h, in one row. */
static void
turn_queries(const struct layers *l, const struct turn *t, int row, int input_row, int h)
{
    const struct model_config *mc = &l->c.model->config;
    int group = mc->n_heads / mc->n_kv_heads;
    size_t column = (size_t)h * (size_t)group * (size_t)mc->head_dim;

    turn_heads(l, t, l->q + (size_t)row * l->q_dim + column,
               t->w->q_bias ? t->w->q_bias + column : NULL, t->w->q_norm, group,
               input_row);
}

static void
append_row(const struct layers *l, const struct turn *t, const struct span *s, int j,
           int h, uint16_t *const *pages)
{
    const struct model_config *mc = &l->c.model->config;
    const struct kernels *k = l->c.kernels;
    size_t column = (size_t)h * (size_t)mc->head_dim;
    size_t head = (size_t)(s->row + j) * l->kv_dim + column;
    int32_t pos = s->pos + j;
    uint16_t *part = pages[pos / KV_PAGE] + (size_t)h * kv_part_len(mc->head_dim);

    turn_heads(l, t, l->k + head, t->w->k_bias ? t->w->k_bias + column : NULL,
               t->w->k_norm, 1, s->input_row + j);
    if (t->w->v_bias)
        k->add(l->v + head, t->w->v_bias + column, (size_t)mc->head_dim);
    k->kv_append(part, pos % KV_PAGE, l->k + head, l->v + head, mc->head_dim);
}

/* Rope and cache of units from .. to, which are pairs of row and KV head. */
static void
append_units(const struct layers *l, const struct turn *t, const struct span_list *rows,
             bool with_q, size_t from, size_t to)
{
    int n_heads = l->c.model->config.n_kv_heads;
    size_t unit = 0;

    for (int i = 0; i < rows->n_spans; i++) {
        const struct span *s = &rows->spans[i];
        uint16_t *const *pages = kv_cache_pages(l->c.kv, s->seq, t->layer);

        for (int j = 0; j < s->n_rows; j++) {
            for (int h = 0; h < n_heads; h++, unit++) {
                if (unit < from || unit >= to)
                    continue;
                append_row(l, t, s, j, h, pages);
                if (with_q)
                    turn_queries(l, t, s->row + j, s->input_row + j, h);
            }
        }
    }
}

static void
append(const struct layers *l, struct worker_id id, const struct turn *t,
       const struct span_list *rows, bool with_q)
{
    size_t n = (size_t)rows->n_rows * (size_t)l->c.model->config.n_kv_heads, from, to;

    while (worker_take(id, n, 1, &from, &to))
        append_units(l, t, rows, with_q, from, to);
}

/* What is read after KV head h of span i: the next head, or the next span's first. */
static const uint16_t *
part_after(const struct layers *l, const struct span_list *rows, int i, int h, int layer)
{
    const struct model_config *mc = &l->c.model->config;
    bool same = h + 1 < mc->n_kv_heads;

    if (!same && i + 1 == rows->n_spans)
        return NULL;
    return kv_cache_pages(l->c.kv, rows->spans[same ? i : i + 1].seq, layer)[0] +
           (same ? (size_t)(h + 1) * kv_part_len(mc->head_dim) : 0);
}

/* Rows first .. first+n-1 of a span, one KV head. */
static void
attend_piece(const struct layers *l, const struct span *s, int first, int n, int h,
             uint16_t *const *pages, const uint16_t *next)
{
    const struct model_config *mc = &l->c.model->config;
    size_t width = (size_t)(mc->n_heads / mc->n_kv_heads) * (size_t)mc->head_dim;
    size_t row = (size_t)s->row + (size_t)first, column = (size_t)h * width;
    struct attention_job job = {
        .q = l->q + row * l->q_dim + column,
        .q_stride = l->q_dim,
        .out = l->att.x + row * l->q_dim + column,
        .out_stride = l->q_dim,
        .n_rows = n,
        .n_group = mc->n_heads / mc->n_kv_heads,
        .head_dim = mc->head_dim,
        .pos = s->pos + first,
        .pages = (const uint16_t *const *)pages,
        .part = (size_t)h * kv_part_len(mc->head_dim),
        .next = next,
    };

    l->c.kernels->attention(&job);
    for (size_t r = 0; width % ACT_GROUP == 0 && r < (size_t)n; r++)
        act_rows_quantise(l->c.kernels, &l->att, row + r, column, column + width);
}

/* Pieces from .. to of all spans: up to ATTENTION_ROWS rows and one KV head each. */
static void
attend_units(const struct layers *l, const struct span_list *rows, int layer, size_t from,
             size_t to)
{
    int n_heads = l->c.model->config.n_kv_heads;
    size_t unit = 0;

    for (int i = 0; i < rows->n_spans; i++) {
        const struct span *s = &rows->spans[i];
        uint16_t *const *pages = kv_cache_pages(l->c.kv, s->seq, layer);

        for (int first = 0; first < s->n_rows; first += ATTENTION_ROWS) {
            int n = s->n_rows - first;

            if (n > ATTENTION_ROWS)
                n = ATTENTION_ROWS;
            for (int h = 0; h < n_heads; h++, unit++) {
                if (unit >= from && unit < to)
                    attend_piece(l, s, first, n, h, pages,
                                 part_after(l, rows, i, h, layer));
            }
        }
    }
}

static void
attend(const struct layers *l, struct worker_id id, const struct span_list *rows,
       int layer)
{
    size_t pieces = 0, from, to;

    for (int i = 0; i < rows->n_spans; i++)
        pieces += (size_t)(rows->spans[i].n_rows + ATTENTION_ROWS - 1) / ATTENTION_ROWS;
    while (worker_take(id, pieces * (size_t)l->c.model->config.n_kv_heads, 1, &from, &to))
        attend_units(l, rows, layer, from, to);
}

/* Int8 form of attention's rows, where heads do not fall on whole groups. */
static void
quantise_attention(const struct layers *l, struct worker_id id, int n_rows)
{
    size_t from, to;

    while (worker_take(id, (size_t)n_rows, 1, &from, &to)) {
        for (size_t r = from; r < to; r++)
            act_rows_quantise(l->c.kernels, &l->att, r, 0, l->q_dim);
    }
}

/* Move the wanted rows of residual stream and norm together. Rows only move
 * towards the front, in ascending order. One thread. */
static void
keep_wanted(const struct layers *l, const struct span_list *wanted)
{
    size_t d = l->d_model, g = d / ACT_GROUP;

    for (int i = 0; i < wanted->n_spans; i++) {
        const struct span *s = &wanted->spans[i];
        size_t n = (size_t)s->n_rows, to = (size_t)s->row, from = (size_t)s->input_row;

        memmove(l->x + to * d, l->x + from * d, n * d * sizeof(float));
        memmove(l->norm.x + to * d, l->norm.x + from * d, n * d * sizeof(float));
        if (l->norm.quantised)
            memmove(l->norm.groups + to * g, l->norm.groups + from * g,
                    n * g * sizeof(struct act_group));
    }
}

/* The queries of rows from .. to of `wanted`. */
static void
turn_wanted(const struct layers *l, const struct turn *t, const struct span_list *wanted,
            size_t from, size_t to)
{
    int n_heads = l->c.model->config.n_kv_heads;
    size_t row = 0;

    for (int i = 0; i < wanted->n_spans; i++) {
        const struct span *s = &wanted->spans[i];

        for (int j = 0; j < s->n_rows; j++, row++) {
            for (int h = 0; row >= from && row < to && h < n_heads; h++)
                turn_queries(l, t, s->row + j, s->input_row + j, h);
        }
    }
}

/* The queries of the rows that stay, when there are fewer than came in. */
static void
project_wanted(const struct layers *l, struct worker_id id, const struct turn *t,
               const struct span_list *wanted)
{
    struct activations a = act_rows_view(&l->norm, (size_t)wanted->n_rows);
    struct linear_job job = { &t->w->q, l->q };
    size_t from, to;

    while (worker_take(id, 1, 1, &from, &to))
        keep_wanted(l, wanted);
    linear_many(l->c.kernels, id, &job, 1, &a);
    while (worker_take(id, (size_t)wanted->n_rows, 1, &from, &to))
        turn_wanted(l, t, wanted, from, to);
}

/* ---- a block ---- */

/* Norm to cache: afterwards the queries of `wanted` stand ready. */
static void
attention_inputs(struct layers *l, struct worker_id id, const struct block_weights *w,
                 const struct span_list *rows, const struct span_list *wanted, int layer)
{
    bool all = wanted->n_rows == rows->n_rows;
    struct turn t = turn_of(l, w, layer);

    norm(l, id, w->attn_norm, NULL, rows->n_rows);
    project(l, id, w, rows->n_rows, all);
    append(l, id, &t, rows, all);
    if (!all && wanted->n_rows > 0)
        project_wanted(l, id, &t, wanted);
}

static void
attention(struct layers *l, struct worker_id id, const struct block_weights *w,
          const struct span_list *rows, int layer)
{
    const struct model_config *mc = &l->c.model->config;
    struct activations a = act_rows_view(&l->att, (size_t)rows->n_rows);
    int64_t begin = id.tid == 0 ? clock_ns() : 0;

    attend(l, id, rows, layer);
    if (id.tid == 0) /* leaves the stage when all have: this is everybody's time */
        l->attend_ns += clock_ns() - begin;
    if (mc->n_heads / mc->n_kv_heads * mc->head_dim % ACT_GROUP != 0)
        quantise_attention(l, id, rows->n_rows);
    linear_add(l->c.kernels, id, &w->attn_output, &a, &l->scratch, l->x);
}

static void
feed_forward(struct layers *l, struct worker_id id, const struct block_weights *w,
             int n_rows)
{
    struct activations in = act_rows_view(&l->norm, (size_t)n_rows);
    struct activations mid = act_rows_view(&l->ff, (size_t)n_rows);

    norm(l, id, w->ffn_norm, w->output_bias, n_rows);
    linear_gated(l->c.kernels, id, &w->gate, &w->up, &in, &l->scratch, &l->ff);
    linear_add(l->c.kernels, id, &w->down, &mid, &l->scratch, l->x);
}

void
layers_run(struct layers *l, struct worker_id id, const struct span_list *rows,
           const struct span_list *wanted, int from, int to)
{
    for (int layer = from; layer < to; layer++) {
        const struct block_weights *w =
            &l->c.weights->blocks[layer - l->c.weights->layer_from];
        const struct span_list *end = layer == to - 1 ? wanted : rows;

        attention_inputs(l, id, w, rows, end, layer);
        if (end->n_rows == 0)
            return;
        attention(l, id, w, end, layer);
        feed_forward(l, id, w, end->n_rows);
    }
}
