/* SPDX-License-Identifier: Apache-2.0
 * kernels_avx512_attention.c - attention over pages of half floats.
 *
 * Up to six queries (rows x heads of the group) pass over the cache together, so
 * that a tile of K or V is widened to float once for all of them. Per tile of 64
 * positions: scores (a lane is a position), softmax, values (a lane is a dimension).
 * R, the queries, is a constant; each keeps four vectors in registers.
 *
 * Positions that a query does not see may hold anything: their scores are computed
 * and thrown away, their values are never read for it.
 */
#include "engine/kernels_avx512.h"

#define QUERIES 6 /* at a time; four accumulators each */

struct query {
    float q[KV_MAX_HEAD_DIM]; /* scaled */
    float o[KV_MAX_HEAD_DIM];
    float p[KV_PAGE]; /* scores, then their exponentials */
    float m, l;
    int32_t position;
    float *out;
};

/* Scores of all positions of a tile for R queries. */
TEMPLATE void
scores_of(struct query *queries, const uint16_t *keys, int head_dim, const int R)
{
    __m512 s[QUERIES][4];

    for (int r = 0; r < R; r++)
        for (int v = 0; v < 4; v++)
            s[r][v] = _mm512_setzero_ps();
    for (int i = 0; i < head_dim; i++) {
        __m512 k[4];

        for (int v = 0; v < 4; v++)
            k[v] = load_half16(keys + i * KV_PAGE + 16 * v);
        for (int r = 0; r < R; r++) {
            __m512 q = _mm512_set1_ps(queries[r].q[i]);

            for (int v = 0; v < 4; v++)
                s[r][v] = _mm512_fmadd_ps(q, k[v], s[r][v]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < 4; v++)
            _mm512_storeu_ps(queries[r].p + 16 * v, s[r][v]);
}

/* o[i .. i + 16V - 1] of R queries, over positions from .. to - 1. */
TEMPLATE void
value_block(struct query *queries, const uint16_t *values, int from, int to, int i,
            int head_dim, const int R, const int V)
{
    __m512 o[QUERIES][4];

    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++)
            o[r][v] = _mm512_loadu_ps(queries[r].o + i + 16 * v);
    for (int j = from; j < to; j++) {
        __m512 x[4];

        for (int v = 0; v < V; v++)
            x[v] = load_half16(values + j * head_dim + i + 16 * v);
        for (int r = 0; r < R; r++) {
            __m512 p = _mm512_set1_ps(queries[r].p[j]);

            for (int v = 0; v < V; v++)
                o[r][v] = _mm512_fmadd_ps(p, x[v], o[r][v]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++)
            _mm512_storeu_ps(queries[r].o + i + 16 * v, o[r][v]);
}

TEMPLATE void
values_of(struct query *queries, const uint16_t *values, int from, int to, int head_dim,
          const int R)
{
    int i = 0;

    for (; i + 64 <= head_dim; i += 64)
        value_block(queries, values, from, to, i, head_dim, R, 4);
    for (; i < head_dim; i += 16)
        value_block(queries, values, from, to, i, head_dim, R, 1);
}

static void
scores(struct query *queries, const uint16_t *keys, int head_dim, int count)
{
    switch (count) {
    case 1:
        scores_of(queries, keys, head_dim, 1);
        break;
    case 2:
        scores_of(queries, keys, head_dim, 2);
        break;
    case 3:
        scores_of(queries, keys, head_dim, 3);
        break;
    case 4:
        scores_of(queries, keys, head_dim, 4);
        break;
    case 5:
        scores_of(queries, keys, head_dim, 5);
        break;
    default:
        scores_of(queries, keys, head_dim, 6);
    }
}

static void
values_sum(struct query *queries, const uint16_t *values, int from, int to, int head_dim,
           int count)
{
    switch (count) {
    case 1:
        values_of(queries, values, from, to, head_dim, 1);
        break;
    case 2:
        values_of(queries, values, from, to, head_dim, 2);
        break;
    case 3:
        values_of(queries, values, from, to, head_dim, 3);
        break;
    case 4:
        values_of(queries, values, from, to, head_dim, 4);
        break;
    case 5:
        values_of(queries, values, from, to, head_dim, 5);
        break;
    default:
        values_of(queries, values, from, to, head_dim, 6);
    }
}

/* Turn the first n scores into exponentials; bring m, l and o up to the new maximum. */
static void
soften(struct query *q, int n, bool first, int head_dim)
{
    const __m512 lowest = _mm512_set1_ps(-INFINITY);
    __m512 s[4], m = lowest;
    float largest;

    for (int v = 0; v < 4; v++) {
        __mmask16 seen = n > 16 * v ? first_lanes((size_t)(n - 16 * v)) : 0;

        s[v] = _mm512_mask_blend_ps(seen, lowest, _mm512_loadu_ps(q->p + 16 * v));
        m = _mm512_max_ps(m, s[v]);
    }
    largest = largest16(m);
    if (!first && q->m >= largest)
        largest = q->m;
    m = _mm512_set1_ps(largest);
    for (int v = 0; v < 4; v++) {
        s[v] = 16 * v < n ? exp16(_mm512_sub_ps(s[v], m)) : _mm512_setzero_ps();
        _mm512_storeu_ps(q->p + 16 * v, s[v]);
    }
    if (!first && q->m != largest) {
        float c = mathfn_expf(q->m - largest);

        q->l *= c;
        for (int i = 0; i < head_dim; i += 16)
            _mm512_storeu_ps(q->o + i,
                             _mm512_mul_ps(_mm512_loadu_ps(q->o + i), _mm512_set1_ps(c)));
    }
    s[0] = _mm512_add_ps(_mm512_add_ps(_mm512_add_ps(s[0], s[1]), s[2]), s[3]);
    q->l += tree16(s[0]);
    q->m = largest;
}

/* Positions of the tile that starts at `from` which a query sees. */
static int
visible(const struct query *q, int32_t from)
{
    int32_t n = q->position - from + 1;

    return n < KV_PAGE ? (int)n : KV_PAGE;
}

/* `count` queries, by position ascending, the first of which sees the tile. */
static void
attend_tile(struct query *queries, int count, const uint16_t *keys, int32_t from,
            int head_dim)
{
    const uint16_t *values = keys + (size_t)head_dim * KV_PAGE;
    int fewest = visible(&queries[0], from);

    scores(queries, keys, head_dim, count);
    for (int i = 0; i < count; i++)
        soften(&queries[i], visible(&queries[i], from), from == 0, head_dim);
    values_sum(queries, values, 0, fewest, head_dim, count);
    for (int i = 0; i < count; i++) {
        int n = visible(&queries[i], from);

        if (n > fewest)
            values_sum(&queries[i], values, fewest, n, head_dim, 1);
    }
}

static void
attend(struct query *queries, int count, const struct attention_job *job)
{
    int32_t last = queries[count - 1].position;

    for (int32_t from = 0; from <= last; from += KV_PAGE) {
        int skip = 0;

        while (queries[skip].position < from)
            skip++;
        attend_tile(queries + skip, count - skip, job->pages[from / KV_PAGE] + job->part,
                    from, job->head_dim);
    }
    for (int r = 0; r < count; r++) {
        __m512 inverse = _mm512_set1_ps(1.0f / queries[r].l);

        for (int i = 0; i < job->head_dim; i += 16)
            _mm512_storeu_ps(queries[r].out + i,
                             _mm512_mul_ps(_mm512_loadu_ps(queries[r].o + i), inverse));
    }
}

static void
attention(const struct attention_job *job)
{
    struct query queries[QUERIES];
    float scale = 1.0f / sqrtf((float)job->head_dim);
    int count = 0, h = job->head_dim;

    for (int r = 0; r < job->n_rows; r++) {
        for (int g = 0; g < job->n_group; g++) {
            struct query *query = &queries[count++];
            const float *q = job->q + (size_t)r * job->q_stride + g * h;

            query->l = query->m = 0.0f;
            query->position = job->pos + r;
            query->out = job->out + (size_t)r * job->out_stride + g * h;
            for (int i = 0; i < h; i += 16) {
                _mm512_storeu_ps(query->q + i, _mm512_mul_ps(_mm512_loadu_ps(q + i),
                                                             _mm512_set1_ps(scale)));
                _mm512_storeu_ps(query->o + i, _mm512_setzero_ps());
            }
            if (count == QUERIES || (r == job->n_rows - 1 && g == job->n_group - 1)) {
                attend(queries, count, job);
                count = 0;
            }
        }
    }
}

static void
kv_append(uint16_t *part, int slot, const float *k, const float *v, int head_dim)
{
    uint16_t *values =
        part + (size_t)head_dim * KV_PAGE + (size_t)slot * (size_t)head_dim;
    uint16_t column[16];

    for (int i = 0; i < head_dim; i += 16) {
        _mm256_storeu_si256(
            (__m256i *)(values + i),
            _mm512_cvtps_ph(_mm512_loadu_ps(v + i), _MM_FROUND_TO_NEAREST_INT));
        _mm256_storeu_si256(
            (__m256i *)column,
            _mm512_cvtps_ph(_mm512_loadu_ps(k + i), _MM_FROUND_TO_NEAREST_INT));
        for (int j = 0; j < 16; j++)
            part[(i + j) * KV_PAGE + slot] = column[j];
    }
}

void
kernels_avx512_install_attention(struct kernels *k)
{
    k->attention = attention;
    k->kv_append = kv_append;
}
