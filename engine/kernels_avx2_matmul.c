/* SPDX-License-Identifier: Apache-2.0
 * kernels_avx2_matmul.c - matrix products with vpmaddubsw.
 *
 * One template per format works on a tile of 16 outputs (two registers of eight
 * lanes) and R rows of activations; R is a constant, so sums stay in registers.
 * Rows are taken four at a time (more would spill), the rest by smaller R, as
 * kernels_quantised_walk.h walks over them.
 *
 * Nibbles are at most 15 and activations at most 127, so the pairs that vpmaddubsw
 * adds are within 3,810, and the eight of them that make a block's lane within
 * 30,480: they are added as 16-bit integers, and one vpmaddwd finishes the block.
 * Signed bytes take their sign over to the activation first; a pair is then within
 * 32,512, and has to be widened at once.
 */
#include "engine/kernels_avx2.h"
#include "engine/kernels_x86_codes.h"

#define ROWS 4 /* of activations, at a time */
#define ROW_BLOCKS(BLOCK, format)                                                        \
    BLOCK(format, 4) BLOCK(format, 3) BLOCK(format, 2) BLOCK(format, 1)
#include "engine/kernels_quantised_walk.h"

/* Integer sums may be taken in any order, and GCC then computes all products of a
 * block before it adds one, which spills them. This makes it add as written. */
#define KEEP_ORDER(sum) __asm__("" : "+x"(sum))

/* ---- nibbles ---- */

/* Sums of products of one block: sum[r][h] are 16-bit pairs for lanes 8h .. 8h+7. */
TEMPLATE void
block_q4(__m256i (*sum)[2], const uint8_t *codes, const struct act_group *a,
         size_t a_stride, const int R)
{
    const __m256i low_bits = _mm256_set1_epi8(15);

    for (int c = 0; c < 4; c++) {
        __m256i w0 = _mm256_load_si256((const __m256i *)(codes + 64 * c));
        __m256i w1 = _mm256_load_si256((const __m256i *)(codes + 64 * c + 32));
        __m256i low0 = _mm256_and_si256(w0, low_bits);
        __m256i low1 = _mm256_and_si256(w1, low_bits);
        __m256i high0 = _mm256_and_si256(_mm256_srli_epi16(w0, 4), low_bits);
        __m256i high1 = _mm256_and_si256(_mm256_srli_epi16(w1, 4), low_bits);

        for (int r = 0; r < R; r++) {
            const int8_t *q = a[(size_t)r * a_stride].q + 4 * c;
            __m256i x = broadcast4(q), z = broadcast4(q + 16);
            __m256i p0 = _mm256_maddubs_epi16(low0, x);
            __m256i p1 = _mm256_maddubs_epi16(low1, x);

            sum[r][0] = c == 0 ? p0 : _mm256_add_epi16(sum[r][0], p0);
            sum[r][1] = c == 0 ? p1 : _mm256_add_epi16(sum[r][1], p1);
            sum[r][0] = _mm256_add_epi16(sum[r][0], _mm256_maddubs_epi16(high0, z));
            sum[r][1] = _mm256_add_epi16(sum[r][1], _mm256_maddubs_epi16(high1, z));
            KEEP_ORDER(sum[r][0]);
            KEEP_ORDER(sum[r][1]);
        }
    }
}

TEMPLATE void
tile_q4_1(float *y, size_t y_stride, size_t n_valid, const uint8_t *block,
          const struct act_group *a, size_t n_blocks, bool first, const int R)
{
    const __m256i ones = _mm256_set1_epi16(1);
    __m256 acc[ROWS][2];

    for (int r = 0; r < R; r++)
        acc[r][0] = acc[r][1] = _mm256_setzero_ps();
    for (size_t b = 0; b < n_blocks; b++, block += packed_block_bytes(PACKED_Q4_1)) {
        __m256i sum[ROWS][2];

        if (first)
            prefetch(block, PACKED_Q4_1);
        block_q4(sum, block, a + b, n_blocks, R);
        for (int h = 0; h < 2; h++) {
            __m256 dw = load_half8(block + packed_code_bytes(PACKED_Q4_0) + 16 * h),
                   mw = load_half8(block + packed_code_bytes(PACKED_Q4_0) + 32 + 16 * h);

            for (int r = 0; r < R; r++) {
                const struct act_group *g = &a[(size_t)r * n_blocks + b];
                __m256 t = _mm256_cvtepi32_ps(_mm256_madd_epi16(sum[r][h], ones));

                acc[r][h] = _mm256_fmadd_ps(_mm256_mul_ps(t, dw), _mm256_set1_ps(g->d),
                                            acc[r][h]);
                acc[r][h] = _mm256_fmadd_ps(mw, _mm256_set1_ps(g->e), acc[r][h]);
            }
        }
    }
    store_tile(y, y_stride, n_valid, acc, R);
}

TEMPLATE void
tile_q4_0(float *y, size_t y_stride, size_t n_valid, const uint8_t *block,
          const struct act_group *a, size_t n_blocks, bool first, const int R)
{
    const __m256i ones = _mm256_set1_epi16(1);
    __m256 acc[ROWS][2];

    for (int r = 0; r < R; r++)
        acc[r][0] = acc[r][1] = _mm256_setzero_ps();
    for (size_t b = 0; b < n_blocks; b++, block += packed_block_bytes(PACKED_Q4_0)) {
        __m256i sum[ROWS][2];

        if (first)
            prefetch(block, PACKED_Q4_0);
        block_q4(sum, block, a + b, n_blocks, R);
        for (int h = 0; h < 2; h++) {
            __m256 dw = load_half8(block + packed_code_bytes(PACKED_Q4_0) + 16 * h);
            __m256 shift = _mm256_mul_ps(dw, _mm256_set1_ps(-ACT_MAGIC_F)); /* exact */

            for (int r = 0; r < R; r++) {
                const struct act_group *g = &a[(size_t)r * n_blocks + b];
                __m256i i = _mm256_add_epi32(_mm256_madd_epi16(sum[r][h], ones),
                                             _mm256_set1_epi32(g->bias8));
                __m256 t = _mm256_fmadd_ps(_mm256_castsi256_ps(i), dw, shift);

                acc[r][h] = _mm256_fmadd_ps(t, _mm256_set1_ps(g->d), acc[r][h]);
            }
        }
    }
    store_tile(y, y_stride, n_valid, acc, R);
}

/* ---- signed bytes ---- */

TEMPLATE void
block_q8(__m256i (*sum)[2], const uint8_t *codes, const struct act_group *a,
         size_t a_stride, const int R)
{
    const __m256i ones = _mm256_set1_epi16(1);

    for (int c = 0; c < 8; c++) {
        for (int h = 0; h < 2; h++) {
            __m256i w = _mm256_load_si256((const __m256i *)(codes + 64 * c + 32 * h));
            __m256i size = _mm256_abs_epi8(w); /* 128 as an unsigned byte */

            for (int r = 0; r < R; r++) {
                __m256i x = broadcast4(a[(size_t)r * a_stride].q + 4 * c);
                __m256i p = _mm256_maddubs_epi16(size, _mm256_sign_epi8(x, w));

                p = _mm256_madd_epi16(p, ones);
                sum[r][h] = c == 0 ? p : _mm256_add_epi32(sum[r][h], p);
                KEEP_ORDER(sum[r][h]);
            }
        }
    }
}

TEMPLATE void
tile_q8_0(float *y, size_t y_stride, size_t n_valid, const uint8_t *block,
          const struct act_group *a, size_t n_blocks, bool first, const int R)
{
    __m256 acc[ROWS][2];

    for (int r = 0; r < R; r++)
        acc[r][0] = acc[r][1] = _mm256_setzero_ps();
    for (size_t b = 0; b < n_blocks; b++, block += packed_block_bytes(PACKED_Q8_0)) {
        __m256i sum[ROWS][2];

        if (first)
            prefetch(block, PACKED_Q8_0);
        block_q8(sum, block, a + b, n_blocks, R);
        for (int h = 0; h < 2; h++) {
            __m256 dw = load_half8(block + packed_code_bytes(PACKED_Q8_0) + 16 * h);

            for (int r = 0; r < R; r++) {
                __m256 t = _mm256_mul_ps(_mm256_cvtepi32_ps(sum[r][h]), dw);
                __m256 d = _mm256_set1_ps(a[(size_t)r * n_blocks + b].d);

                acc[r][h] = _mm256_fmadd_ps(t, d, acc[r][h]);
            }
        }
    }
    store_tile(y, y_stride, n_valid, acc, R);
}

/* ---- codes in planes ---- */

/* sum[r][h]: products of chunks [from, to) of a block. As many pairs are added in 16 bits
 * as stay below 2^15: of codes of 5 bits 4 chunks, of 6 bits 2. */
TEMPLATE void
sum_chunks(__m256i (*sum)[2], const uint8_t *codes, const struct act_group *a,
           size_t a_stride, const enum packed_format f, const int from, const int to,
           const int R)
{
    const int bits = packed_traits[f].bits, fit = bits > 5 ? 2 : bits > 4 ? 4 : 8;
    const __m256i ones = _mm256_set1_epi16(1);

    for (int h = 0; h < 2; h++) {
        __m256i pairs[ROWS];

#pragma GCC unroll 8
        for (int k = from; k < to; k++) {
            __m256i w = plane_codes(codes, f, k, h);

            for (int r = 0; r < R; r++) {
                __m256i x = broadcast4(a[(size_t)r * a_stride].q + 4 * k);
                __m256i p = _mm256_maddubs_epi16(w, x);

                pairs[r] = (k - from) % fit == 0 ? p : _mm256_add_epi16(pairs[r], p);
                KEEP_ORDER(pairs[r]);
                if ((k - from) % fit != fit - 1 && k != to - 1)
                    continue;
                p = _mm256_madd_epi16(pairs[r], ones);
                sum[r][h] = k - from < fit ? p : _mm256_add_epi32(sum[r][h], p);
            }
        }
    }
}

#include "engine/kernels_x86_planes.h"

/* ---- all rows over a range of tiles ---- */

TEMPLATE void
tile_rows(float *y, size_t y_stride, size_t n_valid, const uint8_t *tile,
          const struct act_group *a, size_t n_blocks, bool first,
          const enum packed_format f, const int R)
{
    if (f == PACKED_Q4_0)
        tile_q4_0(y, y_stride, n_valid, tile, a, n_blocks, first, R);
    else if (f == PACKED_Q4_1)
        tile_q4_1(y, y_stride, n_valid, tile, a, n_blocks, first, R);
    else if (f != PACKED_Q8_0)
        tile_planes(y, y_stride, n_valid, tile, a, n_blocks, first, f, R);
    else
        tile_q8_0(y, y_stride, n_valid, tile, a, n_blocks, first, R);
}

DEFINE_MATMUL(matmul_q4_0, PACKED_Q4_0)
DEFINE_MATMUL(matmul_q4_1, PACKED_Q4_1)
DEFINE_MATMUL(matmul_q8_0, PACKED_Q8_0)
DEFINE_PLANE_MATMULS

/* ---- floats ---- */

TEMPLATE __m256
load_plain8(const uint8_t *values, size_t index, const enum packed_format f)
{
    if (f == PACKED_F16)
        return load_half8(values + index * 2);
    if (f == PACKED_BF16) {
        __m128i h = _mm_loadu_si128((const __m128i *)(const void *)(values + index * 2));

        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
    }
    return _mm256_load_ps((const float *)(const void *)values + index);
}

/* T tiles side by side, so that a single row has enough independent sums. */
TEMPLATE void
tiles_plain(float *y, size_t y_stride, size_t n_valid, const uint8_t *values,
            size_t tile_bytes, const float *x, size_t n_in, const enum packed_format f,
            const int T, const int R)
{
    __m256 acc[4][ROWS][2];

    for (int t = 0; t < T; t++)
        for (int r = 0; r < R; r++)
            acc[t][r][0] = acc[t][r][1] = _mm256_setzero_ps();
    for (size_t i = 0; i < n_in; i++) {
        for (int t = 0; t < T; t++) {
            const uint8_t *tile = values + (size_t)t * tile_bytes;
            __m256 w0 = load_plain8(tile, i * PACKED_ROWS, f);
            __m256 w1 = load_plain8(tile, i * PACKED_ROWS + 8, f);

            for (int r = 0; r < R; r++) {
                __m256 v = _mm256_set1_ps(x[(size_t)r * n_in + i]);

                acc[t][r][0] = _mm256_fmadd_ps(w0, v, acc[t][r][0]);
                acc[t][r][1] = _mm256_fmadd_ps(w1, v, acc[t][r][1]);
            }
        }
    }
    for (int t = 0; t < T; t++)
        store_tile(y + t * PACKED_ROWS, y_stride, n_valid - (size_t)t * PACKED_ROWS,
                   acc[t], R);
}

#define PLAIN_ROWS 4
#include "engine/kernels_plain.h"

void
kernels_avx2_install_matmul(struct kernels *k)
{
    k->matmul[PACKED_Q4_0] = matmul_q4_0;
    k->matmul[PACKED_Q4_1] = matmul_q4_1;
    k->matmul[PACKED_Q8_0] = matmul_q8_0;
    install_planes(k);
    k->matmul[PACKED_F16] = matmul_f16;
    k->matmul[PACKED_BF16] = matmul_bf16;
    k->matmul[PACKED_F32] = matmul_f32;
}
