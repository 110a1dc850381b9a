/* SPDX-License-Identifier: Apache-2.0
 * app.h - the agent put together: model, cloud, worker and event loop, for whoever
 * asks (answers.c or chat.c).
 *
 * Thread: the main loop.
 */
#ifndef CE_AGENT_APP_H
#define CE_AGENT_APP_H

#include <event2/event.h>

#include "agent/agent_conf.h"
#include "agent/decode.h"
#include "agent/edge_model.h"
#include "common/error.h"

/* How the program ends; listed in cecollm-agent(1). */
enum app_exit {
    APP_EXIT_OK = 0,
    APP_EXIT_ANSWER = 1, /* an answer failed */
    APP_EXIT_USAGE = 2,  /* options or settings */
    APP_EXIT_MODEL = 3,  /* the model could not be loaded */
    APP_EXIT_CLOUD = 4,  /* the cloud could not be reached, or refused us */
    APP_EXIT_SIGNAL = 128,
};

struct app;

/* Called from the event loop. */
struct app_user {
    void (*ready)(void *ctx, struct app *a); /* once, before anything is asked */
    void (*prefill)(void *ctx, int32_t done, int32_t total);
    void (*token)(void *ctx, const struct reply_token *t);
    /* An answer ended; err is NULL when it is whole. */
    void (*done)(void *ctx, const struct decode_result *r, const struct err *err);
    /* app_set_policy took effect, or err says why not. */
    void (*policy)(void *ctx, const struct err *err);
    void (*idle_interrupt)(void *ctx); /* Ctrl-C while nothing is asked */
    /* What became of the cloud in the meantime; one line. */
    void (*notice)(void *ctx, const char *text);
    void *ctx;
};

/* Load, connect, run until app_quit; the exit code. Errors are printed. */
int app_run(const struct agent_conf *conf, const struct app_user *user);

struct edge_model *app_model(struct app *a);
struct event_base *app_base(struct app *a);

/* Ask for an answer; `done` follows. One at a time. */
int app_ask(struct app *a, const struct decode_request *request,
            struct err *err) CE_MUSTCHECK;

/* Other rules from the next answer on; `policy` follows. Not while one is made. */
int app_set_policy(struct app *a, const struct policy *p, struct err *err) CE_MUSTCHECK;

/* The cloud is gone, and tries to find it again have ended. */
bool app_cloud_lost(const struct app *a);

/* End the program with this code, once the loop turns. */
void app_quit(struct app *a, int code);

/* One line to standard error, with the program's name. */
void app_complain(const struct err *err);

#endif
