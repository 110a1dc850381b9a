/* SPDX-License-Identifier: Apache-2.0
 * error.h - what can go wrong, as a number and as one line of text.
 *
 * Every function that can fail returns 0 or a negative CE_E* code. The text
 * for people is made once, at the place that knows the file, peer or key, and
 * travels in a `struct err` that the caller owns (usually on its stack).
 * Passing NULL for the struct is always allowed.
 *
 * Thread: any; nothing here is shared.
 */
#ifndef CE_COMMON_ERROR_H
#define CE_COMMON_ERROR_H

/* The numbers go over the wire in ERROR frames (doc/PROTOCOL.md): append only,
 * never renumber; retired ones stay listed as unused. */
enum {
    CE_OK = 0,
    CE_EAGAIN = -1,       /* incomplete or not now; come back */
    CE_EINVAL = -2,       /* an argument, option or field is out of range */
    CE_ENOMEM = -3,       /* memory, here or on a device, is exhausted */
    CE_EIO = -4,          /* the operating system failed a read, write or connect */
    CE_EFORMAT = -5,      /* a file or frame does not parse */
    CE_EUNSUPPORTED = -6, /* well formed, but not something this build can do */
    CE_EPROTO = -7,       /* the peer broke the protocol */
    CE_EAUTH = -8,        /* certificate, secret or tenant refused */
    CE_EMISMATCH = -9,    /* model, layer range, codec or numerics differ */
    CE_EQUOTA = -10,      /* a limit of the tenant or server is reached */
    CE_EGAP = -11,        /* position is not the next expected one */
    CE_ENOTFOUND = -12,   /* no such sequence, session, tensor, key */
    CE_ETIMEOUT = -13,    /* a deadline passed */
    CE_ECLOSED = -14,     /* the other side is gone, or we are draining */
    CE_ECONTEXT = -15,    /* longer than the model's or the server's context */
    CE_EINTERNAL = -16,   /* a defect here; the request fails, the process goes on */
};

struct err {
    int code;       /* CE_E*, 0 when nothing was set */
    char text[400]; /* one line, no newline, printable */
};

/* Fill *err (unless NULL) and return `code`, so that a failing function can
 * end with `return err_set(err, CE_EFORMAT, "%s: ...", path);`. Bytes that are
 * not printable ASCII or valid UTF-8 are replaced, so text may quote input. */
int err_set(struct err *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#ifdef __clang_analyzer__ /* it cannot see that the result is `code` */
#define err_set(err, code, ...) (err_set((err), (code), __VA_ARGS__), (code))
#endif

/* Put "prefix: " before the text already there. Returns err's code. */
int err_prefix(struct err *err, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* Short fixed text of a code, e.g. "limit reached"; never NULL. */
const char *err_name(int code);

#define CE_MUSTCHECK __attribute__((warn_unused_result))

#endif
