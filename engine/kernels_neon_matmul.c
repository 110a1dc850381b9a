/* SPDX-License-Identifier: Apache-2.0
 * kernels_neon_matmul.c - matrix products for every 64-bit ARM.
 *
 * Without dot products bytes are multiplied into 16-bit sums, half a register of
 * bytes at a time. Nibbles are at most 15 and activations at most 127, so the eight
 * products that a block adds in one place are within 15,240, and a pair of such sums
 * within 30,480: one widening addition finishes the block. Of signed bytes two
 * products (32,512 at most) fit before they have to be widened.
 */
#include "engine/kernels_neon.h"

/* Four activations, four times. */
TEMPLATE int8x16_t
broadcast4(const int8_t *q)
{
    int32_t four;

    memcpy(&four, q, sizeof(four));
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
}

/* p += w x, for the first (p[0]) and last (p[1]) eight bytes. */
TEMPLATE void
add_products(int16x8_t p[2], int8x16_t w, int8x16_t x)
{
    p[0] = vmlal_s8(p[0], vget_low_s8(w), vget_low_s8(x));
    p[1] = vmlal_high_s8(p[1], w, x);
}

TEMPLATE void
block_q4(int32x4_t (*sum)[4], const uint8_t *codes, const struct act_group *a,
         size_t a_stride, const int R, const int V)
{
    int16x8_t p[4][4][2];

    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++)
            p[r][v][0] = p[r][v][1] = vdupq_n_s16(0);
    for (int c = 0; c < 4; c++) {
        int8x16_t low[4], high[4];

        for (int v = 0; v < V; v++) {
            uint8x16_t w = vld1q_u8(codes + 64 * c + 16 * v);

            low[v] = vreinterpretq_s8_u8(vandq_u8(w, vdupq_n_u8(15)));
            high[v] = vreinterpretq_s8_u8(vshrq_n_u8(w, 4));
        }
        for (int r = 0; r < R; r++) {
            const int8_t *q = a[(size_t)r * a_stride].q + 4 * c;
            int8x16_t x = broadcast4(q), z = broadcast4(q + 16);

            for (int v = 0; v < V; v++) {
                add_products(p[r][v], low[v], x);
                add_products(p[r][v], high[v], z);
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++)
            sum[r][v] = vpadalq_s16(sum[r][v], vpaddq_s16(p[r][v][0], p[r][v][1]));
}

TEMPLATE void
block_q8(int32x4_t (*sum)[4], const uint8_t *codes, const struct act_group *a,
         size_t a_stride, const int R, const int V)
{
    int32x4_t pairs[4][4][2];

    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++)
            pairs[r][v][0] = pairs[r][v][1] = vdupq_n_s32(0);
    for (int c = 0; c < 8; c += 2) {
        int8x16_t w[4][2];

        for (int v = 0; v < V; v++)
            for (int i = 0; i < 2; i++)
                w[v][i] = vreinterpretq_s8_u8(vld1q_u8(codes + 64 * (c + i) + 16 * v));
        for (int r = 0; r < R; r++) {
            const int8_t *q = a[(size_t)r * a_stride].q + 4 * c;
            int8x16_t x = broadcast4(q), z = broadcast4(q + 4);

            for (int v = 0; v < V; v++) {
                int16x8_t p[2] = { vmull_s8(vget_low_s8(w[v][0]), vget_low_s8(x)),
                                   vmull_high_s8(w[v][0], x) };

                add_products(p, w[v][1], z);
                pairs[r][v][0] = vpadalq_s16(pairs[r][v][0], p[0]);
                pairs[r][v][1] = vpadalq_s16(pairs[r][v][1], p[1]);
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++)
            sum[r][v] = vaddq_s32(sum[r][v], vpaddq_s32(pairs[r][v][0], pairs[r][v][1]));
}

#include "engine/kernels_neon_quantised.h"

DEFINE_MATMULS(tile_all)

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
    k->matmul[PACKED_Q4_0] = matmul_q4_0;
    k->matmul[PACKED_Q4_1] = matmul_q4_1;
    k->matmul[PACKED_Q8_0] = matmul_q8_0;
    k->matmul[PACKED_F16] = matmul_f16;
    k->matmul[PACKED_BF16] = matmul_bf16;
    k->matmul[PACKED_F32] = matmul_f32;
}
