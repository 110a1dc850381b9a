/* SPDX-License-Identifier: Apache-2.0
 * kernels_neon_dotprod.h - the integer part of a block with sdot.
 *
 * A register of codes is four outputs by four columns, and sdot multiplies all four
 * outputs with four activations that it takes from a lane: exactly the packed layout.
 * Nibbles are positive bytes. Both files with dot products take their templates here.
 */
#ifndef CE_ENGINE_KERNELS_NEON_DOTPROD_H
#define CE_ENGINE_KERNELS_NEON_DOTPROD_H

#ifndef __ARM_FEATURE_DOTPROD
#error "build this file with the flags of NEON_DOTPROD_CFLAGS or NEON_I8MM_CFLAGS"
#endif

#include "engine/kernels_neon.h"

/* Add the products with activations 4 lane .. 4 lane + 3 of x. The instruction wants
 * a literal, so callers name lanes one by one: a loop may stay one. */
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

/* Chunk c of nibbles: columns 4c .. and 16 + 4c .. */
TEMPLATE void
chunk_q4(int32x4_t (*sum)[4], const uint8_t *codes, const struct act_group *a,
         size_t a_stride, const int R, const int V, const int c)
{
    for (int v = 0; v < V; v++) {
        uint8x16_t w = vld1q_u8(codes + 64 * c + 16 * v);
        int8x16_t low = vreinterpretq_s8_u8(vandq_u8(w, vdupq_n_u8(15)));
        int8x16_t high = vreinterpretq_s8_u8(vshrq_n_u8(w, 4));

        for (int r = 0; r < R; r++) {
            const int8_t *q = a[(size_t)r * a_stride].q;

            sum[r][v] = dot(sum[r][v], low, vld1q_s8(q), c);
            sum[r][v] = dot(sum[r][v], high, vld1q_s8(q + 16), c);
        }
    }
}

TEMPLATE void
block_q4(int32x4_t (*sum)[4], const uint8_t *codes, const struct act_group *a,
         size_t a_stride, const int R, const int V)
{
    chunk_q4(sum, codes, a, a_stride, R, V, 0);
    chunk_q4(sum, codes, a, a_stride, R, V, 1);
    chunk_q4(sum, codes, a, a_stride, R, V, 2);
    chunk_q4(sum, codes, a, a_stride, R, V, 3);
}

/* Chunks c and 4 + c of bytes. */
TEMPLATE void
chunks_q8(int32x4_t (*sum)[4], const uint8_t *codes, const struct act_group *a,
          size_t a_stride, const int R, const int V, const int c)
{
    for (int v = 0; v < V; v++) {
        int8x16_t low = vreinterpretq_s8_u8(vld1q_u8(codes + 64 * c + 16 * v));
        int8x16_t high = vreinterpretq_s8_u8(vld1q_u8(codes + 256 + 64 * c + 16 * v));

        for (int r = 0; r < R; r++) {
            const int8_t *q = a[(size_t)r * a_stride].q;

            sum[r][v] = dot(sum[r][v], low, vld1q_s8(q), c);
            sum[r][v] = dot(sum[r][v], high, vld1q_s8(q + 16), c);
        }
    }
}

TEMPLATE void
block_q8(int32x4_t (*sum)[4], const uint8_t *codes, const struct act_group *a,
         size_t a_stride, const int R, const int V)
{
    chunks_q8(sum, codes, a, a_stride, R, V, 0);
    chunks_q8(sum, codes, a, a_stride, R, V, 1);
    chunks_q8(sum, codes, a, a_stride, R, V, 2);
    chunks_q8(sum, codes, a, a_stride, R, V, 3);
}

#endif
