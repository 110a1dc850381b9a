/* SPDX-License-Identifier: Apache-2.0
 * bytebuf.h - a growable byte buffer with a hard maximum, and a reader.
 *
 * Numbers are big-endian, as on the wire. Errors are sticky: an encoder puts
 * ten fields and asks once whether it worked; after the first failure puts do
 * nothing and gets return 0. The two failures are "over the maximum"
 * (CE_EQUOTA) and "no memory" (CE_ENOMEM); a reader's is "too short"
 * (CE_EFORMAT).
 *
 *     struct bytebuf b;
 *     bytebuf_init(&b, 4096);
 *     bytebuf_put_u16(&b, type);
 *     bytebuf_put_bytes(&b, name, n);
 *     rc = bytebuf_status(&b);
 *     ...
 *     bytebuf_fini(&b);
 *
 * Thread: one at a time per buffer.
 */
#ifndef CE_COMMON_BYTEBUF_H
#define CE_COMMON_BYTEBUF_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

/* Bytes [off, off + len) are the content: taken off the front by
 * bytebuf_consume, put at the end by the rest. Invariant: off + len <= cap,
 * len <= max. Look with bytebuf_data and bytebuf_len. */
struct bytebuf {
    uint8_t *mem; /* owned; NULL until the first put */
    size_t off;
    size_t len;
    size_t cap;
    size_t max; /* of len */
    int status; /* 0, or the first failure */
};

void bytebuf_init(struct bytebuf *b, size_t max);
void bytebuf_fini(struct bytebuf *b);  /* frees; the struct may be inited again */
void bytebuf_reset(struct bytebuf *b); /* empty and without error, memory kept */

int bytebuf_status(const struct bytebuf *b);
static inline const uint8_t *
bytebuf_data(const struct bytebuf *b)
{
    return b->mem != NULL ? b->mem + b->off : NULL;
}
static inline size_t
bytebuf_len(const struct bytebuf *b)
{
    return b->len;
}

void bytebuf_put_u8(struct bytebuf *b, uint8_t v);
void bytebuf_put_u16(struct bytebuf *b, uint16_t v);
void bytebuf_put_u32(struct bytebuf *b, uint32_t v);
void bytebuf_put_u64(struct bytebuf *b, uint64_t v);
void bytebuf_put_f32(struct bytebuf *b, float v); /* its bits, as a u32 */
void bytebuf_put_bytes(struct bytebuf *b, const void *bytes, size_t n);
/* Needs room for one byte more than it leaves. */
void bytebuf_printf(struct bytebuf *b, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* n bytes at the end for the caller to fill, valid until the next call on b;
 * NULL on failure. The content is undefined until then. */
uint8_t *bytebuf_extend(struct bytebuf *b, size_t n);

/* Drop n bytes from the front (at most all of them). */
void bytebuf_consume(struct bytebuf *b, size_t n);
/* Drop bytes from the end, so that `len` are left (no effect when shorter). */
void bytebuf_truncate(struct bytebuf *b, size_t len);

/* ---- reading ---- */

/* Reads bytes that it borrows; `pos` never passes `len`. */
struct bytereader {
    const uint8_t *data;
    size_t len;
    size_t pos;
    int status; /* 0, or CE_EFORMAT after reading past the end */
};

void bytereader_init(struct bytereader *r, const void *data, size_t len);
uint8_t bytereader_u8(struct bytereader *r);
uint16_t bytereader_u16(struct bytereader *r);
uint32_t bytereader_u32(struct bytereader *r);
uint64_t bytereader_u64(struct bytereader *r);
float bytereader_f32(struct bytereader *r);
/* The next n bytes, borrowed; NULL (and the sticky error) when fewer are left. */
const uint8_t *bytereader_bytes(struct bytereader *r, size_t n);
static inline size_t
bytereader_left(const struct bytereader *r)
{
    return r->len - r->pos;
}

#endif
