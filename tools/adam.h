/* SPDX-License-Identifier: Apache-2.0
 * adam.h - Adam (Kingma, Ba 2014): each number goes down its gradient by about the rate,
 * however large the gradient is.
 *
 * Elements are independent: threads may share an array out as they like.
 *
 * Thread: no state but the caller's.
 */
#ifndef CE_TOOLS_ADAM_H
#define CE_TOOLS_ADAM_H

#include <stddef.h>

struct adam {
    float rate;
    float scale; /* of all gradients, as when their norm is clipped */
    size_t step; /* counted from 1 */
};

/* One step: p [n] with its moments m and v [n], which begin as zeros, down g [n]. */
void adam_step(const struct adam *a, float *p, float *m, float *v, const float *g,
               size_t n);

/* The rate of step `at` of `steps`, from 0: rises linearly over the first hundred steps
 * (2 % of many, 10 % of few), then a cosine down to 1 % of `rate`. */
float adam_rate(float rate, size_t at, size_t steps);

#endif
