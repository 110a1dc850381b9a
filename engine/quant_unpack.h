/* SPDX-License-Identifier: Apache-2.0
 * quant_unpack.h - the integers of one block of Q5 and K formats, out of their bits.
 *
 * The reference decoder (quant.c) and the packer of tiles (packed_fill.c) both start
 * from here; loops are such that compilers make vector code of them. Integers are as
 * stored: codes without their offset taken off, but Q3_K's scales with it.
 *
 * Thread: any, no state.
 */
#ifndef CE_ENGINE_QUANT_UNPACK_H
#define CE_ENGINE_QUANT_UNPACK_H

#include <string.h>

#include "engine/quant.h"

struct quant_ints {
    uint8_t n[QUANT_SUPER];      /* codes; of a block the first 32 */
    int8_t sc[QUANT_SUPER / 16]; /* of sub-blocks, in order */
    uint8_t m[QUANT_SUPER / 16];
    uint16_t d, m_or_dmin; /* half precision */
};

/* n[i] = `count` bytes' bits from `shift` on. */
static inline void
quant_take_bits(uint8_t *n, const uint8_t *bytes, size_t count, int shift, int mask)
{
    for (size_t i = 0; i < count; i++)
        n[i] = (uint8_t)(bytes[i] >> shift & mask);
}

/* n[i] |= the bit `from` of bytes[i], at `to`. */
static inline void
quant_take_bit(uint8_t *n, const uint8_t *bytes, size_t count, int from, int to)
{
    for (size_t i = 0; i < count; i++)
        n[i] = (uint8_t)(n[i] | (bytes[i] >> from & 1) << to);
}

/* A block's nibbles, and its fifth bits: bit j is element j's. */
static inline void
quant_unpack_q5(uint8_t n[QUANT_BLOCK], const uint8_t *nibbles, const uint8_t *fifth)
{
    quant_take_bits(n, nibbles, QUANT_BLOCK / 2, 0, 15);
    quant_take_bits(n + QUANT_BLOCK / 2, nibbles, QUANT_BLOCK / 2, 4, 15);
    for (size_t i = 0; i < QUANT_BLOCK; i++)
        n[i] = (uint8_t)(n[i] | (fifth[i / 8] >> i % 8 & 1) << 4);
}

static inline void
quant_unpack_q5_0(struct quant_ints *out, const unsigned char *src)
{
    struct quant_q5_0 b;

    memcpy(&b, src, sizeof(b));
    quant_unpack_q5(out->n, b.n, b.fifth);
    out->d = b.d;
    out->m_or_dmin = 0;
}

static inline void
quant_unpack_q5_1(struct quant_ints *out, const unsigned char *src)
{
    struct quant_q5_1 b;

    memcpy(&b, src, sizeof(b));
    quant_unpack_q5(out->n, b.n, b.fifth);
    out->d = b.d;
    out->m_or_dmin = b.m;
}

/* Codes of two bits: 32 bytes serve four runs of 32 elements, lowest bits first. */
static inline void
quant_unpack_pairs(uint8_t n[QUANT_SUPER], const uint8_t *bytes)
{
    for (size_t part = 0; part < 2; part++)
        for (size_t run = 0; run < 4; run++)
            quant_take_bits(n + 128 * part + 32 * run, bytes + 32 * part, 32,
                            2 * (int)run, 3);
}

static inline void
quant_unpack_q2_k(struct quant_ints *out, const unsigned char *src)
{
    struct quant_q2_k b;

    memcpy(&b, src, sizeof(b));
    quant_unpack_pairs(out->n, b.n);
    for (size_t i = 0; i < 16; i++) {
        out->sc[i] = (int8_t)(b.scales[i] & 15);
        out->m[i] = b.scales[i] >> 4;
    }
    out->d = b.d;
    out->m_or_dmin = b.dmin;
}

/* The third bit of run r of 32 elements is bit r of 32 bytes. A scale's low four bits
 * are nibble i / 8 of byte i % 8, its high two the bits from 2 (i / 4) of byte 8 + i % 4.
 */
static inline void
quant_unpack_q3_k(struct quant_ints *out, const unsigned char *src)
{
    struct quant_q3_k b;

    memcpy(&b, src, sizeof(b));
    quant_unpack_pairs(out->n, b.n);
    for (int run = 0; run < 8; run++)
        quant_take_bit(out->n + 32 * run, b.third, 32, run, 2);
    for (int i = 0; i < 16; i++)
        out->sc[i] = (int8_t)((b.scales[i % 8] >> 4 * (i / 8) & 15) +
                              (b.scales[8 + i % 4] >> 2 * (i / 4) & 3) * 16 - 32);
    memset(out->m, 0, sizeof(out->m));
    out->d = b.d;
    out->m_or_dmin = 0;
}

/* Scales and minima of six bits: those of sub-blocks 0 to 3 are the low bits of bytes 0
 * to 3 and 4 to 7; those of 4 to 7 have their low four bits in bytes 8 to 11 (scale,
 * then minimum) and their high two at the top of bytes 0 to 3 and 4 to 7. */
static inline void
quant_unpack_scales(struct quant_ints *out, const uint8_t s[12])
{
    for (size_t i = 0; i < 4; i++) {
        out->sc[i] = s[i] & 63;
        out->m[i] = s[4 + i] & 63;
        out->sc[4 + i] = (int8_t)((s[8 + i] & 15) | s[i] >> 6 << 4);
        out->m[4 + i] = (uint8_t)(s[8 + i] >> 4 | s[4 + i] >> 6 << 4);
    }
}

/* Nibbles: 32 bytes serve two runs of 32 elements. */
static inline void
quant_unpack_nibbles(uint8_t n[QUANT_SUPER], const uint8_t *bytes)
{
    for (size_t run = 0; run < 8; run++)
        quant_take_bits(n + 32 * run, bytes + run / 2 * 32, 32, 4 * (int)(run % 2), 15);
}

static inline void
quant_unpack_q4_k(struct quant_ints *out, const unsigned char *src)
{
    struct quant_q4_k b;

    memcpy(&b, src, sizeof(b));
    quant_unpack_nibbles(out->n, b.n);
    quant_unpack_scales(out, b.scales);
    out->d = b.d;
    out->m_or_dmin = b.dmin;
}

static inline void
quant_unpack_q5_k(struct quant_ints *out, const unsigned char *src)
{
    struct quant_q5_k b;

    memcpy(&b, src, sizeof(b));
    quant_unpack_nibbles(out->n, b.n);
    for (int run = 0; run < 8; run++)
        quant_take_bit(out->n + 32 * run, b.fifth, 32, run, 4);
    quant_unpack_scales(out, b.scales);
    out->d = b.d;
    out->m_or_dmin = b.dmin;
}

/* 64 bytes of nibbles serve two runs of 64 elements; 32 bytes have the high two bits of
 * four runs of 32. */
static inline void
quant_unpack_q6_k(struct quant_ints *out, const unsigned char *src)
{
    struct quant_q6_k b;

    memcpy(&b, src, sizeof(b));
    for (size_t run = 0; run < 8; run++) {
        uint8_t *n = out->n + 32 * run;
        const uint8_t *low = b.n + run / 4 * 64 + run % 2 * 32;
        const uint8_t *high = b.high + run / 4 * 32;

        for (size_t i = 0; i < 32; i++)
            n[i] = (uint8_t)((low[i] >> (run % 4 / 2 * 4) & 15) |
                             (high[i] >> (run % 4 * 2) & 3) << 4);
    }
    memcpy(out->sc, b.scales, sizeof(b.scales));
    memset(out->m, 0, sizeof(out->m));
    out->d = b.d;
    out->m_or_dmin = 0;
}

#endif
