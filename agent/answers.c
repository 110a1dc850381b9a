/* SPDX-License-Identifier: Apache-2.0
 * answers.c - see answers.h. One model, one session with the cloud, any number of
 * prompts. A prompt that fails is reported and the next one is tried, unless the
 * cloud is gone and nothing can go on without it.
 */
#include "agent/answers.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "agent/app.h"
#include "agent/display.h"
#include "agent/inputs.h"
#include "agent/report.h"
#include "common/memory.h"

struct answers {
    const struct agent_conf *conf;
    struct app *app;
    struct inputs *inputs;
    struct input input; /* being answered */
    struct display display;
    struct report report;
    int code;
};

static void next_input(struct answers *b);

static void
complain(struct answers *b, const struct err *err)
{
    app_complain(err);
    if (b->code == APP_EXIT_OK)
        b->code = APP_EXIT_ANSWER;
}

/* The input as ids, and the question asked. */
static int
ask(struct answers *b, struct err *err)
{
    struct edge_model *m = app_model(b->app);
    struct input *in = &b->input;
    struct decode_request q = { .max_tokens = in->max_tokens,
                                .sampling = b->conf->sampling,
                                .stops = (const char *const *)b->conf->stops,
                                .n_stops = b->conf->n_stops,
                                .forced = in->force_ids,
                                .n_forced = in->n_force_ids,
                                .want_hash = b->conf->hash,
                                .deadline_ms = (uint32_t)(b->conf->deadline_us / 1000) };

    if (in->ids == NULL) {
        struct chat_message messages[2];
        int n = 0;
        size_t n_ids = 0;
        if (b->conf->system != NULL && b->conf->system[0] != '\0')
            messages[n++] = (struct chat_message){ "system", b->conf->system,
                                                   strlen(b->conf->system) };
        messages[n++] = (struct chat_message){ "user", in->text, in->text_len };
        int rc = edge_model_encode(m, messages, n, &in->ids, &n_ids, err);
        if (rc < 0)
            return rc;
        in->n_ids = (int)n_ids;
    }
    for (int i = 0; i < in->n_ids; i++)
        if (in->ids[i] >= m->model->config.n_vocab)
            return err_set(err, CE_EINVAL, "ids: %d is not in the vocabulary of %d",
                           (int)in->ids[i], m->model->config.n_vocab);
    q.prompt = in->ids;
    q.n_prompt = (size_t)in->n_ids;
    report_begin(&b->report);
    display_begin(&b->display);
    return app_ask(b->app, &q, err);
}

static void
next_input(struct answers *b)
{
    for (;;) {
        struct err err = { 0 };
        input_fini(&b->input);
        int rc = inputs_next(b->inputs, &b->input, &err);
        if (rc == 1)
            rc = ask(b, &err) == 0 ? 1 : -1;
        if (rc == 1)
            return;
        if (rc == 0)
            return app_quit(b->app, b->code);
        complain(b, &err);
    }
}

static void
on_ready(void *ctx, struct app *a)
{
    struct answers *b = ctx;

    b->app = a;
    display_init(&b->display, b->conf, app_model(a), stdout, stderr);
    report_init(&b->report, app_model(a), b->conf->hash);
    next_input(b);
}

static void
on_prefill(void *ctx, int32_t done, int32_t total)
{
    struct answers *b = ctx;

    display_prefill(&b->display, done, total);
}

static void
on_token(void *ctx, const struct reply_token *t)
{
    struct answers *b = ctx;

    if (b->conf->json)
        report_token(&b->report, t);
    else
        display_token(&b->display, t);
}

static void
on_done(void *ctx, const struct decode_result *r, const struct err *err)
{
    struct answers *b = ctx;

    display_end(&b->display);
    if (b->conf->json)
        report_end(&b->report, stdout, b->input.id, r, err);
    if (err != NULL)
        complain(b, err);
    else
        display_summary(&b->display, r);
    if (r->end == DECODE_END_INTERRUPT)
        return app_quit(b->app, APP_EXIT_SIGNAL + SIGINT);
    if (err != NULL && app_cloud_lost(b->app))
        return app_quit(b->app, b->code);
    next_input(b);
}

static void
on_policy(void *ctx, const struct err *err)
{
    (void)ctx;
    (void)err;
}

static void
on_idle_interrupt(void *ctx)
{
    struct answers *b = ctx;

    app_quit(b->app, APP_EXIT_SIGNAL + SIGINT);
}

static void
on_notice(void *ctx, const char *text)
{
    struct answers *b = ctx;

    display_notice(&b->display, text);
}

int
answers_run(const struct agent_conf *conf)
{
    struct answers b = { .conf = conf };
    struct app_user user = { on_ready,  on_prefill,        on_token,  on_done,
                             on_policy, on_idle_interrupt, on_notice, &b };
    struct err err = { 0 };

    if (inputs_open(&b.inputs, conf, &err) < 0) {
        app_complain(&err);
        return APP_EXIT_USAGE;
    }
    int code = app_run(conf, &user);
    input_fini(&b.input);
    inputs_close(b.inputs);
    report_fini(&b.report);
    return code;
}
