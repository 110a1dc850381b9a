/* SPDX-License-Identifier: Apache-2.0
 * quant.h - block layouts of quantised weights, their reference decoding, and
 * encoding for synthesised and converted models.
 *
 * Weights come in rows; a row of a quantised format is a run of blocks of 32
 * consecutive elements, or of superblocks of 256. Each holds one integer per element:
 * n without a sign, q with one. A block has half-precision scale d and, some, minimum m:
 *
 *   Q8_0  34 bytes  d, q[32]                          x = d * q
 *   Q4_0  18 bytes  d, 16 bytes of nibbles            x = d * (n - 8)
 *   Q4_1  20 bytes  d, m, 16 bytes of nibbles         x = d * n + m
 *   Q5_0  22 bytes  d, fifth bits, nibbles            x = d * (n - 16)
 *   Q5_1  24 bytes  d, m, fifth bits, nibbles         x = d * n + m
 *
 * Byte j of the nibbles holds element j in its low and element j + 16 in its high
 * half; bit j of the fifth bits belongs to element j. A superblock's d and dmin scale
 * the small integers sc and m of its sub-blocks of 32 or 16 elements:
 *
 *   Q2_K   84 bytes  16 x (sc, m of 4 bits)           x = (d * sc) * n - dmin * m
 *   Q3_K  110 bytes  16 x sc of 6 bits, less 32       x = (d * sc) * (n - 4)
 *   Q4_K  144 bytes   8 x (sc, m of 6 bits)           x = (d * sc) * n - dmin * m
 *   Q5_K  176 bytes   8 x (sc, m of 6 bits)           x = (d * sc) * n - dmin * m
 *   Q6_K  210 bytes  16 x sc, signed bytes            x = (d * sc) * (n - 32)
 *
 * (quant_unpack.h says where their bits lie.) Decoding is float32: halves widened,
 * products and sums each rounded, in the order written. F32, F16 and BF16 rows are
 * plain numbers. Kernels do not decode like this (doc/NUMERICS.md); tests and tools do.
 */
#ifndef CE_ENGINE_QUANT_H
#define CE_ENGINE_QUANT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define QUANT_BLOCK 32  /* elements per block */
#define QUANT_SUPER 256 /* elements per superblock */

struct quant_q8_0 {
    uint16_t d; /* half precision */
    int8_t q[QUANT_BLOCK];
};

struct quant_q4_0 {
    uint16_t d;
    uint8_t n[QUANT_BLOCK / 2];
};

struct quant_q4_1 {
    uint16_t d, m;
    uint8_t n[QUANT_BLOCK / 2];
};

struct quant_q5_0 {
    uint16_t d;
    uint8_t fifth[QUANT_BLOCK / 8];
    uint8_t n[QUANT_BLOCK / 2];
};

struct quant_q5_1 {
    uint16_t d, m;
    uint8_t fifth[QUANT_BLOCK / 8];
    uint8_t n[QUANT_BLOCK / 2];
};

struct quant_q2_k {
    uint8_t scales[QUANT_SUPER / 16];
    uint8_t n[QUANT_SUPER / 4];
    uint16_t d, dmin;
};

struct quant_q3_k {
    uint8_t third[QUANT_SUPER / 8];
    uint8_t n[QUANT_SUPER / 4];
    uint8_t scales[12];
    uint16_t d;
};

struct quant_q4_k {
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t n[QUANT_SUPER / 2];
};

struct quant_q5_k {
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t fifth[QUANT_SUPER / 8];
    uint8_t n[QUANT_SUPER / 2];
};

struct quant_q6_k {
    uint8_t n[QUANT_SUPER / 2];
    uint8_t high[QUANT_SUPER / 4];
    int8_t scales[QUANT_SUPER / 16];
    uint16_t d;
};

_Static_assert(sizeof(struct quant_q8_0) == 34, "Q8_0 block");
_Static_assert(sizeof(struct quant_q4_0) == 18, "Q4_0 block");
_Static_assert(sizeof(struct quant_q4_1) == 20, "Q4_1 block");
_Static_assert(sizeof(struct quant_q5_0) == 22, "Q5_0 block");
_Static_assert(sizeof(struct quant_q5_1) == 24, "Q5_1 block");
_Static_assert(sizeof(struct quant_q2_k) == 84, "Q2_K superblock");
_Static_assert(sizeof(struct quant_q3_k) == 110, "Q3_K superblock");
_Static_assert(sizeof(struct quant_q4_k) == 144, "Q4_K superblock");
_Static_assert(sizeof(struct quant_q5_k) == 176, "Q5_K superblock");
_Static_assert(sizeof(struct quant_q6_k) == 210, "Q6_K superblock");

/* Every format that this module knows, for texts. */
#define QUANT_TYPES                                                                      \
    "F32, F16, BF16, Q8_0, Q6_K, Q5_K, Q5_1, Q5_0, Q4_K, Q4_1, Q4_0, Q3_K, Q2_K"

/* Is an enum gguf_type one of QUANT_TYPES? */
bool quant_is_known(uint32_t type);

/* Bytes of a row of n elements of an enum gguf_type; 0 for a format that is not
 * known, or when n is not a whole number of blocks. */
size_t quant_row_bytes(uint32_t type, size_t n);

/* Decode one row. src: quant_row_bytes(type, n) bytes, any alignment; dst: [n].
 * CE_EUNSUPPORTED for other formats, CE_EINVAL when n is not whole blocks. */
int quant_dequantise_row(uint32_t type, const void *src, float *dst, size_t n);

/* Encode one row. Q8_0, Q4_0 and Q4_1: each block's scale from its extreme values.
 * Q5 and K formats: scales (and minima) sought for the least squared error. Then every
 * element goes to the nearest code of the scale *as stored*, ties to even; F16 and BF16
 * are rounded likewise. src: [n]; dst: quant_row_bytes(type, n) bytes, any alignment.
 * Also CE_EINVAL when a value is not finite, or it or a scale is beyond the format's
 * range; dst is then undefined. */
int quant_quantise_row(uint32_t type, const float *src, void *dst, size_t n);

#endif
