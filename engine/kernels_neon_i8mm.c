/* SPDX-License-Identifier: Apache-2.0
 * kernels_neon_i8mm.c - products of quantised weights with smmla (Cortex-A510, A710
 * and later, Neoverse V1, N2).
 *
 * smmla multiplies two rows of eight bytes with two other rows of eight: twice the
 * work of sdot. Packed codes are four outputs by four columns; registers of two
 * neighbouring chunks, zipped by 32 bits, are two outputs by eight columns each. So no
 * second layout is needed: a block costs one zip per register of codes, before nibbles
 * are taken apart, shared by all rows. A register of sums is then two activation rows
 * by two outputs, (row 0: o, o + 1; row 1: o, o + 1), and float sums stay in that order
 * until they are stored; scales are brought into it once per block.
 *
 * This pays, modestly, once four pairs of rows share it: for a block of Q4_1 and 32
 * results the loop has 116 vector instructions, 48 of them multiply, where sdot's has
 * 125 and 80. Two pairs gained nothing, so rows that do not make eight take sdot. These
 * are counts of compiled code (gcc 12), not measurements on a processor. Pairs of
 * activations are put together again for every four outputs; a layout of activations
 * in pairs would save most of what is left to save, but every other kernel would pay.
 */
#include "engine/kernels_neon_dotprod.h"
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

/* Codes of four outputs in chunks c (at `codes`) and c + 1: outputs 0, 1 and 2, 3. */
TEMPLATE void
load_codes(uint8x16_t w[2], const uint8_t *codes)
{
    uint32x4_t x = vreinterpretq_u32_u8(vld1q_u8(codes));
    uint32x4_t z = vreinterpretq_u32_u8(vld1q_u8(codes + 64));

    w[0] = vreinterpretq_u8_u32(vzip1q_u32(x, z));
    w[1] = vreinterpretq_u8_u32(vzip2q_u32(x, z));
}

/* Add the products of a block to sums of four outputs; sum[p][u] is of pair p of rows
 * and of outputs 2u and 2u + 1. */
TEMPLATE void
pairs_q4(int32x4_t (*sum)[2], const uint8_t *codes, const struct act_group *a,
         size_t a_stride)
{
    for (int c = 0; c < 4; c += 2) {
        uint8x16_t w[2];

        load_codes(w, codes + 64 * c);
        for (int p = 0; p < PAIRS; p++) {
            const struct act_group *rows = a + 2 * (size_t)p * a_stride;
            int8x16_t x = load_pair(rows, a_stride, 4 * c);
            int8x16_t z = load_pair(rows, a_stride, 16 + 4 * c);

            for (int u = 0; u < 2; u++) {
                uint8x16_t low = vandq_u8(w[u], vdupq_n_u8(15));
                uint8x16_t high = vshrq_n_u8(w[u], 4);

                sum[p][u] = vmmlaq_s32(sum[p][u], x, vreinterpretq_s8_u8(low));
                sum[p][u] = vmmlaq_s32(sum[p][u], z, vreinterpretq_s8_u8(high));
            }
        }
    }
}

TEMPLATE void
pairs_q8(int32x4_t (*sum)[2], const uint8_t *codes, const struct act_group *a,
         size_t a_stride)
{
    for (int c = 0; c < 8; c += 2) {
        uint8x16_t w[2];

        load_codes(w, codes + 64 * c);
        for (int p = 0; p < PAIRS; p++) {
            int8x16_t x = load_pair(a + 2 * (size_t)p * a_stride, a_stride, 4 * c);

            for (int u = 0; u < 2; u++)
                sum[p][u] = vmmlaq_s32(sum[p][u], x, vreinterpretq_s8_u8(w[u]));
        }
    }
}

/* Scales of four outputs for sums of outputs 0, 1 and 2, 3. */
TEMPLATE void
load_scales(float32x4_t out[2], const uint8_t *scales)
{
    float64x2_t d = vreinterpretq_f64_f32(load_half4(scales));

    out[0] = vreinterpretq_f32_f64(vdupq_laneq_f64(d, 0));
    out[1] = vreinterpretq_f32_f64(vdupq_laneq_f64(d, 1));
}

/* Scale the block's sums of a pair of rows and add them. */
TEMPLATE void
add_pair(float32x4_t acc[2], const int32x4_t sum[2], const float32x4_t dw[2],
         const float32x4_t mw[2], const struct act_group *a, size_t a_stride,
         const enum packed_format f)
{
    /* d and e stand side by side: (d, e, d, e) of the two rows */
    float32x4_t both = vcombine_f32(vld1_f32(&a[0].d), vld1_f32(&a[a_stride].d));
    float32x4_t d = vtrn1q_f32(both, both), e = vtrn2q_f32(both, both);

    for (int u = 0; u < 2; u++) {
        acc[u] = vfmaq_f32(acc[u], vmulq_f32(vcvtq_f32_s32(sum[u]), dw[u]), d);
        if (f == PACKED_Q4_1)
            acc[u] = vfmaq_f32(acc[u], mw[u], e);
    }
}

/* Outputs at .. at + 3 of PAIRS pairs of rows. */
TEMPLATE void
tile_pairs(const struct tile_job *j, const enum packed_format f, size_t at)
{
    const uint8_t *codes = j->tile + 4 * at;
    const uint8_t *scales = j->tile + packed_code_bytes(f) + 2 * at;
    const size_t pair = 2 * j->n_blocks;
    float32x4_t acc[PAIRS][2];

    for (int p = 0; p < PAIRS; p++)
        acc[p][0] = acc[p][1] = vdupq_n_f32(0);
    for (size_t b = 0; b < j->n_blocks; b++) {
        const struct act_group *a = j->a + b;
        float32x4_t dw[2], mw[2];
        int32x4_t sum[PAIRS][2];

        for (size_t p = 0; p < PAIRS; p++) {
            const struct act_group *g = a + p * pair;
            int32x4_t start = vcombine_s32(vdup_n_s32(g->bias8 - ACT_MAGIC),
                                           vdup_n_s32(g[j->n_blocks].bias8 - ACT_MAGIC));

            sum[p][0] = sum[p][1] = f == PACKED_Q4_0 ? start : vdupq_n_s32(0);
        }
        if (f == PACKED_Q8_0)
            pairs_q8(sum, codes, a, j->n_blocks);
        else
            pairs_q4(sum, codes, a, j->n_blocks);
        load_scales(dw, scales);
        load_scales(mw, scales + (f == PACKED_Q4_1 ? 32 : 0));
        for (size_t p = 0; p < PAIRS; p++)
            add_pair(acc[p], sum[p], dw, mw, a + p * pair, j->n_blocks, f);
        codes += packed_block_bytes(f);
        scales += packed_block_bytes(f);
    }
    for (size_t p = 0; p < PAIRS; p++) {
        float32x4_t even = acc[p][0], odd = acc[p][1];
        float *y = j->y + 2 * p * j->y_stride + at;

        store4(y, vcombine_f32(vget_low_f32(even), vget_low_f32(odd)), j->n_valid - at);
        store4(y + j->y_stride, vcombine_f32(vget_high_f32(even), vget_high_f32(odd)),
               j->n_valid - at);
    }
}

/* Rows by eights; what is left by sdot. */
TEMPLATE void
tile_by_pairs(struct tile_job *j, const enum packed_format f, size_t n_rows)
{
    for (; n_rows >= (size_t)2 * PAIRS; n_rows -= (size_t)2 * PAIRS) {
        for (size_t at = 0; at < PACKED_ROWS && at < j->n_valid; at += 4)
            tile_pairs(j, f, at);
        skip_rows(j, (size_t)2 * PAIRS);
    }
    tile_all(j, f, n_rows);
}

DEFINE_MATMULS(tile_by_pairs)

void
kernels_neon_i8mm_install(struct kernels *k)
{
    k->name = "neon-i8mm";
    k->matmul[PACKED_Q4_0] = matmul_q4_0;
    k->matmul[PACKED_Q4_1] = matmul_q4_1;
    k->matmul[PACKED_Q8_0] = matmul_q8_0;
}
