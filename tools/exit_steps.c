/* SPDX-License-Identifier: Apache-2.0
 * exit_steps.c - see exit_steps.h.
 *
 * A step is four regions of the pool: reading; blocks of BLOCK rows of one exit there and
 * back; tiles of the gradients; Adam on runs of the numbers. A block is as large as its
 * logits allow (25 MB a thread for 49,152 ids), for the output matrix comes from memory
 * once a block.
 */
#include "tools/exit_steps.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "common/memory.h"
#include "common/random.h"
#include "tools/adam.h"
#include "tools/exit_start.h"

#define BLOCK      128
#define CLIP       1.0  /* most norm of an exit's gradient */
#define ADAM_RUN   8192 /* numbers of a piece of Adam's work */
#define SCALE_ROWS 4096 /* rows whose norms set the scales, at most */

struct exit_worker {
    struct exit_loss_room *room;
    float *scratch; /* [2 * BLOCK, widest] */
    float *states;  /* [n_exits, d] of a row */
    struct err err; /* what this thread met in the region */
};

/* ---- rows ---- */

/* One read of the batch: rows first, first + stride ... or those that are listed. */
struct row_batch {
    struct exit_steps *s;
    const uint32_t *which; /* NULL: row i is i * of / n */
    bool held_out;
    size_t first, of, n_all; /* without a list */
    size_t n;
    const float *rates; /* [n_exits] of a step; NULL: judge */
    size_t step;
};

static bool
rests(const struct row_batch *b, int exit)
{
    return b->rates && !(b->rates[exit] > 0);
}

static struct exit_net_drop
dropped(const struct row_batch *b, int exit)
{
    uint64_t state = b->s->seed + b->step * MODEL_MAX_EXITS + (uint64_t)exit;

    return b->rates ? (struct exit_net_drop){ random_next(&state),
                                              (unsigned)(256 * b->s->dropout) }
                    : (struct exit_net_drop){ 0 };
}

static size_t
row_of(const struct row_batch *b, size_t i)
{
    return b->which ? b->which[i]
                    : (size_t)((double)(b->first + i) * (double)b->of / (double)b->n_all);
}

static int
read_row(const struct row_batch *b, struct exit_worker *w, size_t i)
{
    struct exit_steps *s = b->s;
    const struct exit_rows_shape *shape = exit_rows_shape(s->source);
    int32_t *ids = s->ids + i * (size_t)s->n_top;
    float *states[MODEL_MAX_EXITS];
    size_t d = (size_t)shape->d_model, row = row_of(b, i);
    int rc;

    for (int e = 0; e < s->n_exits; e++)
        states[e] = w->states + (size_t)e * d;
    rc = exit_rows_read(s->source, b->held_out, row, states, ids,
                        s->logp + i * (size_t)s->n_top, &w->err);
    for (int t = 0; rc == 0 && t < s->n_top; t++) {
        if (ids[t] < 0 || ids[t] >= shape->n_vocab)
            rc = err_set(&w->err, CE_EFORMAT, "row %zu names id %d of %d", row,
                         (int)ids[t], shape->n_vocab);
    }
    for (int e = 0; rc == 0 && e < s->n_exits; e++) {
        if (!rests(b, e))
            exit_net_put(&s->exits[e].net, s->k, &s->exits[e].rows, i, states[e]);
    }
    return rc;
}

static void
read_part(void *arg, int tid, int n_threads)
{
    const struct row_batch *b = arg;
    struct exit_worker *w = &b->s->workers[tid];
    size_t from, to;

    (void)n_threads;
    while (threads_take(b->s->pool, tid, b->n, 16, &from, &to)) {
        for (size_t i = from; i < to && w->err.code == 0; i++)
            (void)read_row(b, w, i);
    }
}

/* The first error that a thread met. */
static int
errors(struct exit_steps *s, struct err *err)
{
    for (int t = 0; t < threads_count(s->pool); t++) {
        const struct err *e = &s->workers[t].err;

        if (e->code != 0)
            return err_set(err, e->code, "%s", e->text);
    }
    return 0;
}

/* ---- there and back ---- */

static size_t
blocks_of(size_t n)
{
    return (n + BLOCK - 1) / BLOCK;
}

static void
block_part(void *arg, int tid, int n_threads)
{
    const struct row_batch *b = arg;
    struct exit_steps *s = b->s;
    struct exit_worker *w = &s->workers[tid];
    size_t n_blocks = blocks_of(b->n), task, past;

    (void)n_threads;
    while (threads_take(s->pool, tid, n_blocks * (size_t)s->n_exits, 1, &task, &past)) {
        for (; task < past; task++) {
            struct exit_student *e = &s->exits[task / n_blocks];
            size_t at = task % n_blocks * BLOCK, left = b->n - at;
            size_t n = left < BLOCK ? left : BLOCK;
            struct exit_net_drop drop = dropped(b, (int)(task / n_blocks));

            if (rests(b, (int)(task / n_blocks)))
                continue;
            exit_net_forward(&e->net, s->k, &e->rows, at, n, drop);
            exit_loss_rows(s->loss, w->room, e->rows.z + at * e->net.d, n,
                           s->ids + at * (size_t)s->n_top,
                           s->logp + at * (size_t)s->n_top, s->n_top, b->rates,
                           e->said + at);
            if (b->rates)
                exit_net_backward(&e->net, s->k, &e->rows, at, n, w->scratch, drop);
        }
    }
}

/* Read and run a batch, and add what came out to the marks. */
static int
run_batch(struct row_batch *b, struct exit_mark *marks, struct err *err)
{
    struct exit_steps *s = b->s;
    double kept = 0, lost = 0;
    int rc;

    for (int t = 0; t < threads_count(s->pool); t++)
        s->workers[t].err.code = 0;
    threads_run(s->pool, read_part, b);
    if ((rc = errors(s, err)) != 0)
        return rc;
    threads_run(s->pool, block_part, b);
    for (int e = 0; e < s->n_exits; e++) {
        const struct exit_loss_row *said = s->exits[e].said;

        if (rests(b, e)) {
            marks[e] = (struct exit_mark){ (double)NAN, (double)NAN };
            continue;
        }
        for (size_t i = 0; i < b->n; i++) {
            marks[e].loss += said[i].loss;
            marks[e].agreement += said[i].argmax == s->ids[i * (size_t)s->n_top];
            kept += said[i].kept;
            lost += said[i].lost;
        }
        if (!isfinite(marks[e].loss))
            return err_set(err, CE_EINTERNAL,
                           "the loss of the exit after block %d is not finite",
                           exit_rows_shape(s->source)->layers[e]);
    }
    if (b->rates)
        s->kept = kept / (kept + lost + 1e-30);
    return 0;
}

static void
divide(struct exit_mark *marks, int n_exits, size_t n)
{
    for (int e = 0; e < n_exits; e++) {
        marks[e].loss /= (double)n;
        marks[e].agreement /= (double)n;
    }
}

int
exit_steps_judge(struct exit_steps *s, size_t most, struct exit_mark *marks,
                 struct err *err)
{
    size_t all = exit_rows_count(s->source, true), n = all < most ? all : most;
    int rc = 0;

    memset(marks, 0, (size_t)s->n_exits * sizeof(*marks));
    for (size_t at = 0; rc == 0 && at < n; at += s->capacity) {
        struct row_batch b = {
            .s = s, .held_out = true, .first = at, .of = all, .n_all = n
        };

        b.n = n - at < s->capacity ? n - at : s->capacity;
        rc = run_batch(&b, marks, err);
    }
    divide(marks, s->n_exits, n);
    return rc;
}

/* ---- a step ---- */

struct update {
    struct exit_steps *s;
    size_t n; /* rows */
    const float *rates;
    size_t step;
};

static void
gradient_part(void *arg, int tid, int n_threads)
{
    const struct update *u = arg;
    struct exit_steps *s = u->s;
    size_t task, past;

    (void)n_threads;
    for (int i = 0; i < s->n_exits; i++) {
        struct exit_student *e = &s->exits[i];

        if (!(u->rates[i] > 0))
            continue;
        while (threads_take(s->pool, tid, exit_net_n_tiles(&e->net), 1, &task, &past)) {
            for (; task < past; task++)
                e->squares[task] = exit_net_gradient(&e->net, &e->rows, u->n, task,
                                                     1 / (float)u->n, e->grad);
        }
    }
}

/* What brings an exit's gradient to the norm that is allowed. */
static float
clip(const struct exit_student *e)
{
    double sum = 0;

    for (size_t i = 0; i < exit_net_n_tiles(&e->net); i++)
        sum += e->squares[i];
    return sum > CLIP * CLIP ? (float)(CLIP / sqrt(sum)) : 1;
}

static void
adam_part(void *arg, int tid, int n_threads)
{
    const struct update *u = arg;
    struct exit_steps *s = u->s;
    size_t from, to;

    (void)n_threads;
    for (int i = 0; i < s->n_exits; i++) {
        struct exit_student *e = &s->exits[i];
        struct adam adam = { .rate = u->rates[i], .step = u->step };

        if (!(u->rates[i] > 0))
            continue;
        adam.scale = clip(e);
        while (threads_take(s->pool, tid, e->net.n, ADAM_RUN, &from, &to))
            adam_step(&adam, e->net.p + from, e->m + from, e->v + from, e->grad + from,
                      to - from);
    }
}

int
exit_steps_train(struct exit_steps *s, const uint32_t *which, size_t n, size_t step,
                 const float *rates, struct exit_mark *marks, struct err *err)
{
    struct row_batch b = { .s = s, .which = which, .n = n, .rates = rates, .step = step };
    struct update u = { s, n, rates, step };
    int rc;

    memset(marks, 0, (size_t)s->n_exits * sizeof(*marks));
    if ((rc = run_batch(&b, marks, err)) != 0)
        return rc;
    divide(marks, s->n_exits, n);
    threads_run(s->pool, gradient_part, &u);
    threads_run(s->pool, adam_part, &u);
    return 0;
}

/* ---- once ---- */

static void
add_squares(double *sum, const float *x, size_t d)
{
    double squares = 0;

    for (size_t i = 0; i < d; i++)
        squares += (double)x[i] * (double)x[i];
    squares = squares / (double)d + 1e-5;
    for (size_t i = 0; i < d; i++)
        sum[i] += (double)x[i] * (double)x[i] / squares;
}

/* means [n_exits, d]: of the squares of the states' norms, dimension by dimension. */
static int
measure_norms(struct exit_steps *s, double *means, struct err *err)
{
    size_t d = s->exits[0].net.d, all = exit_rows_count(s->source, false);
    size_t n = all < SCALE_ROWS ? all : SCALE_ROWS;
    float *states[MODEL_MAX_EXITS];
    int rc = 0;

    for (int e = 0; e < s->n_exits; e++)
        states[e] = s->workers[0].states + (size_t)e * d;
    for (size_t i = 0; rc == 0 && i < n; i++) {
        rc = exit_rows_read(s->source, false,
                            (size_t)((double)i * (double)all / (double)n), states, s->ids,
                            s->logp, err);
        for (int e = 0; rc == 0 && e < s->n_exits; e++)
            add_squares(means + (size_t)e * d, states[e], d);
    }
    for (size_t i = 0; i < (size_t)s->n_exits * d; i++)
        means[i] /= (double)n;
    return rc;
}

static int
start_all(struct exit_steps *s, uint64_t seed, struct err *err)
{
    size_t d = s->exits[0].net.d;
    double *means = mem_array_alloc((size_t)s->n_exits * d, sizeof(*means));
    int rc = means ? measure_norms(s, means, err)
                   : err_set(err, CE_ENOMEM, "no memory for the states' scales");

    for (int e = 0; rc == 0 && e < s->n_exits; e++) {
        const double *xx, *xy;
        size_t n;

        exit_rows_sums(s->source, e, &xx, &xy, &n);
        rc = n > 0 ? exit_start(&s->exits[e].net, xx, xy, n, means + (size_t)e * d,
                                seed + (uint64_t)e)
                   : CE_EINVAL;
        if (rc != 0)
            err_set(err, rc, "no %s for the least-squares map",
                    rc == CE_ENOMEM ? "memory" : "rows");
    }
    mem_free(means);
    return rc;
}

static int
init_student(struct exit_student *e, size_t d, size_t w, size_t capacity)
{
    int rc = exit_net_init(&e->net, d, w);

    if (rc != 0 || (rc = exit_net_rows_init(&e->rows, &e->net, capacity)) != 0)
        return rc;
    e->grad = mem_array_alloc(e->net.n, sizeof(float));
    e->m = mem_array_alloc(e->net.n, sizeof(float));
    e->v = mem_array_alloc(e->net.n, sizeof(float));
    e->said = mem_array_alloc(capacity, sizeof(*e->said));
    e->squares = mem_array_alloc(exit_net_n_tiles(&e->net), sizeof(double));
    return e->grad && e->m && e->v && e->said && e->squares ? 0 : CE_ENOMEM;
}

static int
init_workers(struct exit_steps *s, size_t d, size_t widest)
{
    int n = threads_count(s->pool), rc = 0;

    s->workers = mem_array_alloc((size_t)n, sizeof(*s->workers));
    if (!s->workers)
        return CE_ENOMEM;
    for (int t = 0; rc == 0 && t < n; t++) {
        struct exit_worker *w = &s->workers[t];

        rc = exit_loss_room_new(&w->room, s->loss,
                                s->capacity < BLOCK ? s->capacity : BLOCK);
        w->scratch = mem_aligned_alloc(2 * BLOCK * widest, sizeof(float));
        w->states = mem_array_alloc((size_t)s->n_exits * d, sizeof(float));
        if (!w->scratch || !w->states)
            rc = CE_ENOMEM;
    }
    return rc;
}

int
exit_steps_init(struct exit_steps *s, const struct model *m, const struct exit_rows *rows,
                const struct kernels *k, struct threads *pool, const int *widths,
                size_t batch, uint64_t seed, struct err *err)
{
    const struct exit_rows_shape *shape = exit_rows_shape(rows);
    size_t d = (size_t)shape->d_model, widest = 1;
    int rc = 0;

    s->source = rows;
    s->k = k;
    s->pool = pool;
    s->seed = seed;
    s->n_exits = shape->n_exits;
    s->n_top = shape->n_top;
    s->capacity = batch < BLOCK ? BLOCK : batch; /* judging takes them all */
    if ((rc = exit_loss_new(&s->loss, m, k, EXIT_LOSS_CUT, pool, err)) != 0)
        return rc;
    for (int e = 0; rc == 0 && e < s->n_exits; e++) {
        rc = init_student(&s->exits[e], d, (size_t)widths[e], s->capacity);
        widest = (size_t)widths[e] > widest ? (size_t)widths[e] : widest;
    }
    if (rc == 0)
        rc = init_workers(s, d, widest);
    s->ids = mem_array_alloc(s->capacity * (size_t)s->n_top, sizeof(*s->ids));
    s->logp = mem_array_alloc(s->capacity * (size_t)s->n_top, sizeof(*s->logp));
    if (rc != 0 || !s->ids || !s->logp)
        return err_set(err, CE_ENOMEM, "no memory to train %d exits with batches of %zu",
                       s->n_exits, batch);
    return start_all(s, seed, err);
}

void
exit_steps_fini(struct exit_steps *s)
{
    for (int e = 0; e < MODEL_MAX_EXITS; e++) {
        struct exit_student *x = &s->exits[e];

        exit_net_fini(&x->net);
        exit_net_rows_fini(&x->rows);
        mem_free(x->grad);
        mem_free(x->m);
        mem_free(x->v);
        mem_free(x->said);
        mem_free(x->squares);
    }
    for (int t = 0; s->workers && t < threads_count(s->pool); t++) {
        exit_loss_room_free(s->workers[t].room);
        mem_free(s->workers[t].scratch);
        mem_free(s->workers[t].states);
    }
    mem_free(s->workers);
    exit_loss_free(s->loss);
    mem_free(s->ids);
    mem_free(s->logp);
    memset(s, 0, sizeof(*s));
}
