/* SPDX-License-Identifier: Apache-2.0
 * backend_thread.c - the loop that turns work into replies; see the header.
 *
 * A step: what is runnable (content.c), who gets how many rows (scheduler.c),
 * rows decoded into one buffer, one backend_run per layer range (agents may cut
 * the model at different exits; GENERATE runs all of it), results back to
 * content.c, the time of all backend_runs to the scheduler's cost model. Sequences that
 * want different top counts share a step: it computes the most that anyone asked for.
 *
 * When a step fails, its sequences are tried one at a time, so that only the
 * one at fault ends. Buffers are allocated once, at start.
 */
#include "server/backend_thread.h"

#include <pthread.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"
#include "engine/tokenizer.h"
#include "server/content.h"
#include "server/generate_pick.h"
#include "server/metrics.h"
#include "server/scheduler.h"
#include "server/tenant.h"

#define RETRY_MS 1000 /* told to an agent that found the server full */

struct backend_thread {
    struct backend_thread_config config;
    struct mailbox *work, *replies;
    pthread_t thread;
    struct work_msg stop;
    bool stopping;
    bool idle;  /* the last plan was empty: nothing to do before mail or a deadline */
    bool eager; /* the present step is of rows that nobody asked for */

    struct content *content;
    struct scheduler *scheduler;
    struct { /* what ran of the present step */
        uint32_t rows;
        double positions;
        int64_t us;
    } ran;
    /* One step's worth; n = step_rows at most. */
    struct content_work *candidates; /* [max_seqs] */
    struct scheduler_item *shares;   /* [max_seqs] */
    struct content_run *runs;        /* [n] */
    struct batch_item *items;        /* [n] */
    size_t *item_run;                /* [n] which run an item is */
    float *hidden;                   /* [n, d_model] */
    int32_t *tokens;                 /* [n] */
    struct head_result *results;     /* [n] */
    size_t *row_of;                  /* [n] first row of a run in the buffers */

    pthread_mutex_t figures_lock;
    struct backend_thread_figures figures; /* as of the last turn */
    uint32_t step_rows;                    /* that the last step could have had */
};

/* ---- hooks of the content manager ---- */

static void
hook_reply(void *arg, uint64_t session, const struct frame *f)
{
    struct backend_thread *t = arg;
    struct session_link *link = (struct session_link *)(uintptr_t)session;
    struct reply_msg *r = reply_msg_new(link, f);

    if (r)
        mailbox_post(t->replies, &r->msg);
}

static int
hook_kv_open(void *arg, int *kv, struct err *err)
{
    struct backend_thread *t = arg;

    if (content_n_seqs(t->content) >= t->config.max_seqs)
        return err_set(err, CE_EQUOTA, "%u sequences are open", t->config.max_seqs);
    return backend_seq_open(t->config.backend, kv, err);
}

static void
hook_kv_truncate(void *arg, int kv, uint32_t n_positions)
{
    struct backend_thread *t = arg;

    (void)backend_truncate(t->config.backend, kv, (int32_t)n_positions);
}

static void
hook_kv_close(void *arg, int kv)
{
    struct backend_thread *t = arg;

    backend_seq_close(t->config.backend, kv);
}

static int32_t
hook_pick(void *arg, const struct content_sampling *how, const struct head_result *r,
          const int32_t *ids, size_t n, bool *end)
{
    struct backend_thread *t = arg;
    int32_t id = generate_pick(how, r, ids, n);

    *end = t->config.tokenizer && tokenizer_is_end_of_generation(t->config.tokenizer, id);
    return id;
}

static void
hook_answered(void *arg, int64_t asked_us, int64_t ready_us, int64_t start_us,
              int64_t now_us)
{
    struct backend_thread *t = arg;

    metrics_answered(t->config.metrics, asked_us, ready_us, start_us, now_us);
}

static uint64_t
hook_tenant(void *arg, uint64_t session, uint32_t *weight)
{
    const struct session_link *link = (const struct session_link *)(uintptr_t)session;

    (void)arg;
    *weight = tenant_weight(link->tenant);
    return link->tenant->number;
}

static void
hook_charged(void *arg, uint64_t session, int64_t kv, int64_t rows)
{
    const struct session_link *link = (const struct session_link *)(uintptr_t)session;

    (void)arg;
    usage_add(link->usage, USAGE_KV_BYTES, kv);
    usage_add(link->usage, USAGE_STATE_BYTES, rows);
}

static void
hook_evicted(void *arg, uint64_t session, enum content_eviction why)
{
    struct backend_thread *t = arg;
    const struct session_link *link = (const struct session_link *)(uintptr_t)session;

    metrics_evicted(t->config.metrics, link->usage, why);
}

static size_t
hook_kv_limit(void *arg, uint64_t session)
{
    const struct session_link *link = (const struct session_link *)(uintptr_t)session;

    (void)arg;
    return tenant_kv_bytes(link->tenant);
}

/* ---- one step ---- */

/* Eager work must not take the memory that requests will need. */
static bool
room_for_eager(struct backend_thread *t)
{
    size_t budget = t->config.backend->info.kv_budget_bytes;

    return budget == 0 || backend_kv_bytes(t->config.backend, -1) < budget / 2;
}

/* What is runnable, as the scheduler sees it. */
static size_t
list_items(struct backend_thread *t)
{
    size_t i, n_items = 0;
    size_t n = content_runnable(t->content, t->candidates, t->config.max_seqs);
    bool eager = room_for_eager(t);

    for (i = 0; i < n; i++) {
        const struct content_work *w = &t->candidates[i];
        const struct session_link *link = (struct session_link *)(uintptr_t)w->session;

        if (!w->eager || eager)
            t->shares[n_items++] =
                (struct scheduler_item){ .tenant = link->tenant->number,
                                         .weight = tenant_weight(link->tenant),
                                         .pos = w->pos,
                                         .n_rows = w->n_rows,
                                         .since_us = w->since_us,
                                         .deadline_us = w->deadline_us,
                                         .eager = w->eager,
                                         .tag = i };
    }
    return n_items;
}

/* Pick, share, decode. Returns the number of runs. */
static size_t
step_plan(struct backend_thread *t)
{
    int64_t now_us = clock_us();
    size_t i, n_runs = 0, row = 0, n = list_items(t);
    struct scheduler_plan plan = scheduler_plan(t->scheduler, t->shares, n, now_us);

    t->idle = plan.rows == 0;
    t->eager = plan.eager;
    if (plan.rows)
        t->step_rows = plan.budget;
    if (plan.n_expired) /* the same ones, by the same clock */
        content_expire(t->content, now_us);
    for (i = 0; i < n; i++) {
        const struct scheduler_item *item = &t->shares[i];
        struct content_run *run = &t->runs[n_runs];
        uint32_t n_rows = 0;

        if (item->share == 0)
            continue;
        if (content_run_begin(t->content, t->candidates[item->tag].seq, item->share,
                              t->hidden + row * (size_t)t->config.backend->info.d_model,
                              t->tokens + row, run) == 0) {
            n_rows = run->n_rows;
            t->row_of[n_runs++] = row;
            row += n_rows;
        }
        scheduler_refund(t->scheduler, item->tenant, item->share - n_rows);
    }
    return n_runs;
}

static void
item_init(struct backend_thread *t, struct batch_item *item, size_t i)
{
    const struct content_run *run = &t->runs[i];
    size_t row = t->row_of[i];

    memset(item, 0, sizeof(*item));
    item->seq = run->kv;
    item->pos = (int32_t)run->pos;
    item->n_rows = (int)run->n_rows;
    if (run->is_tokens)
        item->tokens = t->tokens + row;
    else
        item->hidden = t->hidden + row * (size_t)t->config.backend->info.d_model;
    item->head_rows = (int)run->head_rows;
    item->results = run->head_rows ? t->results + row : NULL;
}

/* The step's own figures, and each tenant's rows. */
static void
count_step(struct backend_thread *t, const size_t *runs, size_t n, int64_t took_us)
{
    size_t i, n_rows = 0;

    for (i = 0; i < n; i++) {
        const struct content_run *run = &t->runs[runs[i]];
        const struct session_link *link =
            (const struct session_link *)(uintptr_t)run->session;

        usage_add(link->usage, USAGE_ROWS, run->n_rows);
        n_rows += run->n_rows;
    }
    metrics_step(t->config.metrics, n_rows, took_us);
    if (t->eager)
        metrics_add(t->config.metrics, METRICS_EAGER_ROWS, (int64_t)n_rows);
}

/* Run items [0, n), all of one range. */
static int
run_items(struct backend_thread *t, const struct batch_item *items, const size_t *runs,
          size_t n, struct err *err)
{
    const struct backend_info *info = &t->config.backend->info;
    struct batch batch = {
        .layer_from = t->runs[runs[0]].layer_from,
        .layer_to = info->n_layers,
        .head = HEAD_NONE,
        .n_items = (int)n,
        .items = items,
    };
    int64_t start_us = clock_us();
    size_t i;
    int rc;

    for (i = 0; i < n; i++) {
        const struct content_run *run = &t->runs[runs[i]];

        if (run->head_rows)
            batch.head = HEAD_FINAL;
        if (run->n_top > batch.n_top)
            batch.n_top = run->n_top;
        batch.want_hash |= run->want_hash;
    }
    rc = backend_run(t->config.backend, &batch, err);
    if (rc == 0)
        count_step(t, runs, n, clock_us() - start_us);
    else
        metrics_add(t->config.metrics, METRICS_STEP_FAILURES, 1);
    return rc;
}

static void
run_failed(struct backend_thread *t, const struct content_run *run, int rc,
           const struct err *err)
{
    log_warn_limited("step failed: %s", err->text);
    if (rc == CE_ENOMEM)
        content_run_failed(t->content, run, CE_EQUOTA,
                           "the server's KV memory is exhausted", RETRY_MS);
    else
        content_run_failed(t->content, run, rc, err->text, 0);
}

/* For the cost model; a step of several ranges counts as one. Failures do not. */
static void
count_ran(struct backend_thread *t, size_t n, int64_t us)
{
    size_t i;

    for (i = 0; i < n; i++) {
        const struct content_run *run = &t->runs[t->item_run[i]];

        t->ran.rows += run->n_rows;
        t->ran.positions += cost_positions(run->pos, run->n_rows);
    }
    t->ran.us += us;
}

/* The step of one layer range: all at once, or else each alone. */
static void
step_range(struct backend_thread *t, size_t n)
{
    struct err err = { 0 };
    int64_t start_us = clock_us();
    int rc = run_items(t, t->items, t->item_run, n, &err);
    size_t i;

    if (rc == 0) {
        int64_t now_us = clock_us();

        count_ran(t, n, now_us - start_us);
        for (i = 0; i < n; i++)
            content_run_done(t->content, &t->runs[t->item_run[i]],
                             t->results + t->row_of[t->item_run[i]], start_us, now_us);
        return;
    }
    for (i = 0; i < n; i++) /* some failures come after the positions were added */
        (void)backend_truncate(t->config.backend, t->items[i].seq, t->items[i].pos);
    for (i = 0; i < n; i++) {
        const struct content_run *run = &t->runs[t->item_run[i]];

        if (n > 1) {
            start_us = clock_us();
            rc = run_items(t, &t->items[i], &t->item_run[i], 1, &err);
        }
        if (rc == 0)
            content_run_done(t->content, run, t->results + t->row_of[t->item_run[i]],
                             start_us, clock_us());
        else
            run_failed(t, run, rc, &err);
    }
}

static void
step(struct backend_thread *t)
{
    size_t n_runs = step_plan(t);
    size_t done = 0, i;
    int layer_from = -1;

    memset(&t->ran, 0, sizeof(t->ran));
    while (done < n_runs) { /* ranges in ascending order, each once */
        int next = INT32_MAX;
        size_t n = 0;

        for (i = 0; i < n_runs; i++)
            if (t->runs[i].layer_from > layer_from && t->runs[i].layer_from < next)
                next = t->runs[i].layer_from;
        layer_from = next;
        for (i = 0; i < n_runs; i++)
            if (t->runs[i].layer_from == layer_from) {
                item_init(t, &t->items[n], i);
                t->item_run[n++] = i;
            }
        step_range(t, n);
        done += n;
    }
    scheduler_ran(t->scheduler, t->ran.rows, t->ran.positions, (double)t->ran.us);
}

/* ---- the loop ---- */

static void
handle(struct backend_thread *t, struct work_msg *w)
{
    uint64_t session = (uint64_t)(uintptr_t)w->link;
    struct content *c = t->content;
    int64_t now_us = clock_us();

    switch (w->kind) {
    case WORK_OPEN:
        content_open(c, session, &w->u.open, w->layer_from, now_us);
        break;
    case WORK_STATES:
        content_states(c, session, w->chunk, now_us);
        w->chunk = NULL;
        break;
    case WORK_INFER:
        content_infer(c, session, &w->u.infer, w->posted_us);
        break;
    case WORK_TRUNCATE:
        content_truncate(c, session, &w->u.truncate, now_us);
        break;
    case WORK_CANCEL:
        content_cancel(c, session, &w->u.cancel, now_us);
        break;
    case WORK_CLOSE:
        content_close(c, session, w->u.close.seq);
        break;
    case WORK_GENERATE:
        content_generate(c, session, &w->u.generate, w->posted_us);
        break;
    case WORK_GONE:
        content_session_gone(c, session);
        break;
    case WORK_STOP:
        t->stopping = true;
        return;
    }
    work_msg_free(w);
}

static void
publish(struct backend_thread *t)
{
    const struct content *c = t->content;
    struct backend_thread_figures f = {
        .seqs = content_n_seqs(c),
        .rows = content_rows(c),
        .content_bytes = content_bytes(c),
        .kv_bytes = backend_kv_bytes(t->config.backend, -1),
        .runnable = content_n_runnable(c),
        .wants = content_n_wants(c),
        .row_bytes = content_row_bytes(c),
        .kv_promised = content_kv_bytes(c),
        .step_rows = t->step_rows,
    };

    memcpy(f.step_cost_us, scheduler_cost(t->scheduler)->us, sizeof(f.step_cost_us));
    pthread_mutex_lock(&t->figures_lock);
    t->figures = f;
    pthread_mutex_unlock(&t->figures_lock);
}

/* Memory for those that wait for it. Returns when to look again, at most deadline_us. */
static int64_t
settle(struct backend_thread *t, int64_t deadline_us)
{
    bool waited = content_n_wants(t->content) > 0;
    int64_t again_us = content_settle(t->content, clock_us());

    if (waited)
        t->idle = false; /* there may be something to compute now */
    return again_us < deadline_us ? again_us : deadline_us;
}

static void *
thread_main(void *arg)
{
    struct backend_thread *t = arg;
    struct mailbox_msg *m, *next;

    while (!t->stopping) {
        int64_t deadline_us = content_expire(t->content, clock_us());

        deadline_us = settle(t, deadline_us);
        publish(t);
        if (content_n_runnable(t->content) > 0 && !t->idle) {
            m = mailbox_take_all(t->work);
        } else {
            int64_t left_us = deadline_us - clock_us();

            metrics_turn(t->config.metrics, 0);
            m = mailbox_wait(t->work, deadline_us == INT64_MAX ? -1
                                      : left_us > 0            ? left_us
                                                               : 0);
        }
        metrics_turn(t->config.metrics, clock_us());
        for (; m; m = next) {
            next = m->next;
            handle(t, (struct work_msg *)m);
        }
        (void)settle(t, INT64_MAX);
        if (!t->stopping && content_n_runnable(t->content) > 0)
            step(t);
    }
    return NULL;
}

/* ---- start and stop ---- */

static void
thread_free(struct backend_thread *t)
{
    struct mailbox_msg *m, *next;

    content_free(t->content);
    scheduler_free(t->scheduler);
    for (m = t->work ? mailbox_take_all(t->work) : NULL; m; m = next) {
        next = m->next;
        if (((struct work_msg *)m)->kind != WORK_STOP)
            work_msg_free((struct work_msg *)m);
    }
    mailbox_free(t->work);
    mem_free(t->candidates);
    mem_free(t->shares);
    mem_free(t->runs);
    mem_free(t->items);
    mem_free(t->item_run);
    mem_free(t->hidden);
    mem_free(t->tokens);
    mem_free(t->results);
    mem_free(t->row_of);
    pthread_mutex_destroy(&t->figures_lock);
    mem_free(t);
}

static bool
alloc_buffers(struct backend_thread *t)
{
    size_t n = t->config.step_rows, max_seqs = t->config.max_seqs;
    size_t d = (size_t)t->config.backend->info.d_model;

    t->candidates = mem_array_alloc(max_seqs, sizeof(*t->candidates));
    t->shares = mem_array_alloc(max_seqs, sizeof(*t->shares));
    t->runs = mem_array_alloc(n, sizeof(*t->runs));
    t->items = mem_array_alloc(n, sizeof(*t->items));
    t->item_run = mem_array_alloc(n, sizeof(*t->item_run));
    t->hidden = mem_aligned_alloc(n, d * sizeof(float));
    t->tokens = mem_array_alloc(n, sizeof(*t->tokens));
    t->results = mem_array_alloc(n, sizeof(*t->results));
    t->row_of = mem_array_alloc(n, sizeof(*t->row_of));
    return t->candidates && t->shares && t->runs && t->items && t->item_run &&
           t->hidden && t->tokens && t->results && t->row_of;
}

int
backend_thread_start(struct backend_thread **out,
                     const struct backend_thread_config *config, struct mailbox *replies,
                     struct err *err)
{
    const struct backend_info *info = &config->backend->info;
    struct content_config cc = { .d_model = (size_t)info->d_model,
                                 .n_vocab = (uint32_t)info->n_vocab,
                                 .n_ctx = (uint32_t)info->n_ctx,
                                 .window = config->window,
                                 .n_layers = info->n_layers,
                                 .eager = config->eager,
                                 .kv_page_bytes = info->kv_page_bytes,
                                 .kv_budget = info->kv_budget_bytes,
                                 .states_budget = config->states_budget,
                                 .seq_idle_us = config->seq_idle_us };
    struct scheduler_config sc = { .step_budget_us = config->step_budget_us,
                                   .max_rows = config->step_rows,
                                   .max_items = config->max_seqs };
    struct content_hooks hooks = {
        NULL,          hook_reply,   hook_kv_open,  hook_kv_truncate,
        hook_kv_close, hook_pick,    hook_answered, hook_tenant,
        hook_charged,  hook_evicted, hook_kv_limit
    };
    struct backend_thread *t = mem_array_alloc(1, sizeof(*t));
    int rc;

    *out = NULL;
    if (!t)
        return err_set(err, CE_ENOMEM, "backend thread: no memory");
    t->config = *config;
    pthread_mutex_init(&t->figures_lock, NULL);
    t->replies = replies;
    t->stop.kind = WORK_STOP;
    hooks.arg = t;
    rc = mailbox_new(&t->work, err);
    if (rc == 0)
        rc = content_new(&t->content, &cc, &hooks, err);
    if (rc == 0)
        rc = scheduler_new(&t->scheduler, &sc, err);
    if (rc == 0 && !alloc_buffers(t))
        rc = err_set(err, CE_ENOMEM, "backend thread: no memory for steps of %u rows",
                     config->step_rows);
    if (rc == 0 && pthread_create(&t->thread, NULL, thread_main, t) != 0)
        rc = err_set(err, CE_ENOMEM, "backend thread: cannot start a thread");
    if (rc < 0) {
        thread_free(t);
        return rc;
    }
    *out = t;
    return 0;
}

void
backend_thread_post(struct backend_thread *t, struct work_msg *w)
{
    mailbox_post(t->work, &w->msg);
}

void
backend_thread_stop(struct backend_thread *t)
{
    struct backend *backend;

    if (!t)
        return;
    mailbox_post(t->work, &t->stop.msg);
    pthread_join(t->thread, NULL);
    backend = t->config.backend;
    thread_free(t);
    backend_close(backend);
}

void
backend_thread_figures(struct backend_thread *t, struct backend_thread_figures *out)
{
    pthread_mutex_lock(&t->figures_lock);
    *out = t->figures;
    pthread_mutex_unlock(&t->figures_lock);
}
