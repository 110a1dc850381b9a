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
 *   codes        of Q8_0: codes[k < 8][row < 16][j < 4], signed bytes; chunk k has the
 *                columns 4k .. 4k + 3. Of all others in planes of 4, 2 or 1 bits, the
 *                lowest bits of codes first: Q2_K is {2}, Q3_K {2, 1}, Q4 {4}, Q5 {4, 1},
 *                Q6_K {4, 2}. A plane of b bits is b vectors of 64 bytes [row][j]; vector
 *                c holds the chunks c, c + b, c + 2b ... from its lowest bits upwards.
 *   scales       half d[row], and for Q4_1 and Q5_1 then half m[row]
 *   F16, BF16, F32   values[column][row], no scales
 *
 * In K formats eight blocks make a superblock. It begins with its halves d[row] and, if
 * the format has minima, dmin[row]; its blocks end in sub-scales instead of halves:
 *
 *   Q4_K, Q5_K   u8 sc[row], u8 m[row]
 *   Q3_K, Q6_K   i8 sc[half < 2][row], one for every 16 columns
 *   Q2_K         u8 sc[half < 2][row], u8 m[half < 2][row]
 *
 * So a product reads one stream of memory from its first tile to its last. (With all
 * scales of a tile behind all its codes, single rows ran at 11 GB/s instead of 27 on
 * one thread of Zen 4: the hardware follows two interleaved streams of a few KiB badly.)
 * Blocks start at multiples of 32 bytes.
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
#define PACKED_LAYOUT 2

#define PACKED_ROWS  16  /* output rows of a tile */
#define PACKED_BLOCK 32  /* columns of a quantised block */
#define PACKED_SUPER 256 /* and of a superblock */

enum packed_format {
    PACKED_Q4_0,
    PACKED_Q4_1,
    PACKED_Q5_0,
    PACKED_Q5_1,
    PACKED_Q2_K,
    PACKED_Q3_K,
    PACKED_Q4_K,
    PACKED_Q5_K,
    PACKED_Q6_K,
    PACKED_Q8_0, /* the last that reads quantised activations */
    PACKED_F16,
    PACKED_BF16,
    PACKED_F32,
    PACKED_N_FORMATS
};

/* What distinguishes formats. Templates over a constant format fold all that is asked of
 * this table and of the functions below. */
static const struct packed_traits {
    uint8_t bits;   /* of a code, or of a plain value */
    uint8_t offset; /* taken off a code */
    uint8_t sub;    /* columns with a sub-scale of their own; 0: no superblocks */
    bool minimum;
} packed_traits[PACKED_N_FORMATS] = {
    [PACKED_Q4_0] = { 4, 8, 0, false },   [PACKED_Q4_1] = { 4, 0, 0, true },
    [PACKED_Q5_0] = { 5, 16, 0, false },  [PACKED_Q5_1] = { 5, 0, 0, true },
    [PACKED_Q2_K] = { 2, 0, 16, true },   [PACKED_Q3_K] = { 3, 4, 16, false },
    [PACKED_Q4_K] = { 4, 0, 32, true },   [PACKED_Q5_K] = { 5, 0, 32, true },
    [PACKED_Q6_K] = { 6, 32, 16, false }, [PACKED_Q8_0] = { 8, 0, 0, false },
    [PACKED_F16] = { 16, 0, 0, false },   [PACKED_BF16] = { 16, 0, 0, false },
    [PACKED_F32] = { 32, 0, 0, false },
};

/* Bits of the first plane; the second one has what is left. */
static inline int
packed_base_bits(enum packed_format f)
{
    return packed_traits[f].bits >= 8 ? 8 : packed_traits[f].bits >= 4 ? 4 : 2;
}

/* Bytes of a block's codes. */
static inline size_t
packed_code_bytes(enum packed_format f)
{
    return (size_t)packed_traits[f].bits * PACKED_BLOCK * PACKED_ROWS / 8;
}

/* Bytes of half d[16] and, with minima, half m[16] or dmin[16]. */
static inline size_t
packed_halves_bytes(enum packed_format f)
{
    return packed_traits[f].minimum ? 4 * PACKED_ROWS : 2 * PACKED_ROWS;
}

/* Bytes from a block to the next: codes, and the scales behind them. */
static inline size_t
packed_block_bytes(enum packed_format f)
{
    const size_t sub = packed_traits[f].sub;

    if (sub == 0)
        return packed_code_bytes(f) + packed_halves_bytes(f);
    return packed_code_bytes(f) +
           PACKED_BLOCK / sub * PACKED_ROWS * (packed_traits[f].minimum ? 2 : 1);
}

/* Columns and bytes of what a tile is a run of: superblocks, blocks or single columns. */
static inline size_t
packed_unit_columns(enum packed_format f)
{
    return f > PACKED_Q8_0 ? 1 : packed_traits[f].sub ? PACKED_SUPER : PACKED_BLOCK;
}

static inline size_t
packed_unit_bytes(enum packed_format f)
{
    if (packed_unit_columns(f) == 1)
        return (size_t)packed_traits[f].bits * PACKED_ROWS / 8;
    if (packed_traits[f].sub == 0)
        return packed_block_bytes(f);
    return packed_halves_bytes(f) + PACKED_SUPER / PACKED_BLOCK * packed_block_bytes(f);
}

struct packed {
    enum packed_format format;
    size_t n_out, n_in; /* of the matrix; n_in is whole (super)blocks when quantised */
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
 * than those of QUANT_TYPES; CE_EINVAL for a zero dimension, part blocks or
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
