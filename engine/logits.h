/* SPDX-License-Identifier: Apache-2.0
 * logits.h - from a row of logits to what callers ask for (doc/NUMERICS.md, 9).
 *
 * Chunks of LOGIT_CHUNK ids are independent, so threads may share a row; merging
 * them is short and done by one.
 *
 * Thread: no state.
 */
#ifndef CE_ENGINE_LOGITS_H
#define CE_ENGINE_LOGITS_H

#include <stddef.h>
#include <stdint.h>

#include "engine/kernels.h"

struct logit_summary {
    int32_t argmax;
    float max;
    float lse;        /* log-sum-exp */
    float confidence; /* largest softmax probability */
};

struct logit_entry {
    int32_t id;
    float logit;
};

static inline size_t
logits_n_chunks(size_t n)
{
    return (n + LOGIT_CHUNK - 1) / LOGIT_CHUNK;
}

/* Chunks [from, to) of a row x[0..n-1] into chunks[from..to-1]. */
void logits_chunks(const struct kernels *k, struct logit_chunk *chunks, const float *x,
                   size_t n, size_t from, size_t to);

/* Merge all n_chunks >= 1. CE_EINTERNAL when a maximum or the sum is not finite. */
int logits_merge(struct logit_summary *out, const struct logit_chunk *chunks,
                 size_t n_chunks);

/* The n_top largest of x[0..n-1], by logit descending, then id ascending, with the
 * help of the row's chunks. Returns how many: the smaller of n_top and n. */
int logits_top(const struct kernels *k, struct logit_entry *top, int n_top,
               const float *x, size_t n, const struct logit_chunk *chunks);

/* The same entries in no particular order, without the help of chunks; n_top is at least
 * 1 and at most n. */
void logits_largest(const struct kernels *k, struct logit_entry *top, int n_top,
                    const float *x, size_t n);

/* Hash of the row's bits. */
uint64_t logits_hash(const float *x, size_t n);

#endif
