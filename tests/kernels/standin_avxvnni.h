/* SPDX-License-Identifier: Apache-2.0
 * standin_avxvnni.h - AVX-VNNI for machines without it, in tests only.
 *
 * engine/kernels_avxvnni.c needs one instruction beyond AVX2. Built with
 * -mavx512vnni -mavx512vl it gets that instruction in the encoding of AVX-512, built
 * with AVX2 alone two that multiply widened bytes. The installer is named accordingly.
 */
#ifndef CE_TESTS_KERNELS_STANDIN_AVXVNNI_H
#define CE_TESTS_KERNELS_STANDIN_AVXVNNI_H

#define KERNELS_AVXVNNI_STANDIN 1

#include <immintrin.h>

#undef _mm256_dpbusd_avx_epi32 /* a macro in some compilers' headers */

#ifdef __AVX512VNNI__

#define kernels_avxvnni_install kernels_avxvnni_evex_install
#define _mm256_dpbusd_avx_epi32 _mm256_dpbusd_epi32

#else

#define kernels_avxvnni_install          kernels_avxvnni_emulated_install
#define _mm256_dpbusd_avx_epi32(s, u, x) emulated_dpbusd(s, u, x)

/* Bytes at even and at odd places, as 16 bits: no product or sum of two is too large
 * for vpmaddwd, whereas vpmaddubsw would saturate. */
static inline __m256i
emulated_dpbusd(__m256i sum, __m256i u, __m256i x)
{
    __m256i even = _mm256_madd_epi16(_mm256_and_si256(u, _mm256_set1_epi16(255)),
                                     _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8));
    __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(u, 8), _mm256_srai_epi16(x, 8));

    return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
}

#endif
#endif
