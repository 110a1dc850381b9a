/* SPDX-License-Identifier: Apache-2.0
 * packed.c - sizes of packed matrices, and rearranging GGUF rows into tiles.
 *
 * Every product that a file's dimensions go into is checked; packing itself only
 * moves bytes. A tile's 16 rows lie one after another in the file: it goes through them
 * 16 bytes of each at a time, and turns these in registers. In the cache that makes 10 to
 * 13 GB/s of quantised tiles, 13 of F16 and 20 of F32 a core with SSE2; a word at a time,
 * row by row, made 4 to 8, 2 and 2.
 */
#include "engine/packed.h"

#include <string.h>

#include "common/memory.h"
#include "engine/gguf.h"
#include "engine/quant.h"

/* What 16 rows of a format take. */
struct shape {
    enum packed_format format;
    size_t columns; /* of a unit */
    size_t bytes;   /* of a unit */
};

static int
shape_of(struct shape *s, uint32_t type)
{
    switch (type) {
    case GGUF_Q4_0:
        *s = (struct shape){ PACKED_Q4_0, PACKED_BLOCK, PACKED_Q4_0_BLOCK };
        return 0;
    case GGUF_Q4_1:
        *s = (struct shape){ PACKED_Q4_1, PACKED_BLOCK, PACKED_Q4_1_BLOCK };
        return 0;
    case GGUF_Q8_0:
        *s = (struct shape){ PACKED_Q8_0, PACKED_BLOCK, PACKED_Q8_0_BLOCK };
        return 0;
    case GGUF_F16:
        *s = (struct shape){ PACKED_F16, 1, 32 };
        return 0;
    case GGUF_F32:
        *s = (struct shape){ PACKED_F32, 1, 64 };
        return 0;
    default:
        return CE_EUNSUPPORTED;
    }
}

int
packed_shape(struct packed *out, uint32_t gguf_type, size_t n_out, size_t n_in,
             struct err *err)
{
    struct shape s;
    size_t total;

    memset(out, 0, sizeof(*out));
    if (shape_of(&s, gguf_type) != 0)
        return err_set(err, CE_EUNSUPPORTED,
                       "weights of type %s: only Q4_0, Q4_1, Q8_0, F16 and F32 are known",
                       gguf_type_name(gguf_type));
    if (n_out == 0 || n_in == 0 || n_in % s.columns != 0)
        return err_set(err, CE_EINVAL, "a matrix of %zu x %zu cannot be packed as %s",
                       n_out, n_in, gguf_type_name(gguf_type));
    out->format = s.format;
    out->n_out = n_out;
    out->n_in = n_in;
    out->n_tiles = (n_out - 1) / PACKED_ROWS + 1;
    if (__builtin_mul_overflow(n_in / s.columns, s.bytes, &out->tile_bytes) ||
        __builtin_add_overflow(out->tile_bytes, MEM_ALIGN - 1, &out->tile_bytes))
        return err_set(err, CE_EINVAL, "a matrix of %zu x %zu is too large", n_out, n_in);
    out->tile_bytes = out->tile_bytes / MEM_ALIGN * MEM_ALIGN;
    if (__builtin_mul_overflow(out->n_tiles, out->tile_bytes, &total))
        return err_set(err, CE_EINVAL, "a matrix of %zu x %zu is too large", n_out, n_in);
    return 0;
}

int
packed_init(struct packed *out, uint32_t gguf_type, size_t n_out, size_t n_in,
            struct err *err)
{
    int rc = packed_shape(out, gguf_type, n_out, n_in, err);

    if (rc != 0)
        return rc;
    out->data = mem_aligned_alloc(out->n_tiles, out->tile_bytes);
    if (out->data == NULL)
        return err_set(err, CE_ENOMEM, "%zu bytes for weights", packed_bytes(out));
    return 0;
}

void
packed_free(struct packed *w)
{
    mem_free(w->data);
    memset(w, 0, sizeof(*w));
}

/* ---- rearranging ---- */

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

/* Ask for rows to come. Rows are read 16 at once in small pieces, which hardware does not
 * take for a stream: SmolLM2 decodes at 43 tokens/s without this, packing tiles as it
 * reads them, and at 78 with it (one thread). Past the end it does nothing. */
static inline void
prefetch(const uint8_t *rows, size_t n)
{
    for (size_t i = 0; i < n; i += 64)
        __builtin_prefetch(rows + i);
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
        prefetch(next, PACKED_ROWS * block);
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

/* A tile of F32 or, with `is_half`, of F16. */
static inline void
fill_plain(const struct packed *w, uint8_t *tile, const uint8_t *rows, size_t stride,
           size_t n_rows, const bool is_half)
{
    void (*const turn_piece)(void *, const uint32_t *) = is_half ? turn_halves : turn;
    uint32_t in[PACKED_ROWS][PIECE] = { 0 }, last[PIECE][PACKED_ROWS];
    size_t left = w->n_in * (is_half ? 2 : 4);
    const uint8_t *next = rows + PACKED_ROWS * stride;

    for (; left >= sizeof(in[0]); left -= sizeof(in[0]), tile += sizeof(in)) {
        prefetch(next, sizeof(in));
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

/* Of a row as GGUF stores it. */
static size_t
row_bytes(const struct packed *w)
{
    switch (w->format) {
    case PACKED_Q4_0:
        return w->n_in / PACKED_BLOCK * sizeof(struct quant_q4_0);
    case PACKED_Q4_1:
        return w->n_in / PACKED_BLOCK * sizeof(struct quant_q4_1);
    case PACKED_Q8_0:
        return w->n_in / PACKED_BLOCK * sizeof(struct quant_q8_0);
    case PACKED_F16:
        return w->n_in * 2;
    default:
        return w->n_in * 4;
    }
}

/* The blocks of a tile of `n_rows` rows from `rows` on. */
static void
fill_tile(const struct packed *w, uint8_t *tile, const uint8_t *rows, size_t stride,
          size_t n_rows)
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
        fill_plain(w, tile, rows, stride, n_rows, true);
        break;
    default:
        fill_plain(w, tile, rows, stride, n_rows, false);
    }
}

void
packed_fill(struct packed *w, const void *rows, size_t tile_from, size_t tile_to)
{
    size_t stride = row_bytes(w);

    for (size_t t = tile_from; t < tile_to; t++) {
        size_t first = t * PACKED_ROWS, left = w->n_out - first;
        uint8_t *tile = w->data + t * w->tile_bytes;

        memset(tile, 0, w->tile_bytes); /* what lies behind the last block, too */
        fill_tile(w, tile, (const uint8_t *)rows + first * stride, stride,
                  left < PACKED_ROWS ? left : PACKED_ROWS);
    }
}

void
packed_piece(struct packed *out, const struct packed *w, size_t tile_from, size_t n_tiles,
             uint8_t *room)
{
    size_t first = tile_from * PACKED_ROWS, left = w->n_out - first;

    *out = *w;
    out->n_tiles = n_tiles;
    out->n_out = left < n_tiles * PACKED_ROWS ? left : n_tiles * PACKED_ROWS;
    out->data = room;
    out->rows = (const uint8_t *)w->rows + first * row_bytes(w);
    packed_fill(out, out->rows, 0, n_tiles);
}

size_t
packed_pick_bytes(const struct packed *w)
{
    /* a tile, and its rows side by side */
    return w->tile_bytes +
           (PACKED_ROWS * row_bytes(w) + MEM_ALIGN - 1) / MEM_ALIGN * MEM_ALIGN;
}

void
packed_ask(const struct packed *w, const int32_t *ids, size_t n)
{
    size_t stride = row_bytes(w);

    for (size_t i = 0; i < n && i < PACKED_ROWS; i++)
        prefetch((const uint8_t *)w->rows + (size_t)ids[i] * stride, stride);
}

void
packed_pick(struct packed *out, const struct packed *w, const int32_t *ids, size_t n,
            uint8_t *room)
{
    size_t stride = row_bytes(w);
    const uint8_t *rows = w->rows;
    uint8_t *beside = room + w->tile_bytes;

    for (size_t i = 0; i < n; i++)
        memcpy(beside + i * stride, rows + (size_t)ids[i] * stride, stride);
    *out = *w;
    out->data = room;
    out->n_out = n;
    out->n_tiles = 1;
    fill_tile(w, room, beside, stride, n);
}
