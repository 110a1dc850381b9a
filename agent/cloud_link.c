/* SPDX-License-Identifier: Apache-2.0
 * cloud_link.c - see cloud_link.h.
 *
 * A channel that went down stays until the next one takes its place, so that nothing
 * is freed under a callback's feet; its socket is shut at once, or when a BYE has left.
 */
#include "agent/cloud_link.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <openssl/rand.h>

#include "agent/bev_frames.h"
#include "agent/requests.h"
#include "agent/rows.h"
#include "common/bytebuf.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"
#include "common/tls.h"

#define LINK_MAX_BACKLOG ((size_t)256 << 10) /* STATES waiting in the output, naive */

enum link_state { LINK_CONNECTING, LINK_UP, LINK_DOWN };

struct cloud_link {
    struct cloud_link_config config;
    struct cloud_link_hooks hooks;
    enum link_state state;
    struct bufferevent *bev;
    struct event *mail; /* the mailbox has something */
    struct event *timer;
    struct event *move; /* when to leave a cloud that said GOAWAY */
    struct mailbox *in, *uploader;
    struct rows rows; /* naive */
    struct requests requests;
    uint32_t idle_ms;
    bool leaving; /* DOWN, but a BYE is on its way */
    int64_t last_sent_us, last_received_us;
    int64_t retry_at_us; /* GOAWAY: not before */
    uint64_t nonce;
    _Atomic uint64_t bytes;
};

/* ---- going down ---- */

static void
set_state(struct cloud_link *l, enum link_state to, const char *why)
{
    static const char *const names[] = { "CONNECTING", "UP", "DOWN" };

    log_debug("infer state=%s was=%s reason=\"%s\"", names[to], names[l->state], why);
    l->state = to;
}

/* A sequence's time-out is the worker's own deadline, and final. */
static void
tell_worker(struct cloud_link *l, enum cloud_msg_kind kind, uint32_t seq,
            const struct err *why, uint32_t retry_ms)
{
    struct cloud_msg *m = cloud_msg_new(kind, NULL, 0);

    if (m == NULL) {
        log_error("infer no memory to tell: %s", why->text);
        return;
    }
    m->epoch = l->config.hello.epoch;
    m->seq = seq;
    m->err = *why;
    m->retry_ms = retry_ms;
    m->again = cloud_may_pass(why->code, retry_ms) &&
               (kind == CLOUD_MSG_LOST || why->code != CE_ETIMEOUT);
    cloud_msg_post(l->config.worker, m);
}

static void
shut(struct cloud_link *l)
{
    shutdown(bufferevent_getfd(l->bev), SHUT_RDWR);
}

/* Nothing more will come of this session. *why is one line without the address. */
static void
go_down(struct cloud_link *l, const struct err *why, uint32_t retry_ms)
{
    struct err e = *why;

    if (l->state == LINK_DOWN)
        return;
    err_prefix(&e, "cloud %s:%s", l->config.where.host, l->config.where.port);
    set_state(l, LINK_DOWN, e.text);
    bufferevent_disable(l->bev, l->leaving ? EV_READ : EV_READ | EV_WRITE);
    if (!l->leaving)
        shut(l);
    event_del(l->timer);
    event_del(l->move);
    requests_clear(&l->requests);
    tell_worker(l, CLOUD_MSG_LOST, 0, &e, retry_ms);
    l->hooks.down(l->hooks.ctx, &e, retry_ms);
}

static void
fail(struct cloud_link *l, int code, const char *text)
{
    struct err e = { 0 };

    err_set(&e, code, "%s", text);
    go_down(l, &e, 0);
}

/* ---- sending ---- */

static void
send_frame(struct cloud_link *l, const struct frame *f)
{
    struct bytebuf b;

    if (l->state == LINK_DOWN)
        return;
    bytebuf_init(&b, (size_t)8 << 20);
    frame_encode(&b, f);
    if (bytebuf_status(&b) < 0 ||
        bufferevent_write(l->bev, bytebuf_data(&b), bytebuf_len(&b)) < 0) {
        fail(l, CE_ENOMEM, "no memory to send a frame");
    } else {
        atomic_fetch_add(&l->bytes, bytebuf_len(&b));
        l->last_sent_us = clock_us();
        log_debug("infer sent=%s bytes=%zu", frame_type_name((int)f->type),
                  bytebuf_len(&b));
    }
    bytebuf_fini(&b);
}

/* Naive: STATES over this channel, as long as the output is not too long. */
static void
pump_rows(struct cloud_link *l)
{
    struct evbuffer *out = bufferevent_get_output(l->bev);
    struct frame f;

    while (l->state == LINK_UP && evbuffer_get_length(out) < LINK_MAX_BACKLOG &&
           rows_next(&l->rows, &f))
        send_frame(l, &f);
}

/* A frame of the worker; those for an older session are late. */
static void
send_for_worker(struct cloud_link *l, struct cloud_msg *m)
{
    struct frame *f = &m->frame;

    if (l->state != LINK_UP || m->epoch != l->config.hello.epoch)
        return;
    if (f->type == FRAME_INFER || f->type == FRAME_GENERATE) {
        struct request r = { .stream = f->type == FRAME_GENERATE,
                             .seq = m->seq,
                             .branch = m->branch,
                             .pos = m->pos,
                             .sent_us = clock_us() };
        if (!requests_add(&l->requests, &r))
            return fail(l, CE_EINTERNAL, "too many requests at once");
        if (l->requests.n == 1)
            l->last_received_us = r.sent_us; /* silence until now was nobody's fault */
    }
    if (f->type == FRAME_GENERATE) {
        f->u.generate.ids = m->data;
        f->u.generate.n_ids = m->data_size / 4;
    }
    if (f->type == FRAME_CLOSE)
        requests_forget(&l->requests, m->seq);
    send_frame(l, f);
}

static void
rows_message(struct cloud_link *l, const struct cloud_msg *m)
{
    struct err err = { 0 };

    if (rows_take(&l->rows, m, &err) < 0) {
        tell_worker(l, CLOUD_MSG_SEQ_ERROR, m->seq, &err, 0);
        return;
    }
    pump_rows(l);
}

static void
on_mail(evutil_socket_t fd, short what, void *arg)
{
    struct cloud_link *l = arg;
    struct mailbox_msg *m = mailbox_take_all(l->in);

    (void)fd;
    (void)what;
    while (m != NULL) {
        struct mailbox_msg *next = m->next;
        struct cloud_msg *c = cloud_msg_of(m);
        if (c->kind == CLOUD_MSG_FRAME)
            send_for_worker(l, c);
        else if (c->kind == CLOUD_MSG_REJOIN)
            l->hooks.rejoin(l->hooks.ctx, c);
        else
            rows_message(l, c);
        cloud_msg_free(c);
        m = next;
    }
}

/* ---- receiving ---- */

static bool
same_text(struct frame_str a, struct frame_str b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

/* A third of the shorter patience: the cloud's with us, or ours with it. */
static void
start_timer(struct cloud_link *l)
{
    int64_t us = (int64_t)l->idle_ms * 1000;

    if (us == 0 || (l->config.silence_us > 0 && l->config.silence_us < us))
        us = l->config.silence_us;
    if (us == 0) {
        event_del(l->timer);
    } else {
        struct timeval third = { us / 3000000, us / 3 % 1000000 };
        event_add(l->timer, &third);
    }
}

static void
on_welcome(struct cloud_link *l, const struct frame_welcome *w)
{
    const struct frame_hello *h = &l->config.hello;
    /* With whole_model nothing is computed here that could differ. */
    bool exact = h->whole_model || same_text(h->numerics, w->numerics);
    struct err e = { 0 };

    if (!exact) {
        err_set(&e, CE_EMISMATCH, "its arithmetic is %.*s, ours %.*s",
                (int)w->numerics.len, w->numerics.data, (int)h->numerics.len,
                h->numerics.data);
        if (l->config.require_exact)
            return go_down(l, &e, 0);
        log_warn("cloud %s:%s: %s: its tokens may differ from the whole model's here",
                 l->config.where.host, l->config.where.port, e.text);
    }
    if (h->whole_model && !w->whole_model)
        return fail(l, CE_EUNSUPPORTED, "it does not run whole models");
    l->idle_ms = w->idle_ms;
    set_state(l, LINK_UP, "welcome");
    rows_session(&l->rows, h->epoch);
    start_timer(l);
    l->hooks.up(l->hooks.ctx, w, exact);
}

static void
on_token(struct cloud_link *l, const struct frame_token *t)
{
    int64_t sent_us =
        t->epoch == l->config.hello.epoch ? requests_answered(&l->requests, t) : -1;

    if (sent_us < 0) {
        log_debug("infer seq=%u pos=%u dropped=late", t->seq, t->pos);
        return;
    }
    struct cloud_msg *m = cloud_msg_new(CLOUD_MSG_ANSWER, NULL, 0);
    if (m == NULL)
        return fail(l, CE_ENOMEM, "no memory for an answer");
    m->epoch = t->epoch;
    m->seq = t->seq;
    m->branch = t->branch;
    m->pos = t->pos;
    m->frame.type = FRAME_TOKEN;
    m->frame.u.token = *t;
    log_debug("infer seq=%u pos=%u answered_us=%lld", t->seq, t->pos,
              (long long)(clock_us() - sent_us));
    cloud_msg_post(l->config.worker, m);
}

/* Credit or NEED, for whoever keeps the rows. */
static void
on_rows_frame(struct cloud_link *l, const struct frame *f)
{
    bool credit = f->type == FRAME_CREDIT;
    struct cloud_msg *m =
        cloud_msg_new(credit ? CLOUD_MSG_CREDIT : CLOUD_MSG_NEED, NULL, 0);

    if (m == NULL)
        return fail(l, CE_ENOMEM, "no memory for credit");
    m->seq = credit ? f->u.credit.seq : f->u.need.seq;
    m->limit = credit ? f->u.credit.limit : f->u.need.limit;
    if (!credit) {
        m->branch = f->u.need.branch;
        m->pos = f->u.need.pos;
        m->id = f->u.need.id;
    }
    if (!l->config.naive) {
        cloud_msg_post(l->uploader, m);
        return;
    }
    rows_message(l, m);
    cloud_msg_free(m);
}

static void
on_error(struct cloud_link *l, const struct frame_error *f)
{
    struct err e = { 0 };
    uint32_t retry_ms = f->retry_ms;

    err_set(&e, f->code > 0 && f->code <= 1000 ? -(int)f->code : CE_EPROTO, "%.*s",
            (int)f->text.len, f->text.data);
    if (retry_ms > 0) {
        struct err with = e;

        err_set(&with, e.code, "%s; try again in %.1f s", e.text, retry_ms / 1e3);
        e = with;
    }
    if (!f->has_seq)
        return go_down(l, &e, retry_ms);
    requests_forget(&l->requests, f->seq);
    err_prefix(&e, "cloud %s:%s", l->config.where.host, l->config.where.port);
    tell_worker(l, CLOUD_MSG_SEQ_ERROR, f->seq, &e, retry_ms);
}

/* Somewhere between half and nine tenths of the time given, so that not all leave at
 * the same moment, and none is thrown out. */
static void
on_goaway(struct cloud_link *l, const struct frame_goaway *g)
{
    struct err e = { 0 };
    uint32_t draw = 0;

    err_set(&e, CE_ECLOSED, "cloud %s:%s: is shutting down: %.*s", l->config.where.host,
            l->config.where.port, (int)g->reason.len, g->reason.data);
    log_debug("infer goaway deadline_ms=%u retry_ms=%u", g->deadline_ms, g->retry_ms);
    l->retry_at_us = clock_us() + (int64_t)g->retry_ms * 1000;
    tell_worker(l, CLOUD_MSG_DRAIN, 0, &e, 0);
    RAND_bytes((unsigned char *)&draw, sizeof(draw));
    int64_t us = (int64_t)g->deadline_ms * (500 + draw % 400);
    struct timeval wait = { us / 1000000, us % 1000000 };
    event_add(l->move, &wait);
}

static void
on_move(evutil_socket_t fd, short what, void *arg)
{
    struct err e = { 0 };

    (void)fd;
    (void)what;
    err_set(&e, CE_ECLOSED, "left, as it is shutting down");
    cloud_link_leave(arg, &e);
}

static void
on_frame(struct cloud_link *l, struct frame *f)
{
    log_debug("infer received=%s", frame_type_name((int)f->type));
    switch (f->type) {
    case FRAME_WELCOME:
        return on_welcome(l, &f->u.welcome);
    case FRAME_TOKEN:
        return on_token(l, &f->u.token);
    case FRAME_CREDIT:
    case FRAME_NEED:
        return on_rows_frame(l, f);
    case FRAME_ERROR:
        return on_error(l, &f->u.error);
    case FRAME_GOAWAY:
        return on_goaway(l, &f->u.goaway);
    case FRAME_PING:
        f->type = FRAME_PONG;
        return send_frame(l, f);
    case FRAME_BYE:
        return fail(l, CE_ECLOSED, "closed the session");
    default:
        return;
    }
}

static void
on_read(struct bufferevent *bev, void *arg)
{
    struct cloud_link *l = arg;
    struct evbuffer *in = bufferevent_get_input(bev);

    while (l->state != LINK_DOWN) {
        struct err err = { 0 };
        struct frame f;
        size_t size = 0;
        enum frame_place place =
            l->state == LINK_CONNECTING ? FRAME_AT_AGENT_INFER_NEW : FRAME_AT_AGENT_INFER;
        int rc = bev_frame(bev, place, &f, &size, &err);
        if (rc == CE_EAGAIN)
            return;
        if (rc < 0)
            return go_down(l, &err, 0);
        l->last_received_us = clock_us();
        on_frame(l, &f);
        evbuffer_drain(in, size);
    }
}

static void
on_written(struct bufferevent *bev, void *arg)
{
    struct cloud_link *l = arg;

    (void)bev;
    if (l->state == LINK_DOWN)
        shut(l); /* the BYE has left */
    else
        pump_rows(l);
}

/* ---- connecting and ending ---- */

static void
connected(struct cloud_link *l)
{
    struct tls_peer peer;
    struct err err = { 0 };
    struct frame f = { .type = FRAME_HELLO };

    if (tls_peer_get(bufferevent_openssl_get_ssl(l->bev), &peer, &err) < 0)
        return go_down(l, &err, 0);
    f.u.hello = l->config.hello;
    send_frame(l, &f);
}

static void
on_event(struct bufferevent *bev, short what, void *arg)
{
    struct cloud_link *l = arg;
    bool greeting = l->state == LINK_CONNECTING;
    struct err err = { 0 };

    if (what & BEV_EVENT_CONNECTED)
        return connected(l);
    if (!bev_tls_reason(bev, greeting ? CE_EAUTH : CE_ECLOSED, &err))
        err_set(&err, CE_ECLOSED,
                greeting ? "closed the connection before the greeting"
                         : "connection lost");
    go_down(l, &err, 0);
}

static void
ping(struct cloud_link *l)
{
    struct frame f = { .type = FRAME_PING };

    f.u.ping.nonce = ++l->nonce;
    send_frame(l, &f);
}

/* Before WELCOME: it took too long. Afterwards: is the cloud still there, while it owes
 * an answer; and otherwise keep the channel. */
static void
on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct cloud_link *l = arg;
    int64_t now = clock_us(), silent = now - l->last_received_us;
    int64_t most = l->config.silence_us;

    (void)fd;
    (void)what;
    if (l->state == LINK_CONNECTING)
        return fail(l, CE_ETIMEOUT, "no greeting in time");
    if (most > 0 && l->requests.n > 0 && silent >= most)
        return fail(l, CE_ETIMEOUT, "no sign of life");
    if ((most > 0 && l->requests.n > 0 && silent >= most / 4) ||
        (l->idle_ms > 0 && now - l->last_sent_us >= (int64_t)l->idle_ms * 1000 / 4))
        ping(l);
}

/* A channel over a connected socket, which is taken, also on failure. */
static int
make_channel(struct cloud_link *l, int fd, struct err *err)
{
    SSL *ssl = NULL;
    int rc = tls_client_ssl(&ssl, l->config.ctx, dial_name(&l->config.where), err);

    if (rc < 0) {
        close(fd);
        return rc;
    }
    l->bev = bufferevent_openssl_socket_new(
        l->config.base, fd, ssl, BUFFEREVENT_SSL_CONNECTING, BEV_OPT_CLOSE_ON_FREE);
    if (l->bev == NULL) {
        SSL_free(ssl);
        close(fd);
        return err_set(err, CE_ENOMEM, "no memory for the channel");
    }
    bufferevent_setcb(l->bev, on_read, on_written, on_event, l);
    bufferevent_enable(l->bev, EV_READ | EV_WRITE);
    return 0;
}

static int
await_greeting(struct cloud_link *l, struct err *err)
{
    struct timeval wait = { l->config.connect_timeout_us / 1000000,
                            l->config.connect_timeout_us % 1000000 };

    return event_add(l->timer, &wait) == 0
               ? 0
               : err_set(err, CE_ENOMEM, "no memory for the channel");
}

int
cloud_link_reopen(struct cloud_link *l, int fd, uint32_t epoch, struct err *err)
{
    if (l->bev != NULL)
        bufferevent_free(l->bev);
    l->bev = NULL;
    l->leaving = false;
    l->retry_at_us = 0;
    l->config.hello.epoch = epoch;
    int rc = make_channel(l, fd, err);
    if (rc == 0)
        rc = await_greeting(l, err);
    if (rc < 0)
        return err_prefix(err, "cloud %s:%s", l->config.where.host, l->config.where.port);
    set_state(l, LINK_CONNECTING, "again");
    return 0;
}

void
cloud_link_leave(struct cloud_link *l, const struct err *why)
{
    struct frame bye = { .type = FRAME_BYE };

    if (l->state != LINK_UP)
        return;
    send_frame(l, &bye);
    l->leaving = l->state == LINK_UP;
    go_down(l, why, 0);
}

uint32_t
cloud_link_retry_ms(const struct cloud_link *l)
{
    int64_t left = l->retry_at_us - clock_us();

    return left > 0 ? (uint32_t)(left / 1000) : 0;
}

uint32_t
cloud_link_epoch(const struct cloud_link *l)
{
    return l->config.hello.epoch;
}

static int
make_events(struct cloud_link *l, struct err *err)
{
    struct event_base *base = l->config.base;

    l->mail = event_new(base, mailbox_fd(l->in), EV_READ | EV_PERSIST, on_mail, l);
    l->timer = event_new(base, -1, EV_PERSIST, on_timer, l);
    l->move = evtimer_new(base, on_move, l);
    if (l->mail == NULL || l->timer == NULL || l->move == NULL ||
        event_add(l->mail, NULL) < 0)
        return err_set(err, CE_ENOMEM, "no memory for the channel");
    return 0;
}

int
cloud_link_open(struct cloud_link **out, const struct cloud_link_config *config,
                const struct cloud_link_hooks *hooks, struct err *err)
{
    struct cloud_link *l = mem_array_alloc(1, sizeof(*l));
    int fd;

    *out = NULL;
    if (l == NULL)
        return err_set(err, CE_ENOMEM, "no memory for the channel");
    l->config = *config;
    l->hooks = *hooks;
    rows_init(&l->rows, config->hello.d_model, config->hello.epoch);
    int rc = mailbox_new(&l->in, err);
    if (rc == 0)
        rc = make_events(l, err);
    if (rc == 0)
        rc = dial(&config->where, config->connect_timeout_us, NULL, &fd, err);
    if (rc == 0)
        rc = make_channel(l, fd, err);
    if (rc == 0)
        rc = await_greeting(l, err);
    if (rc < 0) {
        cloud_link_close(l);
        return err_prefix(err, "cloud %s:%s", config->where.host, config->where.port);
    }
    *out = l;
    return 0;
}

void
cloud_link_set_uploader(struct cloud_link *l, struct mailbox *uploader)
{
    l->uploader = uploader;
}

/* Let the last bytes leave, for at most 300 ms. */
static void
flush(struct cloud_link *l)
{
    int64_t end = clock_us() + 300000;

    while (l->state == LINK_UP && clock_us() < end &&
           evbuffer_get_length(bufferevent_get_output(l->bev)) > 0) {
        struct timeval tick = { 0, 20000 };
        event_base_loopexit(l->config.base, &tick);
        event_base_loop(l->config.base, EVLOOP_ONCE);
    }
}

void
cloud_link_close(struct cloud_link *l)
{
    struct frame bye = { .type = FRAME_BYE };

    if (l == NULL)
        return;
    if (l->state == LINK_UP) {
        on_mail(-1, 0, l); /* a CLOSE may wait there */
        send_frame(l, &bye);
        flush(l);
    }
    if (l->bev != NULL) {
        SSL *ssl = bufferevent_openssl_get_ssl(l->bev);
        if (ssl != NULL && l->state == LINK_UP)
            SSL_shutdown(ssl);
        bufferevent_free(l->bev);
    }
    if (l->mail != NULL)
        event_free(l->mail);
    if (l->timer != NULL)
        event_free(l->timer);
    if (l->move != NULL)
        event_free(l->move);
    if (l->in != NULL)
        cloud_msg_drop_all(l->in);
    mailbox_free(l->in);
    rows_fini(&l->rows);
    mem_free(l);
}

struct mailbox *
cloud_link_mailbox(const struct cloud_link *l)
{
    return l->in;
}

uint64_t
cloud_link_bytes(const struct cloud_link *l)
{
    return atomic_load(&l->bytes);
}
