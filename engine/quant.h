/* SPDX-License-Identifier: Apache-2.0
 * quant.h - block layouts of quantised weights, their reference decoding, and
 * encoding for synthesised and converted models.
 *
 * Weights come in rows; a row of a quantised format is a run of blocks of 32
 * consecutive elements. A block starts with one or two half-precision numbers
 * (scale d, minimum m) and then holds one integer per element:
 *
 *   Q8_0  34 bytes  d, q[32] signed bytes          x[i] = d * q[i]
 *   Q4_0  18 bytes  d, 16 bytes of nibbles         x[i] = d * (n[i] - 8)
 *   Q4_1  20 bytes  d, m, 16 bytes of nibbles      x[i] = d * n[i] + m
 *
 * Byte j of the nibbles holds element j in its low and element j + 16 in its high
 * half. Decoding is float32: d and m widened, one product, one sum, each rounded.
 * Kernels do not decode like this (doc/NUMERICS.md); tests and tools do.
 */
#ifndef CE_ENGINE_QUANT_H
#define CE_ENGINE_QUANT_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define QUANT_BLOCK 32 /* elements per block of every format below */

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

_Static_assert(sizeof(struct quant_q8_0) == 34, "Q8_0 block");
_Static_assert(sizeof(struct quant_q4_0) == 18, "Q4_0 block");
_Static_assert(sizeof(struct quant_q4_1) == 20, "Q4_1 block");

/* Bytes of a row of n elements of an enum gguf_type; 0 for a format that is not
 * F32, F16, Q8_0, Q4_0 or Q4_1, or when n is not a whole number of blocks. */
size_t quant_row_bytes(uint32_t type, size_t n);

/* Decode one row. src: quant_row_bytes(type, n) bytes, any alignment; dst: [n].
 * CE_EUNSUPPORTED for other formats, CE_EINVAL when n is not whole blocks. */
int quant_dequantise_row(uint32_t type, const void *src, float *dst, size_t n);

/* Encode one row: each block's scale from its extreme values, then every element
 * to the nearest code of the scale *as stored*, ties to even. src: [n]; dst:
 * quant_row_bytes(type, n) bytes, any alignment. Also CE_EINVAL when a value is
 * not finite or a scale is beyond half precision; dst is then undefined. */
int quant_quantise_row(uint32_t type, const float *src, void *dst, size_t n);

#endif
