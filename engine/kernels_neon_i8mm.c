/* SPDX-License-Identifier: Apache-2.0
 * kernels_neon_i8mm.c - products of quantised weights with smmla (Cortex-A510, A710
 * and later, Neoverse V1, N2).
 *
 * smmla multiplies two rows of eight bytes with two other rows of eight: twice the
 * work of sdot. Packed codes are four outputs by four columns; registers of two
 * neighbouring chunks, zipped by 32 bits, are two outputs by eight columns each. So no
 * second layout is needed: a block costs one zip per register of a plane, before codes
 * are taken apart, shared by all rows. A register of sums is then two activation rows
 * by two outputs, (row 0: o, o + 1; row 1: o, o + 1), and float sums stay in that order
 * until they are stored; scales are brought into it once per block.
 *
 * This pays, modestly, once four pairs of rows share it: for a block of Q4_1 and 32
 * results the loop has 112 vector instructions, 56 of them multiply, where sdot's has
 * 131 and 88; of Q6_K 183 and 64, where sdot's has 202 and 96. Two pairs gained nothing,
 * so rows that do not make eight take sdot. These are counts of compiled code (gcc 12),
 * not measurements on a processor. Pairs of activations are put together again for every
 * four outputs; a layout of activations in pairs would save most of what is left to save,
 * but every other kernel would pay.
 */
#include "engine/kernels_neon_dotprod.h"

#define ROW_BLOCKS(BLOCK, f) BLOCK(f, 8) BLOCK(f, 4) BLOCK(f, 3) BLOCK(f, 2) BLOCK(f, 1)
#include "engine/kernels_neon_quantised.h"

#ifndef __ARM_FEATURE_MATMUL_INT8
#error "build this file with the flags of NEON_I8MM_CFLAGS"
#endif

#define PAIRS 4 /* of rows, at a time */

/* Eight activations of two rows, from column `from`. */
TEMPLATE int8x16_t
load_pair(const struct act_group *a, size_t a_stride, int from)
{
    return vcombine_s8(vld1_s8(a[0].q + from), vld1_s8(a[a_stride].q + from));
}

/* Of a plane of `bits` bits the registers with chunks k and k + 1, k even, zipped:
 * outputs 0, 1 (u = 0) or 2, 3. Where one register has both, the second is shifted to
 * where the first is. */
TEMPLATE uint8x16_t
zip_plane(const uint8_t *plane, const int bits, const int k, int u)
{
    uint8x16_t first = vld1q_u8(plane + 64 * (k % bits));
    uint8x16_t second =
        bits == 1 ? vshrq_n_u8(first, 1) : vld1q_u8(plane + 64 * ((k + 1) % bits));
    uint32x4_t x = vreinterpretq_u32_u8(first), z = vreinterpretq_u32_u8(second);

    return vreinterpretq_u8_u32(u == 0 ? vzip1q_u32(x, z) : vzip2q_u32(x, z));
}

/* The codes of chunks k and k + 1 in that order. */
TEMPLATE int8x16_t
load_zipped(const uint8_t *codes, const enum packed_format f, const int k, int u)
{
    const int base = packed_base_bits(f), more = second_bits(f);
    uint8x16_t first = zip_plane(codes, base, k, u);

    if (more == 0)
        return take_codes(first, first, f, k);
    return take_codes(first, zip_plane(codes + 64 * base, more > 0 ? more : 1, k, u), f,
                      k);
}

/* Add the products of chunks [from, to) to sums of four outputs; sum[p][u] is of pair p
 * of rows and of outputs 2u and 2u + 1. */
TEMPLATE void
sum_pairs(int32x4_t (*sum)[2], const uint8_t *codes, const struct act_group *a,
          size_t a_stride, const enum packed_format f, const int from, const int to)
{
#pragma GCC unroll 4
    for (int i = from; i < to; i += 2) {
        const int k = to - from == 8 ? i / 4 * 2 + i / 2 % 2 * 4 : i;
        const int8x16_t w[2] = { load_zipped(codes, f, k, 0),
                                 load_zipped(codes, f, k, 1) };

        for (int p = 0; p < PAIRS; p++) {
            int8x16_t x = load_pair(a + 2 * (size_t)p * a_stride, a_stride, 4 * k);

            for (int u = 0; u < 2; u++)
                sum[p][u] = vmmlaq_s32(sum[p][u], x, w[u]);
        }
    }
}

/* Outputs 2u and 2u + 1 of four, twice. */
TEMPLATE float32x4_t
twice(float32x4_t x, int u)
{
    float64x2_t d = vreinterpretq_f64_f32(x);

    return vreinterpretq_f32_f64(u == 0 ? vdupq_laneq_f64(d, 0) : vdupq_laneq_f64(d, 1));
}

TEMPLATE struct block_scales
scales_twice(const struct block_scales *s, int u)
{
    return (struct block_scales){ { twice(s->sc[0], u), twice(s->sc[1], u) },
                                  { twice(s->m[0], u), twice(s->m[1], u) },
                                  twice(s->d, u),
                                  twice(s->dmin, u) };
}

/* Scales of two rows; d and e stand side by side, and so do the sums of halves. */
TEMPLATE struct row_scales
load_rows(const struct act_group *a, size_t a_stride)
{
    const struct act_group *z = a + a_stride;
    float32x4_t de = vcombine_f32(vld1_f32(&a->d), vld1_f32(&z->d));
    float32x4_t sums = vcombine_f32(vld1_f32(a->half_sum), vld1_f32(z->half_sum));

    return (struct row_scales){ vtrn1q_f32(de, de),
                                vtrn2q_f32(de, de),
                                { vtrn1q_f32(sums, sums), vtrn2q_f32(sums, sums) } };
}

/* The integer sums of a block, or of its half `half`: four outputs, PAIRS pairs of rows.
 */
TEMPLATE void
sum_part_of_pairs(int32x4_t (*sum)[2], const uint8_t *codes, const struct act_group *a,
                  size_t a_stride, const enum packed_format f, const int half)
{
    for (size_t p = 0; p < PAIRS; p++) {
        const struct act_group *g = a + 2 * p * a_stride;

        sum[p][0] = vcombine_s32(vdup_n_s32(start_of(g, f, half)),
                                 vdup_n_s32(start_of(g + a_stride, f, half)));
        sum[p][1] = sum[p][0];
    }
    sum_pairs(sum, codes, a, a_stride, f, 4 * half, part_end(f, half));
}

/* acc += a block's products of outputs at .. at + 3, PAIRS pairs of rows. */
TEMPLATE void
add_pairs(float32x4_t (*acc)[2], const uint8_t *halves, const uint8_t *block,
          const struct act_group *a, size_t a_stride, const enum packed_format f,
          size_t at)
{
    struct block_scales s = load_scales(halves, block + packed_code_bytes(f), f, at);
    const struct block_scales half[2] = { scales_twice(&s, 0), scales_twice(&s, 1) };
    int32x4_t sum[2][PAIRS][2];

    sum_part_of_pairs(sum[0], block + 4 * at, a, a_stride, f, 0);
    if (in_halves(f))
        sum_part_of_pairs(sum[1], block + 4 * at, a, a_stride, f, 1);
    for (size_t p = 0; p < PAIRS; p++) {
        struct row_scales g = load_rows(a + 2 * p * a_stride, a_stride);

        for (int u = 0; u < 2; u++)
            acc[p][u] = add_scaled(acc[p][u], sum[0][p][u], sum[in_halves(f)][p][u],
                                   &half[u], &g, f);
    }
}

/* Outputs at .. at + 3 of PAIRS pairs of rows. */
TEMPLATE void
tile_pairs(float *y, size_t y_stride, size_t n_valid, const uint8_t *block,
           const struct act_group *a, size_t n_blocks, const enum packed_format f,
           size_t at)
{
    const uint8_t *halves = block;
    float32x4_t acc[PAIRS][2];

    for (int p = 0; p < PAIRS; p++)
        acc[p][0] = acc[p][1] = vdupq_n_f32(0);
    for (size_t b = 0; b < n_blocks; b++, block += packed_block_bytes(f)) {
        if (packed_traits[f].sub && b % (PACKED_SUPER / PACKED_BLOCK) == 0) {
            halves = block;
            block += packed_halves_bytes(f);
        }
        add_pairs(acc, halves, block, a + b, n_blocks, f, at);
    }
    for (size_t p = 0; p < PAIRS; p++, y += 2 * y_stride) {
        float32x4_t even = acc[p][0], odd = acc[p][1];

        store4(y + at, vcombine_f32(vget_low_f32(even), vget_low_f32(odd)), n_valid - at);
        store4(y + y_stride + at, vcombine_f32(vget_high_f32(even), vget_high_f32(odd)),
               n_valid - at);
    }
}

/* Eight rows in pairs; what is left by sdot. */
TEMPLATE void
tile_rows(float *y, size_t y_stride, size_t n_valid, const uint8_t *tile,
          const struct act_group *a, size_t n_blocks, bool first,
          const enum packed_format f, const int R)
{
    if (R < 2 * PAIRS) {
        tile_few_rows(y, y_stride, n_valid, tile, a, n_blocks, first, f, R);
        return;
    }
    for (size_t at = 0; at < PACKED_ROWS && at < n_valid; at += 4)
        tile_pairs(y, y_stride, n_valid, tile, a, n_blocks, f, at);
}

DEFINE_MATMULS

void
kernels_neon_i8mm_install(struct kernels *k)
{
    k->name = "neon-i8mm";
    install_quantised(k);
}
