/* SPDX-License-Identifier: Apache-2.0
 * trust.h - how sure an exit is that the final head would say the same token
 * (doc/EXITS.md, doc/NUMERICS.md section 10).
 *
 * The largest probability says how likely the exit's token is, not whether the final head
 * prefers it too: where the final distribution is flat both are small and the two heads
 * may still agree. A trust is a logistic regression on the odds of that probability and
 * on two vectors that the exit has computed anyway. For given vectors it rises with the
 * probability, so a bound of the one is a bound of the other, which screens rely on.
 *
 * Thread: any; no state.
 */
#ifndef CE_ENGINE_TRUST_H
#define CE_ENGINE_TRUST_H

#include <stddef.h>

#include "engine/mathfn.h"

#define TRUST_LANES 32
#define TRUST_DOUBT 1e-6 /* 1 - p is taken as this at least */

/* What the vectors say. weight: [2, d]; n: [d] what the output matrix reads; h: [d] the
 * state divided by its root mean square. */
static inline float
trust_lean(const float *weight, const float *n, const float *h, size_t d)
{
    double lanes[TRUST_LANES] = { 0 }, sum = 0;

    for (size_t i = 0; i < d; i++)
        lanes[i % TRUST_LANES] += (double)weight[i] * (double)n[i];
    for (size_t i = 0; i < d; i++)
        lanes[i % TRUST_LANES] += (double)weight[d + i] * (double)h[i];
    for (size_t i = 0; i < TRUST_LANES; i++)
        sum += lanes[i];
    return (float)sum;
}

/* The logarithm of p's odds. */
static inline double
trust_odds(float p)
{
    double doubt = 1 - (double)p;

    return mathfn_ln((double)p) - mathfn_ln(doubt > TRUST_DOUBT ? doubt : TRUST_DOUBT);
}

/* bias: [2] factor of the odds, at least 0, and constant; p: the largest probability. */
static inline float
trust_confidence(const float *bias, float lean, float p)
{
    double t = (double)bias[0] * trust_odds(p) + (double)bias[1] + (double)lean;

    return 1.0f / (1.0f + mathfn_expf(-(float)t));
}

#endif
