/* SPDX-License-Identifier: Apache-2.0
 * packed.c - sizes of packed matrices, and which rows their tiles are filled from.
 *
 * Every product that a file's dimensions go into is checked. packed_fill.c moves bytes.
 */
#include "engine/packed.h"

#include <string.h>

#include "common/memory.h"
#include "engine/gguf.h"
#include "engine/packed_internal.h"
#include "engine/quant.h"

/* A format in files: its type, and the bytes of a block or superblock (of a plain value:
 * of itself) of a row. */
static const struct {
    uint32_t type;
    size_t bytes;
} stored[PACKED_N_FORMATS] = {
    [PACKED_Q4_0] = { GGUF_Q4_0, sizeof(struct quant_q4_0) },
    [PACKED_Q4_1] = { GGUF_Q4_1, sizeof(struct quant_q4_1) },
    [PACKED_Q5_0] = { GGUF_Q5_0, sizeof(struct quant_q5_0) },
    [PACKED_Q5_1] = { GGUF_Q5_1, sizeof(struct quant_q5_1) },
    [PACKED_Q2_K] = { GGUF_Q2_K, sizeof(struct quant_q2_k) },
    [PACKED_Q3_K] = { GGUF_Q3_K, sizeof(struct quant_q3_k) },
    [PACKED_Q4_K] = { GGUF_Q4_K, sizeof(struct quant_q4_k) },
    [PACKED_Q5_K] = { GGUF_Q5_K, sizeof(struct quant_q5_k) },
    [PACKED_Q6_K] = { GGUF_Q6_K, sizeof(struct quant_q6_k) },
    [PACKED_Q8_0] = { GGUF_Q8_0, sizeof(struct quant_q8_0) },
    [PACKED_F16] = { GGUF_F16, 2 },
    [PACKED_BF16] = { GGUF_BF16, 2 },
    [PACKED_F32] = { GGUF_F32, 4 },
};

/* Bytes of a row as GGUF stores it. */
static size_t
row_bytes(const struct packed *w)
{
    return w->n_in / packed_unit_columns(w->format) * stored[w->format].bytes;
}

int
packed_shape(struct packed *out, uint32_t gguf_type, size_t n_out, size_t n_in,
             struct err *err)
{
    enum packed_format f = 0;
    size_t columns, total;

    memset(out, 0, sizeof(*out));
    while (f < PACKED_N_FORMATS && stored[f].type != gguf_type)
        f++;
    if (f == PACKED_N_FORMATS)
        return err_set(err, CE_EUNSUPPORTED,
                       "weights of type %s: only " QUANT_TYPES " are known",
                       gguf_type_name(gguf_type));
    columns = packed_unit_columns(f);
    if (n_out == 0 || n_in == 0 || n_in % columns != 0)
        return err_set(err, CE_EINVAL, "a matrix of %zu x %zu cannot be packed as %s",
                       n_out, n_in, gguf_type_name(gguf_type));
    out->format = f;
    out->n_out = n_out;
    out->n_in = n_in;
    out->n_tiles = (n_out - 1) / PACKED_ROWS + 1;
    if (__builtin_mul_overflow(n_in / columns, packed_unit_bytes(f), &out->tile_bytes) ||
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

void
packed_fill(struct packed *w, const void *rows, size_t tile_from, size_t tile_to)
{
    size_t stride = row_bytes(w);

    for (size_t t = tile_from; t < tile_to; t++) {
        size_t first = t * PACKED_ROWS, left = w->n_out - first;
        uint8_t *tile = w->data + t * w->tile_bytes;

        memset(tile, 0, w->tile_bytes); /* what lies behind the last block, too */
        packed_fill_tile(w, tile, (const uint8_t *)rows + first * stride, stride,
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
        packed_prefetch((const uint8_t *)w->rows + (size_t)ids[i] * stride, stride);
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
    packed_fill_tile(w, room, beside, stride, n);
}
