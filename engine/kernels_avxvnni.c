/* SPDX-License-Identifier: Apache-2.0
 * kernels_avxvnni.c - products of quantised weights with 256-bit vpdpbusd, for CPUs
 * that have it without AVX-512. All else is AVX2's.
 *
 * A tile of 16 outputs is two registers of eight lanes. vpdpbusd multiplies unsigned by
 * signed bytes and adds the four products of a lane to its 32-bit sum, without
 * saturation: nothing has to be widened, as AVX2 must. The R rows of a block of rows,
 * R a constant, have two sums each in registers; float sums are touched once in 32
 * columns and may lie in memory.
 *
 * An integer sum starts at ACT_MAGIC, or at a bias that also takes the offset of the
 * codes into account (struct act_group). Its bits read as a float are then C + idot
 * with C = 1.5 * 2^23, and fma(C + idot, dw, -C * dw) is idot * dw rounded once: the
 * product that section 3 of doc/NUMERICS.md asks for, because C * dw is exact.
 *
 * Tests build this source with a stand-in for the one instruction
 * (tests/kernels/standin_avxvnni.h), to run it on every CPU with AVX2.
 */
#if !defined(__AVXVNNI__) && !defined(KERNELS_AVXVNNI_STANDIN)
#error "build this file with the flags of AVXVNNI_CFLAGS"
#endif

#include "engine/kernels_avx2.h"
#include "engine/kernels_x86_codes.h"

/* Eight sums, which leaves registers for codes. Measured: three rows and six are 6 %
 * slower over many rows, five no faster. */
#define ROWS 4
#define ROW_BLOCKS(BLOCK, format)                                                        \
    BLOCK(format, 4) BLOCK(format, 3) BLOCK(format, 2) BLOCK(format, 1)
#include "engine/kernels_quantised_walk.h"

/* Sums that one output and row are collected in during a block: with few rows the
 * additions wait for one another (vpdpbusd takes four or five cycles). */
#define PARTS(R) ((R) <= 2 ? 2 : 1)

/* The integer sums of a block, [part][row][half]. */
typedef __m256i block_sums[2][ROWS][2];

/* What the integer sum of a block starts at. */
TEMPLATE int32_t
start_of(const struct act_group *g, const enum packed_format f)
{
    return f == PACKED_Q4_1 ? ACT_MAGIC : f == PACKED_Q4_0 ? g->bias8 : g->bias128;
}

/* sum += w x for R rows; w: both halves, x: four columns from `column`. */
TEMPLATE void
add_products(__m256i (*sum)[2], const __m256i w[2], const struct act_group *a,
             size_t a_stride, int column, const int R)
{
    for (int r = 0; r < R; r++) {
        __m256i x = broadcast4(a[(size_t)r * a_stride].q + column);

        sum[r][0] = _mm256_dpbusd_avx_epi32(sum[r][0], w[0], x);
        sum[r][1] = _mm256_dpbusd_avx_epi32(sum[r][1], w[1], x);
    }
}

/* Chunk c of a block's codes: of nibbles, two times four columns. */
TEMPLATE void
add_chunk(block_sums sum, const uint8_t *codes, const struct act_group *a,
          size_t a_stride, const enum packed_format f, int c, const int R)
{
    const __m256i low_bits = _mm256_set1_epi8(15), top_bits = _mm256_set1_epi8(-128);
    __m256i w[2], high[2];

    for (int h = 0; h < 2; h++) {
        w[h] =
            _mm256_load_si256((const __m256i *)(const void *)(codes + 64 * c + 32 * h));
        if (f == PACKED_Q8_0) { /* signed bytes, made unsigned by adding 128 */
            w[h] = _mm256_xor_si256(w[h], top_bits);
            continue;
        }
        high[h] = _mm256_and_si256(_mm256_srli_epi16(w[h], 4), low_bits);
        w[h] = _mm256_and_si256(w[h], low_bits);
    }
    if (f == PACKED_Q8_0) {
        add_products(sum[c % PARTS(R)], w, a, a_stride, 4 * c, R);
        return;
    }
    add_products(sum[0], w, a, a_stride, 4 * c, R);
    add_products(sum[PARTS(R) - 1], high, a, a_stride, 16 + 4 * c, R);
}

/* acc += the block's sums, scaled. */
TEMPLATE void
add_block(__m256 (*acc)[2], block_sums sum, const uint8_t *scales,
          const struct act_group *a, size_t a_stride, const enum packed_format f,
          const int R)
{
    for (int h = 0; h < 2; h++) {
        __m256 dw = load_half8(scales + 16 * h), mw = dw;
        __m256 shift = _mm256_mul_ps(dw, _mm256_set1_ps(-ACT_MAGIC_F));

        if (f == PACKED_Q4_1)
            mw = load_half8(scales + 32 + 16 * h);
        for (int r = 0; r < R; r++) {
            const struct act_group *g = &a[(size_t)r * a_stride];
            __m256i all = sum[0][r][h];
            __m256 t;

            if (PARTS(R) == 2)
                all = _mm256_add_epi32(all, sum[1][r][h]);
            t = _mm256_fmadd_ps(_mm256_castsi256_ps(all), dw, shift);
            acc[r][h] = _mm256_fmadd_ps(t, _mm256_set1_ps(g->d), acc[r][h]);
            if (f == PACKED_Q4_1)
                acc[r][h] = _mm256_fmadd_ps(mw, _mm256_set1_ps(g->e), acc[r][h]);
        }
    }
}

/* ---- codes in planes ---- */

/* sum[r][h]: products of chunks [from, to) of a block. */
TEMPLATE void
sum_chunks(__m256i (*sum)[2], const uint8_t *codes, const struct act_group *a,
           size_t a_stride, const enum packed_format f, const int from, const int to,
           const int R)
{
    for (int r = 0; r < R; r++)
        sum[r][0] = sum[r][1] = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int i = from; i < to; i++) {
        const int k = to - from == 8 ? i / 2 + i % 2 * 4 : i; /* of one vector in turn */
        const __m256i w[2] = { plane_codes(codes, f, k, 0), plane_codes(codes, f, k, 1) };

        add_products(sum, w, a, a_stride, 4 * k, R);
    }
}

#include "engine/kernels_x86_planes.h"

/* One tile, R rows. `first`: no rows have passed over it before. */
TEMPLATE void
tile_rows(float *y, size_t y_stride, size_t n_valid, const uint8_t *block,
          const struct act_group *a, size_t n_blocks, bool first,
          const enum packed_format f, const int R)
{
    __m256 acc[ROWS][2];

    if (packed_traits[f].sub || packed_traits[f].bits == 5) {
        tile_planes(y, y_stride, n_valid, block, a, n_blocks, first, f, R);
        return;
    }
    for (int r = 0; r < R; r++)
        acc[r][0] = acc[r][1] = _mm256_setzero_ps();
    for (size_t b = 0; b < n_blocks; b++, block += packed_block_bytes(f)) {
        block_sums sum;

        if (first)
            prefetch(block, f);
        for (int r = 0; r < R; r++) {
            sum[0][r][0] = sum[0][r][1] =
                _mm256_set1_epi32(start_of(&a[(size_t)r * n_blocks + b], f));
            if (PARTS(R) == 2)
                sum[1][r][0] = sum[1][r][1] = _mm256_setzero_si256();
        }
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

void
kernels_avxvnni_install(struct kernels *k)
{
    k->name = "avxvnni";
    k->matmul[PACKED_Q4_0] = matmul_q4_0;
    k->matmul[PACKED_Q4_1] = matmul_q4_1;
    k->matmul[PACKED_Q8_0] = matmul_q8_0;
    install_planes(k);
}
