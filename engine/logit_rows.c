/* SPDX-License-Identifier: Apache-2.0
 * logit_rows.c - see logit_rows.h.
 */
#include "engine/logit_rows.h"

#include <stdlib.h>
#include <string.h>

#include "engine/logits.h"

#define CHUNK_TILES (LOGIT_CHUNK / PACKED_ROWS)

int
logit_rows_init(struct logit_rows *l, size_t max_rows, size_t n_vocab)
{
    l->n_vocab = n_vocab;
    l->n_chunks = logits_n_chunks(n_vocab);
    l->logits = linear_alloc(max_rows * n_vocab, sizeof(float));
    l->chunks = linear_alloc(max_rows * l->n_chunks, sizeof(struct logit_chunk));
    if (l->logits && l->chunks)
        return 0;
    logit_rows_fini(l);
    return CE_ENOMEM;
}

void
logit_rows_fini(struct logit_rows *l)
{
    free(l->chunks);
    free(l->logits);
    memset(l, 0, sizeof(*l));
}

static void
one_chunk(const struct logit_rows *l, const struct kernels *k, struct worker_id id,
          const struct packed *w, const struct activations *a, bool with_chunks,
          size_t chunk)
{
    size_t t = chunk * CHUNK_TILES, end = t + CHUNK_TILES;

    linear_tiles(k, id, w, t, end < w->n_tiles ? end : w->n_tiles, a,
                 l->logits + t * PACKED_ROWS, l->n_vocab);
    for (size_t r = 0; with_chunks && r < a->n_rows; r++)
        logits_chunks(k, logit_rows_chunks(l, r), logit_rows_at(l, r), l->n_vocab, chunk,
                      chunk + 1);
}

void
logit_rows_product(const struct logit_rows *l, const struct kernels *k,
                   struct worker_id id, const struct packed *w,
                   const struct activations *a, bool with_chunks)
{
    size_t from, to;

    while (worker_take(id, l->n_chunks, 1, &from, &to)) {
        for (size_t c = from; c < to; c++)
            one_chunk(l, k, id, w, a, with_chunks, c);
    }
}
