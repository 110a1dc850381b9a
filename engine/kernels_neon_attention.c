/* SPDX-License-Identifier: Apache-2.0
 * kernels_neon_attention.c - attention over pages of half floats.
 *
 * The three steps of a tile; kernels_attention.h has the way through the tiles.
 * R, the queries, and V, the vectors a query keeps in registers, are constants.
 */
#include "engine/kernels_neon.h"
#include "engine/kernels_attention.h"

/* Vectors of each of R queries: R * V accumulators and V operands fit 32 registers. */
#define VECTORS(R) ((R) <= 2 ? 8 : 4)

/* Scores of positions j .. j + 4V - 1 for R queries; V is 4 or 8. */
TEMPLATE void
score_block(struct query *queries, const uint16_t *keys, int j, int head_dim, const int R,
            const int V)
{
    float32x4_t s[ATTENTION_QUERIES][8];

    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++)
            s[r][v] = vdupq_n_f32(0);
    for (int i = 0; i < head_dim; i++) {
        float32x4_t k[8];

        for (int v = 0; v < V; v += 4)
            load_half16(k + v, keys + (j + 4 * v) * head_dim + i * KV_STRIP);
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++)
                s[r][v] = vfmaq_n_f32(s[r][v], k[v], queries[r].q[i]);
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++)
            vst1q_f32(queries[r].p + j + 4 * v, s[r][v]);
}

/* o[i .. i + 4V - 1] of R queries, over positions from .. to - 1. */
TEMPLATE void
value_block(struct query *queries, const uint16_t *values, int from, int to, int i,
            int head_dim, const int R, const int V)
{
    float32x4_t o[ATTENTION_QUERIES][8];

    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++)
            o[r][v] = vld1q_f32(queries[r].o + i + 4 * v);
    for (int j = from; j < to; j++) {
        float32x4_t x[8];

        for (int v = 0; v < V; v += 4)
            load_half16(x + v, values + j * head_dim + i + 4 * v);
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++)
                o[r][v] = vfmaq_n_f32(o[r][v], x[v], queries[r].p[j]);
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++)
            vst1q_f32(queries[r].o + i + 4 * v, o[r][v]);
}

TEMPLATE void
scores_of(struct query *queries, const uint16_t *keys, int n, int head_dim, const int R)
{
    const int V = VECTORS(R);

    for (int j = 0; j < n; j += 4 * V)
        score_block(queries, keys, j, head_dim, R, V);
}

TEMPLATE void
values_of(struct query *queries, const uint16_t *values, int from, int to, int head_dim,
          const int R)
{
    const int V = VECTORS(R);
    int i = 0;

    for (; i + 4 * V <= head_dim; i += 4 * V)
        value_block(queries, values, from, to, i, head_dim, R, V);
    for (; i < head_dim; i += 16)
        value_block(queries, values, from, to, i, head_dim, R, 4);
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
    static const int32_t lanes[4] = { 0, 1, 2, 3 };
    const float32x4_t lowest = vdupq_n_f32(-INFINITY);
    float32x4_t s[16], m = lowest;
    float largest;

    for (int v = 0; v < 16; v++) {
        uint32x4_t seen = vcgtq_s32(vdupq_n_s32(n - 4 * v), vld1q_s32(lanes));

        s[v] = vbslq_f32(seen, vld1q_f32(q->p + 4 * v), lowest);
        m = vmaxq_f32(m, s[v]);
    }
    largest = vmaxvq_f32(m);
    if (!first && q->m >= largest)
        largest = q->m;
    for (int v = 0; v < 16; v++) {
        s[v] = 4 * v < n ? exp4(vsubq_f32(s[v], vdupq_n_f32(largest))) : vdupq_n_f32(0);
        vst1q_f32(q->p + 4 * v, s[v]);
    }
    if (!first && q->m != largest) {
        float c = mathfn_expf(q->m - largest);

        q->l *= c;
        for (int i = 0; i < head_dim; i += 4)
            vst1q_f32(q->o + i, vmulq_n_f32(vld1q_f32(q->o + i), c));
    }
    for (int v = 0; v < 4; v++)
        s[v] = vaddq_f32(vaddq_f32(vaddq_f32(s[v], s[v + 4]), s[v + 8]), s[v + 12]);
    q->l += tree16(s);
    q->m = largest;
}

static void
kv_append(uint16_t *part, int slot, const float *k, const float *v, int head_dim)
{
    uint16_t *values =
        part + (size_t)head_dim * KV_PAGE + (size_t)slot * (size_t)head_dim;
    uint16_t *keys = part + kv_key_at(head_dim, slot);
    uint16_t column[4];

    for (int i = 0; i < head_dim; i += 4) {
        vst1_u16(values + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(v + i))));
        vst1_u16(column, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(k + i))));
        for (int j = 0; j < 4; j++)
            keys[(i + j) * KV_STRIP] = column[j];
    }
}

void
kernels_neon_install_attention(struct kernels *k)
{
    k->attention = attention;
    k->kv_append = kv_append;
}
