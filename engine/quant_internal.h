/* SPDX-License-Identifier: Apache-2.0
 * quant_internal.h - what the files of quant.h share: encoders of one block each.
 *
 * An encoder returns false when a scale or a value cannot be stored; its source is
 * finite. All of them use only correctly rounded operations, in a fixed order.
 */
#ifndef CE_ENGINE_QUANT_INTERNAL_H
#define CE_ENGINE_QUANT_INTERNAL_H

#include "engine/quant.h"

bool quant_encode_f32(const float *src, unsigned char *dst);
bool quant_encode_f16(const float *src, unsigned char *dst);
bool quant_encode_bf16(const float *src, unsigned char *dst);
bool quant_encode_q8_0(const float *src, unsigned char *dst);
bool quant_encode_q4_0(const float *src, unsigned char *dst);
bool quant_encode_q4_1(const float *src, unsigned char *dst);
bool quant_encode_q5_0(const float *src, unsigned char *dst);
bool quant_encode_q5_1(const float *src, unsigned char *dst);
bool quant_encode_q2_k(const float *src, unsigned char *dst);
bool quant_encode_q3_k(const float *src, unsigned char *dst);
bool quant_encode_q4_k(const float *src, unsigned char *dst);
bool quant_encode_q5_k(const float *src, unsigned char *dst);
bool quant_encode_q6_k(const float *src, unsigned char *dst);

/* A scale as stored, and as it will be read back; false when that is not finite. */
bool quant_store_half(float v, uint16_t *h, float *back);

/* The integer nearest to v in [least, most]; `least` for a NaN, as from 0 / 0. */
int quant_nearest(float v, int least, int most);

/* The codes n of x for a decoded scale and minimum: x = scale * n - minimum. A scale of
 * 0 gives `zero`. */
void quant_round_codes(int *n, const float *x, int count, float scale, float minimum,
                       int least, int most, int zero);

/* A scale such that codes from `least` (negative) to `most` fit x best: the least sum of
 * squared errors among a few scales near the one that just reaches the largest value. */
float quant_fit_scale(const float *x, int count, int least, int most);

/* Likewise scale >= 0 and minimum for x = scale * n - minimum, n from 0 to `most`;
 * minimum >= 0 unless `any_minimum`. */
void quant_fit_affine(const float *x, int count, int most, bool any_minimum, float *scale,
                      float *minimum);

#endif
