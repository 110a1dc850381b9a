/* SPDX-License-Identifier: Apache-2.0
 * kernels_neon_quantised.h - products of quantised weights, less the integer part.
 *
 * Included by a file that has defined ROW_BLOCKS (kernels_quantised_walk.h) and a
 * template that adds the products of chunks [from, to) of a block's codes to the sums of
 * R rows and 4V outputs (codes point at the first of these outputs in the block's first
 * vector, kernels_neon_planes.h takes them apart):
 *
 *   sum_chunks(int32x4_t (*sum)[4], const uint8_t *codes, const struct act_group *a,
 *              size_t a_stride, f, from, to, R, V)
 *
 * Behind the include it needs a template tile_rows, as the walk does; tile_few_rows is
 * one for blocks of up to four rows. DEFINE_MATMULS then makes one function per format.
 *
 * R and V are constants. Four rows share the work of taking codes apart.
 */
#ifndef CE_ENGINE_KERNELS_NEON_QUANTISED_H
#define CE_ENGINE_KERNELS_NEON_QUANTISED_H

#include "engine/kernels_neon_planes.h"
#include "engine/kernels_quantised_walk.h"

/* Scales of one row, in every lane. */
TEMPLATE struct row_scales
load_row(const struct act_group *g)
{
    return (struct row_scales){ vdupq_n_f32(g->d),
                                vdupq_n_f32(g->e),
                                { vdupq_n_f32(g->half_sum[0]),
                                  vdupq_n_f32(g->half_sum[1]) } };
}

/* The integer sums of a block, or of its half `half`: R rows, 4V outputs. */
TEMPLATE void
sum_part(int32x4_t (*sum)[4], const uint8_t *codes, const struct act_group *a,
         size_t a_stride, const enum packed_format f, const int half, const int R,
         const int V)
{
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++)
            sum[r][v] = vdupq_n_s32(start_of(&a[(size_t)r * a_stride], f, half));
    sum_chunks(sum, codes, a, a_stride, f, 4 * half, part_end(f, half), R, V);
}

/* acc += a block's products of outputs at .. at + 4V - 1, R rows. halves: of the
 * superblock the block is in. */
TEMPLATE void
add_block(float32x4_t (*acc)[4], const uint8_t *halves, const uint8_t *block,
          const struct act_group *a, size_t a_stride, const enum packed_format f,
          size_t at, const int R, const int V)
{
    const uint8_t *codes = block + 4 * at, *scales = block + packed_code_bytes(f);
    int32x4_t sum[2][4][4];

    sum_part(sum[0], codes, a, a_stride, f, 0, R, V);
    if (in_halves(f))
        sum_part(sum[1], codes, a, a_stride, f, 1, R, V);
    for (int v = 0; v < V; v++) {
        struct block_scales s = load_scales(halves, scales, f, at + 4 * (size_t)v);

        for (int r = 0; r < R; r++) {
            struct row_scales g = load_row(&a[(size_t)r * a_stride]);

            acc[r][v] =
                add_scaled(acc[r][v], sum[0][r][v], sum[in_halves(f)][r][v], &s, &g, f);
        }
    }
}

/* Outputs at .. at + 4V - 1 of R rows. */
TEMPLATE void
tile_part(float *y, size_t y_stride, size_t n_valid, const uint8_t *block,
          const struct act_group *a, size_t n_blocks, const enum packed_format f,
          size_t at, const int R, const int V)
{
    const uint8_t *halves = block;
    float32x4_t acc[4][4];

    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++)
            acc[r][v] = vdupq_n_f32(0);
    for (size_t b = 0; b < n_blocks; b++, block += packed_block_bytes(f)) {
        if (packed_traits[f].sub && b % (PACKED_SUPER / PACKED_BLOCK) == 0) {
            halves = block;
            block += packed_halves_bytes(f);
        }
        add_block(acc, halves, block, a + b, n_blocks, f, at, R, V);
    }
    for (int v = 0; v < V; v++, at += 4)
        for (int r = 0; r < R && at < n_valid; r++)
            store4(y + (size_t)r * y_stride + at, acc[r][v], n_valid - at);
}

/* All outputs of R rows, at most four. V is chosen so that float sums (R * V), integer
 * sums and operands fit 32 registers: formats whose halves are summed apart, and bytes,
 * which plain NEON widens in between, have twice the integer sums.
 *
 * Nothing is asked for early, as on x86: that takes instructions, and what it brings was
 * measured on no ARM processor. */
TEMPLATE void
tile_few_rows(float *y, size_t y_stride, size_t n_valid, const uint8_t *tile,
              const struct act_group *a, size_t n_blocks, bool first,
              const enum packed_format f, const int R)
{
    const int room = in_halves(f) || packed_traits[f].bits == 8 ? 4 : 8;
    const int V = R == 1 ? 4 : R == 2 ? room / 2 : room / 4;

    (void)first;
    for (size_t at = 0; at < PACKED_ROWS && at < n_valid; at += 4 * (size_t)V)
        tile_part(y, y_stride, n_valid, tile, a, n_blocks, f, at, R, V);
}

/* The formats that have products here, and who enters them. */
#define DEFINE_MATMULS                                                                   \
    DEFINE_MATMUL(matmul_q4_0, PACKED_Q4_0)                                              \
    DEFINE_MATMUL(matmul_q4_1, PACKED_Q4_1)                                              \
    DEFINE_MATMUL(matmul_q8_0, PACKED_Q8_0)                                              \
    DEFINE_PLANE_MATMULS                                                                 \
                                                                                         \
    static void install_quantised(struct kernels *k)                                     \
    {                                                                                    \
        k->matmul[PACKED_Q4_0] = matmul_q4_0;                                            \
        k->matmul[PACKED_Q4_1] = matmul_q4_1;                                            \
        k->matmul[PACKED_Q8_0] = matmul_q8_0;                                            \
        install_planes(k);                                                               \
    }

#endif
