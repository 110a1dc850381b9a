/* SPDX-License-Identifier: Apache-2.0
 * half.h - IEEE 754 binary16 to binary32 and back, one value at a time.
 *
 * Exact to the bit on every machine: widening is exact, narrowing rounds to
 * nearest, ties to even; what is too large becomes infinity, subnormals are
 * kept, a NaN stays a (quiet) NaN. Integer arithmetic only, so neither the
 * rounding mode nor flush-to-zero matters. Faster versions for whole rows live
 * with the kernels and must equal these.
 */
#ifndef CE_COMMON_HALF_H
#define CE_COMMON_HALF_H

#include <stdint.h>
#include <string.h>

static inline float
half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t exponent = (h >> 10) & 0x1f, mantissa = h & 0x3ff, bits;
    float f;

    if (exponent == 0x1f) { /* infinity, or NaN made quiet */
        bits = sign | 0x7f800000 | mantissa << 13;
        if (mantissa != 0)
            bits |= 0x00400000;
    } else if (exponent != 0) {
        bits = sign | (exponent + 112) << 23 | mantissa << 13;
    } else if (mantissa == 0) {
        bits = sign;
    } else { /* subnormal: mantissa * 2^-24, normalised */
        exponent = 113;
        while ((mantissa & 0x400) == 0) {
            mantissa <<= 1;
            exponent--;
        }
        bits = sign | exponent << 23 | (mantissa & 0x3ff) << 13;
    }
    memcpy(&f, &bits, sizeof(f));
    return f;
}

static inline uint16_t
half_from_float(float f)
{
    uint32_t bits, magnitude, sign, shift, kept, rest, tie;

    memcpy(&bits, &f, sizeof(bits));
    sign = (bits >> 16) & 0x8000;
    magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) /* NaN */
        return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
    if (magnitude >= 0x477ff000) /* from 65520 on, ties included */
        return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x33000000) /* below half of the least subnormal */
        return (uint16_t)sign;
    if (magnitude >= 0x38800000) { /* normal: drop 13 bits, exponent less 112 */
        shift = 13;
        kept = magnitude - (112u << 23);
    } else { /* subnormal: the result counts units of 2^-24 */
        shift = 126 - (magnitude >> 23);
        kept = (magnitude & 0x7fffff) | 0x800000;
    }
    rest = kept & ((1u << shift) - 1);
    tie = 1u << (shift - 1);
    kept >>= shift;
    if (rest > tie || (rest == tie && (kept & 1) != 0))
        kept++; /* a carry into the exponent is the right result */
    return (uint16_t)(sign | kept);
}

#endif
