/* SPDX-License-Identifier: Apache-2.0
 * weights.h - a model's weights as the CPU kernels read them.
 *
 * Matrices are packed copies (packed.h), norms and biases plain floats. What is
 * loaded is a range of blocks, the output matrix if any head needs it, and the
 * adapters, norms and matrices of the exit heads inside the range. All matrices lie in
 * one mapping, in the order in which a step reads them, so that the system can back them
 * with huge pages.
 *
 * With a folder of packed weights the copy is a mapped file there, shared with other
 * processes; it is made when it is missing or not to be trusted.
 *
 * With packing off no copy is kept: matrices stay in the model's mapped file, and each
 * thread has room to pack a few tiles just before the kernel reads them.
 *
 * Thread: immutable after weights_load.
 */
#ifndef CE_ENGINE_WEIGHTS_H
#define CE_ENGINE_WEIGHTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "engine/model.h"
#include "engine/packed.h"
#include "engine/threads.h"

struct block_weights {
    float *attn_norm, *ffn_norm;     /* [d_model] */
    float *q_bias, *k_bias, *v_bias; /* [n_heads * head_dim], [n_kv_heads * head_dim]
                                        twice; NULL where the file has none, as are: */
    float *q_norm, *k_norm;          /* [head_dim] */
    float *output_bias;              /* [d_model] */
    struct packed q, k, v, attn_output, gate, up, down;
};

struct exit_weights {
    int layer;
    enum model_exit_kind kind;
    size_t width;                      /* of the adapter */
    float *map_bias;                   /* [d_model] */
    struct packed map, gate, up, down; /* of the adapter; empty without one */
    float *trust, *trust_bias;         /* [2, d_model], [2]; NULL: none (trust.h) */
    float *norm;                       /* [d_model]; NULL: the model's own */
    struct packed output;              /* [n_vocab, d_model]; empty: the model's own */
    int n_candidates; /* of the screen; 0: none, the next two are empty */
    struct packed screen_down, screen_up;
};

struct weights_config {
    int layer_from, layer_to; /* blocks */
    bool final;               /* output norm and matrix */
    bool exits;               /* those after 1 + layer_from .. layer_to */
    bool packing_off;
    const char *packing_cache; /* folder of packed weights (packed_cache.h); NULL: none */
};

struct weights {
    int layer_from, layer_to;
    struct block_weights *blocks; /* [layer_to - layer_from] */
    float *output_norm;           /* [d_model], NULL without a head that reads it */
    struct packed output;         /* [n_vocab, d_model], empty likewise */
    int n_exits;
    struct exit_weights exits[MODEL_MAX_EXITS];
    void *arena; /* what the matrices' data point into: memory or a mapped file;
                    NULL with packing off */
    size_t arena_bytes;
    uint8_t *rooms;    /* of all threads, with packing off */
    size_t room_bytes; /* of one thread: at least the largest tile */
    size_t bytes;      /* resident: matrices or rooms, norms and biases */
};

/* Copy what the blocks and heads of `config` need; the pool packs in parallel. `m` is
 * borrowed until weights_free. On failure *w is empty. */
int weights_load(struct weights *w, const struct model *m,
                 const struct weights_config *config, struct threads *pool,
                 struct err *err) CE_MUSTCHECK;
void weights_free(struct weights *w); /* accepts an empty one */

/* A thread's own room for tiles of matrices that are not packed; NULL when they are. */
static inline uint8_t *
weights_room(const struct weights *w, int tid)
{
    return w->rooms ? w->rooms + (size_t)tid * w->room_bytes : NULL;
}

#endif
