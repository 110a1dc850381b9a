/* SPDX-License-Identifier: Apache-2.0
 * kernels_avx512_attention.c - attention over pages of half floats.
 *
 * The three steps of a tile; kernels_attention.h has the way through the tiles.
 * R, the queries, is a constant; each keeps four vectors in registers.
 */
#include "engine/kernels_avx512.h"
#include "engine/kernels_attention.h"

/* Scores of positions j .. j + 16V - 1, V strips of K, for R queries. */
TEMPLATE void
score_block(struct query *queries, const uint16_t *keys, int j, int head_dim, const int R,
            const int V)
{
    __m512 s[ATTENTION_QUERIES][4];

    keys += j * head_dim;
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++)
            s[r][v] = _mm512_setzero_ps();
    for (int i = 0; i < head_dim; i++) {
        __m512 k[4];

        for (int v = 0; v < V; v++)
            k[v] = load_half16(keys + (v * head_dim + i) * KV_STRIP);
        for (int r = 0; r < R; r++) {
            __m512 q = _mm512_set1_ps(queries[r].q[i]);

            for (int v = 0; v < V; v++)
                s[r][v] = _mm512_fmadd_ps(q, k[v], s[r][v]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++)
            _mm512_storeu_ps(queries[r].p + j + 16 * v, s[r][v]);
}

/* Strips that a pass reads side by side. The most queries are those of a prefill, whose
 * keys are in the cache: four strips share the broadcasts. Fewer are a decode's, which
 * come from memory: one strip after another is one stream, unless so few sums would wait
 * for one another (three queries, 128 positions: 1.7 us with one, 3.3 with four). */
#define STRIPS(R) ((R) == ATTENTION_QUERIES || (R) == 1 ? 4 : (R) == 2 ? 2 : 1)

TEMPLATE void
scores_of(struct query *queries, const uint16_t *keys, int most, int head_dim,
          const int R)
{
    for (int j = 0; j < most; j += STRIPS(R) * KV_STRIP)
        score_block(queries, keys, j, head_dim, R, STRIPS(R));
}

/* o[i .. i + 16V - 1] of R queries, over positions from .. to - 1. */
TEMPLATE void
value_block(struct query *queries, const uint16_t *values, int from, int to, int i,
            int head_dim, const int R, const int V)
{
    __m512 o[ATTENTION_QUERIES][4];

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
scores(struct query *queries, const uint16_t *keys, int most, int head_dim, int count)
{
    CALL_FOR_COUNT(count, scores_of, queries, keys, most, head_dim)
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

static void
kv_append(uint16_t *part, int slot, const float *k, const float *v, int head_dim)
{
    uint16_t *values =
        part + (size_t)head_dim * KV_PAGE + (size_t)slot * (size_t)head_dim;
    uint16_t *keys = part + kv_key_at(head_dim, slot);
    uint16_t column[16];

    for (int i = 0; i < head_dim; i += 16) {
        _mm256_storeu_si256(
            (__m256i *)(values + i),
            _mm512_cvtps_ph(_mm512_loadu_ps(v + i), _MM_FROUND_TO_NEAREST_INT));
        _mm256_storeu_si256(
            (__m256i *)column,
            _mm512_cvtps_ph(_mm512_loadu_ps(k + i), _MM_FROUND_TO_NEAREST_INT));
        for (int j = 0; j < 16; j++)
            keys[(i + j) * KV_STRIP] = column[j];
    }
}

void
kernels_avx512_install_attention(struct kernels *k)
{
    k->attention = attention;
    k->kv_append = kv_append;
}
