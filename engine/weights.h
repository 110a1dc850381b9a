/* SPDX-License-Identifier: Apache-2.0
 * weights.h - a model's weights as the CPU kernels read them.
 *
 * Matrices are packed copies (packed.h), norms and biases plain floats. What is
 * loaded is a range of blocks, the output matrix if any head needs it, and the
 * adapters of the exit heads inside the range. All matrices lie in one mapping, in the
 * order in which a step reads them, so that the system can back them with huge pages.
 *
 * Thread: immutable after weights_load.
 */
#ifndef CE_ENGINE_WEIGHTS_H
#define CE_ENGINE_WEIGHTS_H

#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"
#include "engine/model.h"
#include "engine/packed.h"
#include "engine/threads.h"

struct block_weights {
    float *attn_norm, *ffn_norm; /* [d_model] */
    struct packed q, k, v, attn_output, gate, up, down;
};

struct exit_weights {
    int layer;
    enum model_exit_kind kind;
    size_t width;                      /* of the adapter */
    float *map_bias;                   /* [d_model] */
    struct packed map, gate, up, down; /* empty for a shared head */
};

struct weights {
    int layer_from, layer_to;
    struct block_weights *blocks; /* [layer_to - layer_from] */
    float *output_norm;           /* [d_model], NULL without a head */
    struct packed output;         /* [n_vocab, d_model], empty without a head */
    int n_exits;
    struct exit_weights exits[MODEL_MAX_EXITS];
    void *arena; /* what the matrices' data point into */
    size_t arena_bytes;
    size_t bytes; /* resident: matrices, norms and biases */
};

/* Copy what blocks [layer_from, layer_to) need, and the heads: `final` for the
 * output norm and matrix, `exits` for the exits after 1 + layer_from .. layer_to.
 * The pool packs in parallel. On failure *w is empty. */
int weights_load(struct weights *w, const struct model *m, int layer_from, int layer_to,
                 bool final, bool exits, struct threads *pool,
                 struct err *err) CE_MUSTCHECK;
void weights_free(struct weights *w); /* accepts an empty one */

#endif
