/* SPDX-License-Identifier: Apache-2.0
 * cloudd_internal.h - the running server's parts; for cloudd.c and cloudd_reload.c only.
 */
#ifndef CE_SERVER_CLOUDD_INTERNAL_H
#define CE_SERVER_CLOUDD_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

#include <event2/event.h>
#include <openssl/ssl.h>

#include "common/log.h"
#include "engine/backend.h"
#include "engine/model.h"
#include "engine/tokenizer.h"
#include "server/backend_thread.h"
#include "server/cloudd.h"
#include "server/drain.h"
#include "server/listener.h"
#include "server/loader.h"
#include "server/metrics.h"
#include "server/metrics_http.h"
#include "server/server.h"
#include "server/watchdog.h"

#define N_SIGNALS 5

struct cloudd {
    struct server_conf *conf; /* reload.c's live keys change */
    struct server_conf_source source;
    struct model *model;
    struct tokenizer *tokenizer;
    SSL_CTX *tls; /* until the listener has it */
    struct mailbox *replies;
    struct loader *loader;   /* of the model and the backend */
    struct backend *backend; /* until the thread has it */
    struct backend_thread *thread;
    bool serving;             /* all is loaded; agents are accepted */
    struct err failed;        /* why the loop was left, when something failed */
    struct watchdog watchdog; /* of the service manager */
    int64_t status_us;        /* when it was told how we are */
    struct metrics metrics;
    struct metrics_http *http; /* NULL when off */
    struct backend_info info;  /* its pointers live as long as the backend */
    struct server srv;
    struct event_base *base;
    struct listener *listener;
    int64_t tick_us; /* when the last tick was */
    struct event *mail, *tick, *resume, *signals[N_SIGNALS];
    struct drain drain;
    enum log_level level; /* what SIGUSR2 goes back to */
};

int cloudd_open_tls(const struct server_conf *conf, SSL_CTX **out,
                    struct err *err) CE_MUSTCHECK;

/* Settings that SIGHUP may change, put where they are heeded. */
void cloudd_set_limits(struct cloudd *c);
void cloudd_fill_listener(const struct server_conf *conf, struct listener_config *lc);
void cloudd_allow_files(const struct server_conf *conf);

/* SIGHUP: all of it or nothing. */
void cloudd_reload(struct cloudd *c);

#endif
