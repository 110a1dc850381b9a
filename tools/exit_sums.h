/* SPDX-License-Identifier: Apache-2.0
 * exit_sums.h - the sums that a least-squares map from one vector to another needs.
 *
 * Rows (x, y) of d numbers each go in one by one; what stays is xx = sum (x,1)(x,1)^T
 * and xy = sum (x,1) y^T. Rows wait in blocks, within which sums are floats; blocks are
 * added in double.
 *
 * Thread: one owner.
 */
#ifndef CE_TOOLS_EXIT_SUMS_H
#define CE_TOOLS_EXIT_SUMS_H

#include <stddef.h>

#include "common/error.h"

struct exit_sums {
    size_t d;
    double *xx; /* [(d+1), (d+1)]; its lower triangle only after exit_sums_finish */
    double *xy; /* [(d+1), d] */
    size_t n;   /* rows added */
    float *block, *line; /* rows (x, 1, y) that wait; scratch of 2 d + 1 */
    size_t n_block;
};

/* Zero-initialise; exit_sums_free in any case. */
int exit_sums_init(struct exit_sums *s, size_t d, struct err *err) CE_MUSTCHECK;
void exit_sums_free(struct exit_sums *s);

void exit_sums_add(struct exit_sums *s, const float *x, const float *y); /* [d] each */
void exit_sums_finish(struct exit_sums *s);

#endif
