/* SPDX-License-Identifier: Apache-2.0
 * cloudd.c - wiring of the parts; see cloudd.h.
 *
 *     main thread: libevent loop          backend thread
 *     listener -> stream -> channel
 *              -> session  ==work==>      content, scheduler, backend
 *                          <==replies==
 *
 * Start: TLS, sockets, the pages for operators, rights given up; then the loop turns
 * and a thread loads the model and opens the backend, so that /healthz and signals are
 * answered meanwhile; then the backend thread, accepting, the ready line.
 * Stop: drain.h says the order. Then the backend thread, the model.
 * Reload: cloudd_reload.c.
 */
#include "config.h"

#include "server/cloudd_internal.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <event2/event.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"
#include "common/tls.h"
#include "engine/backend.h"
#include "engine/model.h"
#include "engine/tokenizer.h"
#include "server/backend_thread.h"
#include "server/drain.h"
#include "server/listener.h"
#include "server/loader.h"
#include "server/metrics.h"
#include "server/metrics_http.h"
#include "server/privileges.h"
#include "server/server.h"
#include "server/service.h"
#include "server/sockets.h"
#include "server/tenants_reload.h"
#include "server/watchdog.h"

#define TICK_US   250000
#define RESUME_US 5000
#define STATUS_US 5000000

/* ---- opening ---- */

int
cloudd_layer_from(const struct server_conf *conf, const struct model *m, int *out,
                  struct err *err)
{
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
    *out = from;
    return 0;
}

static int
open_backend(struct cloudd *c, struct backend **out, struct err *err)
{
    const struct server_conf *conf = c->conf;
    struct backend_options opt = { 0 };
    int from, rc = cloudd_layer_from(conf, c->model, &from, err);

    if (rc < 0)
        return rc;
    opt.n_threads = (int)conf->threads;
    opt.cpu = conf->cpu;
    opt.packing_off = !conf->packing;
    opt.packing_cache = conf->packing_cache;
    opt.layer_from = conf->whole_model ? 0 : from;
    opt.layer_to = c->model->config.n_layers;
    opt.final_head = true;
    opt.n_ctx = (int)conf->n_ctx;
    opt.max_seqs = (int)conf->max_seqs;
    opt.kv_budget_bytes = (size_t)conf->kv_budget;
    return backend_cpu_open(out, c->model, &opt, err);
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
    srv->max_seqs = (uint32_t)conf->max_seqs_per_session;
    srv->window = (uint32_t)conf->window;
}

static void
post_work(void *arg, struct work_msg *w)
{
    struct cloudd *c = arg;

    backend_thread_post(c->thread, w);
}

/* The computing half. In the loader's thread: touches only what is opened here. */
static int
load_compute(void *arg, struct err *err)
{
    struct cloudd *c = arg;
    const struct server_conf *conf = c->conf;
    const struct backend_info *info;
    int rc = model_open(&c->model, conf->model, conf->exits, err);

    if (rc == 0 && conf->whole_model)
        rc = tokenizer_open(&c->tokenizer, c->model->file, err);
    if (rc == 0)
        rc = open_backend(c, &c->backend, err);
    if (rc < 0)
        return rc;
    info = &c->backend->info;
    log_info("model=%s backend=%s numerics=%s blocks=%d..%d n_ctx=%d weights=%zu",
             conf->model, info->name, info->numerics_id, info->layer_from,
             info->layer_to - 1, info->n_ctx, info->weight_bytes);
    return 0;
}

/* And its thread, when it is open. */
static int
start_compute(struct cloudd *c, struct err *err)
{
    const struct server_conf *conf = c->conf;
    struct backend_thread_config bt = { .backend = c->backend,
                                        .tokenizer = c->tokenizer,
                                        .window = (uint32_t)conf->window,
                                        .step_rows = (uint32_t)conf->step_rows,
                                        .step_budget_us = conf->step_budget_ms * 1000,
                                        .eager = (enum content_eager)conf->eager,
                                        .max_seqs = (uint32_t)conf->max_seqs,
                                        .states_budget = (size_t)conf->states_budget,
                                        .seq_idle_us = conf->seq_idle_timeout_us,
                                        .metrics = &c->metrics };
    int rc;

    c->info = c->backend->info;
    fill_server(c, &c->info);
    cloudd_set_limits(c);
    rc = server_init(&c->srv, err);
    if (rc == 0)
        rc = backend_thread_start(&c->thread, &bt, c->replies, err);
    if (rc == 0)
        c->backend = NULL; /* the thread's */
    return rc;
}

/* ---- events ---- */

static void
on_mail(evutil_socket_t fd, short what, void *arg)
{
    struct cloudd *c = arg;
    int64_t now_us = clock_us();
    struct mailbox_msg *m, *next;

    (void)fd;
    (void)what;
    for (m = mailbox_take_all(c->replies); m; m = next) {
        next = m->next;
        server_reply(&c->srv, (struct reply_msg *)m, now_us);
    }
}

static void
go_on_draining(struct cloudd *c)
{
    switch (drain_step(&c->drain, clock_us(), c->srv.n_sessions,
                       listener_n_connections(c->listener))) {
    case DRAIN_END:
        if (c->srv.n_sessions > 0)
            log_warn("drain: %u sessions did not end in time", c->srv.n_sessions);
        server_end_all(&c->srv);
        break;
    case DRAIN_LEAVE:
        event_base_loopbreak(c->base);
        break;
    default:
        break;
    }
}

static void
on_resume(evutil_socket_t fd, short what, void *arg)
{
    struct cloudd *c = arg;
    struct timeval soon = { 0, RESUME_US };

    (void)fd;
    (void)what;
    server_resume(&c->srv, clock_us());
    if (server_is_holding(&c->srv))
        event_add(c->resume, &soon);
}

/* How we are, for the service manager. */
static void
tell_service(struct cloudd *c, int64_t now_us)
{
    int64_t turn_us =
        atomic_load_explicit(&c->metrics.turn_since_us, memory_order_relaxed);

    switch (watchdog_ask(&c->watchdog, now_us, turn_us, c->conf->stall_timeout_us)) {
    case WATCHDOG_FEED:
        service_notify("WATCHDOG=1");
        break;
    case WATCHDOG_STUCK:
        log_error("a step has run for %lld s; the watchdog is not fed until it ends",
                  (long long)(now_us - turn_us) / 1000000);
        break;
    default:
        break;
    }
    if (!c->serving || drain_is_on(&c->drain) || now_us - c->status_us < STATUS_US)
        return;
    c->status_us = now_us;
    service_notify("STATUS=%u sessions on %u connections", c->srv.n_sessions,
                   listener_n_connections(c->listener));
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
    if (drain_is_on(&c->drain))
        go_on_draining(c);
    tell_service(c, now_us);
}

static void
begin_drain(struct cloudd *c)
{
    int64_t timeout_us = c->conf->drain_timeout_us;

    if (!c->serving) {
        log_info("stopping before the model is loaded");
        service_notify("STOPPING=1");
        event_base_loopbreak(c->base);
        return;
    }
    if (drain_begin(&c->drain, clock_us(), timeout_us)) {
        log_info("stopping sessions=%u drain_timeout_us=%lld", c->srv.n_sessions,
                 (long long)timeout_us);
        service_notify("STOPPING=1\nSTATUS=draining %u sessions", c->srv.n_sessions);
        listener_stop(c->listener);
        server_drain(&c->srv, (uint32_t)(timeout_us / 1000), "the server stops");
    } else {
        log_info("stopping at once, asked again");
    }
    go_on_draining(c);
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
    struct backend_thread_figures f = { 0 };

    if (c->serving)
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
    struct backend_thread_figures f = { 0 };

    if (c->serving)
        backend_thread_figures(c->thread, &f);
    v->version = PACKAGE_VERSION;
    v->loading = !c->serving;
    v->backend = c->serving ? c->info.name : "";
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
    v->wants = f.wants;
    v->row_bytes = f.row_bytes;
    v->states_budget = (size_t)conf->states_budget;
    v->kv_promised = f.kv_promised;
    memcpy(v->step_cost_us, f.step_cost_us, sizeof(v->step_cost_us));
    v->kv_bytes = f.kv_bytes;
    v->kv_page_bytes = c->info.kv_page_bytes;
    v->kv_budget = c->info.kv_budget_bytes;
    v->weight_bytes = c->info.weight_bytes;
    v->draining = drain_is_on(&c->drain);
    v->stall_us = conf->stall_timeout_us;
}

static void
on_signal(evutil_socket_t number, short what, void *arg)
{
    struct cloudd *c = arg;

    (void)what;
    if (number == SIGHUP)
        cloudd_reload(c);
    else if (number == SIGUSR2)
        log_set_level(log_get_level() == LOG_LEVEL_DEBUG ? c->level : LOG_LEVEL_DEBUG);
    else if (number == SIGUSR1)
        log_figures(c);
    else
        begin_drain(c);
}

static int
open_events(struct cloudd *c, struct err *err)
{
    static const int numbers[N_SIGNALS] = { SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2 };
    const struct timeval tick = { 0, TICK_US };
    bool ok;
    int i;

    c->base = event_base_new();
    if (!c->base)
        return err_set(err, CE_ENOMEM, "event loop: no memory");
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
open_agents(struct cloudd *c, int fd, struct err *err)
{
    struct listener_config lc;
    int rc = 0;

    if (fd < 0)
        rc = sockets_bind("listen", c->conf->listen, &fd, err);
    if (rc < 0)
        return rc;
    cloudd_fill_listener(c->conf, &lc);
    return listener_new(&c->listener, c->base, &c->srv, fd, c->tls, &lc, err);
}

static int
open_metrics(struct cloudd *c, int fd, struct err *err)
{
    const struct server_conf *conf = c->conf;
    struct metrics_http_config mc = {
        .fd = fd,
        .token_path = conf->metrics_token,
        .max_connections = (uint32_t)conf->metrics_connections,
        .look = look,
        .look_arg = c,
    };
    int rc = 0;

    if (fd < 0 && strcmp(conf->metrics_listen, "off") == 0)
        return 0;
    if (fd < 0)
        rc = sockets_bind("metrics_listen", conf->metrics_listen, &mc.fd, err);
    if (rc < 0)
        return rc;
    return metrics_http_new(&c->http, c->base, &c->metrics, &c->srv, &mc, err);
}

static int
open_network(struct cloudd *c, struct err *err)
{
    struct service_sockets given;
    int rc = service_sockets(&given, err);

    if (rc == 0)
        rc = open_agents(c, given.agents, err);
    else
        return rc;
    if (rc == 0)
        rc = open_metrics(c, given.metrics, err);
    else if (given.metrics >= 0)
        close(given.metrics);
    return rc;
}

/* ---- life ---- */

static int write_port_file(const struct cloudd *c, struct err *err);

/* The model is there: begin to serve. */
static int
begin_to_serve(struct cloudd *c, struct err *err)
{
    int rc = start_compute(c, err);

    if (rc == 0)
        rc = listener_start(c->listener, err);
    if (rc == 0)
        rc = write_port_file(c, err);
    if (rc < 0)
        return rc;
    c->serving = true;
    c->watchdog.interval_us = service_watchdog_us();
    c->status_us = clock_us();
    log_info("listening address=%s port=%d", listener_host(c->listener),
             listener_port(c->listener));
    service_notify("READY=1\nSTATUS=serving on %s port %d", listener_host(c->listener),
                   listener_port(c->listener));
    return 0;
}

static void
on_loaded(void *arg, int rc, const struct err *err)
{
    struct cloudd *c = arg;

    c->failed = *err;
    if (rc == 0)
        rc = begin_to_serve(c, &c->failed);
    if (rc == 0) {
        c->failed.code = 0;
        return;
    }
    c->failed.code = rc;
    event_base_loopbreak(c->base);
}

static int
start_loading(struct cloudd *c, struct err *err)
{
    const struct loader_job job = { c, load_compute, on_loaded };

    service_notify("STATUS=loading the model");
    return loader_start(&c->loader, c->base, &job, err);
}

int
cloudd_start(struct cloudd **out, struct server_conf *conf,
             const struct server_conf_source *source, struct err *err)
{
    struct cloudd *c = mem_array_alloc(1, sizeof(*c));
    int rc;

    *out = NULL;
    if (!c)
        return err_set(err, CE_ENOMEM, "no memory");
    c->conf = conf;
    c->source = *source;
    c->level = (enum log_level)conf->log_level;
    c->srv.post = post_work;
    c->srv.post_arg = c;
    c->srv.metrics = &c->metrics;
    cloudd_allow_files(conf);
    rc = metrics_init(&c->metrics, (size_t)conf->metrics_tenants, err);
    if (rc == 0)
        rc = cloudd_open_tls(conf, &c->tls, err);
    if (rc == 0)
        rc = tenants_reload(&c->srv, conf->tenants, err);
    if (rc == 0)
        rc = mailbox_new(&c->replies, err);
    if (rc == 0)
        rc = open_events(c, err);
    if (rc == 0)
        rc = open_network(c, err);
    SSL_CTX_free(c->tls); /* the listener has it */
    c->tls = NULL;
    if (rc == 0)
        rc = privileges_drop(conf->user, conf->group, err);
    privileges_core_dumps(conf->core_dumps);
    if (rc == 0)
        rc = start_loading(c, err);
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
    while (!event_base_got_break(c->base)) {
        if (event_base_loop(c->base, EVLOOP_ONCE) != 0)
            return err_set(err, CE_EINTERNAL, "event loop failed");
        if (server_is_holding(&c->srv) && !evtimer_pending(c->resume, NULL))
            on_resume(-1, 0, c);
    }
    if (c->failed.code < 0) {
        *err = c->failed;
        return err->code;
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
    for (i = 0; i < N_SIGNALS; i++)
        if (c->signals[i])
            event_free(c->signals[i]); /* from here on they end the process */
    loader_free(c->loader);
    if (c->thread)
        server_end_all(&c->srv);
    listener_free(c->listener);
    metrics_http_free(c->http);
    backend_thread_stop(c->thread);
    if (c->backend)
        backend_close(c->backend);
    for (m = c->replies ? mailbox_take_all(c->replies) : NULL; m; m = next) {
        next = m->next;
        reply_msg_free((struct reply_msg *)m);
    }
    if (c->mail)
        event_free(c->mail);
    if (c->tick)
        event_free(c->tick);
    if (c->resume)
        event_free(c->resume);
    if (c->base)
        event_base_free(c->base);
    server_fini(&c->srv);
    mailbox_free(c->replies);
    tokenizer_free(c->tokenizer);
    model_close(c->model);
    SSL_CTX_free(c->tls);
    metrics_fini(&c->metrics);
    mem_free(c);
}
