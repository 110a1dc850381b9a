/* SPDX-License-Identifier: Apache-2.0
 * quantise_fit.h - encoding a row with scales of least error.
 *
 * Thread: any; no state.
 */
#ifndef CE_TOOLS_QUANTISE_FIT_H
#define CE_TOOLS_QUANTISE_FIT_H

#include <stddef.h>
#include <stdint.h>

/* As quant_quantise_row (quant.h), with the same errors; blocks of Q4_0 and Q4_1 never
 * have a larger squared error than there, usually a quarter less. */
int quantise_fit_row(uint32_t type, const float *src, void *dst, size_t n);

#endif
