/* SPDX-License-Identifier: Apache-2.0
 * kernels_x86_codes.h - codes out of planes (packed.h), a register of bytes at a time.
 *
 * For registers of any width: kernels_avx2.h and kernels_avx512.h define vecf, veci, VEC,
 * VEC_BITS and TILE_VECS. A vector of a plane is 64 bytes, TILE_VECS registers.
 */
#ifndef CE_ENGINE_KERNELS_X86_CODES_H
#define CE_ENGINE_KERNELS_X86_CODES_H

#include "engine/kernels.h"

/* Bytes shifted right (left when n < 0) as 16-bit words: bits of neighbours come along.
 * Immediate counts need constants even where nothing is optimised. */
TEMPLATE veci
shift_bits(veci x, const int n)
{
    switch (n) {
    case -4:
        return VEC(slli_epi16)(x, 4);
    case -3:
        return VEC(slli_epi16)(x, 3);
    case -2:
        return VEC(slli_epi16)(x, 2);
    case -1:
        return VEC(slli_epi16)(x, 1);
    case 1:
        return VEC(srli_epi16)(x, 1);
    case 2:
        return VEC(srli_epi16)(x, 2);
    case 3:
        return VEC(srli_epi16)(x, 3);
    case 4:
        return VEC(srli_epi16)(x, 4);
    case 5:
        return VEC(srli_epi16)(x, 5);
    case 6:
        return VEC(srli_epi16)(x, 6);
    default:
        return x;
    }
}

/* Chunk k of a plane of `bits` bits: these bits of every byte, at `to`. Register h. */
TEMPLATE veci
plane_bits(const uint8_t *plane, const int bits, const int to, const int k, const int h)
{
    const uint8_t *at = plane + 64 * (k % bits) + sizeof(veci) * (size_t)h;
    veci x = shift_bits(VEC_BITS(loadu)((const void *)at), k / bits * bits - to);

    return VEC_BITS(and)(x, VEC(set1_epi8)((char)(((1 << bits) - 1) << to)));
}

/* Chunk k of a block's codes, one in every byte, of the outputs of register h. */
TEMPLATE veci
plane_codes(const uint8_t *codes, const enum packed_format f, const int k, const int h)
{
    const int base = packed_base_bits(f), bits = packed_traits[f].bits - base;
    veci x = plane_bits(codes, base, 0, k, h);

    if (bits > 0) /* the constant keeps a plane that is not there from dividing by 0 */
        x = VEC_BITS(or)(x,
                         plane_bits(codes + 64 * base, bits > 0 ? bits : 1, base, k, h));
    return x;
}

#endif
