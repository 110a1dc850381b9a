/* SPDX-License-Identifier: Apache-2.0
 * chunk.h - a ragged step cut into pieces of bounded size.
 *
 * A step may hold thousands of rows; scratch memory holds max_rows. A chunk is a run
 * of the step's rows, items in order, and runs through all blocks before the next
 * one starts, so a sequence's later rows find its earlier ones in the cache. Where
 * the cut falls does not change a bit (doc/NUMERICS.md).
 *
 * Thread: plain data of the backend's owner.
 */
#ifndef CE_ENGINE_CHUNK_H
#define CE_ENGINE_CHUNK_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/backend.h"

/* Consecutive rows of one item. */
struct span {
    int item;      /* index in the batch */
    int item_row;  /* first row, within the item */
    int seq;       /* the item's */
    int32_t pos;   /* position of the first row */
    int n_rows;    /* >= 1 */
    int row;       /* first row, within the arrays that hold the chunk now */
    int input_row; /* first row, within the chunk as it came in */
};

struct span_list {
    struct span *spans; /* room for as many as the chunk has rows */
    int n_spans;
    int n_rows;
};

/* Where the next chunk starts; zero-initialise. */
struct chunk_cursor {
    int item, row;
};

/* Fill `rows` with the next at most max_rows rows; false when there are none. */
bool chunk_next(const struct batch *b, struct chunk_cursor *at, int max_rows,
                struct span_list *rows);

/* The rows of `rows` that anybody reads after the last block (hidden_out, or a head),
 * moved together. */
void chunk_wanted(const struct batch *b, const struct span_list *rows,
                  struct span_list *wanted);

#endif
