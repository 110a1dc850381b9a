/* SPDX-License-Identifier: Apache-2.0
 * utf8_stream.h - valid UTF-8 from bytes that arrive in pieces.
 *
 * A token may end inside a character. The stream holds such a beginning back until
 * the rest comes, and gives out U+FFFD for what can never become a character (each
 * maximal invalid prefix once, as the Unicode standard recommends). What it gives
 * out is always valid UTF-8: safe for terminals and JSON.
 *
 * Thread: one stream belongs to one thread. Start from `{ 0 }`.
 */
#ifndef CE_ENGINE_UTF8_STREAM_H
#define CE_ENGINE_UTF8_STREAM_H

#include <stddef.h>

struct utf8_stream {
    unsigned char held[4]; /* the beginning of a character */
    int n_held;            /* 0 to 3 */
};

/* Most bytes that utf8_stream_push writes for `len` bytes. */
#define UTF8_STREAM_ROOM(len) (3 * ((len) + 3))

/* Add bytes; out: [UTF8_STREAM_ROOM(len)]. Returns the number of bytes written,
 * no NUL. */
size_t utf8_stream_push(struct utf8_stream *s, const char *in, size_t len, char *out);

/* No more bytes come: what is held becomes U+FFFD. out: [3]. */
size_t utf8_stream_end(struct utf8_stream *s, char *out);

/* Length of the longest prefix that is whole, valid UTF-8. */
size_t utf8_valid_prefix(const char *in, size_t len);

/* Bytes of the character at in[0]: 1 to 4 when whole and valid; 0 when the bytes
 * there are the beginning of a valid one; -k when k bytes can never become one. */
int utf8_char(const char *in, size_t len);

#endif
