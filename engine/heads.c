/* SPDX-License-Identifier: Apache-2.0
 * heads.c - adapters, output matrix, and the reading of logits.
 *
 * Rows go through in batches of at most HEAD_ROWS, because a row of logits is long: an
 * adapter if the exit has one, the norm, an exit's screen if it is asked for, the
 * output product of the rows that the screen did not turn away; then rows are shared out
 * for merging, the top list and the hash.
 */
#include "engine/heads.h"

#include <stdlib.h>
#include <string.h>

#include "engine/logit_rows.h"
#include "engine/logits.h"
#include "engine/screen.h"
#include "engine/trust.h"

#define HEAD_ROWS   32
#define ADAPTER_EPS 1e-5f /* doc/NUMERICS.md, 10 */

struct heads {
    struct heads_config c;
    size_t d, width;              /* width: of the widest adapter */
    struct act_rows x;            /* [HEAD_ROWS, d] the state, for the adapter's map */
    struct act_rows h;            /* [HEAD_ROWS, d] its norm */
    struct act_rows norm;         /* [HEAD_ROWS, d] what the output matrix reads */
    float *mid;                   /* [HEAD_ROWS, width] gate, then SwiGLU */
    struct act_group *mid_groups; /* [HEAD_ROWS, width / 32] */
    struct linear_scratch scratch;
    float *z;                 /* [HEAD_ROWS, d] */
    float *leans;             /* [HEAD_ROWS] of an exit with a trust */
    struct logit_rows logits; /* [HEAD_ROWS] */
    struct screen *screen;    /* NULL when no exit has one */
    /* Rows of each batch that its screen did not turn away. A thread may read them when
     * others are in a later batch, so every batch of a job has its own. */
    size_t *kept;   /* [max_rows] counted from the batch's first */
    size_t *n_kept; /* [max_rows / HEAD_ROWS + 1] */
};

/* Does a matrix, which may be empty, read quantised rows? */
static bool
reads_groups(const struct packed *w)
{
    return w->n_out > 0 && packed_is_quantised(w);
}

int
heads_new(struct heads **out, const struct heads_config *config, struct err *err)
{
    const struct weights *w = config->weights;
    struct heads *h = calloc(1, sizeof(*h));
    int n_threads = threads_count(config->pool);

    *out = NULL;
    if (!h)
        return err_set(err, CE_ENOMEM, "no memory for the heads' scratch");
    h->c = *config;
    h->d = (size_t)config->model->config.d_model;
    for (int i = 0; i < w->n_exits; i++) {
        if (w->exits[i].width > h->width)
            h->width = w->exits[i].width;
    }
    h->mid = linear_alloc(HEAD_ROWS * h->width, sizeof(float));
    h->mid_groups =
        linear_alloc(HEAD_ROWS * h->width / ACT_GROUP, sizeof(struct act_group));
    h->z = linear_alloc(HEAD_ROWS * h->d, sizeof(float));
    h->leans = linear_alloc(HEAD_ROWS, sizeof(float));
    h->kept = calloc((size_t)config->max_rows, sizeof(*h->kept));
    h->n_kept = calloc((size_t)config->max_rows / HEAD_ROWS + 1, sizeof(*h->n_kept));
    if (!h->mid || !h->mid_groups || !h->z || !h->leans || !h->kept || !h->n_kept ||
        logit_rows_init(&h->logits, HEAD_ROWS, (size_t)config->model->config.n_vocab) !=
            0 ||
        screen_new(&h->screen, w, HEAD_ROWS, n_threads) != 0 ||
        linear_scratch_init(&h->scratch, HEAD_ROWS, n_threads) != 0 ||
        act_rows_init(&h->x, HEAD_ROWS, h->d) != 0 ||
        act_rows_init(&h->h, HEAD_ROWS, h->d) != 0 ||
        act_rows_init(&h->norm, HEAD_ROWS, h->d) != 0) {
        heads_free(h);
        return err_set(err, CE_ENOMEM, "no memory for the heads' scratch");
    }
    h->norm.quantised = reads_groups(&w->output);
    for (int i = 0; i < w->n_exits; i++)
        h->norm.quantised |=
            reads_groups(&w->exits[i].output) || reads_groups(&w->exits[i].screen_down);
    *out = h;
    return 0;
}

void
heads_free(struct heads *h)
{
    if (!h)
        return;
    linear_scratch_fini(&h->scratch);
    act_rows_fini(&h->norm);
    act_rows_fini(&h->h);
    act_rows_fini(&h->x);
    free(h->n_kept);
    free(h->kept);
    screen_free(h->screen);
    logit_rows_fini(&h->logits);
    free(h->leans);
    free(h->z);
    free(h->mid_groups);
    free(h->mid);
    free(h);
}

/* ---- stages ---- */

/* z = adapter(state), section 10. The act_rows are copies of this thread, so that
 * each adapter may have formats of its own. */
static void
adapt(const struct heads *h, struct worker_id id, const struct exit_weights *e,
      const struct head_row *rows, size_t n)
{
    const struct kernels *k = h->c.kernels;
    struct act_rows x = h->x, norm = h->h;
    struct act_rows mid = { h->mid, h->mid_groups, e->width,
                            packed_is_quantised(&e->down),
                            !packed_is_quantised(&e->down) };
    struct activations a_x = act_rows_view(&x, n), a_norm = act_rows_view(&norm, n);
    struct activations a_mid = act_rows_view(&mid, n);
    struct linear_job map = { &e->map, h->z };
    size_t from, to;

    x.quantised = packed_is_quantised(&e->map);
    norm.quantised = reads_groups(&e->gate) || reads_groups(&e->up);
    while (worker_take(id, n, 1, &from, &to)) {
        for (size_t r = from; r < to; r++) {
            memcpy(x.x + r * h->d, rows[r].x, h->d * sizeof(float));
            act_rows_quantise(k, &x, r, 0, h->d);
            k->rmsnorm(norm.x + r * h->d, rows[r].x, NULL, h->d, ADAPTER_EPS);
            act_rows_quantise(k, &norm, r, 0, h->d);
        }
    }
    linear_many(k, id, &map, 1, &a_x);
    while (worker_take(id, n, 1, &from, &to)) {
        for (size_t r = from; r < to; r++)
            k->add(h->z + r * h->d, e->map_bias, h->d);
    }
    if (e->width == 0)
        return;
    linear_gated(k, id, &e->gate, &e->up, &a_norm, &h->scratch, &mid);
    linear_add(k, id, &e->down, &a_mid, &h->scratch, h->z);
}

/* What the output matrix reads, and what a trust makes of it; z: of an adapter, or NULL.
 * trust: the exit's weights of it, or NULL. */
static void
norm_rows(const struct heads *h, struct worker_id id, const struct head_row *rows,
          const float *z, const float *weight, const float *trust, size_t n)
{
    const struct kernels *k = h->c.kernels;
    size_t from, to;

    while (worker_take(id, n, 1, &from, &to)) {
        for (size_t r = from; r < to; r++) {
            k->rmsnorm(h->norm.x + r * h->d, z ? z + r * h->d : rows[r].x, weight, h->d,
                       h->c.model->config.norm_eps);
            act_rows_quantise(k, &h->norm, r, 0, h->d);
            if (rows[r].head_in)
                memcpy(rows[r].head_in, h->norm.x + r * h->d, h->d * sizeof(float));
            if (trust)
                h->leans[r] =
                    trust_lean(trust, h->norm.x + r * h->d, h->h.x + r * h->d, h->d);
        }
    }
}

/* ---- reading a row ---- */

static void
read_summary(struct head_result *r, const struct logit_summary *s)
{
    r->argmax = s->argmax;
    r->max_logit = s->max;
    r->lse = s->lse;
    r->confidence = s->confidence;
}

/* Row `at` of the logits. e: the exit, if it has a trust, or NULL. */
static void
read_row(const struct heads *h, const struct head_job *job, const struct exit_weights *e,
         const struct head_row *row, size_t at)
{
    const float *logits = logit_rows_at(&h->logits, at);
    const struct logit_chunk *chunks = logit_rows_chunks(&h->logits, at);
    struct logit_summary s;
    struct logit_entry top[BACKEND_MAX_TOP] = { 0 };
    struct head_result *r = row->result;
    size_t n_vocab = h->logits.n_vocab;

    memset(r, 0, sizeof(*r));
    if (row->logits)
        memcpy(row->logits, logits, n_vocab * sizeof(float));
    if (job->want_hash)
        r->hash = logits_hash(logits, n_vocab);
    if (logits_merge(&s, chunks, h->logits.n_chunks) != 0) {
        r->argmax = -1;
        return;
    }
    read_summary(r, &s);
    if (e)
        r->confidence = trust_confidence(e->trust_bias, h->leans[at], s.confidence);
    if (job->n_top > 0)
        r->n_top = logits_top(h->c.kernels, top, job->n_top, logits, n_vocab, chunks);
    for (int i = 0; i < r->n_top; i++) {
        r->top[i].id = top[i].id;
        r->top[i].logit = top[i].logit;
    }
}

/* Report the rows that the screen turned away and move the norms of the others together.
 * Returns how many there are. One thread. */
static size_t
keep_rows(const struct heads *h, const struct head_row *rows, size_t n,
          const struct screen_verdict *verdicts, size_t *kept)
{
    size_t d = h->d, g = d / ACT_GROUP, to = 0;

    for (size_t r = 0; r < n; r++) {

        if (verdicts[r].below && !rows[r].logits) {
            memset(rows[r].result, 0, sizeof(*rows[r].result));
            read_summary(rows[r].result, &verdicts[r].candidates);
            rows[r].result->below = true;
            continue;
        }
        h->leans[to] = h->leans[r];
        if (to < r)
            memcpy(h->norm.x + to * d, h->norm.x + r * d, d * sizeof(float));
        if (to < r && h->norm.quantised)
            memcpy(h->norm.groups + to * g, h->norm.groups + r * g,
                   g * sizeof(struct act_group));
        kept[to++] = r;
    }
    return to;
}

/* Which of a batch of n rows go through the whole output product: all of them, or those
 * that the screen of exit e does not turn away. */
static void
screen_batch(const struct heads *h, struct worker_id id, const struct head_job *job,
             const struct exit_weights *e, size_t done, size_t n)
{
    struct activations norm = act_rows_view(&h->norm, n);
    const struct screen_verdict *verdicts = NULL;
    size_t from, to;

    if (e)
        screen_run(h->screen, h->c.kernels, id, e, &h->c.weights->output, &norm, h->leans,
                   &h->logits, job->screen_theta, &verdicts);
    while (worker_take(id, 1, 1, &from, &to)) {
        size_t *n_kept = &h->n_kept[done / HEAD_ROWS], *kept = h->kept + done;

        if (verdicts) {
            *n_kept = keep_rows(h, job->rows + done, n, verdicts, kept);
            continue;
        }
        for (size_t r = 0; r < n; r++)
            kept[r] = r;
        *n_kept = n;
    }
}

void
heads_run(struct heads *h, struct worker_id id, const struct head_job *job)
{
    bool final = job->head == HEAD_FINAL;
    const struct exit_weights *e =
        &h->c.weights->exits[final ? 0 : job->head - HEAD_EXIT(0)];
    bool adapted = !final && e->kind == MODEL_EXIT_MLP;
    bool screened = !final && e->n_candidates > 0 && job->screen_theta > 0;
    bool own = !final && e->kind == MODEL_EXIT_OWN;
    const struct packed *output = own ? &e->output : &h->c.weights->output;
    const float *norm = own ? e->norm : h->c.weights->output_norm;

    for (size_t done = 0; done < (size_t)job->n_rows; done += HEAD_ROWS) {
        const struct head_row *rows = job->rows + done;
        size_t left = (size_t)job->n_rows - done, n = left < HEAD_ROWS ? left : HEAD_ROWS;
        size_t n_kept, from, to;
        struct activations a;

        if (adapted)
            adapt(h, id, e, rows, n);
        norm_rows(h, id, rows, adapted ? h->z : NULL, norm, final ? NULL : e->trust, n);
        screen_batch(h, id, job, screened ? e : NULL, done, n);
        n_kept = h->n_kept[done / HEAD_ROWS];
        if (n_kept == 0)
            continue;
        a = act_rows_view(&h->norm, n_kept);
        logit_rows_product(&h->logits, h->c.kernels, id, output, &a, true);
        while (worker_take(id, n_kept, 1, &from, &to)) {
            for (size_t i = from; i < to; i++)
                read_row(h, job, !final && e->trust ? e : NULL, &rows[h->kept[done + i]],
                         i);
        }
    }
}
