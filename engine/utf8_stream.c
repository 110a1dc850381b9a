/* SPDX-License-Identifier: Apache-2.0
 * utf8_stream.c - well-formed UTF-8 (Unicode standard, table 3-7) out of pieces.
 */
#include "engine/utf8_stream.h"

#include <string.h>

static const char replacement[3] = { '\357', '\277', '\275' }; /* U+FFFD */

/* What the byte at the start of a character asks for: its length, and the range
 * of the second byte, which is where overlong forms, surrogates and numbers past
 * U+10FFFF are kept out. Length 0: it cannot start a character. */
static int
lead(unsigned char c, unsigned char *least, unsigned char *most)
{
    *least = 0x80;
    *most = 0xbf;
    if (c < 0x80)
        return 1;
    if (c >= 0xc2 && c <= 0xdf)
        return 2;
    if (c >= 0xe0 && c <= 0xef) {
        if (c == 0xe0)
            *least = 0xa0;
        if (c == 0xed)
            *most = 0x9f;
        return 3;
    }
    if (c >= 0xf0 && c <= 0xf4) {
        if (c == 0xf0)
            *least = 0x90;
        if (c == 0xf4)
            *most = 0x8f;
        return 4;
    }
    return 0;
}

int
utf8_char(const char *in, size_t len)
{
    const unsigned char *p = (const unsigned char *)in;
    unsigned char least, most;
    int n, i;

    if (len == 0)
        return 0;
    n = lead(p[0], &least, &most);
    if (n == 0)
        return -1;
    for (i = 1; i < n; i++) {
        if ((size_t)i == len)
            return 0;
        if (p[i] < least || p[i] > most)
            return -i;
        least = 0x80;
        most = 0xbf;
    }
    return n;
}

size_t
utf8_valid_prefix(const char *in, size_t len)
{
    size_t at = 0;
    int n;

    while (at < len && (n = utf8_char(in + at, len - at)) > 0)
        at += (size_t)n;
    return at;
}

/* Finish the held character with bytes of `in`. Returns how many were used. */
static size_t
finish_held(struct utf8_stream *s, const char *in, size_t len, char **out)
{
    size_t used = 0;
    int n;

    while (s->n_held > 0 && used < len) {
        s->held[s->n_held] = (unsigned char)in[used];
        n = utf8_char((const char *)s->held, (size_t)s->n_held + 1);
        if (n < 0) { /* this byte does not go on with it: it starts anew */
            memcpy(*out, replacement, 3);
            *out += 3;
            s->n_held = 0;
            break;
        }
        used++;
        s->n_held++;
        if (n > 0) {
            memcpy(*out, s->held, (size_t)n);
            *out += n;
            s->n_held = 0;
        }
    }
    return used;
}

size_t
utf8_stream_push(struct utf8_stream *s, const char *in, size_t len, char *out)
{
    char *p = out;
    size_t at = finish_held(s, in, len, &p), rest;
    int n;

    while (at < len) {
        n = utf8_char(in + at, len - at);
        if (n > 0) {
            memcpy(p, in + at, (size_t)n);
            p += n;
            at += (size_t)n;
        } else if (n < 0) {
            memcpy(p, replacement, 3);
            p += 3;
            at += (size_t)-n;
        } else {
            rest = len - at; /* 1 to 3 bytes */
            memcpy(s->held, in + at, rest);
            s->n_held = (int)rest;
            break;
        }
    }
    return (size_t)(p - out);
}

size_t
utf8_stream_end(struct utf8_stream *s, char *out)
{
    if (s->n_held == 0)
        return 0;
    s->n_held = 0;
    memcpy(out, replacement, 3);
    return 3;
}
