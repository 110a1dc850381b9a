/* SPDX-License-Identifier: Apache-2.0
 * kernels_avx512.c - rows of floats, sixteen at a time; ends of rows by masks.
 */
#include "engine/kernels_avx512.h"

/* ---- section 2 ---- */

/* Eight sums of two lanes of x. */
TEMPLATE __m256i
sum_pairs(__m512i x)
{
    return _mm256_add_epi32(_mm512_castsi512_si256(x), _mm512_extracti32x8_epi32(x, 1));
}

/* The sums of a and of b, in lanes 0 and 1. */
TEMPLATE __m128i
sum_both(__m512i a, __m512i b)
{
    __m256i s = _mm256_hadd_epi32(sum_pairs(a), sum_pairs(b));
    __m128i t = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));

    return _mm_hadd_epi32(t, t);
}

static void
quantise_group(struct act_group *out, const float *x)
{
    __m512 v0 = _mm512_loadu_ps(x), v1 = _mm512_loadu_ps(x + 16), r;
    __m512i q0, q1;
    __m128i sums;
    float a = largest16(_mm512_max_ps(_mm512_abs_ps(v0), _mm512_abs_ps(v1)));

    out->d = a >= 0x1p-100f ? a / 127.0f : 0.0f;
    r = _mm512_set1_ps(a >= 0x1p-100f ? 127.0f / a : 0.0f);
    q0 = _mm512_cvtps_epi32(_mm512_mul_ps(v0, r));
    q1 = _mm512_cvtps_epi32(_mm512_mul_ps(v1, r));
    _mm_storeu_si128((__m128i *)out->q, _mm512_cvtepi32_epi8(q0));
    _mm_storeu_si128((__m128i *)(out->q + 16), _mm512_cvtepi32_epi8(q1));
    sums = sum_both(q0, q1);
    act_group_sums(out, _mm_cvtsi128_si32(sums), _mm_extract_epi32(sums, 1));
}

static void
quantise(struct act_group *out, const float *x, size_t n)
{
    for (size_t g = 0; g < n / ACT_GROUP; g++)
        quantise_group(&out[g], x + g * ACT_GROUP);
}

/* ---- sections 4 to 6 ---- */

static void
rmsnorm(float *y, const float *x, const float *weight, size_t n, float eps)
{
    __m512 p = _mm512_setzero_ps(), r;

    for (size_t i = 0; i < n; i += 16) { /* zeros leave the other lanes as they are */
        __m512 v = _mm512_maskz_loadu_ps(first_lanes(n - i), x + i);

        p = _mm512_fmadd_ps(v, v, p);
    }
    r = _mm512_set1_ps(1.0f / sqrtf(tree16(p) / (float)n + eps));
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 lanes = first_lanes(n - i);
        __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, x + i), r);

        if (weight)
            v = _mm512_mul_ps(v, _mm512_maskz_loadu_ps(lanes, weight + i));
        _mm512_mask_storeu_ps(y + i, lanes, v);
    }
}

static void
add(float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 lanes = first_lanes(n - i);

        _mm512_mask_storeu_ps(x + i, lanes,
                              _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, x + i),
                                            _mm512_maskz_loadu_ps(lanes, y + i)));
    }
}

static void
swiglu(float *out, const float *gate, const float *up, size_t n)
{
    const __m512 one = _mm512_set1_ps(1.0f), minus = _mm512_set1_ps(-0.0f);

    for (size_t i = 0; i < n; i += 16) {
        __mmask16 lanes = first_lanes(n - i);
        __m512 g = _mm512_maskz_loadu_ps(lanes, gate + i);
        __m512 e = exp16(_mm512_xor_ps(g, minus));
        __m512 silu = _mm512_div_ps(g, _mm512_add_ps(one, e));

        _mm512_mask_storeu_ps(out + i, lanes,
                              _mm512_mul_ps(silu, _mm512_maskz_loadu_ps(lanes, up + i)));
    }
}

/* One head. Eight pairs at a time: cosines doubled (c0 c0 c1 c1 ...), neighbours
 * swapped, and the product with the sine subtracted in even lanes, added in odd. */
static void
rope_head(float *x, const float *cos_row, const float *sin_row, int n_rot)
{
    const __m512i twice =
        _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    const __mmask16 odd = 0xaaaa;

    for (int i = 0; i < n_rot; i += 16) {
        __mmask16 lanes = first_lanes((size_t)(n_rot - i));
        __mmask16 pairs = first_lanes((size_t)(n_rot - i) / 2) & 0xff;
        __m512 v = _mm512_maskz_loadu_ps(lanes, x + i),
               swapped = _mm512_permute_ps(v, 0xb1);
        __m512 c =
            _mm512_permutexvar_ps(twice, _mm512_maskz_loadu_ps(pairs, cos_row + i / 2));
        __m512 s =
            _mm512_permutexvar_ps(twice, _mm512_maskz_loadu_ps(pairs, sin_row + i / 2));
        /* even: fma(x0, c, -(x1 s)); odd: fma(x0, s, x1 c) */
        __m512 first = _mm512_mask_blend_ps(odd, v, swapped);  /* x0 x0 */
        __m512 second = _mm512_mask_blend_ps(odd, swapped, v); /* x1 x1 */
        __m512 other = _mm512_mul_ps(second, _mm512_mask_blend_ps(odd, s, c));

        v = _mm512_fmaddsub_ps(first, _mm512_mask_blend_ps(odd, c, s), other);
        _mm512_mask_storeu_ps(x + i, lanes, v);
    }
}

static void
rope(float *x, const float *cos_row, const float *sin_row, int n_heads, int head_dim,
     int n_rot)
{
    for (int h = 0; h < n_heads; h++)
        rope_head(x + h * head_dim, cos_row, sin_row, n_rot);
}

/* Sixteen pairs at a time, those of the last run that are there. */
static void
rope_halves(float *x, const float *cos_row, const float *sin_row, int n_heads,
            int head_dim, int n_rot)
{
    int half = n_rot / 2;

    for (int h = 0; h < n_heads; h++, x += head_dim) {
        for (int i = 0; i < half; i += 16) {
            __mmask16 lanes = first_lanes((size_t)(half - i));
            __m512 x0 = _mm512_maskz_loadu_ps(lanes, x + i);
            __m512 x1 = _mm512_maskz_loadu_ps(lanes, x + half + i);
            __m512 c = _mm512_maskz_loadu_ps(lanes, cos_row + i);
            __m512 s = _mm512_maskz_loadu_ps(lanes, sin_row + i);
            __m512 first = _mm512_fmsub_ps(x0, c, _mm512_mul_ps(x1, s));
            __m512 second = _mm512_fmadd_ps(x0, s, _mm512_mul_ps(x1, c));

            _mm512_mask_storeu_ps(x + i, lanes, first);
            _mm512_mask_storeu_ps(x + half + i, lanes, second);
        }
    }
}

/* ---- section 9 ---- */

/* The largest of n floats and where it first stands. A NaN may be missed here: the
 * sum of exponentials catches it. */
static int32_t
find_largest(const float *x, size_t n)
{
    __m512 m = _mm512_set1_ps(x[0]);

    for (size_t i = 0; i < n; i += 16)
        m = _mm512_mask_max_ps(m, first_lanes(n - i), m,
                               _mm512_maskz_loadu_ps(first_lanes(n - i), x + i));
    m = _mm512_set1_ps(largest16(m));
    for (size_t i = 0; i < n; i += 16) {
        __m512 v = _mm512_maskz_loadu_ps(first_lanes(n - i), x + i);
        unsigned same = _mm512_cmp_ps_mask(v, m, _CMP_EQ_OQ) & first_lanes(n - i);

        if (same != 0)
            return (int32_t)i + __builtin_ctz(same);
    }
    return 0; /* NaNs only */
}

static void
logit_chunk(struct logit_chunk *out, const float *x, size_t n)
{
    __m512 p = _mm512_setzero_ps(), m;

    out->argmax = find_largest(x, n);
    out->max = x[out->argmax];
    m = _mm512_set1_ps(out->max);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 lanes = first_lanes(n - i);
        __m512 e = exp16(_mm512_sub_ps(_mm512_maskz_loadu_ps(lanes, x + i), m));

        p = _mm512_add_ps(p, _mm512_maskz_mov_ps(lanes, e));
    }
    out->sum = tree16(p);
}

static size_t
find_above(const float *x, size_t from, size_t n, float threshold)
{
    const __m512 t = _mm512_set1_ps(threshold);

    for (; from < n; from += 16) {
        __m512 v = _mm512_maskz_loadu_ps(first_lanes(n - from), x + from);
        unsigned above = _mm512_cmp_ps_mask(v, t, _CMP_GT_OQ) & first_lanes(n - from);

        if (above != 0)
            return from + (size_t)__builtin_ctz(above);
    }
    return n;
}

void
kernels_avx512_install(struct kernels *k)
{
    k->name = "avx512";
    k->quantise = quantise;
    k->rmsnorm = rmsnorm;
    k->add = add;
    k->swiglu = swiglu;
    k->rope = rope;
    k->rope_halves = rope_halves;
    k->logit_chunk = logit_chunk;
    k->find_above = find_above;
    kernels_avx512_install_matmul(k);
    kernels_avx512_install_attention(k);
}
