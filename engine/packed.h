/* SPDX-License-Identifier: Apache-2.0
 * packed.h - weight matrices rearranged so that every instruction set reads them
 * straight through.
 *
 * A matrix [n_out, n_in] becomes tiles of 16 output rows; the last tile is filled
 * with rows of zeros. A tile serves 16 lanes of one 512-bit register, or two of
 * 256, or four of 128, and the same bytes serve matrix x vector and matrix x
 * matrix. A tile starts at a multiple of 64 bytes. A quantised tile is its blocks of 32
 * columns one after another, each its codes and right behind them its scales:
 *
 *   Q4_0, Q4_1   codes[c < 4][row < 16][j < 4], one byte each: the row's nibble byte
 *                4c + j of the block, that is column 4c + j in its low and column
 *                16 + 4c + j in its high half
 *   Q8_0         codes[c < 8][row < 16][j < 4]: column 4c + j, signed
 *   scales       half d[row], and for Q4_1 then half m[row]
 *   F16, F32     values[column][row], no scales
 *
 * So a product reads one stream of memory from its first tile to its last. (With all
 * scales of a tile behind all its codes, single rows ran at 11 GB/s instead of 27 on
 * one thread of Zen 4: the hardware follows two interleaved streams of a few KiB badly.)
 * Blocks of Q4_0 and Q8_0 start at multiples of 32 bytes only.
 *
 * A matrix need not be packed whole: one without `data` is only described, and a few
 * tiles at a time are packed into room of the caller's (packed_piece).
 *
 * Thread: packed_fill on disjoint tiles may run in parallel; immutable afterwards.
 */
#ifndef CE_ENGINE_PACKED_H
#define CE_ENGINE_PACKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

/* Of the layout above. Files on disk name it (packed_cache.h): one more for every change
 * of a tile's bytes. */
#define PACKED_LAYOUT 1

#define PACKED_ROWS  16 /* output rows of a tile */
#define PACKED_BLOCK 32 /* columns of a quantised block */

/* Bytes of a block: where its scales start, and where the next block does. */
#define PACKED_Q4_CODES   256
#define PACKED_Q8_CODES   512
#define PACKED_Q4_0_BLOCK (PACKED_Q4_CODES + 32)
#define PACKED_Q4_1_BLOCK (PACKED_Q4_CODES + 64)
#define PACKED_Q8_0_BLOCK (PACKED_Q8_CODES + 32)

enum packed_format {
    PACKED_Q4_0,
    PACKED_Q4_1,
    PACKED_Q8_0,
    PACKED_F16,
    PACKED_F32,
    PACKED_N_FORMATS
};

/* Bytes of a quantised block: its codes, and all of it. */
static inline size_t
packed_code_bytes(enum packed_format f)
{
    return f == PACKED_Q8_0 ? PACKED_Q8_CODES : PACKED_Q4_CODES;
}

static inline size_t
packed_block_bytes(enum packed_format f)
{
    return f == PACKED_Q4_0   ? PACKED_Q4_0_BLOCK
           : f == PACKED_Q4_1 ? PACKED_Q4_1_BLOCK
                              : PACKED_Q8_0_BLOCK;
}

struct packed {
    enum packed_format format;
    size_t n_out, n_in; /* of the matrix; n_in is whole blocks when quantised */
    size_t n_tiles;     /* n_out / 16, rounded up */
    size_t tile_bytes;  /* a multiple of 64 */
    uint8_t *data;      /* [n_tiles * tile_bytes], 64-byte aligned; NULL: not packed */
    const void *rows;   /* the matrix as GGUF stores it, borrowed, or NULL */
};

/* Everything of a matrix but its memory: the caller sets `data` (packed_bytes of it,
 * 64-byte aligned) or `rows`, and frees it in its own way. Errors as packed_init. */
int packed_shape(struct packed *out, uint32_t gguf_type, size_t n_out, size_t n_in,
                 struct err *err) CE_MUSTCHECK;

/* Allocate room for a matrix of an enum gguf_type. CE_EUNSUPPORTED for other types
 * than Q4_0, Q4_1, Q8_0, F16, F32; CE_EINVAL for a zero dimension, part blocks or
 * sizes that overflow; CE_ENOMEM. *out is empty (data NULL) on failure. */
int packed_init(struct packed *out, uint32_t gguf_type, size_t n_out, size_t n_in,
                struct err *err) CE_MUSTCHECK;

/* Fill tiles [tile_from, tile_to) from `rows`: the whole matrix as GGUF stores it,
 * n_out rows of quant_row_bytes each, any alignment. */
void packed_fill(struct packed *w, const void *rows, size_t tile_from, size_t tile_to);

/* Make *out the tiles [tile_from, tile_from + n_tiles) of `w`, packed from w->rows into
 * `room` (n_tiles * tile_bytes, 64-byte aligned): a matrix of its own, whose first tile
 * is number 0. */
void packed_piece(struct packed *out, const struct packed *w, size_t tile_from,
                  size_t n_tiles, uint8_t *room);

/* Make *out a matrix of rows `ids` [n <= PACKED_ROWS] of `w`, packed from w->rows into
 * `room` (packed_pick_bytes, 64-byte aligned). Its outputs are in the order of ids. */
void packed_pick(struct packed *out, const struct packed *w, const int32_t *ids, size_t n,
                 uint8_t *room);
size_t packed_pick_bytes(const struct packed *w); /* a multiple of 64 */

/* Ask for the rows of the next pick, the first PACKED_ROWS of the n ids, to come from
 * memory meanwhile. */
void packed_ask(const struct packed *w, const int32_t *ids, size_t n);

void packed_free(struct packed *w); /* accepts an empty one */

/* Does a product with this matrix read the quantised form of its activations? */
static inline bool
packed_is_quantised(const struct packed *w)
{
    return w->format <= PACKED_Q8_0;
}

static inline size_t
packed_bytes(const struct packed *w)
{
    return w->n_tiles * w->tile_bytes;
}

static inline const uint8_t *
packed_tile(const struct packed *w, size_t tile)
{
    return w->data + tile * w->tile_bytes;
}

#endif
