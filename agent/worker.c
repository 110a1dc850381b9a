/* SPDX-License-Identifier: Apache-2.0
 * worker.c - see worker.h.
 */
#include "agent/worker.h"

#include <pthread.h>
#include <string.h>

#include "common/log.h"
#include "common/memory.h"

enum job_kind { JOB_ANSWER, JOB_POLICY, JOB_QUIT };

struct job {
    struct mailbox_msg msg; /* first */
    enum job_kind kind;
    struct decode_request request; /* prompt and forced point into `ids` */
    struct policy policy;
    int32_t ids[];
};

struct worker {
    struct decoder *decoder;
    struct mailbox *jobs, *events;
    pthread_t thread;
    bool started;
};

/* ---- the thread ---- */

static void
post(struct worker *w, struct worker_event *e)
{
    if (e == NULL)
        log_error("worker no memory for an event");
    else
        mailbox_post(w->events, &e->msg);
}

static struct worker_event *
event_new(enum worker_event_kind kind, size_t text_size)
{
    struct worker_event *e = mem_array_alloc(1, sizeof(*e) + text_size);

    if (e != NULL)
        e->kind = kind;
    return e;
}

static void
on_token(void *ctx, const struct reply_token *t)
{
    struct worker_event *e = event_new(WORKER_TOKEN, t->text_len);

    if (e != NULL) {
        e->token = *t;
        if (t->text_len > 0)
            memcpy(e->text, t->text, t->text_len);
        e->token.text = e->text;
    }
    post(ctx, e);
}

static void
on_prefill(void *ctx, int32_t done, int32_t total)
{
    struct worker_event *e = event_new(WORKER_PREFILL, 0);

    if (e != NULL) {
        e->done = done;
        e->total = total;
    }
    post(ctx, e);
}

static void
work(struct worker *w, struct job *j)
{
    /* Made beforehand, so that whoever waits for the end surely hears of it. */
    struct worker_event *e =
        event_new(j->kind == JOB_ANSWER ? WORKER_DONE : WORKER_POLICY, 0);

    if (e == NULL) {
        log_error("worker no memory for a job");
        return;
    }
    int rc = j->kind == JOB_ANSWER
                 ? decode_answer(w->decoder, &j->request, &e->result, &e->err)
                 : decode_set_policy(w->decoder, &j->policy, &e->err);
    if (rc < 0 && e->err.code == 0)
        err_set(&e->err, rc, "%s", err_name(rc));
    if (rc == 0)
        memset(&e->err, 0, sizeof(e->err));
    post(w, e);
}

static void *
run(void *arg)
{
    struct worker *w = arg;
    bool quit = false;

    while (!quit) {
        struct mailbox_msg *m = mailbox_wait(w->jobs, -1);
        while (m != NULL) {
            struct mailbox_msg *next = m->next;
            struct job *j = (struct job *)(void *)m;
            if (j->kind == JOB_QUIT)
                quit = true;
            else if (!quit)
                work(w, j);
            mem_free(j);
            m = next;
        }
    }
    return NULL;
}

/* ---- from the main loop ---- */

int
worker_start(struct worker **out, const struct decode_setup *setup,
             const struct policy *policy, struct err *err)
{
    struct worker *w = mem_array_alloc(1, sizeof(*w));
    struct decode_hooks hooks = { on_token, on_prefill, w };

    *out = NULL;
    if (w == NULL)
        return err_set(err, CE_ENOMEM, "worker: out of memory");
    int rc = mailbox_new(&w->jobs, err);
    if (rc == 0)
        rc = mailbox_new(&w->events, err);
    if (rc == 0)
        rc = decode_new(&w->decoder, setup, policy, &hooks, err);
    if (rc == 0) {
        int error = pthread_create(&w->thread, NULL, run, w);
        w->started = error == 0;
        if (error != 0)
            rc = err_set(err, CE_ENOMEM, "worker: %s", strerror(error));
    }
    if (rc < 0) {
        worker_stop(w);
        return rc;
    }
    *out = w;
    return 0;
}

static struct job *
job_new(enum job_kind kind, size_t n_ids)
{
    struct job *j = NULL;

    if (n_ids <= (SIZE_MAX - sizeof(*j)) / sizeof(int32_t))
        j = mem_array_alloc(1, sizeof(*j) + n_ids * sizeof(int32_t));
    if (j != NULL)
        j->kind = kind;
    return j;
}

static void
drop_all(struct mailbox *box)
{
    struct mailbox_msg *m = box != NULL ? mailbox_take_all(box) : NULL;

    while (m != NULL) {
        struct mailbox_msg *next = m->next;
        mem_free(m);
        m = next;
    }
    mailbox_free(box);
}

void
worker_stop(struct worker *w)
{
    if (w == NULL)
        return;
    if (w->started) {
        struct job *j = job_new(JOB_QUIT, 0);
        if (j == NULL)
            return; /* no memory even for this: the process's end will do it */
        decode_interrupt(w->decoder);
        mailbox_post(w->jobs, &j->msg);
        pthread_join(w->thread, NULL);
    }
    decode_free(w->decoder);
    drop_all(w->jobs);
    drop_all(w->events);
    mem_free(w);
}

int
worker_answer(struct worker *w, const struct decode_request *request, struct err *err)
{
    size_t n_forced = (size_t)request->n_forced;
    struct job *j = job_new(JOB_ANSWER, request->n_prompt + n_forced);

    if (j == NULL)
        return err_set(err, CE_ENOMEM, "no memory for %zu tokens", request->n_prompt);
    j->request = *request;
    if (request->n_prompt > 0)
        memcpy(j->ids, request->prompt, request->n_prompt * sizeof(int32_t));
    if (n_forced > 0)
        memcpy(j->ids + request->n_prompt, request->forced, n_forced * sizeof(int32_t));
    j->request.prompt = j->ids;
    j->request.forced = j->ids + request->n_prompt;
    mailbox_post(w->jobs, &j->msg);
    return 0;
}

int
worker_set_policy(struct worker *w, const struct policy *policy, struct err *err)
{
    struct job *j = job_new(JOB_POLICY, 0);

    if (j == NULL)
        return err_set(err, CE_ENOMEM, "out of memory");
    j->policy = *policy;
    mailbox_post(w->jobs, &j->msg);
    return 0;
}

void
worker_interrupt(struct worker *w)
{
    decode_interrupt(w->decoder);
}

struct mailbox *
worker_events(const struct worker *w)
{
    return w->events;
}
