/* SPDX-License-Identifier: Apache-2.0
 * kernels_neon_planes.h - codes out of planes (packed.h), and sums of their products into
 * floats: what the products of all quantised formats share, whatever instruction
 * multiplies.
 *
 * Formats are constants, so that of the cases below one is left. Nibbles are a format
 * with one plane, bytes one with a plane of eight bits.
 *
 * Codes keep their offset (8 in Q4_0, 32 in Q6_K): bytes stay positive and their
 * products small. Sums start at what the offset adds up to instead, which depends on
 * the activations only and is as exact.
 *
 * A register of sums is one row by four outputs, or two by two (kernels_neon_i8mm.c):
 * scales of rows and of outputs are brought into that shape, and nothing here depends
 * on it.
 */
#ifndef CE_ENGINE_KERNELS_NEON_PLANES_H
#define CE_ENGINE_KERNELS_NEON_PLANES_H

#include "engine/kernels_neon.h"

/* ---- codes ---- */

/* Every byte shifted right. The instruction wants a literal. */
TEMPLATE uint8x16_t
shift_right(uint8x16_t x, const int n)
{
    switch (n) {
    case 1:
        return vshrq_n_u8(x, 1);
    case 2:
        return vshrq_n_u8(x, 2);
    case 3:
        return vshrq_n_u8(x, 3);
    case 4:
        return vshrq_n_u8(x, 4);
    case 5:
        return vshrq_n_u8(x, 5);
    case 6:
        return vshrq_n_u8(x, 6);
    case 7:
        return vshrq_n_u8(x, 7);
    default:
        return x;
    }
}

/* Bits of a code in the second plane, or none. */
TEMPLATE int
second_bits(const enum packed_format f)
{
    return packed_traits[f].bits - packed_base_bits(f);
}

/* The codes of chunk k out of the registers of the first and the second plane that hold
 * it. Where the last plane's bits are the highest of its bytes, there is nothing above
 * them to be cut off. */
TEMPLATE int8x16_t
take_codes(uint8x16_t first, uint8x16_t second, const enum packed_format f, const int k)
{
    const int base = packed_base_bits(f), more = second_bits(f);
    const int last = more > 0 ? more : base;
    uint8x16_t w = shift_right(first, k / base * base);

    if (more > 0) {
        second = shift_right(second, k / last * last);
        w = base == 4 ? vsliq_n_u8(w, second, 4) : vsliq_n_u8(w, second, 2);
    }
    if (k / last * last + last < 8)
        w = vandq_u8(w, vdupq_n_u8((uint8_t)((1 << packed_traits[f].bits) - 1)));
    return vreinterpretq_s8_u8(w);
}

/* Chunk k of four outputs; codes: theirs in the block's first vector. */
TEMPLATE int8x16_t
load_codes(const uint8_t *codes, const enum packed_format f, const int k)
{
    const int base = packed_base_bits(f), more = second_bits(f);
    uint8x16_t first = vld1q_u8(codes + 64 * (k % base));

    if (more == 0)
        return take_codes(first, first, f, k);
    return take_codes(first, vld1q_u8(codes + 64 * (base + k % (more > 0 ? more : 1))), f,
                      k);
}

/* The order in which chunks [from, to) are best taken, i of [from, to): those that share
 * a vector of nibbles in turn. */
TEMPLATE int
chunk_at(int i, const int from, const int to)
{
    return to - from == 8 ? i / 2 + i % 2 * 4 : i;
}

/* ---- scales ---- */

/* Does every half of a block have a sub-scale of its own? */
TEMPLATE bool
in_halves(const enum packed_format f)
{
    return packed_traits[f].sub == PACKED_BLOCK / 2;
}

/* The end of the chunks summed together, of which 4 * half is the first. */
TEMPLATE int
part_end(const enum packed_format f, const int half)
{
    return in_halves(f) ? 4 * half + 4 : 8;
}

/* What the sum of a block starts at, or that of half `half`: minus the offset for every
 * one of q. */
TEMPLATE int32_t
start_of(const struct act_group *g, const enum packed_format f, int half)
{
    const int offset = packed_traits[f].offset;

    if (in_halves(f))
        return -offset * (int32_t)g->half_sum[half];
    return offset / 8 * (g->bias8 - ACT_MAGIC);
}

/* Of a block's rows: d, e and half_sum of struct act_group. */
struct row_scales {
    float32x4_t d, e, sum[2];
};

/* Of a block's outputs: sub-scales sc and m of its halves, and d and dmin of the
 * superblock; without halves d (times sc) and the minimum are in sc[0] and m[0]. */
struct block_scales {
    float32x4_t sc[2], m[2], d, dmin;
};

/* Four half floats, unsigned and signed bytes. */
TEMPLATE float32x4_t
load_half4(const uint8_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}

TEMPLATE float32x4_t
load_u8x4(const uint8_t *p)
{
    uint32_t four;

    memcpy(&four, p, sizeof(four));
    return vcvtq_f32_u32(
        vmovl_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four))))));
}

TEMPLATE float32x4_t
load_s8x4(const uint8_t *p)
{
    uint32_t four;

    memcpy(&four, p, sizeof(four));
    return vcvtq_f32_s32(
        vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(four))))));
}

/* Of outputs at .. at + 3. halves: of the superblock; scales: behind the block's codes.
 */
TEMPLATE struct block_scales
load_scales(const uint8_t *halves, const uint8_t *scales, const enum packed_format f,
            size_t at)
{
    const bool minimum = packed_traits[f].minimum;
    const uint8_t *d = (packed_traits[f].sub ? halves : scales) + 2 * at;
    struct block_scales s;

    s.d = load_half4(d);
    s.dmin = minimum ? load_half4(d + 32) : s.d;
    s.sc[0] = s.sc[1] = s.d;
    s.m[0] = s.m[1] = s.dmin;
    if (packed_traits[f].sub == PACKED_BLOCK) { /* both products are exact */
        s.sc[0] = vmulq_f32(s.d, load_u8x4(scales + at));
        s.m[0] = vmulq_f32(s.dmin, load_u8x4(scales + 16 + at));
    }
    for (size_t i = 0; in_halves(f) && i < 2; i++) {
        s.sc[i] = load_s8x4(scales + 16 * i + at); /* those of Q2_K are below 16 */
        if (minimum)
            s.m[i] = load_u8x4(scales + 32 + 16 * i + at);
    }
    return s;
}

/* acc plus a block whose sums are sum0 and, of formats with halves, sum1. */
TEMPLATE float32x4_t
add_scaled(float32x4_t acc, int32x4_t sum0, int32x4_t sum1, const struct block_scales *s,
           const struct row_scales *g, const enum packed_format f)
{
    float32x4_t t = vmulq_f32(vcvtq_f32_s32(sum0), s->sc[0]);

    if (in_halves(f)) { /* exact but for the product with d */
        t = vfmaq_f32(t, vcvtq_f32_s32(sum1), s->sc[1]);
        t = vmulq_f32(t, s->d);
    }
    acc = vfmaq_f32(acc, t, g->d);
    if (!packed_traits[f].minimum)
        return acc;
    if (packed_traits[f].sub == 0)
        return vfmaq_f32(acc, s->m[0], g->e);
    if (packed_traits[f].sub == PACKED_BLOCK)
        return vfmsq_f32(acc, s->m[0], g->e);
    t = vfmaq_f32(vmulq_f32(s->m[0], g->sum[0]), s->m[1], g->sum[1]); /* exact */
    return vfmsq_f32(acc, vmulq_f32(t, s->dmin), g->d);
}

/* Store four outputs, the n_valid first of which exist. */
TEMPLATE void
store4(float *y, float32x4_t x, size_t n_valid)
{
    float four[4];

    if (n_valid >= 4) {
        vst1q_f32(y, x);
        return;
    }
    vst1q_f32(four, x);
    memcpy(y, four, n_valid * sizeof(*y));
}

#endif
