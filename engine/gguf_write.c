/* SPDX-License-Identifier: Apache-2.0
 * gguf_write.c - writing GGUF files, version 3.
 *
 * Keys are encoded into a buffer as they come; tensors are remembered by
 * pointer; gguf_writer_finish puts both into PATH.tmp and renames it. What
 * went wrong earlier (no memory, a name that gguf.c would refuse, a shape that
 * does not fit its format) is kept and reported there, so that callers can
 * write a page of keys without a check after each. A tensor may also come in pieces
 * that its owner makes when they are due: then no more than a piece is in memory.
 *
 * Used by: cecollm-model split, quantize and synth, exit-head training, tests.
 * Thread:  one writer belongs to one thread.
 */
#include "engine/gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/gguf_internal.h"

#define ALIGNMENT 32
#define MAX_NAME  256 /* as in gguf.c */

struct bytes {
    unsigned char *data;
    size_t len, cap;
};

struct tensor_entry {
    char *name;
    uint32_t type;
    int n_dims;
    size_t ne[4];
    const void *data;    /* borrowed until finish; NULL: `next` makes it */
    gguf_piece_fn *next; /* with its argument */
    void *arg;
    size_t size_bytes;
};

struct gguf_writer {
    struct bytes keys; /* encoded pairs */
    char **key_names;
    size_t n_keys;
    struct tensor_entry *tensors;
    size_t n_tensors;
    struct err err; /* the first failure */
};

/* ---- growing things ---- */

static void
put(struct gguf_writer *w, struct bytes *b, const void *data, size_t len)
{
    size_t need, cap;
    unsigned char *p;

    if (w->err.code != 0 || len == 0)
        return;
    if (__builtin_add_overflow(b->len, len, &need) || need > SIZE_MAX / 2) {
        err_set(&w->err, CE_EINVAL, "keys are too large");
        return;
    }
    if (b->data == NULL || need > b->cap) {
        cap = need < 512 ? 1024 : need * 2;
        p = realloc(b->data, cap);
        if (p == NULL) {
            err_set(&w->err, CE_ENOMEM, "no memory for keys");
            return;
        }
        b->data = p;
        b->cap = cap;
    }
    memcpy(b->data + b->len, data, len);
    b->len = need;
}

static void
put_u32(struct gguf_writer *w, struct bytes *b, uint32_t v)
{
    put(w, b, &v, sizeof(v));
}

static void
put_u64(struct gguf_writer *w, struct bytes *b, uint64_t v)
{
    put(w, b, &v, sizeof(v));
}

static void
put_str(struct gguf_writer *w, struct bytes *b, const char *s, size_t len)
{
    put_u64(w, b, len);
    put(w, b, s, len);
}

/* A copy of a name that the reader will accept, or NULL with w->err set. */
static char *
copy_name(struct gguf_writer *w, const char *name)
{
    char *copy;

    if (w->err.code != 0)
        return NULL;
    if (name[0] == '\0' || strlen(name) > MAX_NAME) {
        err_set(&w->err, CE_EINVAL, "a name of %zu bytes (1 to %d are allowed)",
                strlen(name), MAX_NAME);
        return NULL;
    }
    copy = strdup(name);
    if (copy == NULL)
        err_set(&w->err, CE_ENOMEM, "no memory for names");
    return copy;
}

/* ---- keys ---- */

static void
start_key(struct gguf_writer *w, const char *key, uint32_t type)
{
    char *name = copy_name(w, key), **p;

    if (name == NULL)
        return;
    p = realloc(w->key_names, (w->n_keys + 1) * sizeof(*p));
    if (p == NULL) {
        free(name);
        err_set(&w->err, CE_ENOMEM, "no memory for keys");
        return;
    }
    w->key_names = p;
    w->key_names[w->n_keys++] = name;
    put_str(w, &w->keys, key, strlen(key));
    put_u32(w, &w->keys, type);
}

static void
start_array(struct gguf_writer *w, const char *key, uint32_t elem_type, size_t n)
{
    start_key(w, key, GGUF_VAL_ARRAY);
    put_u32(w, &w->keys, elem_type);
    put_u64(w, &w->keys, n);
}

int
gguf_writer_new(struct gguf_writer **out, struct err *err)
{
    *out = calloc(1, sizeof(**out));
    return *out != NULL ? 0 : err_set(err, CE_ENOMEM, "no memory for a GGUF writer");
}

void
gguf_writer_u32(struct gguf_writer *w, const char *key, uint32_t v)
{
    start_key(w, key, GGUF_VAL_U32);
    put_u32(w, &w->keys, v);
}

void
gguf_writer_f32(struct gguf_writer *w, const char *key, float v)
{
    start_key(w, key, GGUF_VAL_F32);
    put(w, &w->keys, &v, sizeof(v));
}

void
gguf_writer_bool(struct gguf_writer *w, const char *key, bool v)
{
    unsigned char byte = v ? 1 : 0;

    start_key(w, key, GGUF_VAL_BOOL);
    put(w, &w->keys, &byte, 1);
}

void
gguf_writer_str(struct gguf_writer *w, const char *key, const char *v, size_t len)
{
    start_key(w, key, GGUF_VAL_STRING);
    put_str(w, &w->keys, v, len);
}

void
gguf_writer_str_array(struct gguf_writer *w, const char *key, const struct gguf_str *v,
                      size_t n)
{
    size_t i;

    start_array(w, key, GGUF_VAL_STRING, n);
    for (i = 0; i < n; i++)
        put_str(w, &w->keys, v[i].data, v[i].len);
}

void
gguf_writer_i32_array(struct gguf_writer *w, const char *key, const int32_t *v, size_t n)
{
    start_array(w, key, GGUF_VAL_I32, n);
    put(w, &w->keys, v, n * sizeof(*v));
}

void
gguf_writer_f32_array(struct gguf_writer *w, const char *key, const float *v, size_t n)
{
    start_array(w, key, GGUF_VAL_F32, n);
    put(w, &w->keys, v, n * sizeof(*v));
}

void
gguf_writer_copy_key(struct gguf_writer *w, const struct gguf *from, int i)
{
    const struct gguf_key *k;

    if (i < 0 || i >= from->n_keys) {
        if (w->err.code == 0)
            err_set(&w->err, CE_EINVAL, "%s has no key %d", from->path, i);
        return;
    }
    k = &from->keys[i];
    if (strcmp(k->name, "general.alignment") == 0)
        return; /* ours is the default; the source's would be a lie */
    start_key(w, k->name, k->type);
    put(w, &w->keys, from->base + k->at, k->end - k->at);
}

/* ---- tensors ---- */

static int
tensor_size(const struct tensor_entry *t, size_t *size)
{
    size_t block = gguf_block_elems(t->type), elems = 1;
    int i;

    if (block == 0 || t->n_dims < 1 || t->n_dims > 4)
        return CE_EINVAL;
    for (i = 0; i < t->n_dims; i++)
        if (t->ne[i] == 0 || __builtin_mul_overflow(elems, t->ne[i], &elems))
            return CE_EINVAL;
    if (t->ne[0] % block != 0 ||
        __builtin_mul_overflow(elems / block, gguf_block_bytes(t->type), size) ||
        *size > SIZE_MAX - ALIGNMENT)
        return CE_EINVAL;
    return 0;
}

static void
add_tensor(struct gguf_writer *w, struct tensor_entry t, const char *name,
           const size_t *ne)
{
    struct tensor_entry *p;
    int i;

    for (i = 0; i < t.n_dims && i < 4; i++)
        t.ne[i] = ne[i];
    if (w->err.code == 0 && tensor_size(&t, &t.size_bytes) != 0)
        err_set(&w->err, CE_EINVAL, "tensor %s: this shape cannot be stored as %s", name,
                gguf_type_name(t.type));
    t.name = copy_name(w, name);
    if (t.name == NULL)
        return;
    p = realloc(w->tensors, (w->n_tensors + 1) * sizeof(*p));
    if (p == NULL) {
        free(t.name);
        err_set(&w->err, CE_ENOMEM, "no memory for tensors");
        return;
    }
    w->tensors = p;
    w->tensors[w->n_tensors++] = t;
}

void
gguf_writer_tensor(struct gguf_writer *w, const char *name, uint32_t type, int n_dims,
                   const size_t *ne, const void *data)
{
    struct tensor_entry t = { .type = type, .n_dims = n_dims, .data = data };

    add_tensor(w, t, name, ne);
}

void
gguf_writer_tensor_pieces(struct gguf_writer *w, const char *name, uint32_t type,
                          int n_dims, const size_t *ne, gguf_piece_fn *next, void *arg)
{
    struct tensor_entry t = { .type = type, .n_dims = n_dims, .next = next, .arg = arg };

    add_tensor(w, t, name, ne);
}

/* ---- the file ---- */

static int
compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Refuse what gguf_open would refuse. */
static void
check_unique(struct gguf_writer *w, char **names, size_t n, const char *what)
{
    size_t i;

    if (n > 1)
        qsort(names, n, sizeof(*names), compare_names);
    for (i = 1; i < n && w->err.code == 0; i++)
        if (strcmp(names[i - 1], names[i]) == 0)
            err_set(&w->err, CE_EINVAL, "%s %s was given twice", what, names[i]);
}

static void
check_names(struct gguf_writer *w)
{
    char **names = calloc(w->n_tensors + 1, sizeof(*names));
    size_t i;

    if (names == NULL) {
        err_set(&w->err, CE_ENOMEM, "no memory for names");
        return;
    }
    for (i = 0; i < w->n_tensors; i++)
        names[i] = w->tensors[i].name;
    check_unique(w, names, w->n_tensors, "tensor");
    check_unique(w, w->key_names, w->n_keys, "key");
    free(names);
}

static size_t
padding(size_t len)
{
    return (ALIGNMENT - len % ALIGNMENT) % ALIGNMENT;
}

/* Header, keys, directory and the padding behind them. */
static void
encode_head(struct gguf_writer *w, struct bytes *head)
{
    static const unsigned char zeros[ALIGNMENT];
    uint64_t at = 0;
    size_t i;
    int d;

    put(w, head, "GGUF", 4);
    put_u32(w, head, 3);
    put_u64(w, head, w->n_tensors);
    put_u64(w, head, w->n_keys);
    put(w, head, w->keys.data, w->keys.len);
    for (i = 0; i < w->n_tensors; i++) {
        const struct tensor_entry *t = &w->tensors[i];

        put_str(w, head, t->name, strlen(t->name));
        put_u32(w, head, (uint32_t)t->n_dims);
        for (d = 0; d < t->n_dims; d++)
            put_u64(w, head, t->ne[d]);
        put_u32(w, head, t->type);
        put_u64(w, head, at);
        if (__builtin_add_overflow(at, t->size_bytes + padding(t->size_bytes), &at))
            err_set(&w->err, CE_EINVAL, "tensors are too large");
    }
    put(w, head, zeros, padding(head->len));
}

static int
write_pieces(FILE *f, const struct tensor_entry *t, const char *tmp, struct err *err)
{
    size_t at = 0;

    while (at < t->size_bytes) {
        const void *piece = NULL;
        size_t len = 0;
        int rc = t->next(t->arg, at, &piece, &len, err);

        if (rc != 0)
            return rc;
        if (len == 0 || len > t->size_bytes - at)
            return err_set(err, CE_EINTERNAL, "%s: tensor %s: a piece of %zu bytes", tmp,
                           t->name, len);
        if (fwrite(piece, 1, len, f) != len)
            return err_set(err, CE_EIO, "%s: %s", tmp, strerror(errno));
        at += len;
    }
    return 0;
}

static int
write_all(FILE *f, const struct gguf_writer *w, const struct bytes *head, const char *tmp,
          struct err *err)
{
    static const unsigned char zeros[ALIGNMENT];
    size_t i, pad;
    int rc;

    if (fwrite(head->data, 1, head->len, f) != head->len)
        goto failed;
    for (i = 0; i < w->n_tensors; i++) {
        const struct tensor_entry *t = &w->tensors[i];

        pad = padding(t->size_bytes);
        if (t->next && (rc = write_pieces(f, t, tmp, err)))
            return rc;
        if (!t->next && fwrite(t->data, 1, t->size_bytes, f) != t->size_bytes)
            goto failed;
        if (fwrite(zeros, 1, pad, f) != pad)
            goto failed;
    }
    if (fflush(f) == 0 && fsync(fileno(f)) == 0)
        return 0;
failed:
    return err_set(err, CE_EIO, "%s: %s", tmp, strerror(errno));
}

static int
write_file(const struct gguf_writer *w, const struct bytes *head, const char *path,
           struct err *err)
{
    size_t len = strlen(path) + sizeof(".tmp");
    char *tmp = malloc(len);
    FILE *f = NULL;
    int rc = 0;

    if (tmp == NULL)
        return err_set(err, CE_ENOMEM, "%s: no memory", path);
    snprintf(tmp, len, "%s.tmp", path);
    f = fopen(tmp, "wbe");
    if (f == NULL) {
        rc = err_set(err, CE_EIO, "%s: %s", tmp, strerror(errno));
        goto out;
    }
    rc = write_all(f, w, head, tmp, err);
    if (fclose(f) != 0 && rc == 0)
        rc = err_set(err, CE_EIO, "%s: %s", tmp, strerror(errno));
    if (rc == 0 && rename(tmp, path) != 0)
        rc = err_set(err, CE_EIO, "%s: %s", path, strerror(errno));
    if (rc != 0)
        unlink(tmp);
out:
    free(tmp);
    return rc;
}

int
gguf_writer_size(struct gguf_writer *w, uint64_t *bytes, struct err *err)
{
    struct bytes head = { 0 };
    size_t i;

    encode_head(w, &head);
    *bytes = head.len;
    for (i = 0; i < w->n_tensors; i++) /* encode_head has seen that this is no overflow */
        *bytes += w->tensors[i].size_bytes + padding(w->tensors[i].size_bytes);
    free(head.data);
    return w->err.code == 0 ? 0 : err_set(err, w->err.code, "%s", w->err.text);
}

int
gguf_writer_finish(struct gguf_writer *w, const char *path, struct err *err)
{
    struct bytes head = { 0 };
    int rc;

    if (w->err.code == 0)
        check_names(w);
    encode_head(w, &head);
    if (w->err.code != 0)
        rc = err_set(err, w->err.code, "%s: %s", path, w->err.text);
    else
        rc = write_file(w, &head, path, err);
    free(head.data);
    return rc;
}

void
gguf_writer_free(struct gguf_writer *w)
{
    size_t i;

    if (w == NULL)
        return;
    for (i = 0; i < w->n_keys; i++)
        free(w->key_names[i]);
    for (i = 0; i < w->n_tensors; i++)
        free(w->tensors[i].name);
    free(w->key_names);
    free(w->tensors);
    free(w->keys.data);
    free(w);
}
