/* SPDX-License-Identifier: Apache-2.0
 * packed_cache.c - writing, checking and mapping a file of packed weights.
 *
 * Nothing in a file is believed: head and table are made anew from what the model asks
 * for and compared byte by byte, so there is nothing to parse and no number of the file
 * is used, but for the sum that its data must have.
 */
#include "engine/packed_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/memory.h"

#define MAGIC      "CEPACKED"
#define DATA_ALIGN ((size_t)64 << 10) /* of any machine's pages */
#define PIECE      ((size_t)1 << 20)  /* summed by one thread at a time */

struct head {
    char magic[8];
    uint32_t layout; /* PACKED_LAYOUT */
    uint32_t n_matrices;
    uint8_t id[32];
    uint64_t data_offset, data_bytes, data_sum;
    uint8_t unused[56]; /* zero */
};

struct entry {
    char name[64]; /* cut short if need be, padded with zeros */
    uint64_t format, n_out, n_in, tile_bytes;
    uint64_t offset, bytes; /* in the data */
    uint8_t unused[16];     /* zero */
};

_Static_assert(sizeof(struct head) == 128 && sizeof(struct entry) == 128,
               "packed_cache.h says so");

/* A file as it should be, without its data. */
struct image {
    uint8_t *bytes; /* head, table and zeros; data_sum is 0 */
    size_t size;    /* where the data begins */
    size_t data_bytes;
};

static int
image_make(struct image *im, const struct packed_cache *c, struct err *err)
{
    size_t table = sizeof(struct head) + (size_t)c->n_matrices * sizeof(struct entry);
    struct head head = { .magic = MAGIC,
                         .layout = PACKED_LAYOUT,
                         .n_matrices = (uint32_t)c->n_matrices };

    im->size = (table + DATA_ALIGN - 1) / DATA_ALIGN * DATA_ALIGN;
    im->data_bytes = 0;
    im->bytes = mem_array_alloc(im->size, 1);
    if (!im->bytes)
        return err_set(err, CE_ENOMEM, "%s/%s: no memory", c->dir, c->file);
    for (int i = 0; i < c->n_matrices; i++) {
        const struct packed *w = c->matrices[i].w;
        struct entry e = { .format = w->format,
                           .n_out = w->n_out,
                           .n_in = w->n_in,
                           .tile_bytes = w->tile_bytes,
                           .offset = im->data_bytes,
                           .bytes = packed_bytes(w) };

        snprintf(e.name, sizeof(e.name), "%s", c->matrices[i].name);
        memcpy(im->bytes + sizeof(head) + (size_t)i * sizeof(e), &e, sizeof(e));
        im->data_bytes += packed_bytes(w);
    }
    memcpy(head.id, c->id, sizeof(head.id));
    head.data_offset = im->size;
    head.data_bytes = im->data_bytes;
    memcpy(im->bytes, &head, sizeof(head));
    return 0;
}

/* ---- the sum ---- */

/* Of n bytes, a multiple of 64: eight chains, each step of which can be undone, so that
 * a word that differs always shows. `seed` is the place, so that pieces in the wrong
 * order show too. */
static uint64_t
sum_piece(const uint8_t *data, size_t n, uint64_t seed)
{
    uint64_t h[8], total = 0;

    for (uint64_t i = 0; i < 8; i++)
        h[i] = (seed + 1) * 0x9e3779b97f4a7c15u + i;
    for (const uint8_t *end = data + n; data < end; data += sizeof(h)) {
        uint64_t word[8];

        memcpy(word, data, sizeof(word));
        for (int i = 0; i < 8; i++) {
            h[i] = (h[i] ^ word[i]) * 0xd6e8feb86659fd93u;
            h[i] ^= h[i] >> 32;
        }
    }
    for (int i = 0; i < 8; i++)
        total = (total ^ h[i]) * 0xd6e8feb86659fd93u;
    return total ^ total >> 32;
}

struct summing {
    struct threads *pool;
    const uint8_t *data;
    size_t bytes;
    _Atomic uint64_t total;
};

static void
sum_region(void *arg, int tid, int n_threads)
{
    struct summing *s = arg;
    size_t n = (s->bytes + PIECE - 1) / PIECE, from, to;

    (void)n_threads;
    while (threads_take(s->pool, tid, n, 1, &from, &to)) {
        for (size_t i = from; i < to; i++) {
            size_t left = s->bytes - i * PIECE;

            atomic_fetch_add(&s->total, sum_piece(s->data + i * PIECE,
                                                  left < PIECE ? left : PIECE, i));
        }
    }
}

static uint64_t
sum(const void *data, size_t bytes, struct threads *pool)
{
    struct summing s = { .pool = pool, .data = data, .bytes = bytes };

    threads_run(pool, sum_region, &s);
    return atomic_load(&s.total);
}

/* ---- reading ---- */

/* A descriptor of a plain file that nobody but we and root can have written. */
static int
open_trusted(const char *path, int *fd, struct stat *st, struct err *err)
{
    int rc = 0;

    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    if (*fd < 0 && errno == ENOENT)
        return CE_ENOTFOUND;
    if (*fd < 0 || fstat(*fd, st) != 0)
        rc = err_set(err, CE_EIO, "%s: %s", path, strerror(errno));
    else if (!S_ISREG(st->st_mode))
        rc = err_set(err, CE_EAUTH, "%s: not a plain file", path);
    else if (st->st_uid != geteuid() && st->st_uid != 0)
        rc = err_set(err, CE_EAUTH, "%s: owned by user %u, who is not trusted", path,
                     (unsigned)st->st_uid);
    else if (st->st_mode & (S_IWGRP | S_IWOTH))
        rc = err_set(err, CE_EAUTH, "%s: others than its owner may write to it", path);
    if (rc != 0 && *fd >= 0)
        close(*fd);
    return rc;
}

/* What is the first thing in `found` that is not as it should be? */
static int
compare(const struct image *want, const uint8_t *found, const char *path, struct err *err)
{
    struct head w, f;

    if (memcmp(found, want->bytes, want->size) == 0)
        return 0;
    memcpy(&w, want->bytes, sizeof(w));
    memcpy(&f, found, sizeof(f));
    if (memcmp(f.magic, w.magic, sizeof(f.magic)) != 0)
        return err_set(err, CE_EFORMAT, "%s: does not hold packed weights", path);
    if (f.layout != w.layout)
        return err_set(err, CE_EFORMAT, "%s: of layout %u, but %u is wanted", path,
                       f.layout, w.layout);
    if (memcmp(f.id, w.id, sizeof(f.id)) != 0)
        return err_set(err, CE_EFORMAT, "%s: made for other weights", path);
    if (memcmp(&f, &w, sizeof(f)) != 0)
        return err_set(err, CE_EFORMAT, "%s: its sizes are not the model's", path);
    for (size_t i = 0; i < w.n_matrices; i++) {
        size_t at = sizeof(w) + i * sizeof(struct entry);

        if (memcmp(found + at, want->bytes + at, sizeof(struct entry)) != 0)
            return err_set(err, CE_EFORMAT, "%s: matrix %s is not the model's", path,
                           (const char *)want->bytes + at);
    }
    return err_set(err, CE_EFORMAT, "%s: something lies before the data", path);
}

/* Head and table of the open file, and the sum that they promise. */
static int
check_head(int fd, const struct image *want, const char *path, uint64_t *data_sum,
           struct err *err)
{
    uint8_t *found = mem_array_alloc(want->size, 1);
    uint64_t none = 0;
    ssize_t n;
    int rc;

    if (!found)
        return err_set(err, CE_ENOMEM, "%s: no memory", path);
    n = pread(fd, found, want->size, 0);
    if (n < 0) {
        rc = err_set(err, CE_EIO, "%s: %s", path, strerror(errno));
    } else if ((size_t)n < want->size) {
        rc = err_set(err, CE_EFORMAT, "%s: ends after %zd bytes", path, n);
    } else {
        memcpy(data_sum, found + offsetof(struct head, data_sum), sizeof(*data_sum));
        memcpy(found + offsetof(struct head, data_sum), &none, sizeof(none));
        rc = compare(want, found, path, err);
    }
    mem_free(found);
    return rc;
}

/* Map a file of the right size and look at all of its data. */
static int
map_data(int fd, const struct image *want, const char *path, uint64_t data_sum,
         struct threads *pool, void **base, struct err *err)
{
    size_t bytes = want->size + want->data_bytes;
    uint8_t *map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);

    if (map == MAP_FAILED)
        return err_set(err, CE_ENOMEM, "%s: %s", path, strerror(errno));
    madvise(map, bytes, MADV_HUGEPAGE); /* a wish, granted by ext4 of Linux 6.18 */
    if (sum(map + want->size, want->data_bytes, pool) != data_sum) {
        munmap(map, bytes);
        return err_set(err, CE_EFORMAT, "%s: its data is damaged", path);
    }
    *base = map;
    return 0;
}

static int
map_file(const char *path, const struct image *want, struct threads *pool, void **base,
         struct err *err)
{
    size_t bytes = want->size + want->data_bytes;
    uint64_t data_sum = 0;
    struct stat st;
    int fd, rc;

    if ((rc = open_trusted(path, &fd, &st, err)))
        return rc;
    rc = check_head(fd, want, path, &data_sum, err);
    if (rc == 0 && (uintmax_t)st.st_size != bytes)
        rc = err_set(err, CE_EFORMAT, "%s: has %ju bytes instead of %zu", path,
                     (uintmax_t)st.st_size, bytes);
    if (rc == 0)
        rc = map_data(fd, want, path, data_sum, pool, base, err);
    close(fd);
    return rc;
}

static char *
path_of(const struct packed_cache *c, const char *suffix, struct err *err)
{
    size_t size = strlen(c->dir) + strlen(c->file) + strlen(suffix) + 2;
    char *path = mem_array_alloc(size, 1);

    if (path)
        snprintf(path, size, "%s/%s%s", c->dir, c->file, suffix);
    else
        err_set(err, CE_ENOMEM, "%s/%s: no memory", c->dir, c->file);
    return path;
}

int
packed_cache_map(const struct packed_cache *c, struct threads *pool, void **base,
                 size_t *bytes, struct err *err)
{
    char *path = path_of(c, "", err);
    struct image want = { 0 };
    int rc = path ? image_make(&want, c, err) : CE_ENOMEM;
    uint8_t *at;

    if (rc == 0)
        rc = map_file(path, &want, pool, base, err);
    if (rc == 0) {
        *bytes = want.size + want.data_bytes;
        at = (uint8_t *)*base + want.size;
        for (int i = 0; i < c->n_matrices; i++) {
            c->matrices[i].w->data = at;
            at += packed_bytes(c->matrices[i].w);
        }
    }
    mem_free(want.bytes);
    mem_free(path);
    return rc;
}

/* ---- writing ---- */

static int
write_whole(int fd, const void *data, size_t size)
{
    const uint8_t *p = data;

    while (size > 0) {
        ssize_t n = write(fd, p, size);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        p += n;
        size -= (size_t)n;
    }
    return 0;
}

/* Head and data into a new file. No fsync: after a crash the sum tells. */
static int
write_file(const char *path, const struct image *im, const void *data, struct err *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
    bool good;

    if (fd < 0)
        return err_set(err, CE_EIO, "%s: %s", path, strerror(errno));
    good = write_whole(fd, im->bytes, im->size) == 0 &&
           write_whole(fd, data, im->data_bytes) == 0;
    if (!good)
        err_set(err, CE_EIO, "%s: %s", path, strerror(errno));
    if (close(fd) != 0 && good) {
        err_set(err, CE_EIO, "%s: %s", path, strerror(errno));
        good = false;
    }
    if (!good)
        unlink(path);
    return good ? 0 : CE_EIO;
}

int
packed_cache_write(const struct packed_cache *c, const void *data, struct threads *pool,
                   struct err *err)
{
    static _Atomic unsigned n_written; /* two backends of one process have two files */
    char suffix[64], *path, *own;
    struct image im = { 0 };
    uint64_t data_sum;
    int rc;

    snprintf(suffix, sizeof(suffix), ".%ld.%u.tmp", (long)getpid(),
             atomic_fetch_add(&n_written, 1));
    path = path_of(c, "", err);
    own = path_of(c, suffix, err);
    rc = path && own ? image_make(&im, c, err) : CE_ENOMEM;
    if (rc == 0) {
        data_sum = sum(data, im.data_bytes, pool);
        memcpy(im.bytes + offsetof(struct head, data_sum), &data_sum, sizeof(data_sum));
        rc = write_file(own, &im, data, err);
    }
    if (rc == 0 && rename(own, path) != 0) {
        rc = err_set(err, CE_EIO, "%s: %s", path, strerror(errno));
        unlink(own);
    }
    mem_free(im.bytes);
    mem_free(own);
    mem_free(path);
    return rc;
}
