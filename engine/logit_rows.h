/* SPDX-License-Identifier: Apache-2.0
 * logit_rows.h - some rows of logits, and the summaries of their chunks.
 *
 * Thread: as linear.h: the product is a stage that all threads of a region share.
 */
#ifndef CE_ENGINE_LOGIT_ROWS_H
#define CE_ENGINE_LOGIT_ROWS_H

#include <stddef.h>

#include "common/error.h"
#include "engine/linear.h"

struct logit_rows {
    size_t n_vocab, n_chunks;
    float *logits;              /* [max_rows, n_vocab] */
    struct logit_chunk *chunks; /* [max_rows, n_chunks] */
};

int logit_rows_init(struct logit_rows *l, size_t max_rows, size_t n_vocab) CE_MUSTCHECK;
void logit_rows_fini(struct logit_rows *l);

/* Rows 0 .. a->n_rows - 1: logits = W a for a matrix with n_vocab outputs. A thread
 * computes whole chunks of LOGIT_CHUNK ids and, if `with_chunks`, sums them up while they
 * are in its cache. */
void logit_rows_product(const struct logit_rows *l, const struct kernels *k,
                        struct worker_id id, const struct packed *w,
                        const struct activations *a, bool with_chunks);

static inline float *
logit_rows_at(const struct logit_rows *l, size_t row)
{
    return l->logits + row * l->n_vocab;
}

static inline struct logit_chunk *
logit_rows_chunks(const struct logit_rows *l, size_t row)
{
    return l->chunks + row * l->n_chunks;
}

#endif
