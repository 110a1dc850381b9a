/* SPDX-License-Identifier: Apache-2.0
 * packed_fill.c - rearranging GGUF rows into tiles.
 *
 * Packing only moves bits. A tile's 16 rows lie one after another in the file: it goes
 * through them 16 bytes of each at a time, and turns these in registers. In the cache
 * that makes 10 to 13 GB/s of quantised tiles, 13 of F16 and 20 of F32 a core with SSE2;
 * a word at a time, row by row, made 4 to 8, 2 and 2.
 *
 * Codes of five bits and of the K formats are scattered over a block's bytes: they are
 * taken apart to a byte each (quant_unpack.h), turned, and put together as planes.
 */
#include "engine/packed_internal.h"

#include <string.h>

#include "engine/quant_unpack.h"

#define PIECE 4 /* words of a row that are moved at once */

/* A tile may be read as anything later. */
typedef uint32_t __attribute__((may_alias)) word;
typedef uint16_t __attribute__((may_alias)) half;

/* Rows of PIECE words to PIECE columns: a loop that compilers make shuffles of. */
static inline void
turn(void *tile, const uint32_t *in)
{
    word *restrict out = tile;

    for (size_t row = 0; row < PACKED_ROWS; row++, in += PIECE) {
        out[row] = in[0];
        out[PACKED_ROWS + row] = in[1];
        out[2 * PACKED_ROWS + row] = in[2];
        out[3 * PACKED_ROWS + row] = in[3];
    }
}

/* The same for halves, of which a word holds two columns. */
static inline void
turn_halves(void *tile, const uint32_t *in)
{
    uint32_t pairs[PIECE][PACKED_ROWS];
    half *restrict out = tile;

    turn(pairs, in);
    for (size_t i = 0; i < PIECE; i++, out += 2 * PACKED_ROWS) {
        for (size_t row = 0; row < PACKED_ROWS; row++) {
            out[row] = (uint16_t)pairs[i][row];
            out[PACKED_ROWS + row] = (uint16_t)(pairs[i][row] >> 16);
        }
    }
}

/* A tile of blocks, each `n_halves` scales and then `n_pieces` pieces of codes. Rows that
 * do not exist are zeros here as they are in the tile. */
static inline void
fill_blocks(const struct packed *w, uint8_t *tile, const uint8_t *rows, size_t stride,
            size_t n_rows, const size_t n_halves, const size_t n_pieces)
{
    uint32_t in[2][PACKED_ROWS][PIECE] = { 0 };
    uint16_t scales[2][PACKED_ROWS] = { 0 };
    const size_t block = n_halves * 2 + n_pieces * sizeof(in[0][0]);
    const uint8_t *next = rows + PACKED_ROWS * stride;

    for (size_t b = 0; b < w->n_in / PACKED_BLOCK; b++) {
        packed_prefetch(next, PACKED_ROWS * block);
        next += PACKED_ROWS * block;
        for (size_t row = 0; row < n_rows; row++) {
            const uint8_t *src = rows + row * stride;

            for (size_t i = 0; i < n_halves; i++, src += 2)
                memcpy(&scales[i][row], src, 2);
            for (size_t i = 0; i < n_pieces; i++, src += sizeof(in[i][row]))
                memcpy(in[i][row], src, sizeof(in[i][row]));
        }
        rows += block;
        for (size_t i = 0; i < n_pieces; i++, tile += sizeof(in[i]))
            turn(tile, in[i][0]);
        memcpy(tile, scales, n_halves * sizeof(scales[0]));
        tile += n_halves * sizeof(scales[0]);
    }
}

/* A tile of F32 or, with `is_half`, of F16 or BF16. */
static inline void
fill_plain(const struct packed *w, uint8_t *tile, const uint8_t *rows, size_t stride,
           size_t n_rows, const bool is_half)
{
    void (*const turn_piece)(void *, const uint32_t *) = is_half ? turn_halves : turn;
    uint32_t in[PACKED_ROWS][PIECE] = { 0 }, last[PIECE][PACKED_ROWS];
    size_t left = w->n_in * (is_half ? 2 : 4);
    const uint8_t *next = rows + PACKED_ROWS * stride;

    for (; left >= sizeof(in[0]); left -= sizeof(in[0]), tile += sizeof(in)) {
        packed_prefetch(next, sizeof(in));
        next += sizeof(in);
        for (size_t row = 0; row < n_rows; row++)
            memcpy(in[row], rows + row * stride, sizeof(in[row]));
        rows += sizeof(in[0]);
        turn_piece(tile, in[0]);
    }
    for (size_t row = 0; row < n_rows; row++)
        memcpy(in[row], rows + row * stride, left);
    turn_piece(last, in[0]);
    memcpy(tile, last, left * PACKED_ROWS);
}

/* ---- planes ---- */

#define CHUNK (4 * PACKED_ROWS) /* codes: four columns of every row */

/* Planes of the codes' lowest `bits` bits from `shift` on; returns what comes behind.
 * Chunks lie one after another, a byte for each code. */
static inline uint8_t *
put_plane(uint8_t *restrict out, const uint8_t *chunks, const int bits, const int shift)
{
    const size_t vectors = (size_t)bits; /* chunks c, c + bits and so on share one */

    for (size_t c = 0; c < vectors; c++, out += CHUNK) {
        for (size_t i = 0; i < CHUNK; i++) {
            unsigned all = 0;

            for (size_t k = c, at = 0; k < 8; k += vectors, at += (size_t)bits)
                all |= (chunks[CHUNK * k + i] >> shift & ((1u << bits) - 1)) << at;
            out[i] = (uint8_t)all;
        }
    }
    return out;
}

/* One block's codes: columns `from` to `from` + 31 of each row. */
static inline uint8_t *
put_codes(uint8_t *out, const struct quant_ints rows[PACKED_ROWS], size_t from,
          const enum packed_format f)
{
    const int bits = packed_traits[f].bits, base = packed_base_bits(f);
    uint32_t in[PACKED_ROWS][PIECE], chunks[2 * PIECE][PACKED_ROWS];

    for (size_t piece = 0; piece < 2; piece++) {
        for (size_t row = 0; row < PACKED_ROWS; row++)
            memcpy(in[row], rows[row].n + from + piece * sizeof(in[row]),
                   sizeof(in[row]));
        turn(chunks[PIECE * piece], in[0]);
    }
    out = put_plane(out, (const uint8_t *)chunks, base, 0);
    if (bits > base)
        out = put_plane(out, (const uint8_t *)chunks, bits - base, base);
    return out;
}

/* d of every row and, where there are such, m or dmin. */
static inline uint8_t *
put_halves(uint8_t *out, const struct quant_ints rows[PACKED_ROWS],
           const enum packed_format f)
{
    half *to = (half *)(void *)out;

    for (size_t row = 0; row < PACKED_ROWS; row++, to++) {
        to[0] = rows[row].d;
        if (packed_traits[f].minimum)
            to[PACKED_ROWS] = rows[row].m_or_dmin;
    }
    return out + packed_halves_bytes(f);
}

/* Scales of the sub-blocks of a block, then minima. */
static inline uint8_t *
put_scales(uint8_t *out, const struct quant_ints rows[PACKED_ROWS], size_t block,
           const enum packed_format f)
{
    const size_t n = (size_t)(PACKED_BLOCK / packed_traits[f].sub);

    for (size_t s = n * block; s < n * (block + 1); s++)
        for (size_t row = 0; row < PACKED_ROWS; row++)
            *out++ = (uint8_t)rows[row].sc[s];
    if (packed_traits[f].minimum)
        for (size_t s = n * block; s < n * (block + 1); s++)
            for (size_t row = 0; row < PACKED_ROWS; row++)
                *out++ = rows[row].m[s];
    return out;
}

/* A tile of blocks or superblocks that are taken apart. */
static inline void
fill_planes(const struct packed *w, uint8_t *tile, const uint8_t *rows, size_t stride,
            size_t n_rows, const enum packed_format f,
            void (*const unpack)(struct quant_ints *, const unsigned char *))
{
    const size_t columns = packed_unit_columns(f);
    const size_t bytes = stride / (w->n_in / columns);
    const uint8_t *next = rows + PACKED_ROWS * stride;
    struct quant_ints ints[PACKED_ROWS];

    memset(ints, 0, sizeof(ints));
    for (size_t u = 0; u < w->n_in / columns; u++) {
        packed_prefetch(next, PACKED_ROWS * bytes);
        next += PACKED_ROWS * bytes;
        for (size_t row = 0; row < n_rows; row++)
            unpack(&ints[row], rows + row * stride);
        rows += bytes;
        if (packed_traits[f].sub == 0) {
            tile = put_halves(put_codes(tile, ints, 0, f), ints, f);
            continue;
        }
        tile = put_halves(tile, ints, f);
        for (size_t b = 0; b < columns / PACKED_BLOCK; b++)
            tile = put_scales(put_codes(tile, ints, PACKED_BLOCK * b, f), ints, b, f);
    }
}

/* ---- tiles ---- */

void
packed_fill_tile(const struct packed *w, uint8_t *tile, const uint8_t *rows,
                 size_t stride, size_t n_rows)
{
    switch (w->format) {
    case PACKED_Q4_0:
        fill_blocks(w, tile, rows, stride, n_rows, 1, 1);
        break;
    case PACKED_Q4_1:
        fill_blocks(w, tile, rows, stride, n_rows, 2, 1);
        break;
    case PACKED_Q8_0:
        fill_blocks(w, tile, rows, stride, n_rows, 1, 2);
        break;
    case PACKED_F16:
    case PACKED_BF16:
        fill_plain(w, tile, rows, stride, n_rows, true);
        break;
    case PACKED_Q5_0:
        fill_planes(w, tile, rows, stride, n_rows, PACKED_Q5_0, quant_unpack_q5_0);
        break;
    case PACKED_Q5_1:
        fill_planes(w, tile, rows, stride, n_rows, PACKED_Q5_1, quant_unpack_q5_1);
        break;
    case PACKED_Q2_K:
        fill_planes(w, tile, rows, stride, n_rows, PACKED_Q2_K, quant_unpack_q2_k);
        break;
    case PACKED_Q3_K:
        fill_planes(w, tile, rows, stride, n_rows, PACKED_Q3_K, quant_unpack_q3_k);
        break;
    case PACKED_Q4_K:
        fill_planes(w, tile, rows, stride, n_rows, PACKED_Q4_K, quant_unpack_q4_k);
        break;
    case PACKED_Q5_K:
        fill_planes(w, tile, rows, stride, n_rows, PACKED_Q5_K, quant_unpack_q5_k);
        break;
    case PACKED_Q6_K:
        fill_planes(w, tile, rows, stride, n_rows, PACKED_Q6_K, quant_unpack_q6_k);
        break;
    default:
        fill_plain(w, tile, rows, stride, n_rows, false);
    }
}
