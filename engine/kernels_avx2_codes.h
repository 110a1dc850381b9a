/* SPDX-License-Identifier: Apache-2.0
 * kernels_avx2_codes.h - codes out of planes (packed.h), 32 at a time.
 */
#ifndef CE_ENGINE_KERNELS_AVX2_CODES_H
#define CE_ENGINE_KERNELS_AVX2_CODES_H

#include "engine/kernels_avx2.h"

/* Bytes shifted right (left when n < 0) as 16-bit words: bits of neighbours come along.
 * Immediate counts need constants even where nothing is optimised. */
TEMPLATE __m256i
shift_bits(__m256i x, const int n)
{
    switch (n) {
    case -4:
        return _mm256_slli_epi16(x, 4);
    case -3:
        return _mm256_slli_epi16(x, 3);
    case -2:
        return _mm256_slli_epi16(x, 2);
    case -1:
        return _mm256_slli_epi16(x, 1);
    case 1:
        return _mm256_srli_epi16(x, 1);
    case 2:
        return _mm256_srli_epi16(x, 2);
    case 3:
        return _mm256_srli_epi16(x, 3);
    case 4:
        return _mm256_srli_epi16(x, 4);
    case 5:
        return _mm256_srli_epi16(x, 5);
    case 6:
        return _mm256_srli_epi16(x, 6);
    default:
        return x;
    }
}

/* Chunk k of a block's codes, outputs 8h .. 8h + 7, one in every byte. */
TEMPLATE __m256i
plane_codes(const uint8_t *codes, const enum packed_format f, const int k, const int h)
{
    const int base = packed_base_bits(f), bits = packed_traits[f].bits - base;
    __m256i low =
        shift_bits(_mm256_load_si256((const void *)(codes + 64 * (k % base) + 32 * h)),
                   k / base * base);

    low = _mm256_and_si256(low, _mm256_set1_epi8((char)((1 << base) - 1)));
    if (bits > 0) {
        __m256i high = _mm256_load_si256(
            (const void *)(codes + 64 * ((base + k % (bits ? bits : 1))) + 32 * h));

        high = shift_bits(high, k / (bits ? bits : 1) * bits - base);
        high =
            _mm256_and_si256(high, _mm256_set1_epi8((char)(((1 << bits) - 1) << base)));
        low = _mm256_or_si256(low, high);
    }
    return low;
}

#endif
