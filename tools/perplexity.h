/* SPDX-License-Identifier: Apache-2.0
 * perplexity.h - the running estimate of a perplexity and its standard error.
 *
 * Thread: one owner.
 */
#ifndef CE_TOOLS_PERPLEXITY_H
#define CE_TOOLS_PERPLEXITY_H

#include <stddef.h>

struct perplexity {
    size_t n;    /* tokens scored */
    double mean; /* of the negative log-likelihood, nats */
    double m2;   /* sum of squared distances from the mean */
};

/* Start from `{ 0 }`. */
void perplexity_add(struct perplexity *p, double nll);

/* exp(mean), and its standard error by the delta method: exp(mean) times the
 * standard error of the mean. NaN and 0 before the first token. */
double perplexity_value(const struct perplexity *p);
double perplexity_error(const struct perplexity *p);

#endif
