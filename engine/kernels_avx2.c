/* SPDX-License-Identifier: Apache-2.0
 * kernels_avx2.c - rows of floats, eight at a time.
 *
 * Sums over sixteen lanes are kept in two registers. Where a row's length is no
 * multiple of eight the last lanes go through a buffer on the stack, so that one
 * piece of code serves them all.
 */
#include "engine/kernels_avx2.h"

/* The first n (1 to 7) floats at p, zeros behind them. */
TEMPLATE __m256
load_some(const float *p, size_t n)
{
    float buffer[8] = { 0 };

    memcpy(buffer, p, n * sizeof(*p));
    return _mm256_loadu_ps(buffer);
}

TEMPLATE void
store_some(float *p, __m256 x, size_t n)
{
    float buffer[8];

    _mm256_storeu_ps(buffer, x);
    memcpy(p, buffer, n * sizeof(*p));
}

/* ---- section 2 ---- */

TEMPLATE __m256
absolute(__m256 x)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
}

static void
quantise_group(struct act_group *out, const float *x)
{
    __m256 v[4], r;
    __m256i q[4], codes;
    float a;
    __m128i sums;

    for (int i = 0; i < 4; i++)
        v[i] = _mm256_loadu_ps(x + 8 * i);
    a = largest8(_mm256_max_ps(_mm256_max_ps(absolute(v[0]), absolute(v[1])),
                               _mm256_max_ps(absolute(v[2]), absolute(v[3]))));
    out->d = a >= 0x1p-100f ? a / 127.0f : 0.0f;
    r = _mm256_set1_ps(a >= 0x1p-100f ? 127.0f / a : 0.0f);
    for (int i = 0; i < 4; i++)
        q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], r));
    /* packing works on halves of registers; the permutation puts bytes in order */
    codes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]),
                               _mm256_packs_epi32(q[2], q[3]));
    codes = _mm256_permutevar8x32_epi32(codes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)out->q, codes);
    { /* sums of the halves: pairs side by side, then two lanes of each */
        __m256i s =
            _mm256_hadd_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3]));

        sums = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
        sums = _mm_hadd_epi32(sums, sums);
    }
    act_group_sums(out, _mm_cvtsi128_si32(sums), _mm_extract_epi32(sums, 1));
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
    __m256 p[2] = { _mm256_setzero_ps(), _mm256_setzero_ps() };
    size_t i = 0;

    for (; i + 16 <= n; i += 16) {
        for (int h = 0; h < 2; h++) {
            __m256 v = _mm256_loadu_ps(x + i + 8 * h);

            p[h] = _mm256_fmadd_ps(v, v, p[h]);
        }
    }
    for (int h = 0; i < n; h++, i += 8) { /* zeros leave the other lanes as they are */
        __m256 v = n - i >= 8 ? _mm256_loadu_ps(x + i) : load_some(x + i, n - i);

        p[h] = _mm256_fmadd_ps(v, v, p[h]);
    }
    return tree16(p[0], p[1]);
}

static void
rmsnorm(float *y, const float *x, const float *weight, size_t n, float eps)
{
    float r = 1.0f / sqrtf(sum_of_squares(x, n) / (float)n + eps);
    __m256 rr = _mm256_set1_ps(r);
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + i), rr);

        if (weight)
            v = _mm256_mul_ps(v, _mm256_loadu_ps(weight + i));
        _mm256_storeu_ps(y + i, v);
    }
    for (; i < n; i++)
        y[i] = weight ? (x[i] * r) * weight[i] : x[i] * r;
}

static void
add(float *x, const float *y, size_t n)
{
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        __m256 sum = _mm256_add_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i));

        _mm256_storeu_ps(x + i, sum);
    }
    for (; i < n; i++)
        x[i] += y[i];
}

TEMPLATE __m256
silu8(__m256 g)
{
    __m256 e = exp8(_mm256_xor_ps(g, _mm256_set1_ps(-0.0f)));

    return _mm256_div_ps(g, _mm256_add_ps(_mm256_set1_ps(1.0f), e));
}

static void
swiglu(float *out, const float *gate, const float *up, size_t n)
{
    size_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, _mm256_mul_ps(silu8(_mm256_loadu_ps(gate + i)),
                                                _mm256_loadu_ps(up + i)));
    if (i < n)
        store_some(
            out + i,
            _mm256_mul_ps(silu8(load_some(gate + i, n - i)), load_some(up + i, n - i)),
            n - i);
}

/* One head. Four pairs at a time: cosines doubled (c0 c0 c1 c1 ...), neighbours
 * swapped, and the product with the sine subtracted in even lanes, added in odd. */
static void
rope_head(float *x, const float *cos_row, const float *sin_row, int n_rot)
{
    const __m256i twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    const __m256 odd = _mm256_castsi256_ps(_mm256_setr_epi32(0, -1, 0, -1, 0, -1, 0, -1));
    int i = 0;

    for (; i + 8 <= n_rot; i += 8) {
        __m256 v = _mm256_loadu_ps(x + i), swapped = _mm256_permute_ps(v, 0xb1);
        __m256 c = _mm256_permutevar8x32_ps(
            _mm256_castps128_ps256(_mm_loadu_ps(cos_row + i / 2)), twice);
        __m256 s = _mm256_permutevar8x32_ps(
            _mm256_castps128_ps256(_mm_loadu_ps(sin_row + i / 2)), twice);
        /* even: fma(x0, c, -(x1 s)); odd: fma(x0, s, x1 c) */
        __m256 first = _mm256_blendv_ps(v, swapped, odd);  /* x0 x0 */
        __m256 second = _mm256_blendv_ps(swapped, v, odd); /* x1 x1 */
        __m256 factor = _mm256_blendv_ps(c, s, odd);
        __m256 other = _mm256_mul_ps(second, _mm256_blendv_ps(s, c, odd));

        _mm256_storeu_ps(x + i, _mm256_fmaddsub_ps(first, factor, other));
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

/* One head, eight pairs at a time. */
static void
rope_head_halves(float *x, const float *cos_row, const float *sin_row, int half)
{
    int i = 0;

    for (; i + 8 <= half; i += 8) {
        __m256 x0 = _mm256_loadu_ps(x + i), x1 = _mm256_loadu_ps(x + half + i);
        __m256 c = _mm256_loadu_ps(cos_row + i), s = _mm256_loadu_ps(sin_row + i);

        _mm256_storeu_ps(x + i, _mm256_fmsub_ps(x0, c, _mm256_mul_ps(x1, s)));
        _mm256_storeu_ps(x + half + i, _mm256_fmadd_ps(x0, s, _mm256_mul_ps(x1, c)));
    }
    for (; i < half; i++) {
        float x0 = x[i], x1 = x[i + half], c = cos_row[i], s = sin_row[i];

        x[i] = fmaf(x0, c, -(x1 * s));
        x[i + half] = fmaf(x0, s, x1 * c);
    }
}

static void
rope_halves(float *x, const float *cos_row, const float *sin_row, int n_heads,
            int head_dim, int n_rot)
{
    for (int h = 0; h < n_heads; h++)
        rope_head_halves(x + h * head_dim, cos_row, sin_row, n_rot / 2);
}

/* ---- section 9 ---- */

/* The largest of n floats and where it first stands. A NaN may be missed here: the
 * sum of exponentials catches it. */
static int32_t
find_largest(const float *x, size_t n)
{
    __m256 m = _mm256_set1_ps(x[0]);
    float largest;
    size_t i = 0;

    for (; i + 8 <= n; i += 8)
        m = _mm256_max_ps(m, _mm256_loadu_ps(x + i));
    largest = largest8(m);
    for (; i < n; i++)
        largest = x[i] > largest ? x[i] : largest;
    for (i = 0; i + 8 <= n; i += 8) {
        __m256 same =
            _mm256_cmp_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(largest), _CMP_EQ_OQ);
        unsigned lanes = (unsigned)_mm256_movemask_ps(same);

        if (lanes != 0)
            return (int32_t)i + __builtin_ctz(lanes);
    }
    for (; i < n; i++)
        if (x[i] == largest)
            return (int32_t)i;
    return 0; /* NaNs only */
}

static void
logit_chunk(struct logit_chunk *out, const float *x, size_t n)
{
    __m256 p[2] = { _mm256_setzero_ps(), _mm256_setzero_ps() }, m;
    float last[16];
    size_t i = 0;

    out->argmax = find_largest(x, n);
    out->max = x[out->argmax];
    m = _mm256_set1_ps(out->max);
    for (; i + 16 <= n; i += 16)
        for (int h = 0; h < 2; h++)
            p[h] = _mm256_add_ps(p[h],
                                 exp8(_mm256_sub_ps(_mm256_loadu_ps(x + i + 8 * h), m)));
    if (i < n) {
        for (size_t j = 0; j < 16; j++) /* exp gives zero there */
            last[j] = i + j < n ? x[i + j] - out->max : -INFINITY;
        for (int h = 0; h < 2; h++)
            p[h] = _mm256_add_ps(p[h], exp8(_mm256_loadu_ps(last + 8 * h)));
    }
    out->sum = tree16(p[0], p[1]);
}

static size_t
find_above(const float *x, size_t from, size_t n, float threshold)
{
    __m256 t = _mm256_set1_ps(threshold);

    for (; from + 8 <= n; from += 8) {
        unsigned lanes = (unsigned)_mm256_movemask_ps(
            _mm256_cmp_ps(_mm256_loadu_ps(x + from), t, _CMP_GT_OQ));

        if (lanes != 0)
            return from + (size_t)__builtin_ctz(lanes);
    }
    while (from < n && !(x[from] > threshold))
        from++;
    return from;
}

void
kernels_avx2_install(struct kernels *k)
{
    k->name = "avx2";
    k->quantise = quantise;
    k->rmsnorm = rmsnorm;
    k->add = add;
    k->swiglu = swiglu;
    k->rope = rope;
    k->rope_halves = rope_halves;
    k->logit_chunk = logit_chunk;
    k->find_above = find_above;
    kernels_avx2_install_matmul(k);
    kernels_avx2_install_attention(k);
}
