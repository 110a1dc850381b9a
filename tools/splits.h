/* SPDX-License-Identifier: Apache-2.0
 * splits.h - the memory that edge and cloud need, for ways to cut a model.
 *
 * Bytes are those of the file; a backend may pack weights into a little more. KV is
 * counted per 1,000 positions of one sequence, in float16, so that it can be multiplied
 * by hand. What a token costs to upload is the row of its state in float16, wherever
 * the cut is.
 *
 * Thread: any; a list belongs to one owner.
 */
#ifndef CE_TOOLS_SPLITS_H
#define CE_TOOLS_SPLITS_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "common/error.h"
#include "engine/model.h"

#define SPLITS_KV_POSITIONS 1000

struct split_row {
    int cloud_from, edge_to; /* the edge has blocks 0 .. edge_to-1, the cloud cloud_from
                                .. L-1 */
    bool exit;               /* an exit head is after block edge_to */
    size_t edge_weights, edge_kv, cloud_weights, cloud_kv; /* bytes */
};

struct splits {
    const struct model *model; /* borrowed */
    int n;
    struct split_row *rows;
};

enum splits_choice {
    SPLITS_EXITS, /* after each exit, and from the first to the last together; without
                     exits after every eighth of the model */
    SPLITS_ALL,   /* after every block, then the exits' together */
    SPLITS_NONE,
};

/* "exits", "all" or "none". CE_EINVAL, naming --splits. */
int splits_find_choice(const char *name, enum splits_choice *out,
                       struct err *err) CE_MUSTCHECK;

/* The list for a whole model; empty for a part, which is not split again. also: a block
 * to split after in any case, or 0. CE_ENOMEM. */
int splits_make(struct splits *s, const struct model *m, enum splits_choice choice,
                int also, struct err *err) CE_MUSTCHECK;
void splits_free(struct splits *s); /* accepts an empty one */

/* Bytes that one token's state takes on the wire. */
size_t splits_upload_bytes(const struct model *m);

void splits_print(const struct splits *s);
json_t *splits_json(const struct splits *s);

#endif
