/* SPDX-License-Identifier: Apache-2.0
 * layers.h - a chunk of rows through a range of blocks (doc/NUMERICS.md, 6 to 8).
 *
 * Thread: layers_new and layers_free by the owner; the others are called inside a
 * region by all of its threads, with the same arguments, and are done when they return.
 */
#ifndef CE_ENGINE_LAYERS_H
#define CE_ENGINE_LAYERS_H

#include <stdint.h>

#include "common/error.h"
#include "engine/chunk.h"
#include "engine/kernels.h"
#include "engine/kv_cache.h"
#include "engine/linear.h"
#include "engine/model.h"
#include "engine/threads.h"
#include "engine/weights.h"

struct layers;

/* Everything is borrowed until layers_free. */
struct layers_config {
    const struct kernels *kernels;
    const struct model *model;
    const struct weights *weights;
    struct kv_cache *kv;
    struct threads *pool;
    int max_rows; /* most rows of a chunk, >= 1 */
};

int layers_new(struct layers **out, const struct layers_config *config,
               struct err *err) CE_MUSTCHECK;
void layers_free(struct layers *l); /* accepts NULL */

/* The residual stream, [max_rows, d_model]: row span.row + i holds that span's row i. */
float *layers_x(struct layers *l);

/* Fill the residual stream from the items' tokens or hidden states. */
void layers_load(struct layers *l, struct worker_id id, const struct batch *b,
                 const struct span_list *rows);

/* Run blocks [from, to), from < to; room in the cache is reserved. Afterwards the
 * residual stream holds the rows `wanted` (chunk_wanted), no others. */
void layers_run(struct layers *l, struct worker_id id, const struct span_list *rows,
                const struct span_list *wanted, int from, int to);

/* Nanoseconds that the attend stages of all layers_run took since layers_new. For the
 * owner, outside of regions. */
int64_t layers_attend_ns(const struct layers *l);

#endif
