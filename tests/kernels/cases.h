/* SPDX-License-Identifier: Apache-2.0
 * cases.h - random and extreme inputs for kernel tests, the same on every run.
 */
#ifndef CE_TESTS_KERNELS_CASES_H
#define CE_TESTS_KERNELS_CASES_H

#include <stddef.h>
#include <stdint.h>

#include "engine/kernels.h"

/* What a vector of activations looks like. */
enum case_kind {
    CASE_NORMAL,    /* roughly Gaussian, a few outliers */
    CASE_ZERO,      /* all +0, some -0 */
    CASE_TINY,      /* below 2^-100, subnormals among them */
    CASE_BORDER,    /* about 2^-100, where quantisation starts */
    CASE_LARGE,     /* up to 3e4 */
    CASE_SATURATED, /* +-a only: every code is +-127 */
    CASE_MIXED,     /* every group of 32 another kind */
    CASE_N_KINDS
};

void cases_seed(uint64_t seed);
uint32_t cases_u32(void);
float cases_uniform(float from, float to);
void cases_fill(float *x, size_t n, enum case_kind kind);

/* Memory for a test; ends the test when there is none. Freed with free(). */
void *cases_alloc(size_t n, size_t size);

/* Rows of a random matrix as GGUF stores them, with extreme codes and scales when
 * `extreme`; to be freed. */
uint8_t *cases_matrix(uint32_t gguf_type, size_t n_out, size_t n_in, int extreme);

/* The same matrix packed. */
struct packed cases_packed(uint32_t gguf_type, size_t n_out, size_t n_in,
                           const uint8_t *rows);

extern const uint32_t cases_types[PACKED_N_FORMATS]; /* gguf types, by format */

#endif
