/* SPDX-License-Identifier: Apache-2.0
 * cloudd.c - wiring of the parts; see cloudd.h.
 *
 *     main thread: libevent loop          backend thread
 *     listener -> stream -> channel
 *              -> session  ==work==>      content, scheduler, backend
 *                          <==replies==
 *
 * Start: settings, model, backend, TLS, mailbox, backend thread, listener, the
 * ready line. Stop, by the first SIGTERM: no more accepts, GOAWAY, running
 * sequences until they end or drain_timeout; then BYE to the rest, a moment for
 * last bytes to leave, the backend thread, the model. A second SIGTERM does not wait.
 */
#include "config.h"

#include "server/cloudd.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include <event2/event.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"
#include "common/tls.h"
#include "engine/backend.h"
#include "engine/model.h"
#include "engine/tokenizer.h"
#include "server/backend_thread.h"
#include "server/listener.h"
#include "server/metrics.h"
#include "server/metrics_http.h"
#include "server/server.h"

#define TICK_US       250000
#define RESUME_US     5000
#define LAST_BYTES_US 2500000 /* for connections to end after BYE */
#define N_SIGNALS     5

struct cloudd {
    const struct server_conf *conf;
    const char *conf_path;
    struct model *model;
    struct tokenizer *tokenizer;
    SSL_CTX *tls;
    struct mailbox *replies;
    struct backend_thread *thread;
    struct metrics metrics;
    struct metrics_http *http; /* NULL when off */
    struct backend_info info;  /* its pointers live as long as the backend */
    struct server srv;
    bool srv_ready;
    struct event_base *base;
    struct listener *listener;
    int64_t tick_us; /* when the last tick was */
    struct event *mail, *tick, *resume, *signals[N_SIGNALS];
    int64_t drain_until_us; /* 0: serving */
    int64_t end_until_us;   /* 0: sessions may go on */
    enum log_level level;   /* what SIGUSR2 goes back to */
};

/* ---- opening ---- */

static int
open_backend(struct cloudd *c, struct backend **out, struct err *err)
{
    const struct server_conf *conf = c->conf;
    const struct model *m = c->model;
    struct backend_options opt = { 0 };
    int from = (int)conf->layer_from;

    if (from == 0 && m->n_exits > 0)
        from = m->exits[0].layer;
    if (from < m->layer_from && conf->layer_from == 0)
        from = m->layer_from;
    if (from == 0 && !conf->whole_model)
        return err_set(err, CE_EINVAL,
                       "%s has no exits: set layer_from to the layer that agents' states "
                       "come from",
                       conf->model);
    if (from < m->layer_from || from >= m->config.n_layers ||
        m->layer_to < m->config.n_layers || (conf->whole_model && m->layer_from > 0))
        return err_set(err, CE_EINVAL,
                       "%s holds blocks %d to %d of %d, which does not do for "
                       "layer_from = %d, whole_model = %s",
                       conf->model, m->layer_from, m->layer_to - 1, m->config.n_layers,
                       from, conf->whole_model ? "yes" : "no");
    opt.n_threads = (int)conf->threads;
    opt.cpu = conf->cpu;
    opt.packing_off = !conf->packing;
    opt.packing_cache = conf->packing_cache;
    opt.layer_from = conf->whole_model ? 0 : from;
    opt.layer_to = m->config.n_layers;
    opt.final_head = true;
    opt.n_ctx = (int)conf->n_ctx;
    opt.max_seqs = (int)conf->max_seqs;
    opt.kv_budget_bytes = (size_t)conf->kv_budget;
    return backend_cpu_open(out, m, &opt, err);
}

static void
fill_server(struct cloudd *c, const struct backend_info *info)
{
    const struct server_conf *conf = c->conf;
    struct server *srv = &c->srv;

    memcpy(srv->fingerprint, c->model->fingerprint, sizeof(srv->fingerprint));
    srv->n_layers = (uint32_t)info->n_layers;
    srv->d_model = (uint32_t)info->d_model;
    srv->n_vocab = (uint32_t)info->n_vocab;
    srv->n_ctx = (uint32_t)info->n_ctx;
    /* Block 0 takes token ids, so states start at 1 even when all is held. */
    srv->layer_from = info->layer_from > 0 ? (uint32_t)info->layer_from : 1;
    srv->whole_model = conf->whole_model;
    snprintf(srv->numerics, sizeof(srv->numerics), "%s", info->numerics_id);
    snprintf(srv->node, sizeof(srv->node), "%s", conf->node);
    srv->max_seqs = (uint32_t)conf->max_seqs_per_session;
    srv->max_sessions = (uint32_t)conf->max_sessions;
    srv->window = (uint32_t)conf->window;
    srv->max_queued = (size_t)conf->max_queued;
    srv->first_frame_us = conf->handshake_timeout_us;
    srv->idle_us = conf->idle_timeout_us;
}

static void
post_work(void *arg, struct work_msg *w)
{
    struct cloudd *c = arg;

    backend_thread_post(c->thread, w);
}

/* The computing half: model, backend, thread. */
static int
open_compute(struct cloudd *c, struct err *err)
{
    const struct server_conf *conf = c->conf;
    struct backend_thread_config bt = { .window = (uint32_t)conf->window,
                                        .step_rows = (uint32_t)conf->step_rows,
                                        .step_budget_us = conf->step_budget_ms * 1000,
                                        .eager = (enum content_eager)conf->eager,
                                        .max_seqs = (uint32_t)conf->max_seqs,
                                        .metrics = &c->metrics };
    int rc = model_open(&c->model, conf->model, conf->exits, err);

    if (rc == 0 && conf->whole_model)
        rc = tokenizer_open(&c->tokenizer, c->model->file, err);
    if (rc == 0)
        rc = mailbox_new(&c->replies, err);
    if (rc == 0)
        rc = open_backend(c, &bt.backend, err);
    if (!bt.backend)
        return rc;
    c->info = bt.backend->info;
    fill_server(c, &bt.backend->info);
    log_info("model=%s backend=%s numerics=%s blocks=%d..%d n_ctx=%d weights=%zu",
             conf->model, bt.backend->info.name, bt.backend->info.numerics_id,
             bt.backend->info.layer_from, bt.backend->info.layer_to - 1,
             bt.backend->info.n_ctx, bt.backend->info.weight_bytes);
    bt.tokenizer = c->tokenizer;
    rc = server_init(&c->srv, err);
    c->srv_ready = rc == 0;
    if (rc == 0)
        rc = backend_thread_start(&c->thread, &bt, c->replies, err);
    if (rc < 0)
        backend_close(bt.backend);
    return rc;
}

static int
open_tls(struct cloudd *c, struct err *err)
{
    struct tls_files files = { c->conf->ca, c->conf->cert, c->conf->key };

    return tls_server_new(&c->tls, &files, err);
}

/* ---- events ---- */

static void
on_mail(evutil_socket_t fd, short what, void *arg)
{
    struct cloudd *c = arg;
    struct mailbox_msg *m, *next;

    (void)fd;
    (void)what;
    for (m = mailbox_take_all(c->replies); m; m = next) {
        next = m->next;
        server_reply(&c->srv, (struct reply_msg *)m);
    }
}

/* Drained, or out of time: say BYE, then leave when the connections have gone. */
static void
drain_step(struct cloudd *c, int64_t now_us)
{
    if (c->end_until_us == 0 && (c->srv.n_sessions == 0 || now_us >= c->drain_until_us)) {
        if (c->srv.n_sessions > 0)
            log_warn("drain: %u sessions did not end in time", c->srv.n_sessions);
        server_end_all(&c->srv);
        c->end_until_us = now_us + LAST_BYTES_US;
    }
    if (c->end_until_us != 0 &&
        (listener_n_connections(c->listener) == 0 || now_us >= c->end_until_us))
        event_base_loopbreak(c->base);
}

static void
on_resume(evutil_socket_t fd, short what, void *arg)
{
    struct cloudd *c = arg;
    struct timeval soon = { 0, RESUME_US };

    (void)fd;
    (void)what;
    server_resume(&c->srv);
    if (c->srv.n_paused > 0)
        event_add(c->resume, &soon);
}

static void
on_tick(evutil_socket_t fd, short what, void *arg)
{
    struct cloudd *c = arg;
    int64_t now_us = clock_us();

    (void)fd;
    (void)what;
    if (c->tick_us != 0)
        metrics_loop_delay(&c->metrics, now_us - c->tick_us - TICK_US);
    c->tick_us = now_us;
    metrics_http_tick(c->http, now_us);
    server_tick(&c->srv, now_us);
    listener_tick(c->listener, now_us);
    if (c->drain_until_us != 0)
        drain_step(c, now_us);
}

static void
begin_drain(struct cloudd *c)
{
    int64_t now_us = clock_us();

    if (c->drain_until_us != 0) { /* asked twice: now */
        c->drain_until_us = now_us;
    } else {
        log_info("stopping sessions=%u drain_timeout_us=%lld", c->srv.n_sessions,
                 (long long)c->conf->drain_timeout_us);
        c->drain_until_us = now_us + c->conf->drain_timeout_us;
        listener_stop(c->listener);
        server_drain(&c->srv, (uint32_t)(c->conf->drain_timeout_us / 1000),
                     "the server stops");
    }
    drain_step(c, now_us);
}

/* Settings that can change while running: the log level, for now. The old ones
 * stay when anything is wrong. */
static void
reload(struct cloudd *c)
{
    struct server_conf fresh;
    struct err err;

    if (!c->conf_path)
        return;
    if (server_conf_load(&fresh, c->conf_path, NULL, 0, &err) < 0) {
        log_error("reload refused: %s", err.text);
        return;
    }
    c->level = (enum log_level)fresh.log_level;
    log_set_level(c->level);
    log_info("reloaded log_level=%s", log_level_names[c->level]);
    server_conf_free(&fresh);
}

/* Paths tell more than a page should. */
static const char *
base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

/* What is held right now, in one line; the backend's part as of its last turn. */
static void
log_figures(struct cloudd *c)
{
    struct backend_thread_figures f;

    backend_thread_figures(c->thread, &f);
    log_info("held connections=%u sessions=%u sequences=%zu rows=%zu "
             "hidden_state_bytes=%zu kv_bytes=%zu",
             listener_n_connections(c->listener), c->srv.n_sessions, f.seqs, f.rows,
             f.content_bytes, f.kv_bytes);
}

/* The same for the pages of metrics. */
static void
look(void *arg, struct metrics_view *v)
{
    struct cloudd *c = arg;
    const struct server_conf *conf = c->conf;
    struct backend_thread_figures f;

    backend_thread_figures(c->thread, &f);
    v->version = PACKAGE_VERSION;
    v->backend = c->info.name;
    v->numerics = c->srv.numerics;
    v->model = base_name(conf->model);
    memcpy(v->fingerprint, c->srv.fingerprint, sizeof(v->fingerprint));
    v->connections = listener_n_connections(c->listener);
    v->sessions = c->srv.n_sessions;
    v->paused = c->srv.n_paused;
    v->max_connections = (uint32_t)conf->max_connections;
    v->max_sessions = (uint32_t)conf->max_sessions;
    v->max_seqs = (uint32_t)conf->max_seqs;
    v->seqs = f.seqs;
    v->rows = f.rows;
    v->content_bytes = f.content_bytes;
    v->runnable = f.runnable;
    v->step_rows = f.step_rows;
    memcpy(v->step_cost_us, f.step_cost_us, sizeof(v->step_cost_us));
    v->kv_bytes = f.kv_bytes;
    v->kv_page_bytes = c->info.kv_page_bytes;
    v->kv_budget = c->info.kv_budget_bytes;
    v->weight_bytes = c->info.weight_bytes;
    v->draining = c->drain_until_us != 0;
    v->stall_us = conf->stall_timeout_us;
}

static void
on_signal(evutil_socket_t number, short what, void *arg)
{
    struct cloudd *c = arg;

    (void)what;
    if (number == SIGHUP)
        reload(c);
    else if (number == SIGUSR2)
        log_set_level(log_get_level() == LOG_LEVEL_DEBUG ? c->level : LOG_LEVEL_DEBUG);
    else if (number == SIGUSR1)
        log_figures(c);
    else
        begin_drain(c);
}

static int
open_metrics(struct cloudd *c, struct err *err)
{
    const struct server_conf *conf = c->conf;
    struct metrics_http_config mc = {
        .listen = conf->metrics_listen,
        .token_path = conf->metrics_token,
        .max_connections = (uint32_t)conf->metrics_connections,
        .look = look,
        .look_arg = c,
    };

    if (strcmp(conf->metrics_listen, "off") == 0)
        return 0;
    return metrics_http_new(&c->http, c->base, &c->metrics, &c->srv, &mc, err);
}

static int
open_events(struct cloudd *c, struct err *err)
{
    static const int numbers[N_SIGNALS] = { SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2 };
    const struct timeval tick = { 0, TICK_US };
    bool ok;
    int i;

    c->mail =
        event_new(c->base, mailbox_fd(c->replies), EV_READ | EV_PERSIST, on_mail, c);
    c->tick = event_new(c->base, -1, EV_PERSIST, on_tick, c);
    c->resume = evtimer_new(c->base, on_resume, c);
    ok = c->mail && c->tick && c->resume && event_add(c->mail, NULL) == 0 &&
         event_add(c->tick, &tick) == 0;
    for (i = 0; ok && i < N_SIGNALS; i++) {
        c->signals[i] = evsignal_new(c->base, numbers[i], on_signal, c);
        ok = c->signals[i] && event_add(c->signals[i], NULL) == 0;
    }
    return ok ? 0 : err_set(err, CE_ENOMEM, "event loop: no memory");
}

static int
open_network(struct cloudd *c, struct err *err)
{
    const struct server_conf *conf = c->conf;
    struct listener_config lc = {
        .listen = conf->listen,
        .max_connections = (uint32_t)conf->max_connections,
        .max_per_address = (uint32_t)conf->max_connections_per_address,
        .max_out = (size_t)conf->max_output,
    };
    int rc;

    c->base = event_base_new();
    if (!c->base)
        return err_set(err, CE_ENOMEM, "event loop: no memory");
    rc = open_events(c, err);
    if (rc == 0)
        rc = listener_new(&c->listener, c->base, &c->srv, c->tls, &lc, err);
    if (rc == 0)
        rc = open_metrics(c, err);
    return rc;
}

/* ---- life ---- */

int
cloudd_start(struct cloudd **out, const struct server_conf *conf, const char *conf_path,
             struct err *err)
{
    struct cloudd *c = mem_array_alloc(1, sizeof(*c));
    int rc;

    *out = NULL;
    if (!c)
        return err_set(err, CE_ENOMEM, "no memory");
    c->conf = conf;
    c->conf_path = conf_path;
    c->level = (enum log_level)conf->log_level;
    c->srv.post = post_work;
    c->srv.post_arg = c;
    c->srv.metrics = &c->metrics;
    rc = metrics_init(&c->metrics, (size_t)conf->metrics_tenants, err);
    if (rc == 0)
        rc = open_tls(c, err);
    if (rc == 0)
        rc = open_compute(c, err);
    if (rc == 0)
        rc = open_network(c, err);
    if (rc < 0) {
        cloudd_stop(c);
        return rc;
    }
    *out = c;
    return 0;
}

/* Whole or not at all, for scripts that wait for the file. */
static int
write_port_file(const struct cloudd *c, struct err *err)
{
    const char *path = c->conf->port_file;
    char temporary[4096];
    FILE *f;
    bool ok;

    if (!path || !path[0])
        return 0;
    snprintf(temporary, sizeof(temporary), "%s.tmp", path);
    f = fopen(temporary, "w");
    ok = f && fprintf(f, "%d\n", listener_port(c->listener)) > 0;
    if (f && fclose(f) != 0)
        ok = false;
    if (!ok || rename(temporary, path) != 0)
        return err_set(err, CE_EIO, "port_file = %s: cannot be written", path);
    return 0;
}

int
cloudd_run(struct cloudd *c, struct err *err)
{
    int rc = write_port_file(c, err);

    if (rc < 0)
        return rc;
    log_info("listening address=%s port=%d", listener_host(c->listener),
             listener_port(c->listener));
    while (!event_base_got_break(c->base)) {
        if (event_base_loop(c->base, EVLOOP_ONCE) != 0)
            return err_set(err, CE_EINTERNAL, "event loop failed");
        if (c->srv.n_paused > 0 && !evtimer_pending(c->resume, NULL))
            on_resume(-1, 0, c);
    }
    log_info("stopped");
    return 0;
}

void
cloudd_stop(struct cloudd *c)
{
    struct mailbox_msg *m, *next;
    int i;

    if (!c)
        return;
    if (c->listener)
        server_end_all(&c->srv);
    listener_free(c->listener);
    metrics_http_free(c->http);
    backend_thread_stop(c->thread);
    for (m = c->replies ? mailbox_take_all(c->replies) : NULL; m; m = next) {
        next = m->next;
        reply_msg_free((struct reply_msg *)m);
    }
    for (i = 0; i < N_SIGNALS; i++)
        if (c->signals[i])
            event_free(c->signals[i]);
    if (c->mail)
        event_free(c->mail);
    if (c->tick)
        event_free(c->tick);
    if (c->resume)
        event_free(c->resume);
    if (c->base)
        event_base_free(c->base);
    if (c->srv_ready)
        server_fini(&c->srv);
    mailbox_free(c->replies);
    tokenizer_free(c->tokenizer);
    model_close(c->model);
    SSL_CTX_free(c->tls);
    metrics_fini(&c->metrics);
    mem_free(c);
}

int
cloudd_check(const struct server_conf *conf, struct err *err)
{
    struct cloudd *c = mem_array_alloc(1, sizeof(*c));
    int rc;

    if (!c)
        return err_set(err, CE_ENOMEM, "no memory");
    c->conf = conf;
    rc = open_tls(c, err);
    if (rc == 0)
        rc = model_open(&c->model, conf->model, conf->exits, err);
    cloudd_stop(c);
    return rc;
}
