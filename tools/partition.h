/* SPDX-License-Identifier: Apache-2.0
 * partition.h - the part of a model that one side runs: which tensors it needs,
 * what they weigh, and writing them as a file of their own.
 *
 * The edge partition is the embedding and blocks 1 to the last exit with the exit
 * heads; the cloud partition the blocks after the first exit with the final head
 * (the paper's section 4). Both may need the output norm and matrix; with a tied
 * model that matrix is the embedding.
 *
 * Thread: any; a partition only points to its model.
 */
#ifndef CE_TOOLS_PARTITION_H
#define CE_TOOLS_PARTITION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "engine/model.h"

struct partition {
    const struct model *model; /* borrowed */
    int layer_from, layer_to;  /* blocks [layer_from, layer_to) */
    bool exit_heads;           /* those after layers in (layer_from, layer_to] */
};

/* Is this exit head the partition's? */
bool partition_has_exit(const struct partition *p, const struct model_exit *e);

/* Does the partition need this tensor of the model's own file? Exit heads are not
 * asked for here. */
bool partition_needs(const struct partition *p, const char *tensor);

/* Bytes and number of weights as stored, exit heads included. */
size_t partition_weight_bytes(const struct partition *p);

/* Bytes of one exit's adapter and screen as stored; 0 when it has neither. */
size_t partition_exit_bytes(const struct model_exit *e);

/* Bytes of KV cache for n positions of one sequence, float16, without the rounding
 * up to whole pages. */
size_t partition_kv_bytes(const struct partition *p, size_t n_positions);

/* Write the partition to `path`: the needed tensors, every key of the model, and
 * cecollm.split.layer_from, .layer_to and .source_sha256. Exit heads go into the
 * file with their keys. CE_EINVAL when the model is itself a part. */
int partition_write(const struct partition *p, const char *path,
                    struct err *err) CE_MUSTCHECK;

#endif
