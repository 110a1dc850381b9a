/* SPDX-License-Identifier: Apache-2.0
 * quantise_write.c - encoding a model's tensors and writing them (quantise.h).
 *
 * The writer asks for a tensor's bytes piece by piece; all threads make the rows of a
 * piece, then it goes to the file. Errors and sums are kept per row and added up in the
 * order of the rows, so that nothing depends on who computed what.
 *
 * Copied tensors go the same way and are only decoded, to see that they are finite: a
 * file with a NaN in a norm would load and answer nonsense.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "engine/quant.h"
#include "tools/progress.h"
#include "tools/quantise.h"
#include "tools/quantise_fit.h"
#include "tools/units.h"

#define PIECE_BYTES ((size_t)4 << 20) /* written, about */
#define GRAIN       4                 /* rows */

struct row_result {
    int code;  /* 0, or why the row could not be stored */
    size_t at; /* then: the first value that is not finite, or n */
    double error2, values2;
};

struct encoder {
    struct quantise_plan *plan;
    struct threads *pool;
    float *rooms;       /* [threads][2][longest]: a row, and what is left of it */
    size_t longest;     /* elements of a row */
    unsigned char *out; /* one piece */
    struct row_result *results;
    struct progress progress;
    uint64_t written;
    /* the piece that is being made */
    struct quantise_item *item;
    size_t row_from, n_rows;
};

/* What the writer's callback gets for one tensor. */
struct source {
    struct encoder *e;
    struct quantise_item *item;
};

/* ---- rows ---- */

static size_t
n_rows(const struct gguf_tensor *t)
{
    return t->ne[1] * t->ne[2] * t->ne[3];
}

static void
measure(struct row_result *r, const float *x, const float *back, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        double d = (double)back[i] - (double)x[i];

        r->error2 += d * d;
        r->values2 += (double)x[i] * (double)x[i];
    }
}

static void
make_row(const struct encoder *e, size_t row, float *x, float *back)
{
    const struct quantise_item *it = e->item;
    const struct gguf_tensor *t = it->from;
    size_t n = t->ne[0], from_bytes = quant_row_bytes(t->type, n),
           to_bytes = quant_row_bytes(it->type, n);
    const unsigned char *src =
        (const unsigned char *)t->data + (e->row_from + row) * from_bytes;
    unsigned char *dst = e->out + row * to_bytes;
    struct row_result *r = &e->results[row];

    *r = (struct row_result){ 0 };
    r->code = quant_dequantise_row(t->type, src, x, n);
    while (r->at < n && isfinite(x[r->at]))
        r->at++;
    if (r->code == 0 && r->at < n)
        r->code = CE_EINVAL;
    if (r->code != 0)
        return;
    if (it->copied) {
        memcpy(dst, src, to_bytes);
        return;
    }
    r->code = quantise_fit_row(it->type, x, dst, n);
    if (r->code == 0)
        r->code = quant_dequantise_row(it->type, dst, back, n);
    if (r->code == 0)
        measure(r, x, back, n);
}

static void
make_rows(void *arg, int tid, int n_threads)
{
    struct encoder *e = arg;
    float *x = e->rooms + (size_t)tid * 2 * e->longest;
    size_t from, to;

    (void)n_threads;
    while (threads_take(e->pool, tid, e->n_rows, GRAIN, &from, &to)) {
        for (size_t r = from; r < to; r++)
            make_row(e, r, x, x + e->longest);
    }
}

static int
row_failed(const struct encoder *e, size_t row, struct err *err)
{
    const struct gguf_tensor *t = e->item->from;
    const struct row_result *r = &e->results[row];

    if (r->at < t->ne[0])
        return err_set(err, CE_EINVAL,
                       "%s: tensor %s: row %zu, column %zu: the value is not finite",
                       gguf_path(e->plan->file), t->name, e->row_from + row, r->at);
    return err_set(err, r->code, "%s: tensor %s: row %zu has values too large for %s",
                   gguf_path(e->plan->file), t->name, e->row_from + row,
                   gguf_type_name(e->item->type));
}

/* The next rows of the writer's tensor, from byte `at` of what is written. */
static int
next_piece(void *arg, size_t at, const void **piece, size_t *len, struct err *err)
{
    struct source *s = arg;
    struct encoder *e = s->e;
    const struct gguf_tensor *t = s->item->from;
    size_t bytes = quant_row_bytes(s->item->type, t->ne[0]), rows = n_rows(t),
           most = PIECE_BYTES / bytes;

    e->item = s->item;
    e->row_from = at / bytes;
    e->n_rows = rows - e->row_from;
    if (e->n_rows > most)
        e->n_rows = most > 0 ? most : 1;
    threads_run(e->pool, make_rows, e);
    for (size_t i = 0; i < e->n_rows; i++) {
        if (e->results[i].code != 0)
            return row_failed(e, i, err);
        s->item->error2 += e->results[i].error2;
        s->item->values2 += e->results[i].values2;
    }
    *piece = e->out;
    *len = e->n_rows * bytes;
    e->written += *len;
    progress_set(&e->progress, (size_t)(e->written / 1000000), t->name);
    return 0;
}

/* ---- keys ---- */

/* general.file_type of a file that is mostly in a format. */
static uint32_t
file_type(uint32_t type)
{
    switch (type) {
    case GGUF_F32:
        return 0;
    case GGUF_F16:
        return 1;
    case GGUF_Q4_0:
        return 2;
    case GGUF_Q4_1:
        return 3;
    case GGUF_Q8_0:
        return 7;
    case GGUF_Q5_0:
        return 8;
    case GGUF_Q5_1:
        return 9;
    case GGUF_Q2_K:
        return 10;
    case GGUF_Q3_K:
        return 11;
    case GGUF_Q4_K:
        return 14;
    case GGUF_Q5_K:
        return 16;
    case GGUF_Q6_K:
        return 18;
    case GGUF_BF16:
        return 32;
    default:
        return 1024; /* "guessed" */
    }
}

/* All keys in their order; the two about formats in place, or behind. */
static void
add_keys(struct gguf_writer *w, const struct quantise_plan *plan)
{
    static const char type_key[] = "general.file_type",
                      version_key[] = "general.quantization_version";
    const struct gguf *g = plan->file;

    for (int i = 0; i < gguf_n_keys(g); i++) {
        const char *name = gguf_key_name(g, i);

        if (strcmp(name, type_key) == 0)
            gguf_writer_u32(w, type_key, file_type(plan->type));
        else if (strcmp(name, version_key) == 0)
            gguf_writer_u32(w, version_key, 2);
        else
            gguf_writer_copy_key(w, g, i);
    }
    if (gguf_find_key(g, type_key) < 0)
        gguf_writer_u32(w, type_key, file_type(plan->type));
    if (gguf_find_key(g, version_key) < 0)
        gguf_writer_u32(w, version_key, 2);
}

/* ---- the file ---- */

static int
check_space(struct gguf_writer *w, const char *path, struct err *err)
{
    const char *slash = strrchr(path, '/');
    char *dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    char need[UNITS_TEXT], room[UNITS_TEXT];
    struct statvfs fs;
    uint64_t bytes = 0;
    int rc = gguf_writer_size(w, &bytes, err);

    if (rc == 0 && !dir)
        rc = err_set(err, CE_ENOMEM, "%s: no memory", path);
    if (rc == 0 && statvfs(dir, &fs) != 0)
        rc = err_set(err, CE_EIO, "%s: %s", dir, strerror(errno));
    if (rc == 0 && bytes / fs.f_frsize >= fs.f_bavail)
        rc = err_set(err, CE_EIO, "%s: needs %s, only %s of the disk are free", path,
                     units_bytes(need, (double)bytes),
                     units_bytes(room, (double)fs.f_bavail * (double)fs.f_frsize));
    free(dir);
    return rc;
}

static int
prepare(struct encoder *e, struct err *err)
{
    size_t threads = (size_t)threads_count(e->pool), piece = PIECE_BYTES, rows = 1,
           floats;
    uint64_t total = 0;

    e->longest = 1;
    for (int i = 0; i < e->plan->n; i++) {
        const struct quantise_item *it = &e->plan->items[i];
        size_t n = it->from->ne[0], bytes = quant_row_bytes(it->type, n);

        if (bytes == 0)
            continue; /* copied unseen */
        e->longest = n > e->longest ? n : e->longest;
        piece = bytes > piece ? bytes : piece;
        rows = PIECE_BYTES / bytes > rows ? PIECE_BYTES / bytes : rows;
        total += bytes * n_rows(it->from);
    }
    if (__builtin_mul_overflow(e->longest, threads * 2 * sizeof(float), &floats))
        return err_set(err, CE_ENOMEM, "%s: no memory", gguf_path(e->plan->file));
    e->rooms = malloc(floats);
    e->out = malloc(piece);
    e->results = calloc(rows, sizeof(*e->results));
    if (!e->rooms || !e->out || !e->results)
        return err_set(err, CE_ENOMEM, "%s: no memory", gguf_path(e->plan->file));
    progress_start(&e->progress, "quantising, MB", (size_t)(total / 1000000));
    return 0;
}

static void
add_tensors(struct gguf_writer *w, struct encoder *e, struct source *sources)
{
    for (int i = 0; i < e->plan->n; i++) {
        struct quantise_item *it = &e->plan->items[i];
        const struct gguf_tensor *t = it->from;

        sources[i] = (struct source){ e, it };
        if (quant_row_bytes(it->type, t->ne[0]) > 0)
            gguf_writer_tensor_pieces(w, t->name, it->type, t->n_dims, t->ne, next_piece,
                                      &sources[i]);
        else /* no weights: copied unseen */
            gguf_writer_tensor(w, t->name, t->type, t->n_dims, t->ne, t->data);
    }
}

int
quantise_write(struct quantise_plan *plan, const char *path, struct threads *pool,
               struct err *err)
{
    struct encoder e = { .plan = plan, .pool = pool };
    struct source *sources = calloc((size_t)plan->n + 1, sizeof(*sources));
    struct gguf_writer *w = NULL;
    int rc;

    if (!sources) {
        rc = err_set(err, CE_ENOMEM, "%s: no memory", path);
        goto out;
    }
    if ((rc = prepare(&e, err)) || (rc = gguf_writer_new(&w, err)))
        goto out;
    add_keys(w, plan);
    add_tensors(w, &e, sources);
    rc = check_space(w, path, err);
    if (rc == 0)
        rc = gguf_writer_finish(w, path, err);
    progress_end(&e.progress);
out:
    gguf_writer_free(w);
    free(sources);
    free(e.rooms);
    free(e.out);
    free(e.results);
    return rc;
}
