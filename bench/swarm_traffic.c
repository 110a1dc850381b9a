/* SPDX-License-Identifier: Apache-2.0
 * swarm_traffic.c - see swarm_traffic.h. What comes from the file is checked before it is
 * used, although the digest at its end already finds whatever was not done on purpose.
 */
#include "bench/swarm_traffic.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/memory.h"
#include "common/sha256.h"

static const char magic[8] = { 'C', 'E', 'S', 'W', 'A', 'R', 'M', '1' };

/* ---- reading ---- */

static int
map_file(struct traffic *t, const char *path, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    void *map;

    if (fd < 0)
        return err_set(err, CE_EIO, "%s: %s", path, strerror(errno));
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) ||
        (size_t)st.st_size < sizeof(magic) + SHA256_BYTES ||
        (size_t)st.st_size > TRAFFIC_MAX_SIZE) {
        close(fd);
        return err_set(err, CE_EFORMAT, "%s: not a file of recorded traffic", path);
    }
    map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (map == MAP_FAILED)
        return err_set(err, CE_EIO, "%s: %s", path, strerror(errno));
    t->map = map;
    t->map_size = (size_t)st.st_size;
    return 0;
}

/* The digest, before anything is believed. */
static int
check_digest(const struct traffic *t, const char *path, struct err *err)
{
    size_t size = t->map_size - SHA256_BYTES;
    uint8_t digest[SHA256_BYTES];
    int rc;

    if (memcmp(t->map, magic, sizeof(magic)) != 0)
        return err_set(err, CE_EFORMAT, "%s: not a file of recorded traffic", path);
    rc = sha256_bytes(t->map, size, digest, err);
    if (rc == 0 && memcmp(digest, t->map + size, SHA256_BYTES) != 0)
        rc = err_set(err, CE_EFORMAT, "%s: damaged: its digest is another", path);
    return rc;
}

static int
read_model(struct traffic *t, struct bytereader *r, const char *path, struct err *err)
{
    struct traffic_model *m = &t->model;
    const uint8_t *bytes = bytereader_bytes(r, sizeof(m->fingerprint));
    uint32_t codec, len;

    if (bytes)
        memcpy(m->fingerprint, bytes, sizeof(m->fingerprint));
    m->layer_from = bytereader_u32(r);
    m->n_layers = bytereader_u32(r);
    m->d_model = bytereader_u32(r);
    m->n_vocab = bytereader_u32(r);
    codec = bytereader_u32(r);
    len = bytereader_u32(r);
    bytes = len < sizeof(m->numerics) ? bytereader_bytes(r, len) : NULL;
    t->n = bytereader_u32(r);
    if (!bytes || r->status < 0 || codec >= STATES_N_CODECS || m->d_model == 0 ||
        m->d_model > 16384 || m->layer_from >= m->n_layers || t->n == 0 ||
        t->n > TRAFFIC_MAX_SEQS)
        return err_set(err, CE_EFORMAT, "%s: its head makes no sense", path);
    memcpy(m->numerics, bytes, len);
    m->codec = (enum states_codec)codec;
    t->row_bytes = states_row_bytes(m->codec, m->d_model);
    return 0;
}

/* Positions ascend, the last one is the last row, tokens are of the vocabulary. */
static bool
requests_make_sense(const struct traffic_seq *s, uint32_t n_vocab)
{
    for (uint32_t i = 0; i < s->n_requests; i++) {
        const struct traffic_request *q = &s->requests[i];

        if (q->token >= n_vocab || q->pos >= s->n_rows ||
            (i > 0 && q->pos <= s->requests[i - 1].pos))
            return false;
    }
    return s->requests[s->n_requests - 1].pos + 1 == s->n_rows;
}

static int
read_seq(struct traffic *t, uint32_t i, struct bytereader *r, const char *path,
         struct err *err)
{
    struct traffic_seq *s = &t->seqs[i];

    s->n_rows = bytereader_u32(r);
    s->n_requests = bytereader_u32(r);
    if (s->n_requests == 0 || s->n_requests > s->n_rows ||
        s->n_requests > bytereader_left(r) / 8)
        return err_set(err, CE_EFORMAT, "%s: sequence %u: %u requests of %u rows", path,
                       i, s->n_requests, s->n_rows);
    s->requests = mem_array_alloc(s->n_requests, sizeof(*s->requests));
    if (!s->requests)
        return err_set(err, CE_ENOMEM, "%s: no memory", path);
    for (uint32_t k = 0; k < s->n_requests; k++) {
        s->requests[k].pos = bytereader_u32(r);
        s->requests[k].token = bytereader_u32(r);
    }
    if (s->n_rows <= bytereader_left(r) / t->row_bytes)
        s->rows = bytereader_bytes(r, s->n_rows * t->row_bytes);
    if (!s->rows || !requests_make_sense(s, t->model.n_vocab))
        return err_set(err, CE_EFORMAT, "%s: sequence %u makes no sense", path, i);
    t->n_rows += s->n_rows;
    t->n_requests += s->n_requests;
    return 0;
}

int
traffic_read(struct traffic *t, const char *path, struct err *err)
{
    struct bytereader r;
    int rc;

    memset(t, 0, sizeof(*t));
    if ((rc = map_file(t, path, err)) || (rc = check_digest(t, path, err)))
        goto fail;
    bytereader_init(&r, t->map + sizeof(magic),
                    t->map_size - sizeof(magic) - SHA256_BYTES);
    if ((rc = read_model(t, &r, path, err)))
        goto fail;
    t->seqs = mem_array_alloc(t->n, sizeof(*t->seqs));
    if (!t->seqs)
        rc = err_set(err, CE_ENOMEM, "%s: no memory", path);
    for (uint32_t i = 0; rc == 0 && i < t->n; i++)
        rc = read_seq(t, i, &r, path, err);
    if (rc == 0 && bytereader_left(&r) > 0)
        rc = err_set(err, CE_EFORMAT, "%s: more behind the last sequence", path);
    if (rc == 0)
        return 0;
fail:
    traffic_free(t);
    return rc;
}

uint32_t
traffic_stagger(const struct traffic *t, uint32_t number)
{
    return number * 37 % t->seqs[number % t->n].n_requests;
}

uint32_t
traffic_next(const struct traffic *t, uint32_t number, uint32_t index)
{
    return (index + 1 + number % 7) % t->n;
}

void
traffic_free(struct traffic *t)
{
    for (uint32_t i = 0; t->seqs && i < t->n; i++)
        mem_free(t->seqs[i].requests);
    mem_free(t->seqs);
    if (t->map)
        munmap((void *)(uintptr_t)t->map, t->map_size);
    memset(t, 0, sizeof(*t));
}

/* ---- writing ---- */

void
traffic_begin(struct bytebuf *out, const struct traffic_model *m, uint32_t n)
{
    size_t len = strlen(m->numerics);

    bytebuf_put_bytes(out, magic, sizeof(magic));
    bytebuf_put_bytes(out, m->fingerprint, sizeof(m->fingerprint));
    bytebuf_put_u32(out, m->layer_from);
    bytebuf_put_u32(out, m->n_layers);
    bytebuf_put_u32(out, m->d_model);
    bytebuf_put_u32(out, m->n_vocab);
    bytebuf_put_u32(out, (uint32_t)m->codec);
    bytebuf_put_u32(out, (uint32_t)len);
    bytebuf_put_bytes(out, m->numerics, len);
    bytebuf_put_u32(out, n);
}

void
traffic_add(struct bytebuf *out, const struct traffic_seq *s, size_t row_bytes)
{
    bytebuf_put_u32(out, s->n_rows);
    bytebuf_put_u32(out, s->n_requests);
    for (uint32_t i = 0; i < s->n_requests; i++) {
        bytebuf_put_u32(out, s->requests[i].pos);
        bytebuf_put_u32(out, s->requests[i].token);
    }
    bytebuf_put_bytes(out, s->rows, s->n_rows * row_bytes);
}

int
traffic_write(struct bytebuf *out, const char *path, struct err *err)
{
    uint8_t digest[SHA256_BYTES];
    FILE *f;
    int rc = bytebuf_status(out);

    if (rc < 0)
        return err_set(err, rc, "%s: too much traffic for one file, or for memory", path);
    rc = sha256_bytes(bytebuf_data(out), bytebuf_len(out), digest, err);
    if (rc < 0)
        return rc;
    f = fopen(path, "we");
    if (!f)
        return err_set(err, CE_EIO, "%s: %s", path, strerror(errno));
    if (fwrite(bytebuf_data(out), 1, bytebuf_len(out), f) != bytebuf_len(out) ||
        fwrite(digest, 1, sizeof(digest), f) != sizeof(digest))
        rc = CE_EIO;
    if (fclose(f) != 0 || rc < 0)
        return err_set(err, CE_EIO, "%s: %s", path, strerror(errno));
    return 0;
}
