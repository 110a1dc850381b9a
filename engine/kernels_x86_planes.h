/* SPDX-License-Identifier: Apache-2.0
 * kernels_x86_planes.h - products of codes that lie in planes (Q5 and K formats), for
 * registers of any width: all but the sums of integers.
 *
 * The including file defines ROWS and, before the include,
 *
 *   sum_chunks(sum, codes, a, a_stride, f, from, to, R)
 *
 * which sets sum[r][h] to the products of chunks [from, to) of a block, R rows and the
 * outputs of register h, from the codes that kernels_x86_codes.h takes apart, and
 *
 *   store_tile(y, y_stride, n_valid, acc, R)
 *
 * Sums are converted exactly and scaled as floats; sub-blocks of 16 are summed one after
 * the other.
 */
#ifndef CE_ENGINE_KERNELS_X86_PLANES_H
#define CE_ENGINE_KERNELS_X86_PLANES_H

#include "engine/kernels_x86_codes.h"

/* Scales of a block's outputs: of sub-blocks of 16 sc and m, and d and dmin of the
 * superblock; else d (times sc) and the minimum, with its sign. */
struct plane_scales {
    vecf sc[2], m[2], d, dmin;
};

/* halves: of the superblock, or none; scales: behind the block's codes. */
TEMPLATE struct plane_scales
load_scales(const uint8_t *halves, const uint8_t *scales, const enum packed_format f,
            const size_t h)
{
    const size_t lane = PACKED_ROWS / TILE_VECS * h;
    const bool minimum = packed_traits[f].minimum;
    const uint8_t sub = packed_traits[f].sub;
    struct plane_scales s;

    s.d = load_halves((sub ? halves : scales) + 2 * lane);
    s.dmin = minimum ? load_halves((sub ? halves : scales) + 32 + 2 * lane) : s.d;
    s.sc[0] = s.sc[1] = s.d;
    s.m[0] = s.m[1] = s.dmin;
    if (sub == 32) {
        s.sc[0] = VEC(mul_ps)(s.d, load_u8(scales + lane));
        s.m[0] = VEC(mul_ps)(s.dmin, load_u8(scales + 16 + lane));
        s.m[0] = VEC(xor_ps)(s.m[0], VEC(set1_ps)(-0.0f));
    }
    for (size_t i = 0; sub == 16 && i < 2; i++) {
        s.sc[i] = load_i8(scales + 16 * i + lane);
        if (minimum)
            s.m[i] = load_u8(scales + 32 + 16 * i + lane);
    }
    return s;
}

/* acc plus a block whose sums are dot0 (and dot1 of columns 16 .. 31). */
TEMPLATE vecf
add_scaled(vecf acc, veci dot0, veci dot1, const struct plane_scales *s,
           const struct act_group *g, const enum packed_format f)
{
    const vecf offset = VEC(set1_ps)(packed_traits[f].offset);
    vecf s0 = VEC(set1_ps)(g->half_sum[0]), s1 = VEC(set1_ps)(g->half_sum[1]);
    vecf d = VEC(set1_ps)(g->d);
    vecf t = VEC(cvtepi32_ps)(dot0), u;

    if (packed_traits[f].sub != 16) {
        if (packed_traits[f].offset) {
            t = VEC(fnmadd_ps)(offset, s0, t);
            t = VEC(fnmadd_ps)(offset, s1, t);
        }
        acc = VEC(fmadd_ps)(VEC(mul_ps)(t, s->sc[0]), d, acc);
        if (packed_traits[f].minimum)
            acc = VEC(fmadd_ps)(s->m[0], VEC(set1_ps)(g->e), acc);
        return acc;
    }
    u = VEC(cvtepi32_ps)(dot1);
    if (packed_traits[f].offset) {
        t = VEC(fnmadd_ps)(offset, s0, t);
        u = VEC(fnmadd_ps)(offset, s1, u);
    }
    t = VEC(fmadd_ps)(u, s->sc[1], VEC(mul_ps)(t, s->sc[0])); /* exact */
    acc = VEC(fmadd_ps)(VEC(mul_ps)(t, s->d), d, acc);
    if (packed_traits[f].minimum) {
        t = VEC(fmadd_ps)(s->m[1], s1, VEC(mul_ps)(s->m[0], s0)); /* exact */
        acc = VEC(fnmadd_ps)(VEC(mul_ps)(t, s->dmin), d, acc);
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
    vecf acc[ROWS][TILE_VECS];

    for (int r = 0; r < R; r++)
        for (int h = 0; h < TILE_VECS; h++)
            acc[r][h] = VEC(setzero_ps)();
    for (size_t b = 0; b < n_blocks; b++, block += packed_block_bytes(f)) {
        veci sum[2][ROWS][TILE_VECS];

        if (first)
            prefetch(block, f);
        if (sub && b % (PACKED_SUPER / PACKED_BLOCK) == 0) {
            halves = block;
            block += packed_halves_bytes(f);
        }
        sum_chunks(sum[0], block, a + b, n_blocks, f, 0, sub == 16 ? 4 : 8, R);
        if (sub == 16)
            sum_chunks(sum[1], block, a + b, n_blocks, f, 4, 8, R);
        for (int h = 0; h < TILE_VECS; h++) {
            struct plane_scales s =
                load_scales(halves, block + packed_code_bytes(f), f, (size_t)h);

            for (int r = 0; r < R; r++)
                acc[r][h] = add_scaled(acc[r][h], sum[0][r][h], sum[sub == 16][r][h], &s,
                                       &a[(size_t)r * n_blocks + b], f);
        }
    }
    store_tile(y, y_stride, n_valid, acc, R);
}

#endif
