/* SPDX-License-Identifier: Apache-2.0
 * exit_loss.c - see exit_loss.h.
 *
 * The way back is a sum of rows of the output matrix, one for each logit with a gradient.
 * Of a large vocabulary nearly all have none: on SmolLM2 some hundreds of 49,152 carry
 * 99 % of it. They are found by comparing logits with a threshold, so exponentials are
 * computed for them alone. A block's rows walk through the vocabulary side by side, and
 * each row of the matrix that anyone needs is decoded once.
 */
#include "tools/exit_loss.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

#include "common/memory.h"
#include "engine/backend.h"
#include "engine/logits.h"
#include "engine/quant.h"

#define STRIPE     64   /* ids whose rows are decoded together; bits of a word */
#define LEAST_REST 1e-8 /* p_rest is at least this: sums of floats know no less */

struct exit_loss {
    const struct kernels *k;
    struct packed output;
    const unsigned char *stored; /* the output matrix, rows of row_bytes */
    uint32_t type;
    size_t row_bytes;
    const float *norm; /* [d] the output norm's weight */
    float eps, cut;
    size_t d, n_vocab, n_chunks;
};

struct exit_loss_room {
    float *x;                 /* [rows, d] what the output matrix reads; gradient of it */
    struct act_group *groups; /* [rows, d / 32] */
    size_t max_rows;
    float *logits;              /* [n_chunks, max_rows, LOGIT_CHUNK] */
    float *g;                   /* [rows, n_vocab] gradients of logits that count; little
                                   of it is ever touched */
    int32_t *ids;               /* [rows, n_vocab] whose they are, ascending */
    size_t *n_ids, *at;         /* [rows] how many; where the walk is */
    struct logit_chunk *chunks; /* [rows, n_chunks] */
    float *stripe;              /* [STRIPE, d] decoded rows of the output matrix */
};

/* ---- once ---- */

struct pack_job {
    struct exit_loss *l;
    struct threads *pool;
};

static void
pack_part(void *arg, int tid, int n_threads)
{
    const struct pack_job *j = arg;
    size_t from, to;

    (void)n_threads;
    while (threads_take(j->pool, tid, j->l->output.n_tiles, 16, &from, &to))
        packed_fill(&j->l->output, j->l->stored, from, to);
}

int
exit_loss_new(struct exit_loss **out, const struct model *m, const struct kernels *k,
              float cut, struct threads *pool, struct err *err)
{
    const struct gguf_tensor *w = m->output;
    struct exit_loss *l;
    int rc;

    *out = NULL;
    if (!w || !m->output_norm)
        return err_set(err, CE_EUNSUPPORTED,
                       "%s: a part without the final head; exits are trained on the "
                       "whole model",
                       gguf_path(m->file));
    l = mem_array_alloc(1, sizeof(*l));
    if (!l)
        return err_set(err, CE_ENOMEM, "no memory for the output matrix");
    *l = (struct exit_loss){ .k = k,
                             .stored = w->data,
                             .type = w->type,
                             .row_bytes = quant_row_bytes(w->type, w->ne[0]),
                             .norm = m->output_norm->data,
                             .eps = m->config.norm_eps,
                             .cut = cut,
                             .d = w->ne[0],
                             .n_vocab = w->ne[1],
                             .n_chunks = logits_n_chunks(w->ne[1]) };
    rc = packed_init(&l->output, w->type, w->ne[1], w->ne[0], err);
    if (rc != 0) {
        mem_free(l);
        return err_prefix(err, "tensor %s: ", w->name), rc;
    }
    threads_run(pool, pack_part, &(struct pack_job){ l, pool });
    *out = l;
    return 0;
}

void
exit_loss_free(struct exit_loss *l)
{
    if (!l)
        return;
    packed_free(&l->output);
    mem_free(l);
}

/* ---- rooms ---- */

static void *
array(size_t rows, size_t n, size_t size)
{
    size_t total;

    return __builtin_mul_overflow(rows, n, &total) ? NULL
                                                   : mem_aligned_alloc(total, size);
}

int
exit_loss_room_new(struct exit_loss_room **out, const struct exit_loss *l,
                   size_t max_rows)
{
    struct exit_loss_room *r = mem_array_alloc(1, sizeof(*r));

    *out = r;
    if (!r)
        return CE_ENOMEM;
    r->x = array(max_rows, l->d, sizeof(*r->x));
    r->groups = array(max_rows, l->d / ACT_GROUP + 1, sizeof(*r->groups));
    r->max_rows = max_rows;
    r->logits = array(max_rows, l->n_chunks * LOGIT_CHUNK, sizeof(*r->logits));
    r->g = array(max_rows, l->n_vocab, sizeof(*r->g));
    r->ids = array(max_rows, l->n_vocab, sizeof(*r->ids));
    r->n_ids = array(max_rows, 1, sizeof(*r->n_ids));
    r->at = array(max_rows, 1, sizeof(*r->at));
    r->chunks = array(max_rows, l->n_chunks, sizeof(*r->chunks));
    r->stripe = array(STRIPE, l->d, sizeof(*r->stripe));
    if (r->x && r->groups && r->logits && r->g && r->ids && r->n_ids && r->at &&
        r->chunks && r->stripe)
        return 0;
    exit_loss_room_free(r);
    *out = NULL;
    return CE_ENOMEM;
}

void
exit_loss_room_free(struct exit_loss_room *r)
{
    if (!r)
        return;
    mem_free(r->x);
    mem_free(r->groups);
    mem_free(r->logits);
    mem_free(r->g);
    mem_free(r->ids);
    mem_free(r->n_ids);
    mem_free(r->at);
    mem_free(r->chunks);
    mem_free(r->stripe);
    mem_free(r);
}

/* ---- there ---- */

/* Ids of a chunk side by side for all rows, not a row for all ids: a tile of the product
 * would touch a page for every row. */
static float *
chunk_at(const struct exit_loss_room *room, size_t chunk, size_t row)
{
    return room->logits + (chunk * room->max_rows + row) * LOGIT_CHUNK;
}

static float *
logit_at(const struct exit_loss_room *room, size_t row, int32_t id)
{
    return chunk_at(room, (size_t)id / LOGIT_CHUNK, row) + (size_t)id % LOGIT_CHUNK;
}

/* Ids of a chunk; the last one may have fewer. */
static size_t
chunk_len(const struct exit_loss *l, size_t chunk)
{
    size_t left = l->n_vocab - chunk * LOGIT_CHUNK;

    return left < LOGIT_CHUNK ? left : LOGIT_CHUNK;
}

/* Logits of all rows; a chunk is summed up while it is in the cache. */
static void
compute_logits(const struct exit_loss *l, struct exit_loss_room *room, const float *z,
               size_t n)
{
    struct activations a = { room->groups, room->x, n };

    for (size_t r = 0; r < n; r++) {
        float *x = room->x + r * l->d;

        l->k->rmsnorm(x, z + r * l->d, l->norm, l->d, l->eps);
        if (packed_is_quantised(&l->output))
            l->k->quantise(room->groups + r * (l->d / ACT_GROUP), x, l->d);
    }
    for (size_t c = 0; c < l->n_chunks; c++) {
        struct packed part = l->output; /* this chunk as a matrix of its own */

        part.n_out = chunk_len(l, c);
        part.n_tiles = (part.n_out + PACKED_ROWS - 1) / PACKED_ROWS;
        part.data += c * (LOGIT_CHUNK / PACKED_ROWS) * part.tile_bytes;
        l->k->matmul[part.format](chunk_at(room, c, 0), LOGIT_CHUNK, &part, 0,
                                  part.n_tiles, &a);
        for (size_t r = 0; r < n; r++)
            l->k->logit_chunk(room->chunks + r * l->n_chunks + c, chunk_at(room, c, r),
                              part.n_out);
    }
}

struct distance {
    double loss;
    double outside; /* gradient of a logit outside the top, by its p */
    double p_rest;
};

/* The divergence of the n_top + 1 events in row r. */
static struct distance
divergence(const struct exit_loss_room *room, size_t r, float lse, const int32_t *ids,
           const float *logp, int n_top)
{
    double p_top = 0, q_top = 0, loss = 0, p_rest, q_rest;

    for (int i = 0; i < n_top; i++) {
        double q = exp((double)logp[i]);
        double lnp = (double)*logit_at(room, r, ids[i]) - (double)lse;

        loss += q * ((double)logp[i] - lnp);
        q_top += q;
        p_top += exp(lnp);
    }
    q_rest = q_top < 1 ? 1 - q_top : 0;
    p_rest = 1 - p_top > LEAST_REST ? 1 - p_top : LEAST_REST;
    if (q_rest > 0)
        loss += q_rest * log(q_rest / p_rest);
    return (struct distance){ loss, 1 - q_rest / p_rest, p_rest };
}

/* ---- back ---- */

static size_t
position_of(const int32_t *ids, size_t n, int32_t id)
{
    size_t lo = 0, hi = n;

    while (lo < hi) {
        size_t mid = (lo + hi) / 2;

        if (ids[mid] < id)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* Gradients of row r's logits that count. Those of the top are found with the others, by
 * logits of infinity, and filled in afterwards: so all stand in order. */
static void
logit_gradients(const struct exit_loss *l, struct exit_loss_room *room, size_t r,
                float lse, const int32_t *ids, const float *logp, int n_top,
                struct distance d, struct exit_loss_row *out)
{
    float *g = room->g + r * l->n_vocab, slope = (float)d.outside;
    int32_t *found = room->ids + r * l->n_vocab;
    float threshold = slope != 0 ? lse + logf(l->cut / fabsf(slope)) : INFINITY;
    float top[BACKEND_MAX_TOP];
    size_t n = 0;
    double p_kept = 0;

    if (threshold > 3e38f)
        threshold = 3e38f; /* infinity is above it */
    for (int i = 0; i < n_top; i++)
        top[i] = (float)(exp((double)*logit_at(room, r, ids[i]) - (double)lse) -
                         exp((double)logp[i]));
    for (int i = 0; i < n_top; i++)
        *logit_at(room, r, ids[i]) = INFINITY;
    for (size_t c = 0; c < l->n_chunks; c++) {
        const float *x = chunk_at(room, c, r);
        size_t len = chunk_len(l, c);

        for (size_t j = 0; (j = l->k->find_above(x, j, len, threshold)) < len; j++) {
            float p = x[j] < INFINITY ? expf(x[j] - lse) : 0;

            p_kept += (double)p;
            found[n] = (int32_t)(c * LOGIT_CHUNK + j);
            g[n++] = p * slope;
        }
    }
    out->kept = fabs(d.outside) * p_kept;
    out->lost = fabs(d.outside) * fmax(d.p_rest - p_kept, 0);
    for (int i = 0; i < n_top; i++) {
        g[position_of(found, n, ids[i])] = top[i];
        out->kept += fabs((double)top[i]);
    }
    room->n_ids[r] = n;
}

/* room->x of all rows = gradients times rows of the output matrix. */
static void
through_output(const struct exit_loss *l, struct exit_loss_room *room, size_t n)
{
    const size_t d = l->d;

    memset(room->x, 0, n * d * sizeof(float));
    memset(room->at, 0, n * sizeof(*room->at));
    for (size_t first = 0; first < l->n_vocab; first += STRIPE) {
        uint64_t decoded = 0;

        for (size_t r = 0; r < n; r++) {
            const int32_t *ids = room->ids + r * l->n_vocab;
            const float *g = room->g + r * l->n_vocab;
            size_t i = room->at[r];

            for (; i < room->n_ids[r] && (size_t)ids[i] < first + STRIPE; i++) {
                size_t at = (size_t)ids[i] - first;
                float *row = room->stripe + at * d;

                if (!(decoded >> at & 1))
                    (void)quant_dequantise_row(
                        l->type, l->stored + (size_t)ids[i] * l->row_bytes, row, d);
                decoded |= (uint64_t)1 << at;
                cblas_saxpy((int)d, g[i], row, 1, room->x + r * d, 1);
            }
            room->at[r] = i;
        }
    }
}

/* z [d] := the gradient with respect to it, from dx [d], that of rms(z) * norm. */
static void
norm_back(const struct exit_loss *l, float *z, const float *dx)
{
    double squares = 0, inner = 0, scale;
    float by, along;

    for (size_t i = 0; i < l->d; i++) {
        squares += (double)z[i] * (double)z[i];
        inner += (double)(l->norm[i] * dx[i]) * (double)z[i];
    }
    scale = 1 / sqrt(squares / (double)l->d + (double)l->eps);
    by = (float)scale;
    along = (float)(inner * scale * scale / (double)l->d);
    for (size_t i = 0; i < l->d; i++)
        z[i] = by * (l->norm[i] * dx[i] - along * z[i]);
}

void
exit_loss_rows(const struct exit_loss *l, struct exit_loss_room *room, float *z, size_t n,
               const int32_t *ids, const float *logp, int n_top, bool gradient,
               struct exit_loss_row *out)
{
    compute_logits(l, room, z, n);
    for (size_t r = 0; r < n; r++) {
        const int32_t *row_ids = ids + r * (size_t)n_top;
        const float *row_logp = logp + r * (size_t)n_top;
        struct logit_summary s;
        struct distance d;

        room->n_ids[r] = 0;
        out[r] = (struct exit_loss_row){ .loss = (double)NAN, .argmax = -1 };
        if (logits_merge(&s, room->chunks + r * l->n_chunks, l->n_chunks) != 0)
            continue;
        d = divergence(room, r, s.lse, row_ids, row_logp, n_top);
        out[r].loss = d.loss;
        out[r].argmax = s.argmax;
        if (gradient)
            logit_gradients(l, room, r, s.lse, row_ids, row_logp, n_top, d, &out[r]);
    }
    if (!gradient)
        return;
    through_output(l, room, n);
    for (size_t r = 0; r < n; r++)
        norm_back(l, z + r * l->d, room->x + r * l->d);
}
