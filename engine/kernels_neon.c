/* SPDX-License-Identifier: Apache-2.0
 * kernels_neon.c - rows of floats, four at a time.
 *
 * Sums over sixteen lanes are kept in four registers. Where a row's length is no
 * multiple of four the last lanes go through a buffer on the stack, so that one piece
 * of code serves them all.
 */
#include "engine/kernels_neon.h"

/* The first n (1 to 4) floats at p, zeros behind them. */
TEMPLATE float32x4_t
load_some(const float *p, size_t n)
{
    float buffer[4] = { 0 };

    if (n >= 4)
        return vld1q_f32(p);
    memcpy(buffer, p, n * sizeof(*p));
    return vld1q_f32(buffer);
}

TEMPLATE void
store_some(float *p, float32x4_t x, size_t n)
{
    float buffer[4];

    if (n >= 4) {
        vst1q_f32(p, x);
        return;
    }
    vst1q_f32(buffer, x);
    memcpy(p, buffer, n * sizeof(*p));
}

/* ---- section 2 ---- */

static void
quantise_group(struct act_group *out, const float *x)
{
    float32x4_t v[8], top;
    int16x8_t half[4];
    float a, r;

    for (int i = 0; i < 8; i++)
        v[i] = vld1q_f32(x + 4 * i);
    top = vabsq_f32(v[0]);
    for (int i = 1; i < 8; i++)
        top = vmaxq_f32(top, vabsq_f32(v[i]));
    a = vmaxvq_f32(top);
    out->d = a >= 0x1p-100f ? a / 127.0f : 0.0f;
    r = a >= 0x1p-100f ? 127.0f / a : 0.0f;
    for (int i = 0; i < 4; i++) {
        int32x4_t low = vcvtnq_s32_f32(vmulq_n_f32(v[2 * i], r));
        int32x4_t high = vcvtnq_s32_f32(vmulq_n_f32(v[2 * i + 1], r));

        half[i] = vcombine_s16(vmovn_s32(low), vmovn_s32(high));
    }
    vst1q_s8(out->q, vcombine_s8(vmovn_s16(half[0]), vmovn_s16(half[1])));
    vst1q_s8(out->q + 16, vcombine_s8(vmovn_s16(half[2]), vmovn_s16(half[3])));
    act_group_sums(out, vaddvq_s16(vaddq_s16(half[0], half[1])),
                   vaddvq_s16(vaddq_s16(half[2], half[3])));
}

static void
quantise(struct act_group *out, const float *x, size_t n)
{
    for (size_t g = 0; g < n / ACT_GROUP; g++)
        quantise_group(&out[g], x + g * ACT_GROUP);
}

/* ---- sections 4 to 6 ---- */

static float
sum_of_squares(const float *x, size_t n)
{
    float32x4_t p[4] = { vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0) };
    size_t i = 0;

    for (; i + 16 <= n; i += 16) {
        for (int h = 0; h < 4; h++) {
            float32x4_t v = vld1q_f32(x + i + 4 * h);

            p[h] = vfmaq_f32(p[h], v, v);
        }
    }
    for (int h = 0; i < n; h++, i += 4) { /* zeros leave the other lanes as they are */
        float32x4_t v = load_some(x + i, n - i);

        p[h] = vfmaq_f32(p[h], v, v);
    }
    return tree16(p);
}

static void
rmsnorm(float *y, const float *x, const float *weight, size_t n, float eps)
{
    float r = 1.0f / sqrtf(sum_of_squares(x, n) / (float)n + eps);

    for (size_t i = 0; i < n; i += 4) {
        float32x4_t v = vmulq_n_f32(load_some(x + i, n - i), r);

        if (weight)
            v = vmulq_f32(v, load_some(weight + i, n - i));
        store_some(y + i, v, n - i);
    }
}

static void
add(float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i += 4)
        store_some(x + i, vaddq_f32(load_some(x + i, n - i), load_some(y + i, n - i)),
                   n - i);
}

static void
swiglu(float *out, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i += 4) {
        float32x4_t g = load_some(gate + i, n - i);
        float32x4_t silu = vdivq_f32(g, vaddq_f32(vdupq_n_f32(1), exp4(vnegq_f32(g))));

        store_some(out + i, vmulq_f32(silu, load_some(up + i, n - i)), n - i);
    }
}

/* One head, four pairs at a time: loads and stores take pairs apart and join them. */
static void
rope_head(float *x, const float *cos_row, const float *sin_row, int n_rot)
{
    int i = 0;

    for (; i + 8 <= n_rot; i += 8) {
        float32x4x2_t v = vld2q_f32(x + i), y;
        float32x4_t c = vld1q_f32(cos_row + i / 2), s = vld1q_f32(sin_row + i / 2);

        y.val[0] = vfmaq_f32(vnegq_f32(vmulq_f32(v.val[1], s)), v.val[0], c);
        y.val[1] = vfmaq_f32(vmulq_f32(v.val[1], c), v.val[0], s);
        vst2q_f32(x + i, y);
    }
    for (; i < n_rot; i += 2) {
        float x0 = x[i], x1 = x[i + 1], c = cos_row[i / 2], s = sin_row[i / 2];

        x[i] = fmaf(x0, c, -(x1 * s));
        x[i + 1] = fmaf(x0, s, x1 * c);
    }
}

static void
rope(float *x, const float *cos_row, const float *sin_row, int n_heads, int head_dim,
     int n_rot)
{
    for (int h = 0; h < n_heads; h++)
        rope_head(x + h * head_dim, cos_row, sin_row, n_rot);
}

/* Four pairs at a time, those of the last run that are there. */
static void
rope_halves(float *x, const float *cos_row, const float *sin_row, int n_heads,
            int head_dim, int n_rot)
{
    size_t half = (size_t)n_rot / 2;

    for (int h = 0; h < n_heads; h++, x += head_dim) {
        for (size_t i = 0; i < half; i += 4) {
            size_t n = half - i;
            float32x4_t x0 = load_some(x + i, n), x1 = load_some(x + half + i, n);
            float32x4_t c = load_some(cos_row + i, n), s = load_some(sin_row + i, n);

            store_some(x + i, vfmaq_f32(vnegq_f32(vmulq_f32(x1, s)), x0, c), n);
            store_some(x + half + i, vfmaq_f32(vmulq_f32(x1, c), x0, s), n);
        }
    }
}

/* ---- section 9 ---- */

/* Which of four lanes are set: sixteen bits for each. */
TEMPLATE uint64_t
lanes_of(uint32x4_t set)
{
    return vget_lane_u64(vreinterpret_u64_u16(vmovn_u32(set)), 0);
}

TEMPLATE size_t
first_of(uint64_t lanes)
{
    return (size_t)__builtin_ctzll(lanes) / 16;
}

/* The largest of n floats and where it first stands. A NaN hides the others here: the
 * sum of exponentials catches it. */
static int32_t
find_largest(const float *x, size_t n)
{
    float32x4_t m = vdupq_n_f32(x[0]);
    float largest;
    size_t i = 0;

    for (; i + 4 <= n; i += 4)
        m = vmaxq_f32(m, vld1q_f32(x + i));
    largest = vmaxvq_f32(m);
    for (; i < n; i++)
        largest = x[i] > largest ? x[i] : largest;
    for (i = 0; i + 4 <= n; i += 4) {
        uint64_t lanes = lanes_of(vceqq_f32(vld1q_f32(x + i), vdupq_n_f32(largest)));

        if (lanes != 0)
            return (int32_t)(i + first_of(lanes));
    }
    for (; i < n; i++)
        if (x[i] == largest)
            return (int32_t)i;
    return 0; /* there is a NaN */
}

static void
logit_chunk(struct logit_chunk *out, const float *x, size_t n)
{
    float32x4_t p[4] = { vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0) };
    float32x4_t m;
    float last[16];
    size_t i = 0;

    out->argmax = find_largest(x, n);
    out->max = x[out->argmax];
    m = vdupq_n_f32(out->max);
    for (; i + 16 <= n; i += 16)
        for (int h = 0; h < 4; h++)
            p[h] = vaddq_f32(p[h], exp4(vsubq_f32(vld1q_f32(x + i + 4 * h), m)));
    if (i < n) {
        for (size_t j = 0; j < 16; j++) /* exp gives zero there */
            last[j] = i + j < n ? x[i + j] - out->max : -INFINITY;
        for (int h = 0; h < 4; h++)
            p[h] = vaddq_f32(p[h], exp4(vld1q_f32(last + 4 * h)));
    }
    out->sum = tree16(p);
}

static size_t
find_above(const float *x, size_t from, size_t n, float threshold)
{
    float32x4_t t = vdupq_n_f32(threshold);

    for (; from + 4 <= n; from += 4) {
        uint64_t lanes = lanes_of(vcgtq_f32(vld1q_f32(x + from), t));

        if (lanes != 0)
            return from + first_of(lanes);
    }
    while (from < n && !(x[from] > threshold))
        from++;
    return from;
}

void
kernels_neon_install(struct kernels *k)
{
    k->name = "neon";
    k->quantise = quantise;
    k->rmsnorm = rmsnorm;
    k->add = add;
    k->swiglu = swiglu;
    k->rope = rope;
    k->rope_halves = rope_halves;
    k->logit_chunk = logit_chunk;
    k->find_above = find_above;
    kernels_neon_install_matmul(k);
    kernels_neon_install_attention(k);
}
