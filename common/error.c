/* SPDX-License-Identifier: Apache-2.0
 * error.c - the texts of error.h.
 *
 * Text may quote what a peer or a file says, so it is cleaned when it is made:
 * control characters, newlines and broken UTF-8 become '?', and a text that is
 * too long ends in "..." on a whole character. Whoever prints it need not care.
 */
#include "common/error.h"
#undef err_set

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Length in bytes of the well-formed UTF-8 character at s, which is not ASCII;
 * 0 when there is none. Overlong forms, surrogates and values past U+10FFFF
 * are not characters, nor are C1 controls (U+0080..9F) for a terminal. */
static int
utf8_len(const unsigned char *s)
{
    int n;
    unsigned min;
    unsigned value;

    if (s[0] >= 0xc2 && s[0] <= 0xdf) {
        n = 2;
        min = 0xa0;
        value = s[0] & 0x1f;
    } else if ((s[0] & 0xf0) == 0xe0) {
        n = 3;
        min = 0x800;
        value = s[0] & 0x0f;
    } else if (s[0] >= 0xf0 && s[0] <= 0xf4) {
        n = 4;
        min = 0x10000;
        value = s[0] & 0x07;
    } else {
        return 0;
    }
    for (int i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80) /* also stops at the terminating NUL */
            return 0;
        value = value << 6 | (s[i] & 0x3f);
    }
    if (value < min || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff))
        return 0;
    return n;
}

/* Clean a NUL-terminated text in place. `cut` says that it did not fit. */
static void
clean(char *text, size_t size, int cut)
{
    unsigned char *s = (unsigned char *)text;
    size_t end = 0; /* last place where "..." fits on a character's edge */

    while (*s != '\0') {
        int n = 1;

        if ((size_t)(s - (unsigned char *)text) + 4 <= size)
            end = (size_t)(s - (unsigned char *)text);
        if (*s >= 0x80) {
            n = utf8_len(s);
            if (n == 0) {
                *s = '?';
                n = 1;
            }
        } else if (*s < 0x20 || *s == 0x7f) {
            *s = '?';
        }
        s += n;
    }
    if (cut)
        memcpy(text + end, "...", 4);
}

int
err_set(struct err *err, int code, const char *fmt, ...)
{
    va_list ap;
    int n;

    if (err == NULL)
        return code;
    va_start(ap, fmt);
    n = vsnprintf(err->text, sizeof(err->text), fmt, ap);
    va_end(ap);
    if (n < 0)
        err->text[0] = '\0';
    clean(err->text, sizeof(err->text), n >= (int)sizeof(err->text));
    err->code = code;
    return code;
}

int
err_prefix(struct err *err, const char *fmt, ...)
{
    char prefix[sizeof(err->text)];
    char old[sizeof(err->text)];
    va_list ap;
    int n;

    if (err == NULL)
        return CE_OK;
    memcpy(old, err->text, sizeof(old));
    va_start(ap, fmt);
    n = vsnprintf(prefix, sizeof(prefix), fmt, ap);
    va_end(ap);
    if (n < 0)
        return err->code;
    return err_set(err, err->code, "%s: %s", prefix, old);
}

const char *
err_name(int code)
{
    switch (code) {
    case CE_OK:
        return "no error";
    case CE_EAGAIN:
        return "not now";
    case CE_EINVAL:
        return "invalid value";
    case CE_ENOMEM:
        return "out of memory";
    case CE_EIO:
        return "input/output error";
    case CE_EFORMAT:
        return "malformed";
    case CE_EUNSUPPORTED:
        return "unsupported";
    case CE_EPROTO:
        return "protocol violated";
    case CE_EAUTH:
        return "not authorised";
    case CE_EMISMATCH:
        return "mismatch";
    case CE_EQUOTA:
        return "limit reached";
    case CE_EGAP:
        return "position out of order";
    case CE_ENOTFOUND:
        return "not found";
    case CE_ETIMEOUT:
        return "timed out";
    case CE_ECLOSED:
        return "closed";
    case CE_ECONTEXT:
        return "context exceeded";
    case CE_EINTERNAL:
        return "internal error";
    default:
        return "unknown error";
    }
}
