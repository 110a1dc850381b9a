/* SPDX-License-Identifier: Apache-2.0
 * kernels_quantised_walk.h - products with quantised weights: the way over tiles and
 * rows, which is the same wherever a template takes a whole tile of 16 outputs.
 *
 * A tile is a few KiB and stays in the first-level cache while all rows pass over it,
 * in blocks of as many rows as the registers hold. The including file defines first
 *
 *   ROW_BLOCKS(BLOCK, format)   the sizes of its blocks, the largest first, down to 1:
 *                               BLOCK(format, 4) BLOCK(format, 2) BLOCK(format, 1)
 *
 * and after the include the template that DEFINE_MATMUL makes products of,
 *
 *   tile_rows(y, y_stride, n_valid, tile, groups, n_blocks, first, format, R)
 *
 * for R rows of one tile; format and R are constants. `first`: no rows have passed over
 * the tile before, so these ask for what comes behind it.
 */
#ifndef CE_ENGINE_KERNELS_QUANTISED_WALK_H
#define CE_ENGINE_KERNELS_QUANTISED_WALK_H

#include <stdbool.h>

#include "engine/kernels.h"

#define PREFETCH_AHEAD 4096 /* bytes */

/* Ask for memory that the stream of blocks comes to later: the hardware alone stops at
 * each page. */
TEMPLATE void
prefetch(const uint8_t *block, const enum packed_format f)
{
    for (size_t i = 0; i < packed_block_bytes(f); i += 64)
        __builtin_prefetch(block + PREFETCH_AHEAD + i);
}

/* Rows in blocks of R, as long as there are so many. */
#define WALK_ROWS(format, R)                                                             \
    for (; rows >= (R); rows -= (R), g += (R)*n_blocks, out += (R)*y_stride) {           \
        tile_rows(out, y_stride, n_valid, tile, g, n_blocks, first, format, R);          \
        first = false;                                                                   \
    }

#define DEFINE_MATMUL(name, format)                                                      \
    static void name(float *y, size_t y_stride, const struct packed *w,                  \
                     size_t tile_from, size_t tile_to, const struct activations *a)      \
    {                                                                                    \
        size_t n_blocks = w->n_in / PACKED_BLOCK;                                        \
                                                                                         \
        for (size_t t = tile_from; t < tile_to; t++) {                                   \
            const uint8_t *tile = packed_tile(w, t);                                     \
            size_t n_valid = w->n_out - t * PACKED_ROWS, rows = a->n_rows;               \
            const struct act_group *g = a->groups;                                       \
            float *out = y + t * PACKED_ROWS;                                            \
            bool first = true;                                                           \
                                                                                         \
            ROW_BLOCKS(WALK_ROWS, format)                                                \
        }                                                                                \
    }

/* One function for each format whose codes lie in planes, and who enters them. */
#define DEFINE_PLANE_MATMULS                                                             \
    DEFINE_MATMUL(matmul_q5_0, PACKED_Q5_0)                                              \
    DEFINE_MATMUL(matmul_q5_1, PACKED_Q5_1)                                              \
    DEFINE_MATMUL(matmul_q2_k, PACKED_Q2_K)                                              \
    DEFINE_MATMUL(matmul_q3_k, PACKED_Q3_K)                                              \
    DEFINE_MATMUL(matmul_q4_k, PACKED_Q4_K)                                              \
    DEFINE_MATMUL(matmul_q5_k, PACKED_Q5_K)                                              \
    DEFINE_MATMUL(matmul_q6_k, PACKED_Q6_K)                                              \
                                                                                         \
    static void install_planes(struct kernels *k)                                        \
    {                                                                                    \
        k->matmul[PACKED_Q5_0] = matmul_q5_0;                                            \
        k->matmul[PACKED_Q5_1] = matmul_q5_1;                                            \
        k->matmul[PACKED_Q2_K] = matmul_q2_k;                                            \
        k->matmul[PACKED_Q3_K] = matmul_q3_k;                                            \
        k->matmul[PACKED_Q4_K] = matmul_q4_k;                                            \
        k->matmul[PACKED_Q5_K] = matmul_q5_k;                                            \
        k->matmul[PACKED_Q6_K] = matmul_q6_k;                                            \
    }

#endif
