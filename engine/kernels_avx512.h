/* SPDX-License-Identifier: Apache-2.0
 * kernels_avx512.h - what the AVX-512 files share: small vector functions, names.
 *
 * The same source is built twice: for CPUs with AVX-512, and for tests on others. The
 * latter build starts with tests/kernels/simde_avx512.h, which defines KERNELS_SIMDE
 * and emulates the intrinsics it lists; installers then have names of their own.
 */
#ifndef CE_ENGINE_KERNELS_AVX512_H
#define CE_ENGINE_KERNELS_AVX512_H

#ifdef KERNELS_SIMDE
#define kernels_avx512_install           kernels_avx512_simde_install
#define kernels_avx512_install_matmul    kernels_avx512_simde_install_matmul
#define kernels_avx512_install_attention kernels_avx512_simde_install_attention
#else
#ifndef __AVX512VNNI__
#error "build this file with the flags of AVX512_CFLAGS"
#endif
#include <immintrin.h>
#endif

#include <string.h>

#include "engine/kernels.h"
#include "engine/mathfn.h"

/* A function body that is compiled anew for each constant it is called with. */
#define TEMPLATE static inline __attribute__((always_inline))

void kernels_avx512_install(struct kernels *k);
void kernels_avx512_install_matmul(struct kernels *k);
void kernels_avx512_install_attention(struct kernels *k);

/* For what is the same with registers of any width (kernels_x86_codes.h). */
typedef __m512 vecf;
typedef __m512i veci;
#define VEC(op)      _mm512_##op
#define VEC_BITS(op) _mm512_##op##_si512
#define TILE_VECS    1 /* registers of a tile's outputs */

/* A mask of the first n lanes; all of them from 16 on. */
TEMPLATE __mmask16
first_lanes(size_t n)
{
    return n >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << n) - 1);
}

/* mathfn_expf on sixteen lanes. */
TEMPLATE __m512
exp16(__m512 x)
{
    const __m512 one = _mm512_set1_ps(1.0f);
    __mmask16 keep = _mm512_cmp_ps_mask(x, _mm512_set1_ps(MATHFN_EXPF_MIN), _CMP_NLT_UQ);
    __m512 shifted, n, r, p;
    __m512i scale;

    x = _mm512_min_ps(_mm512_set1_ps(MATHFN_EXPF_MAX), x); /* this order keeps a NaN */
    shifted = _mm512_add_ps(_mm512_mul_ps(x, _mm512_set1_ps(MATHFN_EXPF_LOG2E)),
                            _mm512_set1_ps(MATHFN_EXPF_ROUND));
    n = _mm512_sub_ps(shifted, _mm512_set1_ps(MATHFN_EXPF_ROUND));
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(-MATHFN_EXPF_LN2HI), x);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(-MATHFN_EXPF_LN2LO), r);
    p = _mm512_set1_ps(MATHFN_EXPF_C6);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(MATHFN_EXPF_C5));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(MATHFN_EXPF_C4));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(MATHFN_EXPF_C3));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(MATHFN_EXPF_C2));
    p = _mm512_fmadd_ps(p, r, one);
    p = _mm512_fmadd_ps(p, r, one);
    scale = _mm512_add_epi32(_mm512_castps_si512(shifted), _mm512_set1_epi32(127));
    scale = _mm512_slli_epi32(scale, 23);
    return _mm512_maskz_mov_ps(keep, _mm512_mul_ps(p, _mm512_castsi512_ps(scale)));
}

TEMPLATE float
tree16(__m512 a)
{
    __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    __m128 d = _mm_add_ps(c, _mm_movehl_ps(c, c));

    return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
}

/* The largest of sixteen lanes; any of them when one is a NaN. */
TEMPLATE float
largest16(__m512 a)
{
    __m256 b = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));

    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

/* Sixteen half floats, any alignment. */
TEMPLATE __m512
load_half16(const void *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

/* Half floats, unsigned and signed bytes, one for each lane. */
#define load_halves load_half16

TEMPLATE __m512
load_u8(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)p)));
}

TEMPLATE __m512
load_i8(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p)));
}

#endif
