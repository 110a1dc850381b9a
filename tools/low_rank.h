/* SPDX-License-Identifier: Apache-2.0
 * low_rank.h - the best stand-in of rank r for a wide matrix, for the vectors it meets.
 *
 * Given W [rows, d] and vectors n with the second moment C = mean of n n^T, find U
 * [rows, r] and D [r, d] that make the mean of |W n - U D n|^2 least. Plain truncation of
 * W spends its rank on directions that no n has.
 *
 * All sums have a fixed order and every number is made by one thread, so the same input
 * gives the same bits with any number of threads.
 *
 * Thread: the owner of the pool; no state.
 */
#ifndef CE_TOOLS_LOW_RANK_H
#define CE_TOOLS_LOW_RANK_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "engine/threads.h"

/* W as it is stored, less a row that is taken from each of its own; all borrowed. */
struct low_rank_matrix {
    uint32_t type; /* enum gguf_type */
    const void *data;
    size_t rows, cols;
    const double *less; /* [cols], or NULL */
};

/* sum [d, d] += the products x x^T of n rows x [n, d]. */
void low_rank_add_moment(double *sum, const float *x, size_t n, size_t d,
                         struct threads *pool);

/* mean [cols] of the rows as they are stored. Taken from them, it leaves W n in the same
 * order: for who wants to know W n's largest, rank spent on the mean is lost. */
int low_rank_mean(double *mean, const struct low_rank_matrix *w,
                  struct err *err) CE_MUSTCHECK;

/* gram [cols, cols] = W^T W. With `less`, that must be the mean. */
int low_rank_gram(double *gram, const struct low_rank_matrix *w, struct threads *pool,
                  struct err *err) CE_MUSTCHECK;

/* down [r, d] is D; up [d, r] is what W is multiplied with to give U. moment [d, d]: sums
 * of low_rank_add_moment over any number of rows, may be singular; gram [d, d]; r <= d.
 * The rows of D n are uncorrelated and of equal size in the mean, which loses least when
 * U is quantised. The seed chooses among the equally good. */
int low_rank_fit(float *down, double *up, const double *moment, const double *gram,
                 size_t d, size_t r, uint64_t seed, struct threads *pool,
                 struct err *err) CE_MUSTCHECK;

/* out = W up, [rows, r], every row encoded as `type` (engine/quant.h). */
int low_rank_project(void *out, uint32_t type, const struct low_rank_matrix *w,
                     const double *up, size_t r, struct threads *pool,
                     struct err *err) CE_MUSTCHECK;

#endif
