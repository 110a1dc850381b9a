/* SPDX-License-Identifier: Apache-2.0
 * kernels_neon_quantised.h - products of quantised weights, less the integer part.
 *
 * Included by a file that has defined two templates, which add the integer products of
 * one block of 32 to the sums of R rows and 4V outputs (codes point at the first of
 * these outputs in the block's first chunk):
 *
 *   block_q4(int32x4_t (*sum)[4], const uint8_t *codes, const struct act_group *a,
 *            size_t a_stride, const int R, const int V)
 *   block_q8(the same)
 *
 * DEFINE_MATMULS then makes one function per format. R and V are constants, chosen so
 * that float sums (R * V), integer sums and operands fit 32 registers: four rows pass
 * over half a tile at a time, one or two over a whole one. Four rows share the work of
 * taking nibbles apart; a tile is a few KiB and stays in the first-level cache while
 * all rows pass over it.
 */
#ifndef CE_ENGINE_KERNELS_NEON_QUANTISED_H
#define CE_ENGINE_KERNELS_NEON_QUANTISED_H

#include "engine/kernels_neon.h"

/* A tile and the rows that pass over it. */
struct tile_job {
    float *y;
    size_t y_stride, n_valid; /* outputs of the tile that exist; more than 16 is 16 */
    const uint8_t *tile;
    const struct act_group *a;
    size_t n_blocks;
};

/* Four half floats as floats. */
TEMPLATE float32x4_t
load_half4(const uint8_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}

/* Store four outputs, the n_valid first of which exist. */
TEMPLATE void
store4(float *y, float32x4_t x, size_t n_valid)
{
    float four[4];

    if (n_valid >= 4) {
        vst1q_f32(y, x);
        return;
    }
    vst1q_f32(four, x);
    memcpy(y, four, n_valid * sizeof(*y));
}

/* Outputs 4 first .. 4 (first + V) - 1 of R rows. */
TEMPLATE void
tile_part(const struct tile_job *j, const enum packed_format f, size_t first, const int R,
          const int V)
{
    const uint8_t *codes = j->tile + 16 * first;
    const uint8_t *scales = j->tile + packed_code_bytes(f) + 8 * first;
    float32x4_t acc[4][4];

    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++)
            acc[r][v] = vdupq_n_f32(0);
    for (size_t b = 0; b < j->n_blocks; b++) {
        const struct act_group *a = j->a + b;
        int32x4_t sum[4][4];

        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++) /* -8 times the sum of q */
                sum[r][v] = vdupq_n_s32(
                    f == PACKED_Q4_0 ? a[(size_t)r * j->n_blocks].bias8 - ACT_MAGIC : 0);
        if (f == PACKED_Q8_0)
            block_q8(sum, codes, a, j->n_blocks, R, V);
        else
            block_q4(sum, codes, a, j->n_blocks, R, V);
        for (int v = 0; v < V; v++) {
            float32x4_t dw = load_half4(scales + 8 * v), mw = dw;

            if (f == PACKED_Q4_1)
                mw = load_half4(scales + 32 + 8 * v);
            for (int r = 0; r < R; r++) {
                const struct act_group *g = &a[(size_t)r * j->n_blocks];
                float32x4_t t = vmulq_f32(vcvtq_f32_s32(sum[r][v]), dw);

                acc[r][v] = vfmaq_n_f32(acc[r][v], t, g->d);
                if (f == PACKED_Q4_1)
                    acc[r][v] = vfmaq_n_f32(acc[r][v], mw, g->e);
            }
        }
        codes += packed_block_bytes(f);
        scales += packed_block_bytes(f);
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V && j->n_valid > 4 * (first + (size_t)v); v++)
            store4(j->y + (size_t)r * j->y_stride + 4 * (first + (size_t)v), acc[r][v],
                   j->n_valid - 4 * (first + (size_t)v));
}

/* All outputs of R rows. */
TEMPLATE void
tile_rows(const struct tile_job *j, const enum packed_format f, const int R, const int V)
{
    for (size_t first = 0; first < 4 && j->n_valid > 4 * first; first += (size_t)V)
        tile_part(j, f, first, R, V);
}

/* Go on to the rows behind the next n. */
TEMPLATE void
skip_rows(struct tile_job *j, size_t n)
{
    j->a += n * j->n_blocks;
    j->y += n * j->y_stride;
}

/* All rows over a range of tiles; `tile` takes a struct tile_job *, format, rows. */
#define DEFINE_MATMUL(name, format, tile)                                                \
    static void name(float *y, size_t y_stride, const struct packed *w,                  \
                     size_t tile_from, size_t tile_to, const struct activations *a)      \
    {                                                                                    \
        for (size_t t = tile_from; t < tile_to; t++) {                                   \
            struct tile_job job = {                                                      \
                y + t * PACKED_ROWS, y_stride,  w->n_out - t * PACKED_ROWS,              \
                packed_tile(w, t),   a->groups, w->n_in / PACKED_BLOCK                   \
            };                                                                           \
                                                                                         \
            tile(&job, format, a->n_rows);                                               \
        }                                                                                \
    }

#define DEFINE_MATMULS(tile)                                                             \
    DEFINE_MATMUL(matmul_q4_0, PACKED_Q4_0, tile)                                        \
    DEFINE_MATMUL(matmul_q4_1, PACKED_Q4_1, tile)                                        \
    DEFINE_MATMUL(matmul_q8_0, PACKED_Q8_0, tile)

/* Rows by fours, then what is left. */
TEMPLATE void
tile_all(struct tile_job *j, const enum packed_format f, size_t n_rows)
{
    for (; n_rows >= 4; n_rows -= 4, skip_rows(j, 4))
        tile_rows(j, f, 4, 2);
    if (n_rows == 3)
        tile_rows(j, f, 3, 2);
    else if (n_rows == 2)
        tile_rows(j, f, 2, 4);
    else if (n_rows == 1)
        tile_rows(j, f, 1, 4);
}

#endif
