/* SPDX-License-Identifier: Apache-2.0
 * heads.c - adapters, output matrix, and the reading of logits.
 *
 * Rows go through in batches of at most HEAD_ROWS, because a row of logits is long.
 * A thread computes whole chunks of LOGIT_CHUNK logits and summarises them while they
 * are in its cache; then rows are shared out for merging, the top list and the hash.
 */
#include "engine/heads.h"

#include <stdlib.h>
#include <string.h>

#include "engine/logits.h"

#define HEAD_ROWS   32
#define ADAPTER_EPS 1e-5f /* doc/NUMERICS.md, 10 */
#define CHUNK_TILES (LOGIT_CHUNK / PACKED_ROWS)

struct heads {
    struct heads_config c;
    size_t d, n_vocab, n_chunks, width; /* width: of the widest adapter */
    struct act_rows x;            /* [HEAD_ROWS, d] the state, for the adapter's map */
    struct act_rows h;            /* [HEAD_ROWS, d] its norm */
    struct act_rows norm;         /* [HEAD_ROWS, d] what the output matrix reads */
    float *mid;                   /* [HEAD_ROWS, width] gate, then SwiGLU */
    struct act_group *mid_groups; /* [HEAD_ROWS, width / 32] */
    struct linear_scratch scratch;
    float *z;                   /* [HEAD_ROWS, d] */
    float *logits;              /* [HEAD_ROWS, n_vocab] */
    struct logit_chunk *chunks; /* [HEAD_ROWS, n_chunks] */
};

int
heads_new(struct heads **out, const struct heads_config *config, struct err *err)
{
    const struct weights *w = config->weights;
    struct heads *h = calloc(1, sizeof(*h));

    *out = NULL;
    if (!h)
        return err_set(err, CE_ENOMEM, "no memory for the heads' scratch");
    h->c = *config;
    h->d = (size_t)config->model->config.d_model;
    h->n_vocab = (size_t)config->model->config.n_vocab;
    h->n_chunks = logits_n_chunks(h->n_vocab);
    for (int i = 0; i < w->n_exits; i++) {
        if (w->exits[i].width > h->width)
            h->width = w->exits[i].width;
    }
    h->mid = linear_alloc(HEAD_ROWS * h->width, sizeof(float));
    h->mid_groups =
        linear_alloc(HEAD_ROWS * h->width / ACT_GROUP, sizeof(struct act_group));
    h->z = linear_alloc(HEAD_ROWS * h->d, sizeof(float));
    h->logits = linear_alloc(HEAD_ROWS * h->n_vocab, sizeof(float));
    h->chunks = linear_alloc(HEAD_ROWS * h->n_chunks, sizeof(struct logit_chunk));
    if (!h->mid || !h->mid_groups || !h->z || !h->logits || !h->chunks ||
        linear_scratch_init(&h->scratch, HEAD_ROWS, threads_count(config->pool)) != 0 ||
        act_rows_init(&h->x, HEAD_ROWS, h->d) != 0 ||
        act_rows_init(&h->h, HEAD_ROWS, h->d) != 0 ||
        act_rows_init(&h->norm, HEAD_ROWS, h->d) != 0) {
        heads_free(h);
        return err_set(err, CE_ENOMEM, "no memory for the heads' scratch");
    }
    h->norm.quantised = packed_is_quantised(&w->output);
    *out = h;
    return 0;
}

void
heads_free(struct heads *h)
{
    if (!h)
        return;
    linear_scratch_fini(&h->scratch);
    act_rows_fini(&h->norm);
    act_rows_fini(&h->h);
    act_rows_fini(&h->x);
    free(h->chunks);
    free(h->logits);
    free(h->z);
    free(h->mid_groups);
    free(h->mid);
    free(h);
}

/* ---- stages ---- */

/* z = adapter(state), section 10. The act_rows are copies of this thread, so that
 * each adapter may have formats of its own. */
static void
adapt(const struct heads *h, struct worker_id id, const struct exit_weights *e,
      const struct head_row *rows, size_t n)
{
    const struct kernels *k = h->c.kernels;
    struct act_rows x = h->x, norm = h->h;
    struct act_rows mid = { h->mid, h->mid_groups, e->width,
                            packed_is_quantised(&e->down),
                            !packed_is_quantised(&e->down) };
    struct activations a_x = act_rows_view(&x, n), a_norm = act_rows_view(&norm, n);
    struct activations a_mid = act_rows_view(&mid, n);
    struct linear_job map = { &e->map, h->z };
    size_t from, to;

    x.quantised = packed_is_quantised(&e->map);
    norm.quantised = packed_is_quantised(&e->gate) || packed_is_quantised(&e->up);
    while (worker_take(id, n, 1, &from, &to)) {
        for (size_t r = from; r < to; r++) {
            memcpy(x.x + r * h->d, rows[r].x, h->d * sizeof(float));
            act_rows_quantise(k, &x, r, 0, h->d);
            k->rmsnorm(norm.x + r * h->d, rows[r].x, NULL, h->d, ADAPTER_EPS);
            act_rows_quantise(k, &norm, r, 0, h->d);
        }
    }
    linear_many(k, id, &map, 1, &a_x);
    while (worker_take(id, n, 1, &from, &to)) {
        for (size_t r = from; r < to; r++)
            k->add(h->z + r * h->d, e->map_bias, h->d);
    }
    linear_gated(k, id, &e->gate, &e->up, &a_norm, &h->scratch, &mid);
    linear_add(k, id, &e->down, &a_mid, &h->scratch, h->z);
}

static void
final_norm(const struct heads *h, struct worker_id id, const struct head_row *rows,
           const float *z, size_t n)
{
    const struct kernels *k = h->c.kernels;
    size_t from, to;

    while (worker_take(id, n, 1, &from, &to)) {
        for (size_t r = from; r < to; r++) {
            k->rmsnorm(h->norm.x + r * h->d, z ? z + r * h->d : rows[r].x,
                       h->c.weights->output_norm, h->d, h->c.model->config.norm_eps);
            act_rows_quantise(k, &h->norm, r, 0, h->d);
        }
    }
}

/* One chunk of logits of all rows, and its summary while it is in the cache. */
static void
output_chunk(const struct heads *h, struct worker_id id, const struct activations *a,
             size_t chunk)
{
    const struct packed *w = &h->c.weights->output;
    size_t t = chunk * CHUNK_TILES, end = t + CHUNK_TILES;

    linear_tiles(h->c.kernels, id, w, t, end < w->n_tiles ? end : w->n_tiles, a,
                 h->logits + t * PACKED_ROWS, h->n_vocab);
    for (size_t r = 0; r < a->n_rows; r++)
        logits_chunks(h->c.kernels, h->chunks + r * h->n_chunks,
                      h->logits + r * h->n_vocab, h->n_vocab, chunk, chunk + 1);
}

static void
output(const struct heads *h, struct worker_id id, size_t n)
{
    struct activations a = act_rows_view(&h->norm, n);
    size_t from, to;

    while (worker_take(id, h->n_chunks, 1, &from, &to)) {
        for (size_t c = from; c < to; c++)
            output_chunk(h, id, &a, c);
    }
}

/* ---- reading a row ---- */

static void
read_row(const struct heads *h, const struct head_job *job, const struct head_row *row,
         const float *logits, const struct logit_chunk *chunks)
{
    struct logit_summary s;
    struct logit_entry top[BACKEND_MAX_TOP] = { 0 };
    struct head_result *r = row->result;

    memset(r, 0, sizeof(*r));
    if (row->logits)
        memcpy(row->logits, logits, h->n_vocab * sizeof(float));
    if (job->want_hash)
        r->hash = logits_hash(logits, h->n_vocab);
    if (logits_merge(&s, chunks, h->n_chunks) != 0) {
        r->argmax = -1;
        return;
    }
    r->argmax = s.argmax;
    r->max_logit = s.max;
    r->lse = s.lse;
    r->confidence = s.confidence;
    if (job->n_top > 0)
        r->n_top = logits_top(h->c.kernels, top, job->n_top, logits, h->n_vocab, chunks);
    for (int i = 0; i < r->n_top; i++) {
        r->top[i].id = top[i].id;
        r->top[i].logit = top[i].logit;
    }
}

void
heads_run(struct heads *h, struct worker_id id, const struct head_job *job)
{
    bool final = job->head == HEAD_FINAL;
    const struct exit_weights *e =
        &h->c.weights->exits[final ? 0 : job->head - HEAD_EXIT(0)];
    bool adapted = !final && e->kind == MODEL_EXIT_MLP;

    for (int done = 0; done < job->n_rows; done += HEAD_ROWS) {
        const struct head_row *rows = job->rows + done;
        int left = job->n_rows - done;
        size_t n = (size_t)(left < HEAD_ROWS ? left : HEAD_ROWS), from, to;

        if (adapted)
            adapt(h, id, e, rows, n);
        final_norm(h, id, rows, adapted ? h->z : NULL, n);
        output(h, id, n);
        while (worker_take(id, n, 1, &from, &to)) {
            for (size_t r = from; r < to; r++)
                read_row(h, job, &rows[r], h->logits + r * h->n_vocab,
                         h->chunks + r * h->n_chunks);
        }
    }
}
