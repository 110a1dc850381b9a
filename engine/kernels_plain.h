/* SPDX-License-Identifier: Apache-2.0
 * kernels_plain.h - products with F16, BF16 and F32 weights over a range of tiles, which
 * is the same for every instruction set (doc/NUMERICS.md section 3).
 *
 * Included behind the including file's tiles_plain, T tiles by R rows in registers,
 * by a file that defines PLAIN_ROWS: the rows of its large block. Fewer rows than
 * that pass over PLAIN_ROWS tiles at once instead.
 */
#ifndef CE_ENGINE_KERNELS_PLAIN_H
#define CE_ENGINE_KERNELS_PLAIN_H

#include "engine/kernels.h"

TEMPLATE void
matmul_plain(float *y, size_t y_stride, const struct packed *w, size_t tile_from,
             size_t tile_to, const struct activations *a, const enum packed_format f)
{
    size_t step = a->n_rows < PLAIN_ROWS ? PLAIN_ROWS : 1;

    for (size_t t = tile_from; t < tile_to; t += step) {
        const uint8_t *tile = packed_tile(w, t);
        size_t n_valid = w->n_out - t * PACKED_ROWS, rows = a->n_rows;
        const float *x = a->x;
        float *out = y + t * PACKED_ROWS;

        if (step > tile_to - t)
            step = 1;
        for (; rows >= PLAIN_ROWS;
             rows -= PLAIN_ROWS, x += PLAIN_ROWS * w->n_in, out += PLAIN_ROWS * y_stride)
            tiles_plain(out, y_stride, n_valid, tile, w->tile_bytes, x, w->n_in, f, 1,
                        PLAIN_ROWS);
        for (; rows > 0; rows--, x += w->n_in, out += y_stride) {
            if (step == PLAIN_ROWS)
                tiles_plain(out, y_stride, n_valid, tile, w->tile_bytes, x, w->n_in, f,
                            PLAIN_ROWS, 1);
            else
                tiles_plain(out, y_stride, n_valid, tile, w->tile_bytes, x, w->n_in, f, 1,
                            1);
        }
    }
}

static inline void
matmul_f16(float *y, size_t y_stride, const struct packed *w, size_t tile_from,
           size_t tile_to, const struct activations *a)
{
    matmul_plain(y, y_stride, w, tile_from, tile_to, a, PACKED_F16);
}

static inline void
matmul_bf16(float *y, size_t y_stride, const struct packed *w, size_t tile_from,
            size_t tile_to, const struct activations *a)
{
    matmul_plain(y, y_stride, w, tile_from, tile_to, a, PACKED_BF16);
}

static inline void
matmul_f32(float *y, size_t y_stride, const struct packed *w, size_t tile_from,
           size_t tile_to, const struct activations *a)
{
    matmul_plain(y, y_stride, w, tile_from, tile_to, a, PACKED_F32);
}

#endif
