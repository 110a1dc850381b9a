/* SPDX-License-Identifier: Apache-2.0
 * kernels_neon_dotprod.h - the integer part of a block with sdot.
 *
 * A register of codes is four outputs by four columns, and sdot multiplies all four
 * outputs with four activations that it takes from a lane: exactly the packed layout.
 * Codes of less than eight bits are positive bytes. Both files with dot products take
 * their template here.
 */
#ifndef CE_ENGINE_KERNELS_NEON_DOTPROD_H
#define CE_ENGINE_KERNELS_NEON_DOTPROD_H

#ifndef __ARM_FEATURE_DOTPROD
#error "build this file with the flags of NEON_DOTPROD_CFLAGS or NEON_I8MM_CFLAGS"
#endif

#include "engine/kernels_neon_planes.h"

/* Add the products with activations 4 lane .. 4 lane + 3 of x. The instruction wants
 * a literal. */
TEMPLATE int32x4_t
dot(int32x4_t sum, int8x16_t w, int8x16_t x, const int lane)
{
    switch (lane) {
    case 0:
        return vdotq_laneq_s32(sum, w, x, 0);
    case 1:
        return vdotq_laneq_s32(sum, w, x, 1);
    case 2:
        return vdotq_laneq_s32(sum, w, x, 2);
    default:
        return vdotq_laneq_s32(sum, w, x, 3);
    }
}

TEMPLATE void
sum_chunks(int32x4_t (*sum)[4], const uint8_t *codes, const struct act_group *a,
           size_t a_stride, const enum packed_format f, const int from, const int to,
           const int R, const int V)
{
#pragma GCC unroll 8
    for (int i = from; i < to; i++) {
        const int k = chunk_at(i, from, to);

        for (int v = 0; v < V; v++) {
            int8x16_t w = load_codes(codes + 16 * v, f, k);

            for (int r = 0; r < R; r++) {
                int8x16_t x = vld1q_s8(a[(size_t)r * a_stride].q + k / 4 * 16);

                sum[r][v] = dot(sum[r][v], w, x, k % 4);
            }
        }
    }
}

#endif
