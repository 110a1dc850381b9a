/* SPDX-License-Identifier: Apache-2.0
 * bytebuf.c - bounded buffer and reader.
 *
 * Growth doubles, so n puts cost O(n). Consuming from the front only moves an
 * offset; the bytes move down when the end is reached and at least half of the
 * memory is free, so a stream that is read as it is written costs O(n) as well.
 */
#include "common/bytebuf.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/memory.h"

void
bytebuf_init(struct bytebuf *b, size_t max)
{
    memset(b, 0, sizeof(*b));
    b->max = max < SIZE_MAX / 4 ? max : SIZE_MAX / 4; /* sums below cannot wrap */
}

void
bytebuf_fini(struct bytebuf *b)
{
    mem_free(b->mem);
    bytebuf_init(b, b->max);
}

void
bytebuf_reset(struct bytebuf *b)
{
    b->off = 0;
    b->len = 0;
    b->status = CE_OK;
}

int
bytebuf_status(const struct bytebuf *b)
{
    return b->status;
}

/* Make room for n more bytes after the content. */
static int
reserve(struct bytebuf *b, size_t n)
{
    size_t cap = b->cap > 0 ? b->cap : 64;
    uint8_t *mem;

    if (b->status != CE_OK)
        return b->status;
    if (n > b->max - b->len)
        return b->status = CE_EQUOTA;
    if (n <= b->cap - b->off - b->len)
        return CE_OK;
    if (b->off >= b->cap / 2 && n <= b->cap - b->len) {
        memmove(b->mem, b->mem + b->off, b->len);
        b->off = 0;
        return CE_OK;
    }
    while (cap < b->off + b->len + n) {
        if (cap > SIZE_MAX / 4)
            return b->status = CE_ENOMEM;
        cap *= 2;
    }
    mem = mem_array_resize(b->mem, cap, 1);
    if (mem == NULL)
        return b->status = CE_ENOMEM;
    b->mem = mem;
    b->cap = cap;
    return CE_OK;
}

uint8_t *
bytebuf_extend(struct bytebuf *b, size_t n)
{
    uint8_t *at;

    if (reserve(b, n > 0 ? n : 1) != CE_OK)
        return NULL;
    at = b->mem + b->off + b->len;
    b->len += n;
    return at;
}

/* The `n` low bytes of v, highest first. */
static void
put_be(struct bytebuf *b, uint64_t v, int n)
{
    uint8_t *at = bytebuf_extend(b, (size_t)n);

    for (int i = 0; at != NULL && i < n; i++)
        at[i] = (uint8_t)(v >> 8 * (n - 1 - i));
}

void
bytebuf_put_u8(struct bytebuf *b, uint8_t v)
{
    put_be(b, v, 1);
}

void
bytebuf_put_u16(struct bytebuf *b, uint16_t v)
{
    put_be(b, v, 2);
}

void
bytebuf_put_u32(struct bytebuf *b, uint32_t v)
{
    put_be(b, v, 4);
}

void
bytebuf_put_u64(struct bytebuf *b, uint64_t v)
{
    put_be(b, v, 8);
}

void
bytebuf_put_f32(struct bytebuf *b, float v)
{
    uint32_t bits;

    memcpy(&bits, &v, sizeof(bits));
    put_be(b, bits, 4);
}

void
bytebuf_put_bytes(struct bytebuf *b, const void *bytes, size_t n)
{
    uint8_t *at;

    if (n == 0)
        return;
    at = bytebuf_extend(b, n);
    if (at != NULL)
        memcpy(at, bytes, n);
}

void
bytebuf_printf(struct bytebuf *b, const char *fmt, ...)
{
    va_list ap;
    uint8_t *at;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0) {
        if (b->status == CE_OK)
            b->status = CE_EINVAL;
        return;
    }
    /* one byte more for the NUL, which is not content */
    at = bytebuf_extend(b, (size_t)n + 1);
    if (at == NULL)
        return;
    va_start(ap, fmt);
    vsnprintf((char *)at, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->len--;
}

void
bytebuf_consume(struct bytebuf *b, size_t n)
{
    if (n >= b->len) {
        b->off = 0;
        b->len = 0;
        return;
    }
    b->off += n;
    b->len -= n;
}

void
bytebuf_truncate(struct bytebuf *b, size_t len)
{
    if (len < b->len)
        b->len = len;
}

void
bytereader_init(struct bytereader *r, const void *data, size_t len)
{
    r->data = data;
    r->len = len;
    r->pos = 0;
    r->status = CE_OK;
}

const uint8_t *
bytereader_bytes(struct bytereader *r, size_t n)
{
    const uint8_t *at;

    if (r->status == CE_OK && n > r->len - r->pos)
        r->status = CE_EFORMAT;
    if (r->status != CE_OK)
        return NULL;
    at = r->data + r->pos;
    r->pos += n;
    return at;
}

static uint64_t
get_be(struct bytereader *r, int n)
{
    const uint8_t *at = bytereader_bytes(r, (size_t)n);
    uint64_t v = 0;

    for (int i = 0; at != NULL && i < n; i++)
        v = v << 8 | at[i];
    return v;
}

uint8_t
bytereader_u8(struct bytereader *r)
{
    return (uint8_t)get_be(r, 1);
}

uint16_t
bytereader_u16(struct bytereader *r)
{
    return (uint16_t)get_be(r, 2);
}

uint32_t
bytereader_u32(struct bytereader *r)
{
    return (uint32_t)get_be(r, 4);
}

uint64_t
bytereader_u64(struct bytereader *r)
{
    return get_be(r, 8);
}

float
bytereader_f32(struct bytereader *r)
{
    uint32_t bits = bytereader_u32(r);
    float v;

    memcpy(&v, &bits, sizeof(v));
    return v;
}
