/* SPDX-License-Identifier: Apache-2.0
 * perplexity.c - see perplexity.h.
 *
 * Welford's update: the variance of millions of likelihoods without the
 * cancellation of a difference of two large sums.
 */
#include "tools/perplexity.h"

#include <math.h>

void
perplexity_add(struct perplexity *p, double nll)
{
    double before = nll - p->mean;

    p->n++;
    p->mean += before / (double)p->n;
    p->m2 += before * (nll - p->mean);
}

double
perplexity_value(const struct perplexity *p)
{
    return p->n > 0 ? exp(p->mean) : NAN;
}

double
perplexity_error(const struct perplexity *p)
{
    double n = (double)p->n;

    if (p->n < 2)
        return 0;
    return exp(p->mean) * sqrt(p->m2 / (n - 1) / n);
}
