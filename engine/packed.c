/* SPDX-License-Identifier: Apache-2.0
 * packed.c - sizes of packed matrices, and rearranging GGUF rows into tiles.
 *
 * Every product that a file's dimensions go into is checked; packing itself only
 * moves bytes, one tile at a time, in an order that reads each row straight.
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

static void
fill_row_q4(const struct packed *w, uint8_t *tile, const uint8_t *src, size_t row)
{
    size_t n_halves = w->format == PACKED_Q4_1 ? 2 : 1;
    uint8_t *block = tile;

    for (size_t b = 0; b < w->n_in / PACKED_BLOCK; b++) {
        for (size_t i = 0; i < n_halves; i++, src += 2)
            memcpy(block + PACKED_Q4_CODES + (i * PACKED_ROWS + row) * 2, src, 2);
        for (size_t c = 0; c < 4; c++, src += 4)
            memcpy(block + (c * PACKED_ROWS + row) * 4, src, 4);
        block += PACKED_Q4_CODES + n_halves * PACKED_ROWS * 2;
    }
}

static void
fill_row_q8(const struct packed *w, uint8_t *tile, const uint8_t *src, size_t row)
{
    for (size_t b = 0; b < w->n_in / PACKED_BLOCK; b++) {
        uint8_t *block = tile + b * PACKED_Q8_0_BLOCK;

        memcpy(block + PACKED_Q8_CODES + row * 2, src, 2);
        src += 2;
        for (size_t c = 0; c < 8; c++, src += 4)
            memcpy(block + (c * PACKED_ROWS + row) * 4, src, 4);
    }
}

static void
fill_row_plain(const struct packed *w, uint8_t *tile, const uint8_t *src, size_t row)
{
    size_t size = w->format == PACKED_F16 ? 2 : 4;

    for (size_t i = 0; i < w->n_in; i++)
        memcpy(tile + (i * PACKED_ROWS + row) * size, src + i * size, size);
}

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

void
packed_fill(struct packed *w, const void *rows, size_t tile_from, size_t tile_to)
{
    size_t stride = row_bytes(w);

    for (size_t t = tile_from; t < tile_to; t++) {
        uint8_t *tile = w->data + t * w->tile_bytes;

        memset(tile, 0, w->tile_bytes);
        for (size_t row = 0; row < PACKED_ROWS; row++) {
            size_t o = t * PACKED_ROWS + row;
            const uint8_t *src = (const uint8_t *)rows + o * stride;

            if (o >= w->n_out)
                break;
            if (w->format == PACKED_Q4_0 || w->format == PACKED_Q4_1)
                fill_row_q4(w, tile, src, row);
            else if (w->format == PACKED_Q8_0)
                fill_row_q8(w, tile, src, row);
            else
                fill_row_plain(w, tile, src, row);
        }
    }
}
