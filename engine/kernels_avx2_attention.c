/* SPDX-License-Identifier: Apache-2.0
 * kernels_avx2_attention.c - attention over pages of half floats.
 *
 * The three steps of a tile; kernels_attention.h has the way through the tiles.
 * R, the queries, and V, the vectors a query keeps in registers, are constants.
 */
#include "engine/kernels_avx2.h"
#include "engine/kernels_attention.h"

/* Vectors of each of R queries: R * V accumulators must fit 16 registers. */
#define VECTORS(R) ((R) == 1 ? 8 : (R) <= 3 ? 4 : 2)

/* Scores of positions j .. j + 8V - 1 for R queries. */
TEMPLATE void
score_block(struct query *queries, const uint16_t *keys, int j, int head_dim, const int R,
            const int V)
{
    __m256 s[ATTENTION_QUERIES][8];

    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++)
            s[r][v] = _mm256_setzero_ps();
    for (int i = 0; i < head_dim; i++) {
        __m256 k[8];

        for (int v = 0; v < V; v++)
            k[v] = load_half8(keys + kv_key_at(head_dim, j + 8 * v) + i * KV_STRIP);
        for (int r = 0; r < R; r++) {
            __m256 q = _mm256_set1_ps(queries[r].q[i]);

            for (int v = 0; v < V; v++)
                s[r][v] = _mm256_fmadd_ps(q, k[v], s[r][v]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++)
            _mm256_storeu_ps(queries[r].p + j + 8 * v, s[r][v]);
}

/* o[i .. i + 8V - 1] of R queries, over positions from .. to - 1. */
TEMPLATE void
value_block(struct query *queries, const uint16_t *values, int from, int to, int i,
            int head_dim, const int R, const int V)
{
    __m256 o[ATTENTION_QUERIES][8];

    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++)
            o[r][v] = _mm256_loadu_ps(queries[r].o + i + 8 * v);
    for (int j = from; j < to; j++) {
        __m256 x[8];

        for (int v = 0; v < V; v++)
            x[v] = load_half8(values + j * head_dim + i + 8 * v);
        for (int r = 0; r < R; r++) {
            __m256 p = _mm256_set1_ps(queries[r].p[j]);

            for (int v = 0; v < V; v++)
                o[r][v] = _mm256_fmadd_ps(p, x[v], o[r][v]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++)
            _mm256_storeu_ps(queries[r].o + i + 8 * v, o[r][v]);
}

TEMPLATE void
scores_of(struct query *queries, const uint16_t *keys, int n, int head_dim, const int R)
{
    const int V = VECTORS(R);

    for (int j = 0; j < n; j += 8 * V)
        score_block(queries, keys, j, head_dim, R, V);
}

TEMPLATE void
values_of(struct query *queries, const uint16_t *values, int from, int to, int head_dim,
          const int R)
{
    const int V = VECTORS(R);
    int i = 0;

    for (; i + 8 * V <= head_dim; i += 8 * V)
        value_block(queries, values, from, to, i, head_dim, R, V);
    for (; i < head_dim; i += 16)
        value_block(queries, values, from, to, i, head_dim, R, 2);
}

static void
scores(struct query *queries, const uint16_t *keys, int n, int head_dim, int count)
{
    CALL_FOR_COUNT(count, scores_of, queries, keys, n, head_dim)
}

static void
values_sum(struct query *queries, const uint16_t *values, int from, int to, int head_dim,
           int count)
{
    CALL_FOR_COUNT(count, values_of, queries, values, from, to, head_dim)
}

static void
soften(struct query *q, int n, bool first, int head_dim)
{
    const __m256 lowest = _mm256_set1_ps(-INFINITY);
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256 s[8], m = lowest;
    float largest;

    for (int v = 0; v < 8; v++) {
        __m256i seen = _mm256_cmpgt_epi32(_mm256_set1_epi32(n - 8 * v), lane);

        s[v] = _mm256_blendv_ps(lowest, _mm256_loadu_ps(q->p + 8 * v),
                                _mm256_castsi256_ps(seen));
        m = _mm256_max_ps(m, s[v]);
    }
    largest = largest8(m);
    if (!first && q->m >= largest)
        largest = q->m;
    m = _mm256_set1_ps(largest);
    for (int v = 0; v < 8; v++) {
        s[v] = 8 * v < n ? exp8(_mm256_sub_ps(s[v], m)) : _mm256_setzero_ps();
        _mm256_storeu_ps(q->p + 8 * v, s[v]);
    }
    if (!first && q->m != largest) {
        float c = mathfn_expf(q->m - largest);

        q->l *= c;
        for (int i = 0; i < head_dim; i += 8)
            _mm256_storeu_ps(q->o + i,
                             _mm256_mul_ps(_mm256_loadu_ps(q->o + i), _mm256_set1_ps(c)));
    }
    for (int v = 0; v < 2; v++)
        s[v] = _mm256_add_ps(_mm256_add_ps(_mm256_add_ps(s[v], s[v + 2]), s[v + 4]),
                             s[v + 6]);
    q->l += tree16(s[0], s[1]);
    q->m = largest;
}

static void
kv_append(uint16_t *part, int slot, const float *k, const float *v, int head_dim)
{
    uint16_t *values =
        part + (size_t)head_dim * KV_PAGE + (size_t)slot * (size_t)head_dim;
    uint16_t *keys = part + kv_key_at(head_dim, slot);
    uint16_t column[8];

    for (int i = 0; i < head_dim; i += 8) {
        _mm_storeu_si128(
            (__m128i *)(values + i),
            _mm256_cvtps_ph(_mm256_loadu_ps(v + i), _MM_FROUND_TO_NEAREST_INT));
        _mm_storeu_si128((__m128i *)column, _mm256_cvtps_ph(_mm256_loadu_ps(k + i),
                                                            _MM_FROUND_TO_NEAREST_INT));
        for (int j = 0; j < 8; j++)
            keys[(i + j) * KV_STRIP] = column[j];
    }
}

void
kernels_avx2_install_attention(struct kernels *k)
{
    k->attention = attention;
    k->kv_append = kv_append;
}
