/* SPDX-License-Identifier: Apache-2.0
 * simde_avx512.h - AVX-512 for machines without it, in tests only.
 *
 * The intrinsics that engine/kernels_avx512*.c use, by SIMDe where it has them, and
 * here from two AVX2 halves where Debian 12's does not. Names are mapped one by one:
 * a kernel that uses another intrinsic does not compile here until it is listed.
 * Build with AVX2, FMA and F16C: fmadd must round once, which test_tables.c would
 * notice, for its results would not be scalar's.
 */
#ifndef CE_TESTS_KERNELS_SIMDE_AVX512_H
#define CE_TESTS_KERNELS_SIMDE_AVX512_H

#define KERNELS_SIMDE 1

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <immintrin.h>
#include <simde/x86/avx512.h>

/* ---- what SIMDe lacks ---- */

union emulated {
    simde__m512 ps;
    simde__m512i si;
    __m256 half[2];
    __m256i half_si[2];
    float f[16];
    int32_t i[16];
};

static inline simde__m512
emulated_cvtph_ps(__m256i x)
{
    union emulated r;

    r.half[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(x));
    r.half[1] = _mm256_cvtph_ps(_mm256_extracti128_si256(x, 1));
    return r.ps;
}

static inline __m256i
emulated_cvtps_ph(simde__m512 x)
{
    union emulated u = { .ps = x };

    return _mm256_set_m128i(_mm256_cvtps_ph(u.half[1], _MM_FROUND_TO_NEAREST_INT),
                            _mm256_cvtps_ph(u.half[0], _MM_FROUND_TO_NEAREST_INT));
}

static inline simde__m512i
emulated_cvtps_epi32(simde__m512 x)
{
    union emulated u = { .ps = x };

    u.half_si[0] = _mm256_cvtps_epi32(u.half[0]);
    u.half_si[1] = _mm256_cvtps_epi32(u.half[1]);
    return u.si;
}

static inline simde__m512i
emulated_cvtepu16_epi32(__m256i x)
{
    union emulated u;

    u.half_si[0] = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(x));
    u.half_si[1] = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(x, 1));
    return u.si;
}

static inline simde__m512i
emulated_cvtepu8_epi32(__m128i x)
{
    union emulated u;

    u.half_si[0] = _mm256_cvtepu8_epi32(x);
    u.half_si[1] = _mm256_cvtepu8_epi32(_mm_srli_si128(x, 8));
    return u.si;
}

static inline simde__m512i
emulated_cvtepi8_epi32(__m128i x)
{
    union emulated u;

    u.half_si[0] = _mm256_cvtepi8_epi32(x);
    u.half_si[1] = _mm256_cvtepi8_epi32(_mm_srli_si128(x, 8));
    return u.si;
}

static inline simde__m512
emulated_cvtepi32_ps(simde__m512i x)
{
    union emulated u = { .si = x };

    u.half[0] = _mm256_cvtepi32_ps(u.half_si[0]);
    u.half[1] = _mm256_cvtepi32_ps(u.half_si[1]);
    return u.ps;
}

static inline simde__m512
emulated_fnmadd_ps(simde__m512 a, simde__m512 b, simde__m512 c)
{
    union emulated x = { .ps = a }, y = { .ps = b }, z = { .ps = c };

    for (int h = 0; h < 2; h++)
        x.half[h] = _mm256_fnmadd_ps(x.half[h], y.half[h], z.half[h]);
    return x.ps;
}

static inline __m128i
emulated_cvtepi32_epi8(simde__m512i x)
{
    union emulated u = { .si = x };
    int8_t bytes[16];

    for (int i = 0; i < 16; i++)
        bytes[i] = (int8_t)u.i[i];
    return _mm_loadu_si128((const __m128i *)bytes);
}

static inline __m256
emulated_extractf32x8_ps(simde__m512 x, int half)
{
    union emulated u = { .ps = x };

    return u.half[half];
}

static inline __m256i
emulated_extracti32x8_epi32(simde__m512i x, int half)
{
    union emulated u = { .si = x };

    return u.half_si[half];
}

static inline simde__m512
emulated_fmaddsub_ps(simde__m512 a, simde__m512 b, simde__m512 c)
{
    union emulated x = { .ps = a }, y = { .ps = b }, z = { .ps = c };

    for (int h = 0; h < 2; h++)
        x.half[h] = _mm256_fmaddsub_ps(x.half[h], y.half[h], z.half[h]);
    return x.ps;
}

static inline simde__m512
emulated_fmsub_ps(simde__m512 a, simde__m512 b, simde__m512 c)
{
    union emulated x = { .ps = a }, y = { .ps = b }, z = { .ps = c };

    for (int h = 0; h < 2; h++)
        x.half[h] = _mm256_fmsub_ps(x.half[h], y.half[h], z.half[h]);
    return x.ps;
}

static inline void
emulated_mask_storeu_ps(void *to, uint16_t lanes, simde__m512 x)
{
    union emulated u = { .ps = x };

    for (int i = 0; i < 16; i++)
        if (lanes >> i & 1)
            memcpy((char *)to + 4 * i, &u.f[i], 4);
}

static inline simde__m512
emulated_maskz_loadu_ps(uint16_t lanes, const void *from)
{
    union emulated u = { .f = { 0 } };

    for (int i = 0; i < 16; i++)
        if (lanes >> i & 1)
            memcpy(&u.f[i], (const char *)from + 4 * i, 4);
    return u.ps;
}

/* Only the swap of neighbours, 0xb1. */
static inline simde__m512
emulated_permute_ps(simde__m512 x, int order)
{
    union emulated u = { .ps = x };

    (void)order;
    u.half[0] = _mm256_permute_ps(u.half[0], 0xb1);
    u.half[1] = _mm256_permute_ps(u.half[1], 0xb1);
    return u.ps;
}

/* ---- names ---- */

/* immintrin.h has some as macros, without optimisation more. */
#undef _mm512_cvtph_ps
#undef _mm512_cvtps_ph
#undef _mm512_cvtps_epi32
#undef _mm512_cvtepi32_epi8
#undef _mm512_cvtepi32_ps
#undef _mm512_cvtepi8_epi32
#undef _mm512_cvtepu16_epi32
#undef _mm512_cvtepu8_epi32
#undef _mm512_fnmadd_ps
#undef _mm512_or_si512
#undef _mm512_slli_epi16
#undef _mm512_setzero_si512
#undef _mm512_extractf32x8_ps
#undef _mm512_extracti32x8_epi32
#undef _mm512_fmaddsub_ps
#undef _mm512_mask_storeu_ps
#undef _mm512_maskz_loadu_ps
#undef _mm512_permute_ps
#undef _mm512_abs_ps
#undef _mm512_add_epi32
#undef _mm512_add_ps
#undef _mm512_and_si512
#undef _mm512_castps512_ps256
#undef _mm512_castps_si512
#undef _mm512_castsi512_ps
#undef _mm512_castsi512_si256
#undef _mm512_cmp_ps_mask
#undef _mm512_div_ps
#undef _mm512_dpbusd_epi32
#undef _mm512_fmadd_ps
#undef _mm512_fmsub_ps
#undef _mm512_loadu_si512
#undef _mm512_loadu_ps
#undef _mm512_mask_blend_ps
#undef _mm512_mask_max_ps
#undef _mm512_maskz_mov_ps
#undef _mm512_max_ps
#undef _mm512_min_ps
#undef _mm512_mul_ps
#undef _mm512_permutexvar_ps
#undef _mm512_set1_epi32
#undef _mm512_set1_epi8
#undef _mm512_set1_ps
#undef _mm512_setr_epi32
#undef _mm512_setzero_ps
#undef _mm512_slli_epi32
#undef _mm512_srli_epi16
#undef _mm512_storeu_ps
#undef _mm512_sub_ps
#undef _mm512_xor_ps
#undef _mm512_xor_si512

#define __m512    simde__m512
#define __m512i   simde__m512i
#define __mmask16 uint16_t

#define _mm512_cvtph_ps(x)              emulated_cvtph_ps(x)
#define _mm512_cvtps_ph(x, rounding)    emulated_cvtps_ph(x)
#define _mm512_cvtps_epi32(x)           emulated_cvtps_epi32(x)
#define _mm512_cvtepi32_epi8(x)         emulated_cvtepi32_epi8(x)
#define _mm512_cvtepi32_ps(x)           emulated_cvtepi32_ps(x)
#define _mm512_cvtepi8_epi32(x)         emulated_cvtepi8_epi32(x)
#define _mm512_cvtepu16_epi32(x)        emulated_cvtepu16_epi32(x)
#define _mm512_cvtepu8_epi32(x)         emulated_cvtepu8_epi32(x)
#define _mm512_fnmadd_ps(a, b, c)       emulated_fnmadd_ps(a, b, c)
#define _mm512_extractf32x8_ps(x, h)    emulated_extractf32x8_ps(x, h)
#define _mm512_extracti32x8_epi32(x, h) emulated_extracti32x8_epi32(x, h)
#define _mm512_fmaddsub_ps(a, b, c)     emulated_fmaddsub_ps(a, b, c)
#define _mm512_fmsub_ps(a, b, c)        emulated_fmsub_ps(a, b, c)
#define _mm512_mask_storeu_ps(to, k, x) emulated_mask_storeu_ps(to, k, x)
#define _mm512_maskz_loadu_ps(k, from)  emulated_maskz_loadu_ps(k, from)
#define _mm512_permute_ps(x, order)     emulated_permute_ps(x, order)

#define _mm512_abs_ps          simde_mm512_abs_ps
#define _mm512_add_epi32       simde_mm512_add_epi32
#define _mm512_add_ps          simde_mm512_add_ps
#define _mm512_and_si512       simde_mm512_and_si512
#define _mm512_castps512_ps256 simde_mm512_castps512_ps256
#define _mm512_castps_si512    simde_mm512_castps_si512
#define _mm512_castsi512_ps    simde_mm512_castsi512_ps
#define _mm512_castsi512_si256 simde_mm512_castsi512_si256
#define _mm512_cmp_ps_mask     simde_mm512_cmp_ps_mask
#define _mm512_div_ps          simde_mm512_div_ps
#define _mm512_dpbusd_epi32    simde_mm512_dpbusd_epi32
#define _mm512_fmadd_ps        simde_mm512_fmadd_ps
#define _mm512_loadu_si512     simde_mm512_loadu_si512
#define _mm512_loadu_ps        simde_mm512_loadu_ps
#define _mm512_mask_blend_ps   simde_mm512_mask_blend_ps
#define _mm512_mask_max_ps     simde_mm512_mask_max_ps
#define _mm512_maskz_mov_ps    simde_mm512_maskz_mov_ps
#define _mm512_max_ps          simde_mm512_max_ps
#define _mm512_min_ps          simde_mm512_min_ps
#define _mm512_mul_ps          simde_mm512_mul_ps
#define _mm512_or_si512        simde_mm512_or_si512
#define _mm512_permutexvar_ps  simde_mm512_permutexvar_ps
#define _mm512_set1_epi32      simde_mm512_set1_epi32
#define _mm512_set1_epi8       simde_mm512_set1_epi8
#define _mm512_set1_ps         simde_mm512_set1_ps
#define _mm512_setr_epi32      simde_mm512_setr_epi32
#define _mm512_setzero_ps      simde_mm512_setzero_ps
#define _mm512_setzero_si512   simde_mm512_setzero_si512
#define _mm512_slli_epi16      simde_mm512_slli_epi16
#define _mm512_slli_epi32      simde_mm512_slli_epi32
#define _mm512_srli_epi16      simde_mm512_srli_epi16
#define _mm512_storeu_ps       simde_mm512_storeu_ps
#define _mm512_sub_ps          simde_mm512_sub_ps
#define _mm512_xor_ps          simde_mm512_xor_ps
#define _mm512_xor_si512       simde_mm512_xor_si512

#endif
