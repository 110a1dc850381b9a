/* SPDX-License-Identifier: Apache-2.0
 * kernels_scalar.c - every kernel in plain C: doc/NUMERICS.md, executable.
 *
 * Written to be read beside that page and to be compared with, not to be fast: one
 * output at a time, in the order the page gives. fmaf is the C library's, which
 * rounds once whether or not the CPU has the instruction.
 */
#include "engine/kernels.h"

#include <math.h>
#include <string.h>

#include "common/half.h"
#include "engine/mathfn.h"

static float
tree16(const float a[16])
{
    float b[8], c[4], d[2];

    for (int i = 0; i < 8; i++)
        b[i] = a[i] + a[i + 8];
    for (int i = 0; i < 4; i++)
        c[i] = b[i] + b[i + 4];
    for (int i = 0; i < 2; i++)
        d[i] = c[i] + c[i + 2];
    return d[0] + d[1];
}

static float
larger(float a, float b)
{
    return a > b ? a : b;
}

/* ---- section 2 ---- */

static void
quantise_group(struct act_group *out, const float *x)
{
    float a = 0.0f, r = 0.0f;
    int32_t sums[2] = { 0, 0 };

    for (int i = 0; i < ACT_GROUP; i++)
        a = larger(fabsf(x[i]), a);
    out->d = 0.0f;
    if (a >= 0x1p-100f) {
        out->d = a / 127.0f;
        r = 127.0f / a;
    }
    for (int i = 0; i < ACT_GROUP; i++) {
        float q = a >= 0x1p-100f ? rintf(x[i] * r) : 0;

        out->q[i] = q >= -127 && q <= 127 ? (int8_t)q : 0; /* 0: not a number */
        sums[i / 16] += out->q[i];
    }
    act_group_sums(out, sums[0], sums[1]);
}

static void
quantise(struct act_group *out, const float *x, size_t n)
{
    for (size_t g = 0; g < n / ACT_GROUP; g++)
        quantise_group(&out[g], x + g * ACT_GROUP);
}

/* ---- section 3 ---- */

static float
half_at(const uint8_t *p, size_t index)
{
    uint16_t h;

    memcpy(&h, p + index * sizeof(h), sizeof(h));
    return half_to_float(h);
}

/* Bits of column `column` of row `row` in a plane of `bits` bits, a power of two. */
static inline __attribute__((always_inline)) int
plane_bits(const uint8_t *plane, const size_t bits, size_t row, size_t column)
{
    size_t chunk = column / 4, vector = chunk & (bits - 1);
    uint8_t byte = plane[(vector * PACKED_ROWS + row) * 4 + column % 4];

    return byte >> (chunk - vector) & ((1 << bits) - 1);
}

/* The integer dot product of columns [from, to) of row `row` of a block, codes less their
 * offset. Their planes have `base` and `more` bits, constants; more may be 0. */
static inline __attribute__((always_inline)) int32_t
dot_planes(const uint8_t *block, const size_t base, const size_t more, int offset,
           size_t row, size_t from, size_t to, const int8_t *q)
{
    int32_t sum = 0;

    for (size_t i = from; i < to; i++) {
        int n = plane_bits(block, base, row, i);

        if (more > 0) /* behind a plane of base * 64 bytes */
            n |= plane_bits(block + base * 64, more, row, i) << base;
        sum += (n - offset) * q[i];
    }
    return sum;
}

/* The same for a block of any format. */
static int32_t
dot(const uint8_t *block, enum packed_format f, size_t row, size_t from, size_t to,
    const int8_t *q)
{
    int offset = packed_traits[f].offset;
    int32_t sum = 0;

    switch (packed_traits[f].bits) {
    case 2:
        return dot_planes(block, 2, 0, offset, row, from, to, q);
    case 3:
        return dot_planes(block, 2, 1, offset, row, from, to, q);
    case 4:
        return dot_planes(block, 4, 0, offset, row, from, to, q);
    case 5:
        return dot_planes(block, 4, 1, offset, row, from, to, q);
    case 6:
        return dot_planes(block, 4, 2, offset, row, from, to, q);
    default: /* whole signed bytes */
        for (size_t i = from; i < to; i++)
            sum += (int8_t)block[(i / 4 * PACKED_ROWS + row) * 4 + i % 4] * q[i];
        return sum;
    }
}

static float
output_blocks(const struct packed *w, const uint8_t *block, size_t row,
              const struct act_group *a)
{
    float acc = 0.0f;

    for (size_t b = 0; b < w->n_in / PACKED_BLOCK; b++) {
        const uint8_t *scales = block + packed_code_bytes(w->format);
        int32_t idot = dot(block, w->format, row, 0, PACKED_BLOCK, a[b].q);

        acc = fmaf((float)idot * half_at(scales, row), a[b].d, acc);
        if (packed_traits[w->format].minimum)
            acc = fmaf(half_at(scales, PACKED_ROWS + row), a[b].e, acc);
        block += packed_block_bytes(w->format);
    }
    return acc;
}

/* One block of a superblock whose halves are d and dmin. */
static float
add_sub_blocks(float acc, const uint8_t *block, enum packed_format f, size_t row, float d,
               float dmin, const struct act_group *a)
{
    const uint8_t *sc = block + packed_code_bytes(f) + row;
    size_t sub = packed_traits[f].sub, n = PACKED_BLOCK / sub;
    const uint8_t *m = sc + n * PACKED_ROWS;
    int32_t idot = 0;

    for (size_t i = 0; i < n; i++) /* those of Q2_K, Q4_K and Q5_K are below 128, too */
        idot += (int8_t)sc[i * PACKED_ROWS] *
                dot(block, f, row, i * sub, (i + 1) * sub, a->q);
    acc = fmaf((float)idot * d, a->d, acc);
    if (packed_traits[f].minimum && n == 1)
        acc = fmaf(-(dmin * (float)m[0]), a->e, acc);
    if (packed_traits[f].minimum && n == 2) {
        float mdot =
            (float)m[0] * a->half_sum[0] + (float)m[PACKED_ROWS] * a->half_sum[1];

        acc = fmaf(-(mdot * dmin), a->d, acc);
    }
    return acc;
}

static float
output_super(const struct packed *w, const uint8_t *tile, size_t row,
             const struct act_group *a)
{
    float acc = 0.0f;

    for (size_t s = 0; s < w->n_in / PACKED_SUPER; s++) {
        const uint8_t *block = tile + packed_halves_bytes(w->format);
        float d = half_at(tile, row), dmin = 0.0f;

        if (packed_traits[w->format].minimum)
            dmin = half_at(tile, PACKED_ROWS + row);
        for (int b = 0; b < PACKED_SUPER / PACKED_BLOCK; b++, a++) {
            acc = add_sub_blocks(acc, block, w->format, row, d, dmin, a);
            block += packed_block_bytes(w->format);
        }
        tile = block;
    }
    return acc;
}

/* A bfloat16 is the upper half of a float. */
static float
brain_at(const uint8_t *p, size_t index)
{
    uint16_t h;
    uint32_t bits;
    float v;

    memcpy(&h, p + index * sizeof(h), sizeof(h));
    bits = (uint32_t)h << 16;
    memcpy(&v, &bits, sizeof(v));
    return v;
}

static float
output_plain(const struct packed *w, const uint8_t *tile, size_t row, const float *x)
{
    float acc = 0.0f;

    for (size_t i = 0; i < w->n_in; i++) {
        float weight;

        if (w->format == PACKED_F16)
            weight = half_at(tile, i * PACKED_ROWS + row);
        else if (w->format == PACKED_BF16)
            weight = brain_at(tile, i * PACKED_ROWS + row);
        else
            memcpy(&weight, tile + (i * PACKED_ROWS + row) * sizeof(float),
                   sizeof(float));
        acc = fmaf(weight, x[i], acc);
    }
    return acc;
}

static void
matmul(float *y, size_t y_stride, const struct packed *w, size_t tile_from,
       size_t tile_to, const struct activations *a)
{
    size_t last = tile_to * PACKED_ROWS < w->n_out ? tile_to * PACKED_ROWS : w->n_out;

    for (size_t r = 0; r < a->n_rows; r++) {
        const struct act_group *groups =
            packed_is_quantised(w) ? a->groups + r * (w->n_in / ACT_GROUP) : NULL;

        for (size_t o = tile_from * PACKED_ROWS; o < last; o++) {
            const uint8_t *tile = packed_tile(w, o / PACKED_ROWS);
            size_t row = o % PACKED_ROWS;
            float *out = &y[r * y_stride + o];

            if (!packed_is_quantised(w))
                *out = output_plain(w, tile, row, a->x + r * w->n_in);
            else if (packed_traits[w->format].sub == 0)
                *out = output_blocks(w, tile, row, groups);
            else
                *out = output_super(w, tile, row, groups);
        }
    }
}

/* ---- sections 4 to 6 ---- */

static void
rmsnorm(float *y, const float *x, const float *weight, size_t n, float eps)
{
    float p[16] = { 0 }, r;

    for (size_t i = 0; i < n; i++)
        p[i % 16] = fmaf(x[i], x[i], p[i % 16]);
    r = 1.0f / sqrtf(tree16(p) / (float)n + eps);
    for (size_t i = 0; i < n; i++)
        y[i] = weight ? (x[i] * r) * weight[i] : x[i] * r;
}

static void
add(float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] += y[i];
}

static void
swiglu(float *out, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = mathfn_siluf(gate[i]) * up[i];
}

static void
rope(float *x, const float *cos_row, const float *sin_row, int n_heads, int head_dim,
     int n_rot)
{
    for (int h = 0; h < n_heads; h++, x += head_dim) {
        for (int i = 0; 2 * i < n_rot; i++) {
            float x0 = x[2 * i], x1 = x[2 * i + 1];

            x[2 * i] = fmaf(x0, cos_row[i], -(x1 * sin_row[i]));
            x[2 * i + 1] = fmaf(x0, sin_row[i], x1 * cos_row[i]);
        }
    }
}

static void
rope_halves(float *x, const float *cos_row, const float *sin_row, int n_heads,
            int head_dim, int n_rot)
{
    int half = n_rot / 2;

    for (int h = 0; h < n_heads; h++, x += head_dim) {
        for (int i = 0; i < half; i++) {
            float x0 = x[i], x1 = x[i + half];

            x[i] = fmaf(x0, cos_row[i], -(x1 * sin_row[i]));
            x[i + half] = fmaf(x0, sin_row[i], x1 * cos_row[i]);
        }
    }
}

/* ---- section 7 ---- */

static void
kv_append(uint16_t *part, int slot, const float *k, const float *v, int head_dim)
{
    uint16_t *values =
        part + (size_t)head_dim * KV_PAGE + (size_t)slot * (size_t)head_dim;
    uint16_t *keys = part + kv_key_at(head_dim, slot);

    for (int i = 0; i < head_dim; i++) {
        keys[i * KV_STRIP] = half_from_float(k[i]);
        values[i] = half_from_float(v[i]);
    }
}

struct attention_state {
    float m, l;
    float o[KV_MAX_HEAD_DIM];
};

/* Scores of the tile's first n positions, then what is left of them after exp. */
static float
tile_scores(float s[KV_PAGE], const uint16_t *part, int n, const float *q, int head_dim)
{
    float m = -INFINITY;

    for (int j = 0; j < n; j++) {
        s[j] = 0.0f;
        for (int i = 0; i < head_dim; i++)
            s[j] = fmaf(
                q[i], half_to_float(part[kv_key_at(head_dim, j) + (size_t)i * KV_STRIP]),
                s[j]);
        m = larger(s[j], m);
    }
    return m;
}

static void
attend_tile(struct attention_state *state, const uint16_t *part, int n, bool first,
            const float *q, int head_dim)
{
    const uint16_t *values = part + (size_t)head_dim * KV_PAGE;
    float p[KV_PAGE] = { 0 }, a[16];
    float m = tile_scores(p, part, n, q, head_dim);

    if (!first) {
        float c;

        m = larger(m, state->m);
        c = mathfn_expf(state->m - m);
        state->l *= c;
        for (int i = 0; i < head_dim; i++)
            state->o[i] *= c;
    }
    for (int j = 0; j < n; j++)
        p[j] = mathfn_expf(p[j] - m);
    for (int i = 0; i < 16; i++)
        a[i] = ((p[i] + p[i + 16]) + p[i + 32]) + p[i + 48];
    state->l += tree16(a);
    for (int j = 0; j < n; j++)
        for (int i = 0; i < head_dim; i++)
            state->o[i] =
                fmaf(p[j], half_to_float(values[j * head_dim + i]), state->o[i]);
    state->m = m;
}

static void
attend(float *out, const float *q, int32_t position, const struct attention_job *job)
{
    struct attention_state state = { 0 };
    float scale = 1.0f / sqrtf((float)job->head_dim);
    float scaled[KV_MAX_HEAD_DIM], inverse;

    for (int i = 0; i < job->head_dim; i++)
        scaled[i] = q[i] * scale;
    for (int32_t from = 0; from <= position; from += KV_PAGE) {
        int n = position - from < KV_PAGE ? (int)(position - from) + 1 : KV_PAGE;

        attend_tile(&state, job->pages[from / KV_PAGE] + job->part, n, from == 0, scaled,
                    job->head_dim);
    }
    inverse = 1.0f / state.l;
    for (int i = 0; i < job->head_dim; i++)
        out[i] = state.o[i] * inverse;
}

static void
attention(const struct attention_job *job)
{
    for (int r = 0; r < job->n_rows; r++)
        for (int g = 0; g < job->n_group; g++)
            attend(job->out + (size_t)r * job->out_stride + g * job->head_dim,
                   job->q + (size_t)r * job->q_stride + g * job->head_dim, job->pos + r,
                   job);
}

/* ---- section 9 ---- */

static void
logit_chunk(struct logit_chunk *out, const float *x, size_t n)
{
    float p[16] = { 0 };

    out->argmax = 0;
    for (size_t i = 1; i < n; i++)
        if (x[i] > x[out->argmax])
            out->argmax = (int32_t)i;
    out->max = x[out->argmax];
    for (size_t i = 0; i < n; i++)
        p[i % 16] += mathfn_expf(x[i] - out->max);
    out->sum = tree16(p);
}

static size_t
find_above(const float *x, size_t from, size_t n, float threshold)
{
    while (from < n && !(x[from] > threshold))
        from++;
    return from;
}

void
kernels_scalar_install(struct kernels *k)
{
    k->name = "scalar";
    k->quantise = quantise;
    for (int f = 0; f < PACKED_N_FORMATS; f++)
        k->matmul[f] = matmul;
    k->rmsnorm = rmsnorm;
    k->add = add;
    k->swiglu = swiglu;
    k->rope = rope;
    k->rope_halves = rope_halves;
    k->kv_append = kv_append;
    k->attention = attention;
    k->logit_chunk = logit_chunk;
    k->find_above = find_above;
}
