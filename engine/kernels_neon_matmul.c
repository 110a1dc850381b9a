/* SPDX-License-Identifier: Apache-2.0
 * kernels_neon_matmul.c - matrix products for every 64-bit ARM.
 *
 * Without dot products bytes are multiplied into 16-bit sums, half a register of bytes
 * at a time: eight sums for four outputs' four columns, where each chunk of a block
 * adds one product. Activations are at most 127. Codes of 5 bits are at most 31, so the
 * eight products of a block are within 31,496, and codes of 6 bits have sub-blocks of
 * four chunks: within 32,004. Nibbles stay within 15,240, so that even pairs of sums
 * fit. Of signed bytes two products (32,512 at most) fit before they have to be
 * widened.
 */
#include "engine/kernels_neon_planes.h"

/* Four activations, four times. */
TEMPLATE int8x16_t
broadcast4(const int8_t *q)
{
    int32_t four;

    memcpy(&four, q, sizeof(four));
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
}

/* p = w x or p += w x, for the first (p[0]) and last (p[1]) eight bytes. */
TEMPLATE void
add_products(int16x8_t p[2], int8x16_t w, int8x16_t x, bool begin)
{
    int8x8_t w0 = vget_low_s8(w), x0 = vget_low_s8(x);

    p[0] = begin ? vmull_s8(w0, x0) : vmlal_s8(p[0], w0, x0);
    p[1] = begin ? vmull_high_s8(w, x) : vmlal_high_s8(p[1], w, x);
}

/* wide = p or wide += p, in pairs. */
TEMPLATE void
widen(int32x4_t wide[2], const int16x8_t p[2], bool begin)
{
    for (int h = 0; h < 2; h++)
        wide[h] = begin ? vpaddlq_s16(p[h]) : vpadalq_s16(wide[h], p[h]);
}

TEMPLATE void
sum_chunks(int32x4_t (*sum)[4], const uint8_t *codes, const struct act_group *a,
           size_t a_stride, const enum packed_format f, const int from, const int to,
           const int R, const int V)
{
    const int bits = packed_traits[f].bits, fit = bits == 8 ? 2 : to - from;
    int32x4_t wide[4][4][2];
    int16x8_t p[4][4][2];

#pragma GCC unroll 8
    for (int i = from; i < to; i++) {
        const int k = chunk_at(i, from, to), place = (i - from) % fit;
        int8x16_t w[4];

        for (int v = 0; v < V; v++)
            w[v] = load_codes(codes + 16 * v, f, k);
        for (int r = 0; r < R; r++) {
            int8x16_t x = broadcast4(a[(size_t)r * a_stride].q + 4 * k);

            for (int v = 0; v < V; v++) {
                add_products(p[r][v], w[v], x, place == 0);
                if (bits > 4 && place == fit - 1)
                    widen(wide[r][v], p[r][v], i - from < fit);
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++)
            sum[r][v] =
                bits <= 4
                    ? vpadalq_s16(sum[r][v], vpaddq_s16(p[r][v][0], p[r][v][1]))
                    : vaddq_s32(sum[r][v], vpaddq_s32(wide[r][v][0], wide[r][v][1]));
}

#define ROW_BLOCKS(BLOCK, f) BLOCK(f, 4) BLOCK(f, 3) BLOCK(f, 2) BLOCK(f, 1)
#include "engine/kernels_neon_quantised.h"

#define tile_rows tile_few_rows /* there are no larger blocks */

DEFINE_MATMULS

/* ---- floats ---- */

TEMPLATE void
load_plain16(float32x4_t w[4], const uint8_t *values, size_t index,
             const enum packed_format f)
{
    if (f == PACKED_F16) {
        load_half16(w, values + index * 2);
        return;
    }
    if (f == PACKED_BF16) {
        for (size_t v = 0; v < 4; v++) {
            uint16x4_t h = vreinterpret_u16_u8(vld1_u8(values + index * 2 + 8 * v));

            w[v] = vreinterpretq_f32_u32(vshll_n_u16(h, 16));
        }
        return;
    }
    for (int v = 0; v < 4; v++)
        w[v] = vreinterpretq_f32_u8(vld1q_u8(values + index * 4 + 16 * (size_t)v));
}

/* T tiles side by side, so that a single row has enough independent sums. */
TEMPLATE void
tiles_plain(float *y, size_t y_stride, size_t n_valid, const uint8_t *values,
            size_t tile_bytes, const float *x, size_t n_in, const enum packed_format f,
            const int T, const int R)
{
    float32x4_t acc[4][4][4];

    for (int t = 0; t < T; t++)
        for (int r = 0; r < R; r++)
            for (int v = 0; v < 4; v++)
                acc[t][r][v] = vdupq_n_f32(0);
    for (size_t i = 0; i < n_in; i++) {
        for (int t = 0; t < T; t++) {
            float32x4_t w[4];

            load_plain16(w, values + (size_t)t * tile_bytes, i * PACKED_ROWS, f);
            for (int r = 0; r < R; r++)
                for (int v = 0; v < 4; v++)
                    acc[t][r][v] =
                        vfmaq_n_f32(acc[t][r][v], w[v], x[(size_t)r * n_in + i]);
        }
    }
    for (int t = 0; t < T; t++)
        for (int r = 0; r < R; r++)
            for (size_t v = 0; v < 4; v++) {
                size_t at = (size_t)t * PACKED_ROWS + 4 * v;

                if (at < n_valid)
                    store4(y + (size_t)r * y_stride + at, acc[t][r][v], n_valid - at);
            }
}

#define PLAIN_ROWS 4
#include "engine/kernels_plain.h"

void
kernels_neon_install_matmul(struct kernels *k)
{
    install_quantised(k);
    k->matmul[PACKED_F16] = matmul_f16;
    k->matmul[PACKED_BF16] = matmul_bf16;
    k->matmul[PACKED_F32] = matmul_f32;
}
