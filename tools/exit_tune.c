/* SPDX-License-Identifier: Apache-2.0
 * exit_tune.c - see exit_tune.h.
 *
 * What a step does is a function of its number: the rate is, and so are its rows, which
 * are the next ones of the epoch's permutation, which is a function of seed and epoch. So
 * a run that goes on from a file needs no more than the numbers, and takes the same steps
 * as one that never ended.
 */
#include "tools/exit_tune.h"

#include <cblas.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/memory.h"
#include "common/random.h"
#include "common/sha256.h"
#include "engine/kernels.h"
#include "engine/threads.h"
#include "tools/adam.h"
#include "tools/exit_checkpoint.h"
#include "tools/exit_steps.h"
#include "tools/progress.h"

#define CHECK_ROWS  2048 /* held-out rows of a check */
#define FINAL_ROWS  8192 /* and of the last word */
#define CHECKS      40   /* of a run, but at most one in CHECK_STEPS steps */
#define CHECK_STEPS 100
#define SAVE_US     60000000 /* between two checkpoints */

struct tune {
    const struct exit_tune_params *p;
    const struct exit_rows *rows;
    struct threads *pool;
    struct exit_steps steps;
    uint32_t *order; /* [n_rows] permutation of the training rows */
    size_t n_rows, epoch;
    bool ordered;    /* order is `epoch`'s */
    uint32_t *batch; /* [p->batch] */
    struct exit_checkpoint state;
    struct exit_mark held_out[MODEL_MAX_EXITS]; /* of the last check */
};

int
exit_tune_check(struct err *err)
{
    (void)err;
    return 0;
}

void
exit_adapter_free(struct exit_adapter *a)
{
    mem_free(a->map);
    mem_free(a->bias);
    mem_free(a->gate);
    mem_free(a->up);
    mem_free(a->down);
    memset(a, 0, sizeof(*a));
}

/* ---- which rows ---- */

static void
shuffle(struct tune *t, size_t epoch)
{
    uint64_t state = t->p->seed ^ 0x65786974u, first;

    if (t->ordered && t->epoch == epoch)
        return;
    first = random_next(&state);
    state = first + epoch * 0x9e3779b97f4a7c15u;
    for (size_t i = 0; i < t->n_rows; i++)
        t->order[i] = (uint32_t)i;
    random_shuffle(t->order, t->n_rows, &state);
    t->epoch = epoch;
    t->ordered = true;
}

static void
choose_rows(struct tune *t, size_t step)
{
    size_t n = (size_t)t->p->batch, at = step * n;

    for (size_t i = 0; i < n; i++, at++) {
        shuffle(t, at / t->n_rows);
        t->batch[i] = t->order[at % t->n_rows];
    }
}

/* ---- checks, the best, the file ---- */

static size_t
check_interval(size_t steps)
{
    return steps / CHECKS > CHECK_STEPS ? steps / CHECKS : CHECK_STEPS;
}

/* Judge, and keep what is better than the best. */
static int
check(struct tune *t, struct err *err)
{
    struct exit_checkpoint *c = &t->state;
    int rc = exit_steps_judge(&t->steps, CHECK_ROWS, t->held_out, err);
    bool better = false;

    for (int e = 0; rc == 0 && e < c->n_exits; e++) {
        float loss = (float)t->held_out[e].loss;

        if (loss >= c->exits[e].best_loss)
            continue;
        better = true;
        c->exits[e].best_loss = loss;
        memcpy(c->exits[e].best, c->exits[e].p, c->exits[e].n * sizeof(float));
    }
    c->stale = better ? 0 : c->stale + 1;
    return rc;
}

/* "loss 0.412, agreement 71.3 %/48.0 %" */
static void
note(char *out, size_t cap, const struct tune *t, double loss)
{
    int n = snprintf(out, cap, "loss %.3f, agreement", loss);

    for (int e = 0; e < t->steps.n_exits && n > 0 && (size_t)n < cap; e++)
        n += snprintf(out + n, cap - (size_t)n, "%s%.1f %%", e == 0 ? " " : "/",
                      100 * t->held_out[e].agreement);
}

static bool
stopped(const struct tune *t)
{
    return t->p->stop && *t->p->stop != 0;
}

static bool
out_of_patience(const struct tune *t)
{
    return t->p->patience > 0 && t->state.stale >= (uint32_t)t->p->patience;
}

/* loss: the mean of the exits that learn. */
static int
one_step(struct tune *t, double *loss, struct err *err)
{
    struct exit_mark marks[MODEL_MAX_EXITS];
    float rates[MODEL_MAX_EXITS] = { 0 };
    size_t step = t->state.step;
    int learning = 0, rc;
    double sum = 0;

    for (int e = 0; e < t->steps.n_exits; e++) {
        if (step < t->p->steps[e])
            rates[e] = adam_rate((float)t->p->rate, step, t->p->steps[e]);
    }
    choose_rows(t, step);
    rc = exit_steps_train(&t->steps, t->batch, (size_t)t->p->batch, step + 1, rates,
                          marks, err);
    if (rc != 0)
        return err_prefix(err, "step %zu: ", step + 1), rc;
    t->state.step++;
    for (int e = 0; e < t->steps.n_exits; e++) {
        if (rates[e] > 0)
            sum += marks[e].loss;
        learning += rates[e] > 0;
    }
    *loss = sum / learning;
    return 0;
}

/* Steps of the exit that learns longest. */
static size_t
all_steps(const struct tune *t)
{
    size_t most = 0;

    for (int e = 0; e < t->steps.n_exits; e++)
        most = t->p->steps[e] > most ? t->p->steps[e] : most;
    return most;
}

static int
save(struct tune *t, int64_t *saved_us, struct err *err)
{
    *saved_us = clock_us();
    return t->p->checkpoint ? exit_checkpoint_save(&t->state, t->p->checkpoint, err) : 0;
}

/* All steps; ends early when asked to, or out of patience. */
static int
train(struct tune *t, struct err *err)
{
    size_t first = t->state.step, last = all_steps(t), every = check_interval(last);
    int64_t saved_us = clock_us();
    struct progress progress;
    double loss = 0, smooth = 0;
    char text[160];
    int rc = 0;

    progress_start(&progress, "training", last - first);
    while (rc == 0 && t->state.step < last && !stopped(t) && !out_of_patience(t)) {
        if ((rc = one_step(t, &loss, err)) != 0)
            break;
        smooth = smooth > 0 ? 0.95 * smooth + 0.05 * loss : loss;
        if (t->state.step % every == 0 || t->state.step == last)
            rc = check(t, err);
        note(text, sizeof(text), t, smooth);
        progress_set(&progress, t->state.step - first, text);
        if (rc == 0 && clock_us() - saved_us > SAVE_US)
            rc = save(t, &saved_us, err);
    }
    progress_end(&progress);
    return rc == 0 ? save(t, &saved_us, err) : rc;
}

/* ---- before and after ---- */

static int
check_params(const struct model *m, const struct exit_rows *rows,
             const struct exit_tune_params *p, struct err *err)
{
    const struct exit_rows_shape *shape = exit_rows_shape(rows);

    if (shape->d_model != m->config.d_model || shape->n_vocab != m->config.n_vocab ||
        memcmp(shape->fingerprint, m->fingerprint, sizeof(m->fingerprint)) != 0)
        return err_set(err, CE_EMISMATCH, "the rows were made with another model");
    if (exit_rows_count(rows, false) == 0 || exit_rows_count(rows, true) == 0)
        return err_set(err, CE_EINVAL,
                       "too few texts: %zu rows to train on and %zu held out",
                       exit_rows_count(rows, false), exit_rows_count(rows, true));
    if (exit_rows_count(rows, false) > UINT32_MAX)
        return err_set(err, CE_EINVAL, "more than %u rows", UINT32_MAX);
    if (p->batch < 1 || p->batch > 1 << 20 || !(p->rate > 0) || !isfinite(p->rate) ||
        p->patience < 0)
        return err_set(err, CE_EINVAL, "batch and rate must be above 0");
    if (!(p->dropout >= 0) || p->dropout > 0.9)
        return err_set(err, CE_EINVAL, "dropout must be from 0 to 0.9");
    for (int e = 0; e < shape->n_exits; e++) {
        if (p->widths[e] < 0 || p->widths[e] > 1 << 20)
            return err_set(err, CE_EINVAL, "an adapter cannot be %d wide", p->widths[e]);
        if (p->steps[e] < 1 || p->steps[e] > UINT32_MAX)
            return err_set(err, CE_EINVAL, "an exit cannot learn in %zu steps",
                           p->steps[e]);
    }
    return 0;
}

/* All that decides what the steps are. */
static int
identify(const struct exit_rows *rows, const struct exit_tune_params *p, uint8_t out[32],
         struct err *err)
{
    const struct exit_rows_shape *s = exit_rows_shape(rows);
    struct {
        uint8_t fingerprint[32], recipe[32];
        uint64_t numbers[7];
        double rate, dropout;
        int64_t exits[3 * MODEL_MAX_EXITS];
    } all;

    memset(&all, 0, sizeof(all)); /* no padding */
    memcpy(all.fingerprint, s->fingerprint, sizeof(all.fingerprint));
    memcpy(all.recipe, s->recipe, sizeof(all.recipe));
    all.numbers[0] = 2; /* version of what the steps do */
    all.numbers[1] = (uint64_t)s->n_exits;
    all.numbers[2] = (uint64_t)s->n_top;
    all.numbers[3] = exit_rows_count(rows, false);
    all.numbers[4] = exit_rows_count(rows, true);
    all.numbers[5] = (uint64_t)p->batch;
    all.numbers[6] = p->seed;
    all.rate = p->rate;
    all.dropout = p->dropout;
    for (int e = 0; e < s->n_exits; e++) {
        all.exits[3 * e] = s->layers[e];
        all.exits[3 * e + 1] = p->widths[e];
        all.exits[3 * e + 2] = (int64_t)p->steps[e];
    }
    return sha256_bytes(&all, sizeof(all), out, err);
}

static int
init_state(struct tune *t, struct err *err)
{
    struct exit_checkpoint *c = &t->state;

    c->n_exits = t->steps.n_exits;
    for (int e = 0; e < c->n_exits; e++) {
        struct exit_student *s = &t->steps.exits[e];

        c->exits[e].n = s->net.n;
        c->exits[e].p = s->net.p;
        c->exits[e].m = s->m;
        c->exits[e].v = s->v;
        c->exits[e].best_loss = INFINITY;
        c->exits[e].best = mem_array_alloc(s->net.n, sizeof(float));
        if (!c->exits[e].best)
            return err_set(err, CE_ENOMEM, "no memory for the best adapters");
    }
    return identify(t->rows, t->p, c->identity, err);
}

static int
init(struct tune *t, const struct model *m, struct err *err)
{
    const struct kernels *k;
    int rc;

    openblas_set_num_threads(1); /* its callers are many */
    if ((rc = kernels_choose(&k, t->p->cpu, err)) != 0 ||
        (rc = threads_new(&t->pool, t->p->threads, err)) != 0 ||
        (rc = exit_steps_init(&t->steps, m, t->rows, k, t->pool, t->p->widths,
                              (size_t)t->p->batch, t->p->seed, err)) != 0)
        return rc;
    t->steps.dropout = t->p->dropout;
    t->n_rows = exit_rows_count(t->rows, false);
    t->order = mem_array_alloc(t->n_rows, sizeof(*t->order));
    t->batch = mem_array_alloc((size_t)t->p->batch, sizeof(*t->batch));
    if (!t->order || !t->batch)
        return err_set(err, CE_ENOMEM, "no memory to mix %zu rows", t->n_rows);
    if ((rc = init_state(t, err)) != 0)
        return rc;
    if (t->p->resume && t->p->checkpoint)
        return exit_checkpoint_load(&t->state, t->p->checkpoint, err);
    return 0;
}

/* The best adapters, with their marks on more rows. */
static int
give_out(struct tune *t, struct exit_adapter *out, struct err *err)
{
    struct exit_mark marks[MODEL_MAX_EXITS];
    int rc;

    for (int e = 0; e < t->steps.n_exits; e++) {
        const struct exit_net *net = &t->steps.exits[e].net;

        memcpy(net->p, t->state.exits[e].best, net->n * sizeof(float));
        if ((rc = exit_net_fold(net, net->p, &out[e])) != 0)
            return err_set(err, rc, "no memory for an adapter");
    }
    if ((rc = exit_steps_judge(&t->steps, FINAL_ROWS, marks, err)) != 0)
        return rc;
    for (int e = 0; e < t->steps.n_exits; e++) {
        out[e].loss = marks[e].loss;
        out[e].agreement = marks[e].agreement;
    }
    return 0;
}

static void
fini(struct tune *t)
{
    for (int e = 0; e < t->state.n_exits; e++)
        mem_free(t->state.exits[e].best);
    exit_steps_fini(&t->steps);
    threads_free(t->pool);
    mem_free(t->order);
    mem_free(t->batch);
    mem_free(t);
}

int
exit_tune_run(struct exit_adapter *out, size_t *steps_done, const struct model *m,
              const struct exit_rows *rows, const struct exit_tune_params *p,
              struct err *err)
{
    struct tune *t;
    int rc = check_params(m, rows, p, err);

    *steps_done = 0;
    if (rc != 0)
        return rc;
    t = mem_array_alloc(1, sizeof(*t));
    if (!t)
        return err_set(err, CE_ENOMEM, "no memory for training");
    t->p = p;
    t->rows = rows;
    rc = init(t, m, err);
    /* Where it begins is the first best; a run that goes on only looks where it is. */
    if (rc == 0 && t->state.step == 0)
        rc = check(t, err);
    else if (rc == 0)
        rc = exit_steps_judge(&t->steps, CHECK_ROWS, t->held_out, err);
    if (rc == 0)
        rc = train(t, err);
    /* The state is saved; what follows is for the adapters given out alone. */
    if (rc == 0 && t->state.step < all_steps(t))
        rc = check(t, err);
    if (rc == 0)
        rc = give_out(t, out, err);
    *steps_done = t->state.step;
    fini(t);
    return rc;
}
