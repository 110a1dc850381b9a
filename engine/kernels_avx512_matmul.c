/* SPDX-License-Identifier: Apache-2.0
 * kernels_avx512_matmul.c - matrix products with vpdpbusd.
 *
 * One template per format works on a tile of 16 outputs, the lanes of one register,
 * and R rows of activations; R is a constant, up to 12, so that integer and float
 * sums of all rows stay in registers and hide the latency of vpdpbusd. Four
 * activations at a time are broadcast from memory. A tile is a few KiB and stays in
 * the first-level cache while all rows pass over it.
 *
 * An integer sum starts at ACT_MAGIC, or at a bias that also takes the offset of the
 * codes into account (struct act_group). Its bits read as a float are then C + idot
 * with C = 1.5 * 2^23, and fma(C + idot, dw, -C * dw) is idot * dw rounded once: the
 * product that section 3 asks for, because C * dw is exact.
 */
#include "engine/kernels_avx512.h"

#define ROWS 12 /* of activations, at most, at a time */

TEMPLATE __m512i
broadcast4(const int8_t *q)
{
    int32_t four;

    memcpy(&four, q, sizeof(four));
    return _mm512_set1_epi32(four);
}

TEMPLATE void
store_tile(float *y, size_t y_stride, size_t n_valid, const __m512 *acc, const int R)
{
    for (int r = 0; r < R; r++)
        _mm512_mask_storeu_ps(y + (size_t)r * y_stride, first_lanes(n_valid), acc[r]);
}

/* acc + idot * dw * d for the sum of a block that started at ACT_MAGIC or a bias. */
TEMPLATE __m512
add_block(__m512 acc, __m512i sum, __m512 dw, __m512 shift, float d)
{
    __m512 t = _mm512_fmadd_ps(_mm512_castsi512_ps(sum), dw, shift);

    return _mm512_fmadd_ps(t, _mm512_set1_ps(d), acc);
}

TEMPLATE __m512
shift_of(__m512 dw)
{
    return _mm512_mul_ps(dw, _mm512_set1_ps(-ACT_MAGIC_F));
}

/* Ask for the block at the same place of the next tile, `next` bytes on: what comes from
 * memory is wanted early, and the hardware does not look beyond a page, which a tile
 * hardly exceeds. The first rows that pass over a tile do this; others have next = 0. */
TEMPLATE void
prefetch(const uint8_t *codes, int code_bytes, const uint8_t *scales, size_t next)
{
    if (next == 0)
        return;
    for (int i = 0; i < code_bytes; i += 64)
        _mm_prefetch((const char *)codes + next + i, _MM_HINT_T0);
    _mm_prefetch((const char *)scales + next, _MM_HINT_T0);
}

/* ---- nibbles ---- */

/* Add the products of one block to R sums. */
TEMPLATE void
block_q4(__m512i *sum, const uint8_t *codes, const struct act_group *a, size_t a_stride,
         const int R)
{
    const __m512i low_bits = _mm512_set1_epi8(15);

    for (int c = 0; c < 4; c++) {
        __m512i w = _mm512_load_si512((const void *)(codes + 64 * c));
        __m512i low = _mm512_and_si512(w, low_bits);
        __m512i high = _mm512_and_si512(_mm512_srli_epi16(w, 4), low_bits);

        for (int r = 0; r < R; r++)
            sum[r] = _mm512_dpbusd_epi32(sum[r], low,
                                         broadcast4(a[(size_t)r * a_stride].q + 4 * c));
        for (int r = 0; r < R; r++)
            sum[r] = _mm512_dpbusd_epi32(
                sum[r], high, broadcast4(a[(size_t)r * a_stride].q + 16 + 4 * c));
    }
}

TEMPLATE void
tile_q4_1(float *y, size_t y_stride, size_t n_valid, const uint8_t *codes,
          const uint8_t *scales, const struct act_group *a, size_t n_blocks, size_t next,
          const int R)
{
    __m512 acc[ROWS];

    for (int r = 0; r < R; r++)
        acc[r] = _mm512_setzero_ps();
    for (size_t b = 0; b < n_blocks; b++, codes += 256, scales += 64) {
        __m512 dw = load_half16(scales), mw = load_half16(scales + 32);
        __m512 shift = shift_of(dw);
        __m512i sum[ROWS];

        prefetch(codes, 256, scales, next);
        for (int r = 0; r < R; r++)
            sum[r] = _mm512_set1_epi32(ACT_MAGIC);
        block_q4(sum, codes, a + b, n_blocks, R);
        for (int r = 0; r < R; r++) {
            const struct act_group *g = &a[(size_t)r * n_blocks + b];

            acc[r] = add_block(acc[r], sum[r], dw, shift, g->d);
            acc[r] = _mm512_fmadd_ps(mw, _mm512_set1_ps(g->e), acc[r]);
        }
    }
    store_tile(y, y_stride, n_valid, acc, R);
}

TEMPLATE void
tile_q4_0(float *y, size_t y_stride, size_t n_valid, const uint8_t *codes,
          const uint8_t *scales, const struct act_group *a, size_t n_blocks, size_t next,
          const int R)
{
    __m512 acc[ROWS];

    for (int r = 0; r < R; r++)
        acc[r] = _mm512_setzero_ps();
    for (size_t b = 0; b < n_blocks; b++, codes += 256, scales += 32) {
        __m512 dw = load_half16(scales), shift = shift_of(dw);
        __m512i sum[ROWS];

        prefetch(codes, 256, scales, next);
        for (int r = 0; r < R; r++)
            sum[r] = _mm512_set1_epi32(a[(size_t)r * n_blocks + b].bias8);
        block_q4(sum, codes, a + b, n_blocks, R);
        for (int r = 0; r < R; r++)
            acc[r] = add_block(acc[r], sum[r], dw, shift, a[(size_t)r * n_blocks + b].d);
    }
    store_tile(y, y_stride, n_valid, acc, R);
}

/* ---- signed bytes, made unsigned by adding 128 ---- */

TEMPLATE void
tile_q8_0(float *y, size_t y_stride, size_t n_valid, const uint8_t *codes,
          const uint8_t *scales, const struct act_group *a, size_t n_blocks, size_t next,
          const int R)
{
    const __m512i top_bits = _mm512_set1_epi8(-128);
    __m512 acc[ROWS];

    for (int r = 0; r < R; r++)
        acc[r] = _mm512_setzero_ps();
    for (size_t b = 0; b < n_blocks; b++, codes += 512, scales += 32) {
        __m512 dw = load_half16(scales), shift = shift_of(dw);
        __m512i sum[ROWS];

        prefetch(codes, 512, scales, next);
        for (int r = 0; r < R; r++)
            sum[r] = _mm512_set1_epi32(a[(size_t)r * n_blocks + b].bias128);
        for (int c = 0; c < 8; c++) {
            __m512i w = _mm512_load_si512((const void *)(codes + 64 * c));

            w = _mm512_xor_si512(w, top_bits);
            for (int r = 0; r < R; r++)
                sum[r] = _mm512_dpbusd_epi32(
                    sum[r], w, broadcast4(a[(size_t)r * n_blocks + b].q + 4 * c));
        }
        for (int r = 0; r < R; r++)
            acc[r] = add_block(acc[r], sum[r], dw, shift, a[(size_t)r * n_blocks + b].d);
    }
    store_tile(y, y_stride, n_valid, acc, R);
}

/* ---- floats ---- */

/* T tiles side by side, so that a single row has enough independent sums. */
TEMPLATE void
tiles_plain(float *y, size_t y_stride, size_t n_valid, const uint8_t *values,
            size_t tile_bytes, const float *x, size_t n_in, const int half, const int T,
            const int R)
{
    __m512 acc[8][ROWS];

    for (int t = 0; t < T; t++)
        for (int r = 0; r < R; r++)
            acc[t][r] = _mm512_setzero_ps();
    for (size_t i = 0; i < n_in; i++) {
        for (int t = 0; t < T; t++) {
            const uint8_t *tile = values + (size_t)t * tile_bytes;
            __m512 w =
                half ? load_half16(tile + i * 32)
                     : _mm512_loadu_ps((const float *)(const void *)(tile + i * 64));

            for (int r = 0; r < R; r++)
                acc[t][r] = _mm512_fmadd_ps(w, _mm512_set1_ps(x[(size_t)r * n_in + i]),
                                            acc[t][r]);
        }
    }
    for (int t = 0; t < T; t++)
        store_tile(y + t * PACKED_ROWS, y_stride, n_valid - (size_t)t * PACKED_ROWS,
                   acc[t], R);
}

/* ---- all rows over a range of tiles ---- */

/* A matrix product of quantised weights out of its template. */
#define DEFINE_MATMUL(name)                                                              \
    static void matmul_##name(float *y, size_t y_stride, const struct packed *w,         \
                              size_t tile_from, size_t tile_to,                          \
                              const struct activations *a)                               \
    {                                                                                    \
        size_t n_blocks = w->n_in / PACKED_BLOCK;                                        \
                                                                                         \
        for (size_t t = tile_from; t < tile_to; t++) {                                   \
            const uint8_t *codes = packed_tile(w, t), *scales = codes + w->scale_offset; \
            size_t n_valid = w->n_out - t * PACKED_ROWS;                                 \
            const struct act_group *g = a->groups;                                       \
            float *out = y + t * PACKED_ROWS;                                            \
            size_t rows = a->n_rows, step, next = w->tile_bytes;                         \
                                                                                         \
            for (; rows > 0;                                                             \
                 next = 0, rows -= step, g += step * n_blocks, out += step * y_stride)   \
                if (rows >= 12) {                                                        \
                    step = 12;                                                           \
                    tile_##name(out, y_stride, n_valid, codes, scales, g, n_blocks,      \
                                next, 12);                                               \
                } else if (rows >= 6) {                                                  \
                    step = 6;                                                            \
                    tile_##name(out, y_stride, n_valid, codes, scales, g, n_blocks,      \
                                next, 6);                                                \
                } else if (rows >= 3) {                                                  \
                    step = 3;                                                            \
                    tile_##name(out, y_stride, n_valid, codes, scales, g, n_blocks,      \
                                next, 3);                                                \
                } else if (rows == 2) {                                                  \
                    step = 2;                                                            \
                    tile_##name(out, y_stride, n_valid, codes, scales, g, n_blocks,      \
                                next, 2);                                                \
                } else {                                                                 \
                    step = 1;                                                            \
                    tile_##name(out, y_stride, n_valid, codes, scales, g, n_blocks,      \
                                next, 1);                                                \
                }                                                                        \
        }                                                                                \
    }

DEFINE_MATMUL(q4_0)
DEFINE_MATMUL(q4_1)
DEFINE_MATMUL(q8_0)

#define PLAIN_ROWS 8
#include "engine/kernels_plain.h"

void
kernels_avx512_install_matmul(struct kernels *k)
{
    k->matmul[PACKED_Q4_0] = matmul_q4_0;
    k->matmul[PACKED_Q4_1] = matmul_q4_1;
    k->matmul[PACKED_Q8_0] = matmul_q8_0;
    k->matmul[PACKED_F16] = matmul_f16;
    k->matmul[PACKED_F32] = matmul_f32;
}
