/* SPDX-License-Identifier: Apache-2.0
 * quant_encode_k.c - encoding of superblocks of 256 (the K formats).
 *
 * Each sub-block gets the scale, and minimum, of the least squared error; these are
 * rounded to small integers times the superblock's half-precision scales; then elements
 * go to the nearest codes of what was stored. Bits are laid out as quant_unpack.h
 * reads them.
 *
 * Used by: quant.c. Thread: any, no state.
 */
#include <math.h>
#include <string.h>

#include "common/half.h"
#include "engine/quant_internal.h"
#include "engine/quant_unpack.h"

/* Sub-blocks of 16 without minima: codes from -offset to offset - 1, their scales from
 * `least_sc` to -least_sc - 1. */
static bool
fit_symmetric(struct quant_ints *out, const float *src, int offset, int least_sc)
{
    float scales[QUANT_SUPER / 16], extreme = 0, d;
    int n[16];

    for (int s = 0; s < QUANT_SUPER / 16; s++) {
        scales[s] = quant_fit_scale(src + 16 * s, 16, -offset, offset - 1);
        if (fabsf(scales[s]) > fabsf(extreme))
            extreme = scales[s];
    }
    if (!quant_store_half(extreme / (float)least_sc, &out->d, &d))
        return false;
    for (int s = 0; s < QUANT_SUPER / 16; s++) {
        int sc = d != 0 ? quant_nearest(scales[s] / d, least_sc, -least_sc - 1) : 0;

        out->sc[s] = (int8_t)sc;
        quant_round_codes(n, src + 16 * s, 16, d * (float)sc, 0, -offset, offset - 1, 0);
        for (int i = 0; i < 16; i++)
            out->n[16 * s + i] = (uint8_t)(n[i] + offset);
    }
    return true;
}

/* Sub-blocks of `sub` with minima: codes from 0 to `most`, scales and minima to
 * `most_sc`. */
static bool
fit_minimum(struct quant_ints *out, const float *src, int sub, int most, int most_sc)
{
    float scales[QUANT_SUPER / 16], minima[QUANT_SUPER / 16];
    float top_scale = 0, top_minimum = 0, d, dmin;
    int n[QUANT_BLOCK];

    for (int s = 0; s < QUANT_SUPER / sub; s++) {
        quant_fit_affine(src + sub * s, sub, most, false, &scales[s], &minima[s]);
        top_scale = scales[s] > top_scale ? scales[s] : top_scale;
        top_minimum = minima[s] > top_minimum ? minima[s] : top_minimum;
    }
    if (!quant_store_half(top_scale / (float)most_sc, &out->d, &d) ||
        !quant_store_half(top_minimum / (float)most_sc, &out->m_or_dmin, &dmin))
        return false;
    for (int s = 0; s < QUANT_SUPER / sub; s++) {
        int sc = d != 0 ? quant_nearest(scales[s] / d, 0, most_sc) : 0;
        int m = dmin != 0 ? quant_nearest(minima[s] / dmin, 0, most_sc) : 0;

        out->sc[s] = (int8_t)sc;
        out->m[s] = (uint8_t)m;
        quant_round_codes(n, src + sub * s, sub, d * (float)sc, dmin * (float)m, 0, most,
                          0);
        for (int i = 0; i < sub; i++)
            out->n[sub * s + i] = (uint8_t)n[i];
    }
    return true;
}

/* ---- bits ---- */

static void
store_pairs(uint8_t out[QUANT_SUPER / 4], const uint8_t *n)
{
    for (int i = 0; i < QUANT_SUPER / 4; i++) {
        const uint8_t *from = n + i / 32 * 128 + i % 32;

        out[i] = (uint8_t)((from[0] & 3) | (from[32] & 3) << 2 | (from[64] & 3) << 4 |
                           (from[96] & 3) << 6);
    }
}

static void
store_nibbles(uint8_t out[QUANT_SUPER / 2], const uint8_t *n)
{
    for (int i = 0; i < QUANT_SUPER / 2; i++) {
        const uint8_t *from = n + i / 32 * 64 + i % 32;

        out[i] = (uint8_t)((from[0] & 15) | (from[32] & 15) << 4);
    }
}

/* Bit `which` of every code. */
static void
store_bits(uint8_t out[QUANT_SUPER / 8], const uint8_t *n, int which)
{
    memset(out, 0, QUANT_SUPER / 8);
    for (int i = 0; i < QUANT_SUPER; i++)
        out[i % 32] = (uint8_t)(out[i % 32] | (n[i] >> which & 1) << i / 32);
}

static void
store_scales(uint8_t out[12], const struct quant_ints *k)
{
    for (int i = 0; i < 4; i++) {
        out[i] = (uint8_t)(k->sc[i] | k->sc[4 + i] >> 4 << 6);
        out[4 + i] = (uint8_t)(k->m[i] | k->m[4 + i] >> 4 << 6);
        out[8 + i] = (uint8_t)((k->sc[4 + i] & 15) | (k->m[4 + i] & 15) << 4);
    }
}

/* ---- formats ---- */

bool
quant_encode_q2_k(const float *src, unsigned char *dst)
{
    struct quant_ints k;
    struct quant_q2_k b = { 0 };

    if (!fit_minimum(&k, src, 16, 3, 15))
        return false;
    for (int i = 0; i < QUANT_SUPER / 16; i++)
        b.scales[i] = (uint8_t)(k.sc[i] | k.m[i] << 4);
    store_pairs(b.n, k.n);
    b.d = k.d;
    b.dmin = k.m_or_dmin;
    memcpy(dst, &b, sizeof(b));
    return true;
}

bool
quant_encode_q3_k(const float *src, unsigned char *dst)
{
    struct quant_ints k;
    struct quant_q3_k b = { 0 };

    if (!fit_symmetric(&k, src, 4, -32))
        return false;
    for (int i = 0; i < QUANT_SUPER / 16; i++) {
        int sc = k.sc[i] + 32;

        b.scales[i % 8] = (uint8_t)(b.scales[i % 8] | (sc & 15) << 4 * (i / 8));
        b.scales[8 + i % 4] = (uint8_t)(b.scales[8 + i % 4] | sc >> 4 << 2 * (i / 4));
    }
    store_pairs(b.n, k.n);
    store_bits(b.third, k.n, 2);
    b.d = k.d;
    memcpy(dst, &b, sizeof(b));
    return true;
}

bool
quant_encode_q4_k(const float *src, unsigned char *dst)
{
    struct quant_ints k;
    struct quant_q4_k b = { 0 };

    if (!fit_minimum(&k, src, 32, 15, 63))
        return false;
    store_scales(b.scales, &k);
    store_nibbles(b.n, k.n);
    b.d = k.d;
    b.dmin = k.m_or_dmin;
    memcpy(dst, &b, sizeof(b));
    return true;
}

bool
quant_encode_q5_k(const float *src, unsigned char *dst)
{
    struct quant_ints k;
    struct quant_q5_k b = { 0 };

    if (!fit_minimum(&k, src, 32, 31, 63))
        return false;
    store_scales(b.scales, &k);
    store_nibbles(b.n, k.n);
    store_bits(b.fifth, k.n, 4);
    b.d = k.d;
    b.dmin = k.m_or_dmin;
    memcpy(dst, &b, sizeof(b));
    return true;
}

bool
quant_encode_q6_k(const float *src, unsigned char *dst)
{
    struct quant_ints k;
    struct quant_q6_k b = { 0 };

    if (!fit_symmetric(&k, src, 32, -128))
        return false;
    for (int i = 0; i < QUANT_SUPER; i++) {
        int run = i / 32 % 4, part = i / 128;

        b.n[64 * part + 32 * (run % 2) + i % 32] |=
            (uint8_t)((k.n[i] & 15) << 4 * (run / 2));
        b.high[32 * part + i % 32] |= (uint8_t)(k.n[i] >> 4 << 2 * run);
    }
    memcpy(b.scales, k.sc, sizeof(b.scales));
    b.d = k.d;
    memcpy(dst, &b, sizeof(b));
    return true;
}
