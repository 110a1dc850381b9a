/* SPDX-License-Identifier: Apache-2.0
 * kernels_avx2_planes.h - products of codes that lie in planes (Q5 and K formats), for
 * 256-bit registers: all but the sums of integers.
 *
 * The including file defines ROWS and, before the include,
 *
 *   sum_chunks(sum, codes, a, a_stride, f, from, to, R)
 *
 * which sets sum[r][h] to the products of chunks [from, to) of a block, R rows and the
 * outputs 8h .. 8h + 7, from the codes that kernels_avx2_codes.h takes apart. Sums are
 * converted exactly and scaled as floats; sub-blocks of 16 are summed one after the
 * other.
 */
#ifndef CE_ENGINE_KERNELS_AVX2_PLANES_H
#define CE_ENGINE_KERNELS_AVX2_PLANES_H

#include "engine/kernels_avx2_codes.h"

/* Scales of a block's eight outputs: of sub-blocks of 16 sc and m, and d and dmin of the
 * superblock; else d (times sc) and the minimum, with its sign. */
struct scales8 {
    __m256 sc[2], m[2], d, dmin;
};

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

/* halves: of the superblock, or none; scales: behind the block's codes. */
TEMPLATE struct scales8
load_scales8(const uint8_t *halves, const uint8_t *scales, const enum packed_format f,
             size_t h)
{
    const bool minimum = packed_traits[f].minimum;
    const uint8_t sub = packed_traits[f].sub;
    struct scales8 s;

    s.d = load_half8((sub ? halves : scales) + 16 * h);
    s.dmin = minimum ? load_half8((sub ? halves : scales) + 32 + 16 * h) : s.d;
    s.sc[0] = s.sc[1] = s.d;
    s.m[0] = s.m[1] = s.dmin;
    if (sub == 32) {
        s.sc[0] = _mm256_mul_ps(s.d, load_u8(scales + 8 * h));
        s.m[0] = _mm256_mul_ps(s.dmin, load_u8(scales + 16 + 8 * h));
        s.m[0] = _mm256_xor_ps(s.m[0], _mm256_set1_ps(-0.0f));
    }
    for (size_t i = 0; sub == 16 && i < 2; i++) {
        s.sc[i] = load_i8(scales + 16 * i + 8 * h);
        if (minimum)
            s.m[i] = load_u8(scales + 32 + 16 * i + 8 * h);
    }
    return s;
}

/* acc plus a block whose sums are dot[0] (and dot[1] of columns 16 .. 31). */
TEMPLATE __m256
add_scaled(__m256 acc, __m256i dot0, __m256i dot1, const struct scales8 *s,
           const struct act_group *g, const enum packed_format f)
{
    const __m256 offset = _mm256_set1_ps(packed_traits[f].offset);
    __m256 s0 = _mm256_set1_ps(g->half_sum[0]), s1 = _mm256_set1_ps(g->half_sum[1]);
    __m256 d = _mm256_set1_ps(g->d);
    __m256 t = _mm256_cvtepi32_ps(dot0), u;

    if (packed_traits[f].sub != 16) {
        if (packed_traits[f].offset) {
            t = _mm256_fnmadd_ps(offset, s0, t);
            t = _mm256_fnmadd_ps(offset, s1, t);
        }
        acc = _mm256_fmadd_ps(_mm256_mul_ps(t, s->sc[0]), d, acc);
        if (packed_traits[f].minimum)
            acc = _mm256_fmadd_ps(s->m[0], _mm256_set1_ps(g->e), acc);
        return acc;
    }
    u = _mm256_cvtepi32_ps(dot1);
    if (packed_traits[f].offset) {
        t = _mm256_fnmadd_ps(offset, s0, t);
        u = _mm256_fnmadd_ps(offset, s1, u);
    }
    t = _mm256_fmadd_ps(u, s->sc[1], _mm256_mul_ps(t, s->sc[0])); /* exact */
    acc = _mm256_fmadd_ps(_mm256_mul_ps(t, s->d), d, acc);
    if (packed_traits[f].minimum) {
        t = _mm256_fmadd_ps(s->m[1], s1, _mm256_mul_ps(s->m[0], s0)); /* exact */
        acc = _mm256_fnmadd_ps(_mm256_mul_ps(t, s->dmin), d, acc);
    }
    return acc;
}

/* One tile, R rows. `first`: no rows have passed over it before. */
TEMPLATE void
tile_planes(float *y, size_t y_stride, size_t n_valid, const uint8_t *block,
            const struct act_group *a, size_t n_blocks, bool first,
            const enum packed_format f, const int R)
{
    const int sub = packed_traits[f].sub;
    const uint8_t *halves = block;
    __m256 acc[ROWS][2];

    for (int r = 0; r < R; r++)
        acc[r][0] = acc[r][1] = _mm256_setzero_ps();
    for (size_t b = 0; b < n_blocks; b++, block += packed_block_bytes(f)) {
        __m256i sum[2][ROWS][2];

        if (first)
            prefetch(block, f);
        if (sub && b % (PACKED_SUPER / PACKED_BLOCK) == 0) {
            halves = block;
            block += packed_halves_bytes(f);
        }
        sum_chunks(sum[0], block, a + b, n_blocks, f, 0, sub == 16 ? 4 : 8, R);
        if (sub == 16)
            sum_chunks(sum[1], block, a + b, n_blocks, f, 4, 8, R);
        for (int h = 0; h < 2; h++) {
            struct scales8 s =
                load_scales8(halves, block + packed_code_bytes(f), f, (size_t)h);

            for (int r = 0; r < R; r++)
                acc[r][h] = add_scaled(acc[r][h], sum[0][r][h], sum[sub == 16][r][h], &s,
                                       &a[(size_t)r * n_blocks + b], f);
        }
    }
    store_tile(y, y_stride, n_valid, acc, R);
}

#endif
