/* SPDX-License-Identifier: Apache-2.0
 * app.c - see app.h.
 *
 * Start: model, connection and greeting, upload thread, worker, then the user is
 * told `ready`. End in reverse; the worker first, since it owns the backend and
 * posts to the others.
 */
#include "agent/app.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/cloud_link.h"
#include "agent/rejoin.h"
#include "agent/remote.h"
#include "agent/uploader.h"
#include "agent/worker.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"
#include "common/tls.h"

#define APP_EPOCH 1 /* of the first session in this run */

/* Tries to find another one: at most so many, and waits between them. */
#define APP_TRIES         64
#define APP_FIRST_WAIT_US 250000
#define APP_MOST_WAIT_US  8000000

/* How long an upload may stand still before its channel counts as lost. */
#define APP_STALL_US 30000000

struct app {
    const struct agent_conf *conf;
    struct app_user user;
    struct edge_model model;
    struct event_base *base;
    struct event *mail, *sigint, *sigterm;

    struct dial_address where;
    SSL_CTX *tls;
    struct cloud_port *port;
    struct cloud_link *link;
    struct uploader *uploader;
    struct rejoin *rejoin;
    char token[FRAME_MAX_TEXT + 2]; /* bearer token */
    bool up;                        /* once */
    uint32_t cloud_n_ctx;
    struct err cloud_err; /* why it never came up */
    uint32_t retry_ms;    /* and when it may, if that was said */
    struct cloud_session session;

    struct worker *worker;
    bool busy, quit;
    int code;
};

void
app_complain(const struct err *err)
{
    fprintf(stderr, "cecollm-agent: %s\n", err->text);
}

struct edge_model *
app_model(struct app *a)
{
    return &a->model;
}

struct event_base *
app_base(struct app *a)
{
    return a->base;
}

bool
app_cloud_lost(const struct app *a)
{
    return a->rejoin != NULL && rejoin_gave_up(a->rejoin);
}

void
app_quit(struct app *a, int code)
{
    a->code = code;
    a->quit = true;
    event_base_loopbreak(a->base);
}

/* ---- the cloud ---- */

static int
check_welcome(struct app *a, const struct frame_welcome *w, struct err *err)
{
    const char *codec = states_codec_name(a->model.policy.mode == POLICY_NAIVE
                                              ? STATES_F32
                                              : (enum states_codec)a->conf->codec);

    for (int i = 0; i < w->n_codecs; i++)
        if (frame_str_equal(w->codecs[i], codec))
            return 0;
    return err_set(err, CE_EMISMATCH, "cloud %s:%s: does not take codec %s",
                   a->where.host, a->where.port, codec);
}

static void
read_session(struct app *a, const struct frame_welcome *w)
{
    size_t node = w->node.len;

    memset(&a->session, 0, sizeof(a->session));
    memcpy(a->session.session, w->session, sizeof(w->session));
    memcpy(a->session.secret, w->secret, sizeof(w->secret));
    a->session.epoch = a->link != NULL ? cloud_link_epoch(a->link) : APP_EPOCH;
    a->session.idle_ms = w->idle_ms;
    if (node > 0 && node < sizeof(a->session.node))
        memcpy(a->session.node, w->node.data, node);
}

/* Another session than the first. */
static void
on_up_again(struct app *a, const struct frame_welcome *w)
{
    struct err err = { 0 };
    int rc = check_welcome(a, w, &err);

    if (rc == 0)
        read_session(a, w);
    if (rc == 0 && a->uploader != NULL)
        rc = uploader_session(a->uploader, &a->session, &err);
    if (rc < 0)
        cloud_link_leave(a->link, &err);
    else
        rejoin_up(a->rejoin);
}

static void
on_up(void *ctx, const struct frame_welcome *w, bool exact)
{
    struct app *a = ctx;

    (void)exact;
    if (a->up)
        return on_up_again(a, w);
    if (check_welcome(a, w, &a->cloud_err) == 0) {
        a->up = true;
        a->cloud_n_ctx = w->n_ctx;
        read_session(a, w);
    }
    event_base_loopbreak(a->base);
}

static void
on_down(void *ctx, const struct err *why, uint32_t retry_ms)
{
    struct app *a = ctx;

    if (a->up) {
        log_debug("%s", why->text);
        if (a->rejoin != NULL)
            rejoin_down(a->rejoin, why, retry_ms);
        return;
    }
    a->cloud_err = *why;
    a->retry_ms = retry_ms;
    event_base_loopbreak(a->base);
}

static void
on_rejoin(void *ctx, const struct cloud_msg *m)
{
    struct app *a = ctx;

    rejoin_ask(a->rejoin, m);
}

static void
on_notice(void *ctx, const char *text)
{
    struct app *a = ctx;

    a->user.notice(a->user.ctx, text);
}

static uint64_t
bytes_up(void *ctx)
{
    struct app *a = ctx;

    return cloud_link_bytes(a->link) +
           (a->uploader != NULL ? uploader_bytes(a->uploader) : 0);
}

static int
read_token(struct app *a, struct err *err)
{
    const char *path = a->conf->token_file;

    if (path == NULL || path[0] == '\0')
        return 0;
    FILE *f = fopen(path, "re");
    struct stat st;
    if (f == NULL)
        return err_set(err, CE_EINVAL, "token_file: %s: %s", path, strerror(errno));
    bool ok = fgets(a->token, sizeof(a->token), f) != NULL;
    if (fstat(fileno(f), &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 077) != 0)
        log_warn("token_file: %s: others may read it (mode %03o); chmod 600 mends that",
                 path, (unsigned)(st.st_mode & 0777));
    fclose(f);
    a->token[strcspn(a->token, "\r\n")] = '\0';
    if (!ok || a->token[0] == '\0')
        return err_set(err, CE_EINVAL, "token_file: %s: no token in its first line",
                       path);
    if (strlen(a->token) > FRAME_MAX_TEXT)
        return err_set(err, CE_EINVAL, "token_file: %s: longer than %d bytes", path,
                       FRAME_MAX_TEXT);
    return 0;
}

static void
fill_hello(const struct app *a, struct frame_hello *h)
{
    const struct model_config *c = &a->model.model->config;
    const char *numerics =
        a->model.backend != NULL ? a->model.backend->info.numerics_id : "none";

    memset(h, 0, sizeof(*h));
    h->proto = FRAME_VERSION;
    h->epoch = APP_EPOCH;
    memcpy(h->fingerprint, a->model.model->fingerprint, sizeof(h->fingerprint));
    h->layer_from = (uint32_t)a->model.cut_layer;
    h->n_layers = (uint32_t)c->n_layers;
    h->d_model = (uint32_t)c->d_model;
    h->n_vocab = (uint32_t)c->n_vocab;
    h->n_codecs = STATES_N_CODECS;
    for (int i = 0; i < STATES_N_CODECS; i++) {
        const char *name = states_codec_name((enum states_codec)i);
        h->codecs[i] = frame_str_of(name, strlen(name));
    }
    h->numerics = frame_str_of(numerics, strlen(numerics));
    h->agent = frame_str_of("cecollm-agent", strlen("cecollm-agent"));
    h->token = frame_str_of(a->token, strlen(a->token));
    h->whole_model = a->model.policy.mode == POLICY_CLOUD;
}

/* Open the link, and again when the cloud said when to, until connect_timeout. 0: it is
 * up, or a->cloud_err says why not, or a signal came. */
static int
greet(struct app *a, const struct cloud_link_config *lc,
      const struct cloud_link_hooks *hooks, struct err *err)
{
    int64_t until_us = clock_us() + a->conf->connect_timeout_us;

    for (;;) {
        int rc = cloud_link_open(&a->link, lc, hooks, err);
        if (rc < 0)
            return rc;
        event_base_dispatch(a->base); /* until on_up or on_down, or a signal */
        int64_t wait_us = (int64_t)a->retry_ms * 1000;
        if (a->up || a->quit || wait_us == 0 || clock_us() + wait_us >= until_us)
            return 0;
        log_warn("%s", a->cloud_err.text);
        cloud_link_close(a->link);
        a->link = NULL;
        cloud_msg_drop_all(remote_inbox(a->port)); /* the end of that one */
        struct timeval wait = { wait_us / 1000000, wait_us % 1000000 };
        event_base_loopexit(a->base, &wait);
        event_base_dispatch(a->base);
        if (a->quit)
            return 0;
        memset(&a->cloud_err, 0, sizeof(a->cloud_err));
        a->retry_ms = 0;
    }
}

static int
open_link(struct app *a, struct err *err)
{
    const struct agent_conf *c = a->conf;
    struct tls_files files = { c->ca, c->cert, c->key, NULL };
    struct cloud_link_hooks hooks = { on_up, on_down, on_rejoin, a };
    struct cloud_link_config lc = { .base = a->base,
                                    .connect_timeout_us = c->connect_timeout_us,
                                    .silence_us = c->silence_timeout_us,
                                    .require_exact = c->require_exact,
                                    .naive = a->model.policy.mode == POLICY_NAIVE };
    int rc = dial_parse(&a->where, c->cloud, err);

    if (rc == 0)
        rc = read_token(a, err);
    if (rc == 0)
        rc = tls_client_new(&a->tls, &files, err);
    if (rc < 0) {
        a->code = APP_EXIT_USAGE;
        return rc;
    }
    a->code = APP_EXIT_CLOUD;
    rc = remote_new(&a->port, err);
    if (rc < 0)
        return rc;
    lc.ctx = a->tls;
    lc.where = a->where;
    lc.worker = remote_inbox(a->port);
    fill_hello(a, &lc.hello);
    rc = greet(a, &lc, &hooks, err);
    if (rc < 0)
        return rc;
    if (!a->up && a->cloud_err.code != 0 && err != NULL)
        *err = a->cloud_err;
    return a->up ? 0 : a->cloud_err.code != 0 ? a->cloud_err.code : CE_EAGAIN;
}

static int
open_uploader(struct app *a, struct err *err)
{
    struct uploader_config uc = { .ctx = a->tls,
                                  .where = a->where,
                                  .connect_timeout_us = a->conf->connect_timeout_us,
                                  .stall_timeout_us = APP_STALL_US,
                                  .d_model = (size_t)a->model.model->config.d_model,
                                  .epoch = APP_EPOCH,
                                  .worker = remote_inbox(a->port) };
    int rc = uploader_start(&a->uploader, &uc, err);

    if (rc == 0)
        rc = uploader_session(a->uploader, &a->session, err);
    if (rc == 0)
        cloud_link_set_uploader(a->link, uploader_mailbox(a->uploader));
    return rc;
}

static int
open_rejoin(struct app *a, struct err *err)
{
    struct rejoin_config rc = { .base = a->base,
                                .where = a->where,
                                .connect_timeout_us = a->conf->connect_timeout_us,
                                .limits = { APP_FIRST_WAIT_US, APP_MOST_WAIT_US,
                                            a->conf->reconnect_us, APP_TRIES },
                                .link = a->link,
                                .worker = remote_inbox(a->port),
                                .notice = on_notice,
                                .ctx = a };

    return rejoin_new(&a->rejoin, &rc, err);
}

static int
open_cloud(struct app *a, struct err *err)
{
    const struct agent_conf *c = a->conf;
    bool naive = a->model.policy.mode == POLICY_NAIVE;
    static const char *const needed[] = { "cloud", "ca", "cert", "key" };
    const char *const given[] = { c->cloud, c->ca, c->cert, c->key };

    bool token = c->token_file != NULL && c->token_file[0] != '\0';
    bool cert =
        (c->cert != NULL && c->cert[0] != '\0') || (c->key != NULL && c->key[0] != '\0');
    size_t n = token && !cert ? 2 : 4; /* a token may do without a certificate */

    for (size_t i = 0; i < n; i++)
        if (given[i] == NULL || given[i][0] == '\0') {
            a->code = APP_EXIT_USAGE;
            return err_set(err, CE_EINVAL, "mode %s needs --%s",
                           policy_mode_names[a->model.policy.mode], needed[i]);
        }
    int rc = open_link(a, err);
    if (rc == 0 && !naive && a->model.policy.mode != POLICY_CLOUD)
        rc = open_uploader(a, err);
    if (rc == 0)
        rc = open_rejoin(a, err);
    if (rc < 0)
        return rc;
    struct remote_config rc_conf = {
        .link = cloud_link_mailbox(a->link),
        .rows = a->uploader != NULL ? uploader_mailbox(a->uploader)
                                    : cloud_link_mailbox(a->link),
        .epoch = APP_EPOCH,
        .wait = a->model.policy.on_loss == POLICY_LOSS_FAIL,
        .d_model = (size_t)a->model.model->config.d_model,
        .codec = (enum states_codec)c->codec,
        .retain_bytes = (size_t)c->retain_bytes,
        .naive = naive,
        .keep_kv = c->naive_kv == 0,
        .bytes_up = bytes_up,
        .ctx = a,
    };
    remote_connect(a->port, &rc_conf);
    return 0;
}

/* ---- answers ---- */

int
app_ask(struct app *a, const struct decode_request *request, struct err *err)
{
    int rc = worker_answer(a->worker, request, err);

    a->busy = rc == 0;
    return rc;
}

int
app_set_policy(struct app *a, const struct policy *p, struct err *err)
{
    const struct backend *b = a->model.backend;

    if (p->mode == POLICY_EDGE_FULL && (b == NULL || !b->info.has_final_head))
        return err_set(err, CE_EINVAL,
                       "mode edge-full needs the whole model here: start with it");
    if (p->mode != a->model.policy.mode &&
        (p->mode == POLICY_NAIVE || p->mode == POLICY_CLOUD ||
         a->model.policy.mode == POLICY_NAIVE || a->model.policy.mode == POLICY_CLOUD))
        return err_set(err, CE_EINVAL, "mode %s can only be started with",
                       policy_mode_names[p->mode]);
    int rc = worker_set_policy(a->worker, p, err);
    if (rc == 0) {
        a->busy = true;
        a->model.policy = *p;
    }
    return rc;
}

static void
on_worker_event(struct app *a, struct worker_event *e)
{
    const struct err *err = e->err.code != 0 ? &e->err : NULL;

    switch (e->kind) {
    case WORKER_TOKEN:
        a->user.token(a->user.ctx, &e->token);
        break;
    case WORKER_PREFILL:
        a->user.prefill(a->user.ctx, e->done, e->total);
        break;
    case WORKER_DONE:
        a->busy = false;
        a->user.done(a->user.ctx, &e->result, err);
        break;
    case WORKER_POLICY:
        a->busy = false;
        a->user.policy(a->user.ctx, err);
        break;
    }
}

static void
on_mail(evutil_socket_t fd, short what, void *arg)
{
    struct app *a = arg;
    struct mailbox_msg *m = mailbox_take_all(worker_events(a->worker));

    (void)fd;
    (void)what;
    while (m != NULL) {
        struct mailbox_msg *next = m->next;
        on_worker_event(a, (struct worker_event *)(void *)m);
        mem_free(m);
        m = next;
    }
}

static void
interrupt(struct app *a)
{
    worker_interrupt(a->worker);
    if (a->port != NULL)
        remote_interrupt(a->port);
}

static void
on_signal(evutil_socket_t sig, short what, void *arg)
{
    struct app *a = arg;

    (void)what;
    if (a->worker == NULL || sig == SIGTERM)
        return app_quit(a, APP_EXIT_SIGNAL + (int)sig);
    if (a->busy)
        interrupt(a);
    else
        a->user.idle_interrupt(a->user.ctx);
}

static int
open_worker(struct app *a, struct err *err)
{
    struct decode_setup s = { .backend = a->model.backend,
                              .port = a->port,
                              .vocab = edge_model_vocab(&a->model),
                              .exit_layers = a->model.exit_layers,
                              .cut_layer = a->model.cut_layer,
                              .n_layers = a->model.model->config.n_layers,
                              .n_ctx = a->model.n_ctx,
                              .prefill_chunk = (int)a->conf->prefill_chunk,
                              .trace = a->conf->trace };

    if (a->port != NULL && a->cloud_n_ctx > 0 && a->cloud_n_ctx < (uint32_t)s.n_ctx)
        s.n_ctx = (int)a->cloud_n_ctx;
    int rc = worker_start(&a->worker, &s, &a->model.policy, err);
    if (rc < 0)
        return rc;
    a->mail = event_new(a->base, mailbox_fd(worker_events(a->worker)),
                        EV_READ | EV_PERSIST, on_mail, a);
    if (a->mail == NULL || event_add(a->mail, NULL) < 0)
        return err_set(err, CE_ENOMEM, "out of memory");
    return 0;
}

/* ---- start and end ---- */

/* A loop that can also watch a plain file as standard input. */
static int
open_loop(struct app *a, struct err *err)
{
    struct event_config *ec = event_config_new();

    if (ec != NULL) {
        event_config_require_features(ec, EV_FEATURE_FDS);
        a->base = event_base_new_with_config(ec);
        event_config_free(ec);
    }
    if (a->base == NULL)
        return err_set(err, CE_ENOMEM, "no event loop");
    a->sigint = evsignal_new(a->base, SIGINT, on_signal, a);
    a->sigterm = evsignal_new(a->base, SIGTERM, on_signal, a);
    if (a->sigint == NULL || a->sigterm == NULL || evsignal_add(a->sigint, NULL) < 0 ||
        evsignal_add(a->sigterm, NULL) < 0)
        return err_set(err, CE_ENOMEM, "no event loop");
    signal(SIGPIPE, SIG_IGN);
    return 0;
}

static int
start(struct app *a, struct err *err)
{
    a->code = APP_EXIT_ANSWER;
    int rc = open_loop(a, err);
    if (rc < 0)
        return rc;
    rc = edge_model_open(&a->model, a->conf, err);
    if (rc < 0) {
        a->code = rc == CE_EINVAL ? APP_EXIT_USAGE : APP_EXIT_MODEL;
        return rc;
    }
    if (policy_uses_cloud(&a->model.policy))
        rc = open_cloud(a, err);
    if (rc == 0)
        rc = open_worker(a, err);
    return rc;
}

static void
stop(struct app *a)
{
    if (a->mail != NULL)
        event_free(a->mail);
    if (a->worker != NULL)
        interrupt(a);
    worker_stop(a->worker);
    uploader_stop(a->uploader);
    rejoin_free(a->rejoin);
    a->rejoin = NULL;
    if (a->link != NULL)
        cloud_link_set_uploader(a->link, NULL);
    cloud_link_close(a->link);
    remote_free(a->port);
    edge_model_close(&a->model);
    if (a->sigint != NULL)
        event_free(a->sigint);
    if (a->sigterm != NULL)
        event_free(a->sigterm);
    if (a->base != NULL)
        event_base_free(a->base);
    SSL_CTX_free(a->tls);
    libevent_global_shutdown();
}

int
app_run(const struct agent_conf *conf, const struct app_user *user)
{
    struct app *a = mem_array_alloc(1, sizeof(*a));
    struct err err = { 0 };
    int code;

    if (a == NULL)
        return APP_EXIT_ANSWER;
    a->conf = conf;
    a->user = *user;
    if (start(a, &err) == 0) {
        a->code = APP_EXIT_OK;
        user->ready(user->ctx, a);
        if (!a->quit)
            event_base_dispatch(a->base);
    } else if (err.code != 0) {
        app_complain(&err);
    }
    code = a->code;
    stop(a);
    mem_free(a);
    return code;
}
