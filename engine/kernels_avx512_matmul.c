/* SPDX-License-Identifier: Apache-2.0
 * kernels_avx512_matmul.c - matrix products with vpdpbusd.
 *
 * One template works on a tile of 16 outputs, the lanes of one register, and R rows of
 * activations; format and R are constants, so that integer and float sums of all rows
 * stay in registers and hide the latency of vpdpbusd. Four activations at a time are
 * broadcast from memory. A tile is a few KiB and stays in the first-level cache while
 * all rows pass over it.
 *
 * Eight rows at most: with twelve there are more pointers to rows than registers, and
 * reloading them cost a tenth (Zen 4). Two tiles side by side with six rows halve the
 * broadcasts and were no faster, and small batches then wait for two streams of memory.
 *
 * An integer sum starts at ACT_MAGIC, or at a bias that also takes the offset of the
 * codes into account (struct act_group). Its bits read as a float are then C + idot
 * with C = 1.5 * 2^23, and fma(C + idot, dw, -C * dw) is idot * dw rounded once: the
 * product that section 3 asks for, because C * dw is exact.
 */
#include "engine/kernels_avx512.h"
#include "engine/kernels_x86_codes.h"

#define ROWS 8 /* of activations, at most, at a time */

/* clang-format off */
#define ROW_BLOCKS(BLOCK, format)                                                        \
    BLOCK(format, 8) BLOCK(format, 7) BLOCK(format, 6) BLOCK(format, 5)                  \
    BLOCK(format, 4) BLOCK(format, 3) BLOCK(format, 2) BLOCK(format, 1)
/* clang-format on */

#include "engine/kernels_quantised_walk.h"

TEMPLATE __m512i
broadcast4(const int8_t *q)
{
    int32_t four;

    memcpy(&four, q, sizeof(four));
    return _mm512_set1_epi32(four);
}

/* A tile's outputs, the first n_valid of which exist, of R rows. */
TEMPLATE void
store_tile(float *y, size_t y_stride, size_t n_valid, __m512 (*acc)[1], const int R)
{
    for (int r = 0; r < R; r++)
        _mm512_mask_storeu_ps(y + (size_t)r * y_stride, first_lanes(n_valid), acc[r][0]);
}

/* ---- quantised weights ---- */

/* What the integer sum of a block starts at. */
TEMPLATE int32_t
start_of(const struct act_group *g, const enum packed_format f)
{
    return f == PACKED_Q4_1 ? ACT_MAGIC : f == PACKED_Q4_0 ? g->bias8 : g->bias128;
}

/* sum += w x for R rows; x: four columns from `column`. */
TEMPLATE void
add_products(__m512i (*sum)[1], __m512i w, const struct act_group *a, size_t a_stride,
             int column, const int R)
{
    for (int r = 0; r < R; r++)
        sum[r][0] = _mm512_dpbusd_epi32(sum[r][0], w,
                                        broadcast4(a[(size_t)r * a_stride].q + column));
}

/* Chunk c of a block's codes: of nibbles, two times four columns. */
TEMPLATE void
add_chunk(__m512i (*sum)[1], const uint8_t *codes, const struct act_group *a,
          size_t a_stride, const enum packed_format f, int c, const int R)
{
    __m512i w = _mm512_loadu_si512(codes + 64 * c);

    if (f == PACKED_Q8_0) { /* signed bytes, made unsigned by adding 128 */
        w = _mm512_xor_si512(w, _mm512_set1_epi8(-128));
        add_products(sum, w, a, a_stride, 4 * c, R);
    } else {
        const __m512i low_bits = _mm512_set1_epi8(15);

        add_products(sum, _mm512_and_si512(w, low_bits), a, a_stride, 4 * c, R);
        w = _mm512_and_si512(_mm512_srli_epi16(w, 4), low_bits);
        add_products(sum, w, a, a_stride, 16 + 4 * c, R);
    }
}

/* acc += the block's sums, scaled. */
TEMPLATE void
add_block(__m512 (*acc)[1], __m512i (*sum)[1], const uint8_t *scales,
          const struct act_group *a, size_t a_stride, const enum packed_format f,
          const int R)
{
    __m512 dw = load_half16(scales), mw = dw;
    __m512 shift = _mm512_mul_ps(dw, _mm512_set1_ps(-ACT_MAGIC_F));

    if (f == PACKED_Q4_1)
        mw = load_half16(scales + 32);
    for (int r = 0; r < R; r++) {
        const struct act_group *g = &a[(size_t)r * a_stride];
        __m512 t = _mm512_fmadd_ps(_mm512_castsi512_ps(sum[r][0]), dw, shift);

        acc[r][0] = _mm512_fmadd_ps(t, _mm512_set1_ps(g->d), acc[r][0]);
        if (f == PACKED_Q4_1)
            acc[r][0] = _mm512_fmadd_ps(mw, _mm512_set1_ps(g->e), acc[r][0]);
    }
}

/* ---- codes in planes ---- */

/* sum[r][0]: products of chunks [from, to) of a block. */
TEMPLATE void
sum_chunks(__m512i (*sum)[1], const uint8_t *codes, const struct act_group *a,
           size_t a_stride, const enum packed_format f, const int from, const int to,
           const int R)
{
    for (int r = 0; r < R; r++)
        sum[r][0] = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int i = from; i < to; i++) {
        const int k = to - from == 8 ? i / 2 + i % 2 * 4 : i; /* of one vector in turn */

        add_products(sum, plane_codes(codes, f, k, 0), a, a_stride, 4 * k, R);
    }
}

#include "engine/kernels_x86_planes.h"

/* One tile, R rows. `first`: no rows have passed over it before. */
TEMPLATE void
tile_rows(float *y, size_t y_stride, size_t n_valid, const uint8_t *block,
          const struct act_group *a, size_t n_blocks, bool first,
          const enum packed_format f, const int R)
{
    __m512 acc[ROWS][1];

    if (packed_traits[f].sub || packed_traits[f].bits == 5) {
        tile_planes(y, y_stride, n_valid, block, a, n_blocks, first, f, R);
        return;
    }
    for (int r = 0; r < R; r++)
        acc[r][0] = _mm512_setzero_ps();
    for (size_t b = 0; b < n_blocks; b++, block += packed_block_bytes(f)) {
        __m512i sum[ROWS][1];

        if (first)
            prefetch(block, f);
        for (int r = 0; r < R; r++)
            sum[r][0] = _mm512_set1_epi32(start_of(&a[(size_t)r * n_blocks + b], f));
#pragma GCC unroll 8
        for (int c = 0; c < (int)packed_code_bytes(f) / 64; c++)
            add_chunk(sum, block, a + b, n_blocks, f, c, R);
        add_block(acc, sum, block + packed_code_bytes(f), a + b, n_blocks, f, R);
    }
    store_tile(y, y_stride, n_valid, acc, R);
}

DEFINE_MATMUL(matmul_q4_0, PACKED_Q4_0)
DEFINE_MATMUL(matmul_q4_1, PACKED_Q4_1)
DEFINE_MATMUL(matmul_q8_0, PACKED_Q8_0)
DEFINE_PLANE_MATMULS

/* ---- floats ---- */

/* Column i of a tile. */
TEMPLATE __m512
load_plain16(const uint8_t *tile, size_t i, const enum packed_format f)
{
    if (f == PACKED_F16)
        return load_half16(tile + i * 32);
    if (f == PACKED_BF16) {
        __m256i h = _mm256_loadu_si256((const __m256i *)(const void *)(tile + i * 32));

        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
    }
    return _mm512_loadu_ps((const float *)(const void *)(tile + i * 64));
}

/* T tiles side by side, so that a single row has enough independent sums. */
TEMPLATE void
tiles_plain(float *y, size_t y_stride, size_t n_valid, const uint8_t *values,
            size_t tile_bytes, const float *x, size_t n_in, const enum packed_format f,
            const int T, const int R)
{
    __m512 acc[8][ROWS][1];

    for (int t = 0; t < T; t++)
        for (int r = 0; r < R; r++)
            acc[t][r][0] = _mm512_setzero_ps();
    for (size_t i = 0; i < n_in; i++) {
        for (int t = 0; t < T; t++) {
            const uint8_t *tile = values + (size_t)t * tile_bytes;
            __m512 w = load_plain16(tile, i, f);

            for (int r = 0; r < R; r++)
                acc[t][r][0] = _mm512_fmadd_ps(w, _mm512_set1_ps(x[(size_t)r * n_in + i]),
                                               acc[t][r][0]);
        }
    }
    for (int t = 0; t < T; t++)
        store_tile(y + t * PACKED_ROWS, y_stride, n_valid - (size_t)t * PACKED_ROWS,
                   acc[t], R);
}

#define PLAIN_ROWS 8
#include "engine/kernels_plain.h"

void
kernels_avx512_install_matmul(struct kernels *k)
{
    k->matmul[PACKED_Q4_0] = matmul_q4_0;
    k->matmul[PACKED_Q4_1] = matmul_q4_1;
    k->matmul[PACKED_Q8_0] = matmul_q8_0;
    install_planes(k);
    k->matmul[PACKED_F16] = matmul_f16;
    k->matmul[PACKED_BF16] = matmul_bf16;
    k->matmul[PACKED_F32] = matmul_f32;
}
