/* SPDX-License-Identifier: Apache-2.0
 * sampler.h - from a row's largest logits to one token.
 *
 * The cloud returns, and every exit gives, the 128 largest logits of a row and the
 * log-sum-exp of the whole row. All sampling is defined on that set, so a token
 * means the same wherever its logits came from.
 *
 * Definition, in double, each operation rounded once, sums in order of rank:
 *   1. x_i = logit_i. For a token that occurs c > 0 times in `recent`:
 *      x = x > 0 ? x / repetition : x * repetition, then
 *      x = x - (presence + frequency * c). Sort by x descending, then id ascending.
 *   2. temperature = 0: the first. Otherwise
 *      p_i = exp(x_i - x_0); the row's other tokens weigh
 *      rest = max(0, exp(lse - x_0) - sum exp(logit_i - x_0));
 *      total = rest + sum p_i.
 *   3. Keep the first k = min(n, top_k) (0: all); of these, those with
 *      p_i >= min_p (p_0 is 1); of these, the shortest beginning whose sum is
 *      >= top_p * total (1: all). The first is always kept.
 *   4. w_i = exp((x_i - x_0) / temperature) of the kept; the token is the first i
 *      with w_0 + .. + w_i > u * (w_0 + .. + w_last), u from sampler_uniform.
 * So top-p and min-p cut by the model's own probabilities, of all tokens, and the
 * temperature shapes what is left. exp is mathfn_exp: the same bits everywhere.
 *
 * Thread: pure functions.
 */
#ifndef CE_ENGINE_SAMPLER_H
#define CE_ENGINE_SAMPLER_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define SAMPLER_MAX_ROW 128 /* logits of a row, as BACKEND_MAX_TOP */

struct sampler_params {
    double temperature;        /* 0: greedy; else 0.001 to 100 */
    int top_k;                 /* 0: no limit; to SAMPLER_MAX_ROW */
    double top_p;              /* 0.000001 to 1; 1: no limit */
    double min_p;              /* 0 to 1; 0: no limit */
    double repetition_penalty; /* 0.001 to 10; 1: none */
    double presence_penalty;   /* -10 to 10; 0: none */
    double frequency_penalty;  /* -10 to 10; 0: none */
    uint64_t seed;
};

/* A row's largest logits. Arrays are borrowed. */
struct sampler_row {
    int n;               /* 1 to SAMPLER_MAX_ROW */
    const int32_t *ids;  /* [n] */
    const float *logits; /* [n] descending, equal ones by id ascending; finite */
    float lse;           /* log-sum-exp of the whole row */
};

/* Greedy: temperature 0, nothing cut, no penalties, seed 0. */
void sampler_params_init(struct sampler_params *p);

/* CE_EINVAL with a text naming the parameter and its range. */
int sampler_check(const struct sampler_params *p, struct err *err) CE_MUSTCHECK;

/* Choose a token. recent: [n_recent] ids that penalties count, in any order (NULL
 * when 0). choice: which of several answers to one prompt; position: of the token
 * chosen. logprob (unless NULL): ln of its probability in the unmodified softmax.
 * `p` has passed sampler_check. */
int32_t sampler_pick(const struct sampler_params *p, const struct sampler_row *row,
                     const int32_t *recent, size_t n_recent, uint32_t choice,
                     uint32_t position, double *logprob);

/* A number in [0, 1), a multiple of 2^-53, that depends on nothing but these: the
 * first 53 bits of Philox4x32-10 with the seed as key (low word first) and counter
 * (position, choice, 0, 0). */
double sampler_uniform(uint64_t seed, uint32_t choice, uint32_t position);

/* Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as
 * 1, 2, 3; SC 2011). Exposed for its published test vectors. */
void sampler_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

#endif
