/* SPDX-License-Identifier: Apache-2.0
 * gguf.c - opening a GGUF file and checking all of it before anyone looks.
 *
 * Why:       a model is a file from a stranger. The histories of other readers
 *            show the same mistakes again and again: products that overflow,
 *            an offset checked without its size, a cast before the type was
 *            looked at, an alignment of zero. So everything is checked here,
 *            once; the rest of the program walks the result without doubt.
 * Layout:    magic "GGUF", version, number of tensors, number of keys, the
 *            keys, the tensor directory, padding, tensor data. Little endian.
 *            Versions 2 and 3 are laid out alike; version 1 had 32-bit counts
 *            and is refused, as are big-endian files.
 * Bounds:    a count is compared with the bytes that are left before anything
 *            is allocated for it, so that memory stays proportional to the
 *            file's size. Names are found by bisection of a sorted index: no
 *            hash that a file could be made to collide.
 * Mapping:   read-only and private. The size is the one fstat reported; a
 *            file that is cut short while mapped kills the reader (SIGBUS), as
 *            with every mmap: replace model files by rename, never in place.
 * Used by:   model.c, tokenizer.c, exit heads, tools. Keys: gguf_keys.c.
 * Thread:    immutable after gguf_open.
 */
#include "engine/gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/gguf_internal.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "tensor data is used in place: only little-endian machines are supported"
#endif

#define MAX_COUNT     ((uint64_t)1 << 20) /* keys, and tensors, in one file */
#define MAX_NAME      256                 /* bytes of a key's or tensor's name */
#define MIN_ALIGNMENT 8
#define MAX_ALIGNMENT 65536

/* Least bytes that one entry can take: what a hostile count is held against. */
#define MIN_KEY_BYTES    (8 + 1 + 4 + 1)
#define MIN_TENSOR_BYTES (8 + 1 + 4 + 8 + 4 + 8)

/* A cursor with a sticky error: after the first failure every read gives 0. */
struct reader {
    const struct gguf *g;
    size_t pos;
    int rc;
    struct err *err;
};

#define READER_FAIL(r, at, fmt, ...)                                                     \
    do {                                                                                 \
        if ((r)->rc == 0)                                                                \
            (r)->rc = err_set((r)->err, CE_EFORMAT, "%s: offset %zu: " fmt,              \
                              (r)->g->path, (size_t)(at), __VA_ARGS__);                  \
    } while (0)

static size_t
left(const struct reader *r)
{
    return r->g->size - r->pos;
}

/* Step over n bytes and return where they start; NULL past the end. */
static const unsigned char *
take(struct reader *r, uint64_t n, const char *what)
{
    const unsigned char *p;

    if (r->rc != 0)
        return NULL;
    if (n > left(r)) {
        READER_FAIL(r, r->pos, "%s needs %llu bytes, %zu are left", what,
                    (unsigned long long)n, left(r));
        return NULL;
    }
    p = r->g->base + r->pos;
    r->pos += (size_t)n;
    return p;
}

static uint32_t
take_u32(struct reader *r, const char *what)
{
    const unsigned char *p = take(r, 4, what);
    uint32_t v = 0;

    if (p != NULL)
        memcpy(&v, p, 4);
    return v;
}

static uint64_t
take_u64(struct reader *r, const char *what)
{
    const unsigned char *p = take(r, 8, what);
    uint64_t v = 0;

    if (p != NULL)
        memcpy(&v, p, 8);
    return v;
}

/* A key's or tensor's name as an owned string; NULL with r->rc set. */
static char *
take_name(struct reader *r, const char *what)
{
    size_t at = r->pos;
    uint64_t len = take_u64(r, what);
    const unsigned char *p;
    char *name;

    if (r->rc == 0 && (len == 0 || len > MAX_NAME))
        READER_FAIL(r, at, "%s of %llu bytes (1 to %d are allowed)", what,
                    (unsigned long long)len, MAX_NAME);
    p = take(r, len, what);
    if (p == NULL)
        return NULL;
    if (memchr(p, 0, (size_t)len) != NULL) {
        READER_FAIL(r, at, "%s contains a zero byte", what);
        return NULL;
    }
    name = strndup((const char *)p, (size_t)len);
    if (name == NULL)
        r->rc = err_set(r->err, CE_ENOMEM, "%s: no memory for names", r->g->path);
    return name;
}

/* ---- keys ---- */

static void
take_string_array(struct reader *r, struct gguf_key *k)
{
    size_t i;

    if (k->n == 0)
        return;
    k->str_at = malloc(k->n * sizeof(*k->str_at)); /* n <= left / 8, see below */
    if (k->str_at == NULL) {
        r->rc =
            err_set(r->err, CE_ENOMEM, "%s: no memory for key %s", r->g->path, k->name);
        return;
    }
    for (i = 0; i < k->n && r->rc == 0; i++) {
        k->str_at[i] = r->pos;
        take(r, take_u64(r, "string length"), "string in an array");
    }
}

static void
take_array(struct reader *r, struct gguf_key *k)
{
    size_t at = r->pos, elem;
    uint64_t n;

    k->elem_type = take_u32(r, "element type");
    n = take_u64(r, "array length");
    if (r->rc != 0)
        return;
    elem = k->elem_type == GGUF_VAL_STRING ? 8 : gguf_value_bytes(k->elem_type);
    if (elem == 0) {
        READER_FAIL(r, at, "key %s: arrays of type %u are not allowed", k->name,
                    k->elem_type);
        return;
    }
    if (n > left(r) / elem) {
        READER_FAIL(r, at, "key %s: %llu elements cannot fit into %zu bytes", k->name,
                    (unsigned long long)n, left(r));
        return;
    }
    k->n = (size_t)n;
    k->data_at = r->pos;
    if (k->elem_type == GGUF_VAL_STRING)
        take_string_array(r, k);
    else
        take(r, n * elem, "array");
}

static void
take_key(struct reader *r, struct gguf_key *k)
{
    const unsigned char *p;
    size_t at = r->pos, size;

    k->name = take_name(r, "key name");
    k->type = take_u32(r, "value type");
    k->at = k->data_at = r->pos;
    if (r->rc != 0)
        return;
    size = gguf_value_bytes(k->type);
    if (size != 0) {
        p = take(r, size, "value");
        if (p != NULL && k->type == GGUF_VAL_BOOL && *p > 1)
            READER_FAIL(r, k->at, "key %s: a bool of value %u", k->name, *p);
    } else if (k->type == GGUF_VAL_STRING) {
        take(r, take_u64(r, "string length"), "string value");
    } else if (k->type == GGUF_VAL_ARRAY) {
        take_array(r, k);
    } else {
        READER_FAIL(r, at, "key %s: unknown value type %u", k->name, k->type);
    }
    k->end = r->pos;
}

/* ---- tensors ---- */

/* Shape and type into element and byte counts, every product checked. */
static void
check_shape(struct reader *r, struct gguf_tensor *t, size_t at)
{
    size_t block = gguf_block_elems(t->type), elems = 1;
    int i;

    if (block == 0) {
        READER_FAIL(r, at, "tensor %s: element format %s is not known", t->name,
                    gguf_type_name(t->type));
        return;
    }
    for (i = 0; i < 4; i++) {
        if (t->ne[i] == 0) {
            READER_FAIL(r, at, "tensor %s: dimension %d is zero", t->name, i);
            return;
        }
        if (__builtin_mul_overflow(elems, t->ne[i], &elems)) {
            READER_FAIL(r, at, "tensor %s: its dimensions overflow", t->name);
            return;
        }
    }
    if (t->ne[0] % block != 0) {
        READER_FAIL(r, at, "tensor %s: rows of %zu are not whole %s blocks of %zu",
                    t->name, t->ne[0], gguf_type_name(t->type), block);
        return;
    }
    if (__builtin_mul_overflow(elems / block, gguf_block_bytes(t->type), &t->size_bytes))
        READER_FAIL(r, at, "tensor %s: its size overflows", t->name);
}

/* The directory entry; data_at receives the offset within the data section,
 * which cannot be checked before the directory's end is known. */
static void
take_tensor(struct reader *r, struct gguf_tensor *t, uint64_t *data_at)
{
    size_t at = r->pos;
    uint32_t n_dims;
    uint64_t ne;
    int i;

    t->name = take_name(r, "tensor name");
    n_dims = take_u32(r, "number of dimensions");
    if (r->rc == 0 && (n_dims < 1 || n_dims > 4))
        READER_FAIL(r, at, "tensor %s: %u dimensions (1 to 4 are allowed)", t->name,
                    n_dims);
    if (r->rc != 0)
        return;
    t->n_dims = (int)n_dims;
    for (i = 0; i < 4; i++) {
        ne = i < t->n_dims ? take_u64(r, "dimension") : 1;
        t->ne[i] = (size_t)ne;
        if (r->rc == 0 && t->ne[i] != ne)
            READER_FAIL(r, at, "tensor %s: dimension %d is too large", t->name, i);
    }
    t->type = take_u32(r, "tensor type");
    *data_at = take_u64(r, "tensor offset");
    if (r->rc == 0)
        check_shape(r, t, at);
}

/* qsort_r's argument: which names an index refers to. */
static int
compare_keys(const void *a, const void *b, void *g)
{
    const struct gguf_key *keys = ((const struct gguf *)g)->keys;

    return strcmp(keys[*(const int *)a].name, keys[*(const int *)b].name);
}

static int
compare_tensors(const void *a, const void *b, void *g)
{
    const struct gguf_tensor *t = ((const struct gguf *)g)->tensors;

    return strcmp(t[*(const int *)a].name, t[*(const int *)b].name);
}

static int
compare_data(const void *a, const void *b, void *g)
{
    const struct gguf_tensor *t = ((const struct gguf *)g)->tensors;
    const char *x = t[*(const int *)a].data, *y = t[*(const int *)b].data;

    return x < y ? -1 : x > y;
}

/* Indices 0..n-1 sorted by `cmp`; NULL without memory. */
static int *
sorted_index(struct gguf *g, int n, int (*cmp)(const void *, const void *, void *))
{
    int *index = malloc(((size_t)n + 1) * sizeof(*index)), i;

    if (index == NULL)
        return NULL;
    for (i = 0; i < n; i++)
        index[i] = i;
    qsort_r(index, (size_t)n, sizeof(*index), cmp, g);
    return index;
}

static int
index_names(struct gguf *g, struct err *err)
{
    int i;

    g->keys_sorted = sorted_index(g, g->n_keys, compare_keys);
    g->tensors_sorted = sorted_index(g, g->n_tensors, compare_tensors);
    if (g->keys_sorted == NULL || g->tensors_sorted == NULL)
        return err_set(err, CE_ENOMEM, "%s: no memory for its index", g->path);
    for (i = 1; i < g->n_keys; i++)
        if (compare_keys(&g->keys_sorted[i - 1], &g->keys_sorted[i], g) == 0)
            return err_set(err, CE_EFORMAT, "%s: key %s appears twice", g->path,
                           g->keys[g->keys_sorted[i]].name);
    for (i = 1; i < g->n_tensors; i++)
        if (compare_tensors(&g->tensors_sorted[i - 1], &g->tensors_sorted[i], g) == 0)
            return err_set(err, CE_EFORMAT, "%s: tensor %s appears twice", g->path,
                           g->tensors[g->tensors_sorted[i]].name);
    return 0;
}

/* No two tensors share bytes: a small file cannot pose as a large model. */
static int
check_overlap(struct gguf *g, struct err *err)
{
    int *by_data = sorted_index(g, g->n_tensors, compare_data), i, rc = 0;

    if (by_data == NULL)
        return err_set(err, CE_ENOMEM, "%s: no memory for its index", g->path);
    for (i = 1; i < g->n_tensors && rc == 0; i++) {
        const struct gguf_tensor *a = &g->tensors[by_data[i - 1]];
        const struct gguf_tensor *b = &g->tensors[by_data[i]];

        if ((const char *)a->data + a->size_bytes > (const char *)b->data)
            rc = err_set(err, CE_EFORMAT, "%s: tensors %s and %s overlap", g->path,
                         a->name, b->name);
    }
    free(by_data);
    return rc;
}

static int
read_alignment(struct gguf *g, size_t *alignment, struct err *err)
{
    uint64_t v;
    int rc = gguf_get_u64(g, "general.alignment", &v, err);

    *alignment = 32;
    if (rc == CE_ENOTFOUND)
        return 0;
    if (rc != 0)
        return rc;
    if (v < MIN_ALIGNMENT || v > MAX_ALIGNMENT || (v & (v - 1)) != 0)
        return err_set(
            err, CE_EFORMAT,
            "%s: key general.alignment: %llu is not a power of two from %d to %d",
            g->path, (unsigned long long)v, MIN_ALIGNMENT, MAX_ALIGNMENT);
    *alignment = (size_t)v;
    return 0;
}

/* Turn the offsets of the directory into pointers, all of them inside. */
static int
place_tensors(struct gguf *g, size_t dir_end, const uint64_t *offsets, struct err *err)
{
    size_t alignment, start, end, i;
    int rc = read_alignment(g, &alignment, err);

    if (rc != 0 || g->n_tensors == 0)
        return rc;
    if (__builtin_add_overflow(dir_end, alignment - 1, &start))
        return err_set(err, CE_EFORMAT, "%s: too large", g->path);
    start &= ~(alignment - 1);
    for (i = 0; i < (size_t)g->n_tensors; i++) {
        struct gguf_tensor *t = &g->tensors[i];

        if (offsets[i] % alignment != 0)
            return err_set(err, CE_EFORMAT,
                           "%s: tensor %s: offset %llu is not a multiple of %zu", g->path,
                           t->name, (unsigned long long)offsets[i], alignment);
        if (offsets[i] > SIZE_MAX - start ||
            __builtin_add_overflow(start + (size_t)offsets[i], t->size_bytes, &end) ||
            end > g->size)
            return err_set(err, CE_EFORMAT,
                           "%s: tensor %s: %zu bytes at data offset %llu reach past the "
                           "end of the file (%zu bytes)",
                           g->path, t->name, t->size_bytes,
                           (unsigned long long)offsets[i], g->size);
        t->data = g->base + start + (size_t)offsets[i];
    }
    return check_overlap(g, err);
}

/* ---- the whole file ---- */

static int
parse_counts(struct reader *r, uint64_t *n_tensors, uint64_t *n_keys)
{
    const unsigned char *magic = take(r, 4, "magic");
    uint32_t version;

    if (magic != NULL && memcmp(magic, "GGUF", 4) != 0)
        READER_FAIL(r, 0, "%s", "not a GGUF file (its first bytes are not \"GGUF\")");
    version = take_u32(r, "version");
    if (r->rc == 0 && (version & 0xffff) == 0 && version != 0)
        READER_FAIL(r, 4, "%s", "a big-endian GGUF file, which is not supported");
    if (r->rc == 0 && (version < 2 || version > 3))
        READER_FAIL(r, 4, "GGUF version %u is not supported (2 and 3 are)", version);
    *n_tensors = take_u64(r, "number of tensors");
    *n_keys = take_u64(r, "number of keys");
    if (r->rc == 0 && (*n_tensors > MAX_COUNT || *n_tensors > left(r) / MIN_TENSOR_BYTES))
        READER_FAIL(r, 8, "%llu tensors cannot fit into a file of %zu bytes",
                    (unsigned long long)*n_tensors, r->g->size);
    if (r->rc == 0 && (*n_keys > MAX_COUNT || *n_keys > left(r) / MIN_KEY_BYTES))
        READER_FAIL(r, 16, "%llu keys cannot fit into a file of %zu bytes",
                    (unsigned long long)*n_keys, r->g->size);
    return r->rc;
}

static int
parse(struct gguf *g, struct err *err)
{
    struct reader r = { .g = g, .err = err };
    uint64_t n_tensors, n_keys, *offsets = NULL;

    if (parse_counts(&r, &n_tensors, &n_keys) != 0)
        return r.rc;
    g->keys = calloc((size_t)n_keys + 1, sizeof(*g->keys));
    g->tensors = calloc((size_t)n_tensors + 1, sizeof(*g->tensors));
    offsets = calloc((size_t)n_tensors + 1, sizeof(*offsets));
    if (g->keys == NULL || g->tensors == NULL || offsets == NULL) {
        free(offsets);
        return err_set(err, CE_ENOMEM, "%s: no memory for its directory", g->path);
    }
    while (r.rc == 0 && (uint64_t)g->n_keys < n_keys)
        take_key(&r, &g->keys[g->n_keys++]);
    while (r.rc == 0 && (uint64_t)g->n_tensors < n_tensors) {
        take_tensor(&r, &g->tensors[g->n_tensors], &offsets[g->n_tensors]);
        g->n_tensors++;
    }
    if (r.rc == 0)
        r.rc = index_names(g, err);
    if (r.rc == 0)
        r.rc = place_tensors(g, r.pos, offsets, err);
    free(offsets);
    return r.rc;
}

static int
finish_open(struct gguf **out, struct gguf *g, struct err *err)
{
    int rc = parse(g, err);

    if (rc != 0)
        gguf_close(g);
    else
        *out = g;
    return rc;
}

int
gguf_open_memory(struct gguf **out, const void *data, size_t size, const char *name,
                 struct err *err)
{
    struct gguf *g = calloc(1, sizeof(*g));

    *out = NULL;
    if (g == NULL || (g->path = strdup(name)) == NULL) {
        free(g);
        return err_set(err, CE_ENOMEM, "%s: no memory", name);
    }
    g->base = data;
    g->size = size;
    return finish_open(out, g, err);
}

/* Map a regular, non-empty file. */
static int
map_file(struct gguf *g, struct err *err)
{
    struct stat st;
    int rc = 0, fd = open(g->path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return err_set(err, CE_EIO, "%s: %s", g->path, strerror(errno));
    if (fstat(fd, &st) != 0) {
        rc = err_set(err, CE_EIO, "%s: %s", g->path, strerror(errno));
    } else if (!S_ISREG(st.st_mode)) {
        rc = err_set(err, CE_EIO, "%s: not a regular file", g->path);
    } else if (st.st_size == 0) {
        rc = err_set(err, CE_EFORMAT, "%s: empty file", g->path);
    } else if ((uintmax_t)st.st_size > SIZE_MAX / 2) {
        rc = err_set(err, CE_EFORMAT, "%s: too large for this machine", g->path);
    } else {
        g->size = (size_t)st.st_size;
        g->map = mmap(NULL, g->size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (g->map == MAP_FAILED) {
            g->map = NULL;
            rc = err_set(err, CE_EIO, "%s: mmap: %s", g->path, strerror(errno));
        }
        g->base = g->map;
    }
    close(fd);
    return rc;
}

int
gguf_open(struct gguf **out, const char *path, struct err *err)
{
    struct gguf *g = calloc(1, sizeof(*g));
    int rc;

    *out = NULL;
    if (g == NULL || (g->path = strdup(path)) == NULL) {
        free(g);
        return err_set(err, CE_ENOMEM, "%s: no memory", path);
    }
    rc = map_file(g, err);
    if (rc != 0) {
        gguf_close(g);
        return rc;
    }
    return finish_open(out, g, err);
}

void
gguf_close(struct gguf *g)
{
    int i;

    if (g == NULL)
        return;
    for (i = 0; i < g->n_keys; i++) {
        free(g->keys[i].name);
        free(g->keys[i].str_at);
    }
    for (i = 0; i < g->n_tensors; i++)
        free((char *)g->tensors[i].name);
    free(g->keys_sorted);
    free(g->tensors_sorted);
    free(g->keys);
    free(g->tensors);
    if (g->map != NULL)
        munmap(g->map, g->size);
    free(g->path);
    free(g);
}

const char *
gguf_path(const struct gguf *g)
{
    return g->path;
}

size_t
gguf_size_bytes(const struct gguf *g)
{
    return g->size;
}

const void *
gguf_bytes(const struct gguf *g)
{
    return g->base;
}

int
gguf_n_tensors(const struct gguf *g)
{
    return g->n_tensors;
}

const struct gguf_tensor *
gguf_tensor_at(const struct gguf *g, int i)
{
    return i >= 0 && i < g->n_tensors ? &g->tensors[i] : NULL;
}

const struct gguf_tensor *
gguf_find_tensor(const struct gguf *g, const char *name)
{
    int lo = 0, hi = g->n_tensors, mid, order;

    while (lo < hi) {
        mid = lo + (hi - lo) / 2;
        order = strcmp(name, g->tensors[g->tensors_sorted[mid]].name);
        if (order == 0)
            return &g->tensors[g->tensors_sorted[mid]];
        if (order < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}
