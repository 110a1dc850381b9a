/* SPDX-License-Identifier: Apache-2.0
 * exit_rows.c - see exit_rows.h.
 *
 * Rows stand in the file as they came; which of them are held out is known from a byte
 * each behind them, from which two lists of row numbers are made when it is opened.
 */
#include "tools/exit_rows.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/half.h"
#include "common/memory.h"
#include "common/sha256.h"
#include "tools/exit_sums.h"

#define VERSION  1
#define ORDER    0x01020304u
#define MAX_ROWS ((size_t)INT32_MAX)
#define MAX_D    65536
#define HALF_MAX 65504.0f
#define BUFFER   ((size_t)1 << 20)

static const char magic[8] = "cexrows";

struct head {
    char magic[8];
    uint32_t order, version;
    uint32_t n_exits, layers[MODEL_MAX_EXITS];
    uint32_t d_model, n_vocab, n_top;
    uint8_t fingerprint[32], recipe[32];
    uint64_t n_rows, n_summed;
    uint32_t cut_short;
    uint8_t spare[76];
};
_Static_assert(sizeof(struct head) == 256, "of the file");

struct exit_rows {
    struct exit_rows_shape shape;
    char *path, *tmp; /* tmp: NULL once finished */
    FILE *f;          /* while writing */
    int fd;
    size_t d, row_bytes;
    unsigned char *row; /* [row_bytes] scratch of the writer */
    float *last;        /* [d] scratch */
    uint8_t *held;      /* [cap] while writing */
    size_t n_rows, cap;
    uint32_t *list[2]; /* row numbers: to train on, held out */
    size_t count[2];
    size_t n_training; /* so far */
    size_t n_summed;
    struct exit_sums sums[MODEL_MAX_EXITS];
    struct exit_rows *more; /* rows that follow these */
};

/* ---- both ---- */

static int
check_shape(const struct exit_rows_shape *s, const char *path, struct err *err)
{
    bool ok = s->n_exits >= 1 && s->n_exits <= MODEL_MAX_EXITS && s->d_model >= 1 &&
              s->d_model <= MAX_D && s->n_vocab >= 1 && s->n_top >= 1 &&
              s->n_top <= BACKEND_MAX_TOP && s->n_top <= s->n_vocab;

    for (int i = 0; ok && i < s->n_exits; i++)
        ok = s->layers[i] >= 1 && (i == 0 || s->layers[i] > s->layers[i - 1]);
    return ok ? 0
              : err_set(err, CE_EINVAL,
                        "%s: %d exits, width %d, %d tokens, %d of them a row: no shape "
                        "of rows",
                        path, s->n_exits, s->d_model, s->n_vocab, s->n_top);
}

static int
new_rows(struct exit_rows **out, const char *path, const struct exit_rows_shape *shape,
         struct err *err)
{
    struct exit_rows *r;
    int rc = check_shape(shape, path, err);

    if (rc != 0)
        return rc;
    r = mem_array_alloc(1, sizeof(*r));
    if (!r)
        return err_set(err, CE_ENOMEM, "%s: no memory", path);
    r->shape = *shape;
    r->fd = -1;
    r->d = (size_t)shape->d_model;
    r->row_bytes = (size_t)shape->n_exits * r->d * sizeof(uint16_t) +
                   (size_t)shape->n_top * (sizeof(int32_t) + sizeof(float));
    r->path = mem_strdup(path);
    if (!r->path) {
        exit_rows_close(r);
        return err_set(err, CE_ENOMEM, "%s: no memory", path);
    }
    *out = r;
    return 0;
}

static int
init_sums(struct exit_rows *r, struct err *err)
{
    int rc = 0;

    for (int i = 0; rc == 0 && i < r->shape.n_exits; i++)
        rc = exit_sums_init(&r->sums[i], r->d, err);
    if (rc != 0)
        err_prefix(err, "%s", r->path);
    return rc;
}

void
exit_rows_close(struct exit_rows *r)
{
    if (!r)
        return;
    exit_rows_close(r->more);
    if (r->f)
        fclose(r->f);
    else if (r->fd >= 0)
        close(r->fd);
    if (r->tmp)
        unlink(r->tmp);
    for (int i = 0; i < MODEL_MAX_EXITS; i++)
        exit_sums_free(&r->sums[i]);
    mem_free(r->list[0]);
    mem_free(r->list[1]);
    mem_free(r->held);
    mem_free(r->row);
    mem_free(r->last);
    mem_free(r->tmp);
    mem_free(r->path);
    mem_free(r);
}

/* The two lists from held [n_rows]. */
static int
make_lists(struct exit_rows *r, const uint8_t *held, struct err *err)
{
    size_t n_held = 0, at[2] = { 0, 0 };

    for (size_t i = 0; i < r->n_rows; i++)
        n_held += held[i];
    r->count[1] = n_held;
    r->count[0] = r->n_rows - n_held;
    for (int k = 0; k < 2; k++) {
        r->list[k] = mem_array_alloc(r->count[k], sizeof(uint32_t));
        if (!r->list[k])
            return err_set(err, CE_ENOMEM, "%s: no memory for %zu rows", r->path,
                           r->n_rows);
    }
    for (size_t i = 0; i < r->n_rows; i++)
        r->list[held[i]][at[held[i]]++] = (uint32_t)i;
    return 0;
}

/* ---- writing ---- */

static int
write_failed(const struct exit_rows *r, struct err *err)
{
    return err_set(err, CE_EIO, "%s: %s", r->tmp, strerror(errno));
}

static int
open_new(struct exit_rows *r, struct err *err)
{
    size_t len = strlen(r->path) + 5;
    struct head empty = { 0 };

    r->row = mem_array_alloc(r->row_bytes, 1);
    r->last = mem_array_alloc(r->d, sizeof(float));
    r->tmp = mem_array_alloc(len, 1);
    if (!r->row || !r->last || !r->tmp)
        return err_set(err, CE_ENOMEM, "%s: no memory", r->path);
    snprintf(r->tmp, len, "%s.tmp", r->path);
    r->f = fopen(r->tmp, "w+be");
    if (!r->f) {
        int rc = write_failed(r, err);

        mem_free(r->tmp);
        r->tmp = NULL;
        return rc;
    }
    r->fd = fileno(r->f);
    setvbuf(r->f, NULL, _IOFBF, BUFFER);
    return fwrite(&empty, sizeof(empty), 1, r->f) == 1 ? 0 : write_failed(r, err);
}

int
exit_rows_create(struct exit_rows **out, const char *path,
                 const struct exit_rows_shape *shape, struct err *err)
{
    struct exit_rows *r = NULL;
    int rc = new_rows(&r, path, shape, err);

    *out = NULL;
    if (rc == 0 && ((rc = init_sums(r, err)) || (rc = open_new(r, err)))) {
        exit_rows_close(r);
        return rc;
    }
    *out = r;
    return rc;
}

/* Into halves; false when a number is not finite. */
static bool
put_state(unsigned char *to, const float *state, size_t d)
{
    for (size_t i = 0; i < d; i++) {
        float x = state[i];
        uint16_t h;

        if (!isfinite(x))
            return false;
        x = x > HALF_MAX ? HALF_MAX : x < -HALF_MAX ? -HALF_MAX : x;
        h = half_from_float(x);
        memcpy(to + i * sizeof(h), &h, sizeof(h));
    }
    return true;
}

/* The row's bytes into r->row; false when it is to be left out. */
static bool
put_row(struct exit_rows *r, const float *const *states, const struct head_result *final)
{
    size_t n_top = (size_t)r->shape.n_top;
    unsigned char *to = r->row;

    if (final->argmax < 0 || final->n_top < r->shape.n_top || !isfinite(final->lse))
        return false;
    for (int k = 0; k < r->shape.n_exits; k++, to += r->d * sizeof(uint16_t)) {
        if (!put_state(to, states[k], r->d))
            return false;
    }
    for (size_t i = 0; i < n_top; i++) {
        int32_t id = final->top[i].id;
        float logp = final->top[i].logit - final->lse;

        logp = logp < 0 ? logp : 0;
        memcpy(to + i * sizeof(id), &id, sizeof(id));
        memcpy(to + (n_top + i) * sizeof(logp), &logp, sizeof(logp));
    }
    return true;
}

/* last [d] divided by its root mean square, into r->last; false when it has none. */
static bool
scale_last(struct exit_rows *r, const float *last)
{
    double sum = 0;
    float scale;

    for (size_t i = 0; i < r->d; i++)
        sum += (double)last[i] * (double)last[i];
    if (!isfinite(sum) || sum <= 0)
        return false;
    scale = (float)(1 / sqrt(sum / (double)r->d));
    for (size_t i = 0; i < r->d; i++)
        r->last[i] = last[i] * scale;
    return true;
}

static int
note_row(struct exit_rows *r, bool held_out, struct err *err)
{
    if (r->n_rows == r->cap) {
        size_t cap = r->cap ? 2 * r->cap : 4096;
        uint8_t *held = mem_array_resize(r->held, cap, 1);

        if (r->n_rows >= MAX_ROWS || !held)
            return err_set(err, CE_ENOMEM, "%s: no room for more than %zu rows", r->path,
                           r->n_rows);
        r->held = held;
        r->cap = cap;
    }
    r->held[r->n_rows++] = held_out;
    return 0;
}

int
exit_rows_add(struct exit_rows *r, const float *const *states, const float *last,
              const struct head_result *final, bool held_out, struct err *err)
{
    int rc;

    if (!put_row(r, states, final) || !scale_last(r, last))
        return 0;
    if ((rc = note_row(r, held_out, err)))
        return rc;
    if (fwrite(r->row, r->row_bytes, 1, r->f) != 1)
        return write_failed(r, err);
    if (held_out)
        return 0;
    if (r->n_training < EXIT_ROWS_ALL_SUMMED || r->n_training % EXIT_ROWS_SUMMED == 0) {
        for (int k = 0; k < r->shape.n_exits; k++)
            exit_sums_add(&r->sums[k], states[k], r->last);
        r->n_summed++;
    }
    r->n_training++;
    return 0;
}

size_t
exit_rows_written(const struct exit_rows *r)
{
    return r->n_rows;
}

static struct head
make_head(const struct exit_rows *r)
{
    const struct exit_rows_shape *s = &r->shape;
    struct head h = { .order = ORDER,
                      .version = VERSION,
                      .n_exits = (uint32_t)s->n_exits,
                      .d_model = (uint32_t)s->d_model,
                      .n_vocab = (uint32_t)s->n_vocab,
                      .n_top = (uint32_t)s->n_top,
                      .cut_short = s->cut_short,
                      .n_rows = r->n_rows,
                      .n_summed = r->n_summed };

    memcpy(h.magic, magic, sizeof(magic));
    for (int i = 0; i < s->n_exits; i++)
        h.layers[i] = (uint32_t)s->layers[i];
    memcpy(h.fingerprint, s->fingerprint, sizeof(h.fingerprint));
    memcpy(h.recipe, s->recipe, sizeof(h.recipe));
    return h;
}

void
exit_rows_cut_short(struct exit_rows *r)
{
    r->shape.cut_short = true;
}

int
exit_rows_finish(struct exit_rows *r, struct err *err)
{
    struct head h = make_head(r);
    bool ok = r->n_rows == 0 || fwrite(r->held, r->n_rows, 1, r->f) == 1;

    for (int k = 0; ok && k < r->shape.n_exits; k++) {
        exit_sums_finish(&r->sums[k]);
        ok = fwrite(r->sums[k].xx, sizeof(double), (r->d + 1) * (r->d + 1), r->f) ==
                 (r->d + 1) * (r->d + 1) &&
             fwrite(r->sums[k].xy, sizeof(double), (r->d + 1) * r->d, r->f) ==
                 (r->d + 1) * r->d;
    }
    if (!ok || fseeko(r->f, 0, SEEK_SET) != 0 || fwrite(&h, sizeof(h), 1, r->f) != 1 ||
        fflush(r->f) != 0 || rename(r->tmp, r->path) != 0)
        return write_failed(r, err);
    mem_free(r->tmp);
    r->tmp = NULL;
    return make_lists(r, r->held, err);
}

/* ---- opening ---- */

static int
read_at(const struct exit_rows *r, void *to, size_t n, uint64_t at, struct err *err)
{
    unsigned char *p = to;

    while (n > 0) {
        ssize_t got = pread(r->fd, p, n, (off_t)at);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return err_set(err, CE_EIO, "%s: %s", r->path, strerror(errno));
        if (got == 0)
            return err_set(err, CE_EFORMAT, "%s: ends early", r->path);
        p += got;
        n -= (size_t)got;
        at += (uint64_t)got;
    }
    return 0;
}

static int
read_head(struct head *h, int fd, const char *path, struct err *err)
{
    ssize_t got = pread(fd, h, sizeof(*h), 0);

    if (got < 0)
        return err_set(err, CE_EIO, "%s: %s", path, strerror(errno));
    if ((size_t)got < sizeof(*h) || memcmp(h->magic, magic, sizeof(magic)) != 0)
        return err_set(err, CE_EFORMAT, "%s: is no file of rows for exits", path);
    if (h->order != ORDER || h->version != VERSION)
        return err_set(err, CE_EFORMAT,
                       "%s: rows of version %u, byte order %08x; this program knows "
                       "version %d, %08x",
                       path, h->version, h->order, VERSION, ORDER);
    if (h->n_exits > MODEL_MAX_EXITS || h->d_model > MAX_D || h->n_vocab > INT32_MAX ||
        h->n_top > BACKEND_MAX_TOP || h->n_rows > MAX_ROWS || h->n_summed > h->n_rows)
        return err_set(err, CE_EFORMAT, "%s: its header is damaged", path);
    return 0;
}

static int
shape_of(struct exit_rows_shape *s, const struct head *h, const char *path,
         struct err *err)
{
    *s = (struct exit_rows_shape){ .n_exits = (int)h->n_exits,
                                   .d_model = (int)h->d_model,
                                   .n_vocab = (int)h->n_vocab,
                                   .n_top = (int)h->n_top,
                                   .cut_short = h->cut_short != 0 };
    for (uint32_t i = 0; i < h->n_exits; i++) {
        if (h->layers[i] > INT32_MAX)
            return err_set(err, CE_EFORMAT, "%s: its header is damaged", path);
        s->layers[i] = (int)h->layers[i];
    }
    memcpy(s->fingerprint, h->fingerprint, sizeof(s->fingerprint));
    memcpy(s->recipe, h->recipe, sizeof(s->recipe));
    return check_shape(s, path, err) == 0 ? 0 : CE_EFORMAT;
}

static int
check_size(const struct exit_rows *r, struct err *err)
{
    /* All factors are bounded by read_head: below 2^31 rows of below 2^22 bytes. */
    uint64_t sums = (uint64_t)(r->d + 1) * (2 * r->d + 1) * sizeof(double);
    uint64_t want = sizeof(struct head) + (uint64_t)r->n_rows * (r->row_bytes + 1) +
                    (uint64_t)r->shape.n_exits * sums;
    struct stat st;

    if (fstat(r->fd, &st) != 0)
        return err_set(err, CE_EIO, "%s: %s", r->path, strerror(errno));
    if (st.st_size < 0 || (uint64_t)st.st_size != want)
        return err_set(
            err, CE_EFORMAT, "%s: has %lld bytes where %zu rows take %llu: not complete",
            r->path, (long long)st.st_size, r->n_rows, (unsigned long long)want);
    return 0;
}

static bool
all_finite(const double *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(x[i]))
            return false;
    }
    return true;
}

/* What stands behind the rows. */
static int
read_tail(struct exit_rows *r, struct err *err)
{
    uint64_t at = sizeof(struct head) + (uint64_t)r->n_rows * r->row_bytes;
    size_t n_xx = (r->d + 1) * (r->d + 1), n_xy = (r->d + 1) * r->d;
    int rc = 0;

    r->held = mem_array_alloc(r->n_rows, 1);
    if (!r->held)
        return err_set(err, CE_ENOMEM, "%s: no memory for %zu rows", r->path, r->n_rows);
    if ((rc = read_at(r, r->held, r->n_rows, at, err)))
        return rc;
    for (size_t i = 0; i < r->n_rows; i++) {
        if (r->held[i] > 1)
            return err_set(err, CE_EFORMAT, "%s: row %zu is marked %d", r->path, i,
                           r->held[i]);
    }
    at += r->n_rows;
    for (int k = 0; rc == 0 && k < r->shape.n_exits; k++) {
        struct exit_sums *s = &r->sums[k];

        if ((rc = read_at(r, s->xx, n_xx * sizeof(double), at, err)) ||
            (rc = read_at(r, s->xy, n_xy * sizeof(double), at + n_xx * sizeof(double),
                          err)))
            return rc;
        at += (n_xx + n_xy) * sizeof(double);
        if (!all_finite(s->xx, n_xx) || !all_finite(s->xy, n_xy))
            rc = err_set(err, CE_EFORMAT, "%s: the sums of exit %d are not finite",
                         r->path, k);
    }
    return rc == 0 ? make_lists(r, r->held, err) : rc;
}

int
exit_rows_open(struct exit_rows **out, const char *path, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC), rc;
    struct exit_rows_shape shape;
    struct exit_rows *r = NULL;
    struct head h;

    *out = NULL;
    if (fd < 0)
        return err_set(err, errno == ENOENT ? CE_ENOTFOUND : CE_EIO, "%s: %s", path,
                       strerror(errno));
    rc = read_head(&h, fd, path, err);
    if (rc == 0)
        rc = shape_of(&shape, &h, path, err);
    if (rc == 0)
        rc = new_rows(&r, path, &shape, err);
    if (rc != 0) {
        close(fd);
        return rc;
    }
    r->fd = fd;
    r->n_rows = (size_t)h.n_rows;
    r->n_summed = (size_t)h.n_summed;
    if ((rc = check_size(r, err)) || (rc = init_sums(r, err)) ||
        (rc = read_tail(r, err))) {
        exit_rows_close(r);
        return rc;
    }
    *out = r;
    return 0;
}

/* ---- reading ---- */

const struct exit_rows_shape *
exit_rows_shape(const struct exit_rows *r)
{
    return &r->shape;
}

size_t
exit_rows_count(const struct exit_rows *r, bool held_out)
{
    size_t n = 0;

    for (; r; r = r->more)
        n += r->count[held_out];
    return n;
}

int
exit_rows_append(struct exit_rows *r, struct exit_rows *more, struct err *err)
{
    const struct exit_rows_shape *a = &r->shape, *b = &more->shape;
    struct exit_rows *last = r;
    uint8_t recipes[64];

    if (a->n_exits != b->n_exits || a->d_model != b->d_model ||
        a->n_vocab != b->n_vocab || a->n_top != b->n_top ||
        memcmp(a->layers, b->layers, (size_t)a->n_exits * sizeof(a->layers[0])) != 0 ||
        memcmp(a->fingerprint, b->fingerprint, sizeof(a->fingerprint)) != 0) {
        err_set(err, CE_EMISMATCH, "%s: rows of another model, other exits or --top",
                more->path);
        exit_rows_close(more);
        return CE_EMISMATCH;
    }
    memcpy(recipes, a->recipe, 32);
    memcpy(recipes + 32, b->recipe, 32);
    while (last->more)
        last = last->more;
    last->more = more;
    return sha256_bytes(recipes, sizeof(recipes), r->shape.recipe, err);
}

/* d halves, which lie in the second half of `state`, to floats in all of it. Each is read
 * before its place is written: float i ends at byte 4 i + 3, half i + 1 begins at
 * 2 d + 2 i + 2. */
static bool
widen(float *state, size_t d)
{
    const unsigned char *from = (const unsigned char *)state + d * sizeof(uint16_t);
    bool finite = true;

    for (size_t i = 0; i < d; i++) {
        uint16_t h;

        memcpy(&h, from + i * sizeof(h), sizeof(h));
        finite = finite && (h & 0x7c00) != 0x7c00;
        state[i] = half_to_float(h);
    }
    return finite;
}

int
exit_rows_read(const struct exit_rows *r, bool held_out, size_t i, float *const *states,
               int32_t *ids, float *logp, struct err *err)
{
    size_t n_top = (size_t)r->shape.n_top, half = r->d * sizeof(uint16_t), row;
    bool ok = true;
    uint64_t at;
    int rc = 0;

    for (; i >= r->count[held_out]; r = r->more)
        i -= r->count[held_out];
    row = r->list[held_out][i];
    at = sizeof(struct head) + (uint64_t)row * r->row_bytes;
    for (int k = 0; rc == 0 && k < r->shape.n_exits; k++, at += half) {
        if (!states[k])
            continue;
        rc = read_at(r, (unsigned char *)states[k] + half, half, at, err);
        ok = rc == 0 && widen(states[k], r->d) && ok;
    }
    if (rc == 0)
        rc = read_at(r, ids, n_top * sizeof(*ids), at, err);
    if (rc == 0)
        rc = read_at(r, logp, n_top * sizeof(*logp), at + n_top * sizeof(*ids), err);
    if (rc != 0)
        return rc;
    for (size_t k = 0; ok && k < n_top; k++)
        ok = ids[k] >= 0 && ids[k] < r->shape.n_vocab && isfinite(logp[k]) &&
             logp[k] <= (k > 0 ? logp[k - 1] : 0);
    return ok ? 0
              : err_set(err, CE_EFORMAT, "%s: row %zu holds numbers that no row can have",
                        r->path, row);
}

void
exit_rows_sums(const struct exit_rows *r, int k, const double **xx, const double **xy,
               size_t *n)
{
    *xx = r->sums[k].xx;
    *xy = r->sums[k].xy;
    *n = r->n_summed;
}
