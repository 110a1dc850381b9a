/* SPDX-License-Identifier: Apache-2.0
 * kernels_avx2.h - what the AVX2 files share: small vector functions, installers.
 *
 * Only files built with AVX2, FMA and F16C may include this.
 */
#ifndef CE_ENGINE_KERNELS_AVX2_H
#define CE_ENGINE_KERNELS_AVX2_H

#ifndef __AVX2__
#error "build this file with the flags of AVX2_CFLAGS"
#endif

#include <immintrin.h>
#include <string.h>

#include "engine/kernels.h"
#include "engine/mathfn.h"

/* A function body that is compiled anew for each constant it is called with. */
#define TEMPLATE static inline __attribute__((always_inline))

void kernels_avx2_install_matmul(struct kernels *k);
void kernels_avx2_install_attention(struct kernels *k);

/* For what is the same with registers of any width (kernels_x86_codes.h). */
typedef __m256 vecf;
typedef __m256i veci;
#define VEC(op)      _mm256_##op
#define VEC_BITS(op) _mm256_##op##_si256
#define TILE_VECS    2 /* registers of a tile's outputs */

/* mathfn_expf on eight lanes. */
TEMPLATE __m256
exp8(__m256 x)
{
    const __m256 one = _mm256_set1_ps(1.0f);
    __m256 below = _mm256_cmp_ps(x, _mm256_set1_ps(MATHFN_EXPF_MIN), _CMP_LT_OQ);
    __m256 shifted, n, r, p;
    __m256i scale;

    x = _mm256_min_ps(_mm256_set1_ps(MATHFN_EXPF_MAX), x); /* this order keeps a NaN */
    shifted = _mm256_add_ps(_mm256_mul_ps(x, _mm256_set1_ps(MATHFN_EXPF_LOG2E)),
                            _mm256_set1_ps(MATHFN_EXPF_ROUND));
    n = _mm256_sub_ps(shifted, _mm256_set1_ps(MATHFN_EXPF_ROUND));
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-MATHFN_EXPF_LN2HI), x);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-MATHFN_EXPF_LN2LO), r);
    p = _mm256_set1_ps(MATHFN_EXPF_C6);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(MATHFN_EXPF_C5));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(MATHFN_EXPF_C4));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(MATHFN_EXPF_C3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(MATHFN_EXPF_C2));
    p = _mm256_fmadd_ps(p, r, one);
    p = _mm256_fmadd_ps(p, r, one);
    scale = _mm256_add_epi32(_mm256_castps_si256(shifted), _mm256_set1_epi32(127));
    scale = _mm256_slli_epi32(scale, 23);
    return _mm256_andnot_ps(below, _mm256_mul_ps(p, _mm256_castsi256_ps(scale)));
}

/* tree16 of the sixteen lanes low, high. */
TEMPLATE float
tree16(__m256 low, __m256 high)
{
    __m256 b = _mm256_add_ps(low, high);
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    __m128 d = _mm_add_ps(c, _mm_movehl_ps(c, c));

    return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
}

/* The largest of eight lanes; any of them when one is a NaN. */
TEMPLATE float
largest8(__m256 x)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));

    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

/* Eight half floats, any alignment. */
TEMPLATE __m256
load_half8(const void *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128(p));
}

/* Half floats, unsigned and signed bytes, one for each lane. */
#define load_halves load_half8

TEMPLATE __m256
load_u8(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)p)));
}

TEMPLATE __m256
load_i8(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)p)));
}

/* Four activations, in every lane. */
TEMPLATE __m256i
broadcast4(const int8_t *q)
{
    int32_t four;

    memcpy(&four, q, sizeof(four));
    return _mm256_set1_epi32(four);
}

/* Store R rows of a tile of which the first n_valid outputs exist. */
TEMPLATE void
store_tile(float *y, size_t y_stride, size_t n_valid, __m256 (*acc)[2], const int R)
{
    float whole[PACKED_ROWS];

    for (int r = 0; r < R; r++, y += y_stride) {
        if (n_valid >= PACKED_ROWS) {
            _mm256_storeu_ps(y, acc[r][0]);
            _mm256_storeu_ps(y + 8, acc[r][1]);
            continue;
        }
        _mm256_storeu_ps(whole, acc[r][0]);
        _mm256_storeu_ps(whole + 8, acc[r][1]);
        memcpy(y, whole, n_valid * sizeof(*y));
    }
}

#endif
