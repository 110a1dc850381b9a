/* SPDX-License-Identifier: Apache-2.0
 * cloud_link.c - see cloud_link.h.
 *
 * Frames come out of the bufferevent's input one whole frame at a time. No read
 * watermark is ever set: below 16 KiB libevent 2.1 would leave decrypted bytes
 * inside the SSL object until the next packet.
 *
 * The request table remembers which INFER are out, so that an answer nobody waits
 * for any more (another branch, another sequence) is dropped here.
 */
#include "agent/cloud_link.h"

#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <openssl/err.h>

#include "agent/rows.h"
#include "common/bytebuf.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"
#include "common/tls.h"

#define LINK_MAX_REQUESTS 64
#define LINK_MAX_BACKLOG  ((size_t)256 << 10) /* STATES waiting in the output, naive */

enum link_state { LINK_CONNECTING, LINK_UP, LINK_DOWN };

struct request {
    bool used, stream; /* stream: a GENERATE, any position */
    uint32_t seq, branch, pos;
    int64_t sent_us;
};

struct cloud_link {
    struct cloud_link_config config;
    struct cloud_link_hooks hooks;
    enum link_state state;
    struct bufferevent *bev;
    struct event *mail; /* the mailbox has something */
    struct event *timer;
    struct mailbox *in, *uploader;
    struct rows rows; /* naive */
    struct request requests[LINK_MAX_REQUESTS];
    uint32_t idle_ms;
    int64_t last_sent_us;
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

static void
tell_worker(struct cloud_link *l, enum cloud_msg_kind kind, uint32_t seq,
            const struct err *why)
{
    struct cloud_msg *m = cloud_msg_new(kind, NULL, 0);

    if (m == NULL) {
        log_error("infer no memory to tell: %s", why->text);
        return;
    }
    m->seq = seq;
    m->err = *why;
    cloud_msg_post(l->config.worker, m);
}

/* Nothing more will come. *why is one line without the address. */
static void
go_down(struct cloud_link *l, const struct err *why)
{
    struct err e = *why;

    if (l->state == LINK_DOWN)
        return;
    err_prefix(&e, "cloud %s:%s", l->config.where.host, l->config.where.port);
    set_state(l, LINK_DOWN, e.text);
    bufferevent_disable(l->bev, EV_READ | EV_WRITE);
    event_del(l->timer);
    tell_worker(l, CLOUD_MSG_LOST, 0, &e);
    l->hooks.down(l->hooks.ctx, &e);
}

static void
fail(struct cloud_link *l, int code, const char *text)
{
    struct err e = { 0 };

    err_set(&e, code, "%s", text);
    go_down(l, &e);
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

static struct request *
add_request(struct cloud_link *l)
{
    for (int i = 0; i < LINK_MAX_REQUESTS; i++)
        if (!l->requests[i].used)
            return &l->requests[i];
    return NULL;
}

static void
forget_requests(struct cloud_link *l, uint32_t seq)
{
    for (int i = 0; i < LINK_MAX_REQUESTS; i++)
        if (l->requests[i].seq == seq)
            l->requests[i].used = false;
}

/* A frame of the worker. */
static void
send_for_worker(struct cloud_link *l, struct cloud_msg *m)
{
    struct frame *f = &m->frame;

    if (f->type == FRAME_INFER || f->type == FRAME_GENERATE) {
        struct request *r = add_request(l);
        if (r == NULL)
            return fail(l, CE_EINTERNAL, "too many requests at once");
        *r = (struct request){ .used = true,
                               .stream = f->type == FRAME_GENERATE,
                               .seq = m->seq,
                               .branch = m->branch,
                               .pos = m->pos,
                               .sent_us = clock_us() };
    }
    if (f->type == FRAME_GENERATE) {
        f->u.generate.ids = m->data;
        f->u.generate.n_ids = m->data_size / 4;
    }
    if (f->type == FRAME_CLOSE)
        forget_requests(l, m->seq);
    send_frame(l, f);
}

static void
rows_message(struct cloud_link *l, const struct cloud_msg *m)
{
    struct err err = { 0 };

    if (rows_take(&l->rows, m, &err) < 0) {
        tell_worker(l, CLOUD_MSG_SEQ_ERROR, m->seq, &err);
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
            return go_down(l, &e);
        log_warn("cloud %s:%s: %s: its tokens may differ from the whole model's here",
                 l->config.where.host, l->config.where.port, e.text);
    }
    if (h->whole_model && !w->whole_model)
        return fail(l, CE_EUNSUPPORTED, "it does not run whole models");
    l->idle_ms = w->idle_ms;
    set_state(l, LINK_UP, "welcome");
    if (l->idle_ms > 0) {
        struct timeval third = { l->idle_ms / 3000, (l->idle_ms % 3000) * 1000 / 3 };
        event_add(l->timer, &third);
    } else {
        event_del(l->timer);
    }
    l->hooks.up(l->hooks.ctx, w, exact);
}

static void
on_token(struct cloud_link *l, const struct frame_token *t)
{
    for (int i = 0; i < LINK_MAX_REQUESTS; i++) {
        struct request *r = &l->requests[i];
        if (!r->used || r->seq != t->seq || t->epoch != l->config.hello.epoch)
            continue;
        if (!r->stream && (r->pos != t->pos || r->branch != t->branch))
            continue;
        r->used = r->stream && !t->last;
        struct cloud_msg *m = cloud_msg_new(CLOUD_MSG_ANSWER, NULL, 0);
        if (m == NULL)
            return fail(l, CE_ENOMEM, "no memory for an answer");
        m->seq = t->seq;
        m->branch = t->branch;
        m->pos = t->pos;
        m->frame.type = FRAME_TOKEN;
        m->frame.u.token = *t;
        log_debug("infer seq=%u pos=%u answered_us=%lld", t->seq, t->pos,
                  (long long)(clock_us() - r->sent_us));
        cloud_msg_post(l->config.worker, m);
        return;
    }
    log_debug("infer seq=%u pos=%u dropped=late", t->seq, t->pos);
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

    err_set(&e, f->code > 0 && f->code <= 1000 ? -(int)f->code : CE_EPROTO, "%.*s",
            (int)f->text.len, f->text.data);
    if (!f->has_seq)
        return go_down(l, &e);
    forget_requests(l, f->seq);
    err_prefix(&e, "cloud %s:%s", l->config.where.host, l->config.where.port);
    tell_worker(l, CLOUD_MSG_SEQ_ERROR, f->seq, &e);
}

static void
on_goaway(struct cloud_link *l, const struct frame_goaway *g)
{
    struct err e = { 0 };

    err_set(&e, CE_ECLOSED, "cloud %s:%s: is shutting down: %.*s", l->config.where.host,
            l->config.where.port, (int)g->reason.len, g->reason.data);
    log_debug("infer goaway deadline_ms=%u retry_ms=%u", g->deadline_ms, g->retry_ms);
    tell_worker(l, CLOUD_MSG_DRAIN, 0, &e);
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

/* One whole frame from the input: its size; CE_EAGAIN or another error. */
static int
take_frame(struct cloud_link *l, struct evbuffer *in, struct frame *f, size_t *size,
           struct err *err)
{
    size_t have = evbuffer_get_length(in);
    struct frame_header h;
    enum frame_place place =
        l->state == LINK_CONNECTING ? FRAME_AT_AGENT_INFER_NEW : FRAME_AT_AGENT_INFER;

    if (have < FRAME_HEADER_SIZE)
        return CE_EAGAIN;
    const uint8_t *bytes = evbuffer_pullup(in, FRAME_HEADER_SIZE);
    if (bytes == NULL)
        return err_set(err, CE_ENOMEM, "no memory to receive");
    int rc = frame_header_decode(&h, bytes, FRAME_HEADER_SIZE, err);
    if (rc == 0)
        rc = frame_allowed(&h, place, err);
    if (rc < 0)
        return rc;
    *size = FRAME_HEADER_SIZE + frame_body_size(&h);
    if (have < *size)
        return CE_EAGAIN;
    bytes = evbuffer_pullup(in, (ev_ssize_t)*size);
    if (bytes == NULL)
        return err_set(err, CE_ENOMEM, "no memory to receive");
    return frame_decode(f, &h, bytes + FRAME_HEADER_SIZE, err);
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
        int rc = take_frame(l, in, &f, &size, &err);
        if (rc == CE_EAGAIN)
            return;
        if (rc < 0)
            return go_down(l, &err);
        on_frame(l, &f);
        evbuffer_drain(in, size);
    }
}

static void
on_written(struct bufferevent *bev, void *arg)
{
    (void)bev;
    pump_rows(arg);
}

/* ---- connecting and ending ---- */

static void
connected(struct cloud_link *l)
{
    struct tls_peer peer;
    struct err err = { 0 };
    struct frame f = { .type = FRAME_HELLO };

    if (tls_peer_get(bufferevent_openssl_get_ssl(l->bev), &peer, &err) < 0)
        return go_down(l, &err);
    f.u.hello = l->config.hello;
    send_frame(l, &f);
}

/* Why TLS failed, if it says: its own words are in the bufferevent, or still unread
 * behind a write that failed first (an alert that refuses our certificate). */
static bool
tls_reason(struct cloud_link *l, int code, struct err *err)
{
    SSL *ssl = bufferevent_openssl_get_ssl(l->bev);
    unsigned long e;
    bool any = false;
    char byte;

    ERR_clear_error();
    while ((e = bufferevent_get_openssl_error(l->bev)) != 0) {
        if (ERR_GET_LIB(e) != ERR_LIB_SSL) /* libevent also puts bare SSL_ERROR_* here */
            continue;
        ERR_put_error(ERR_GET_LIB(e), 0, ERR_GET_REASON(e), "", 0);
        any = true;
    }
    if (!any && SSL_is_init_finished(ssl)) {
        int rc = SSL_read(ssl, &byte, 1);
        any = rc <= 0 && SSL_get_error(ssl, rc) == SSL_ERROR_SSL;
    }
    if (any)
        tls_error(err, code, ssl, "TLS");
    ERR_clear_error();
    return any;
}

static void
on_event(struct bufferevent *bev, short what, void *arg)
{
    struct cloud_link *l = arg;
    bool greeting = l->state == LINK_CONNECTING;
    struct err err = { 0 };

    (void)bev;
    if (what & BEV_EVENT_CONNECTED)
        return connected(l);
    if (!tls_reason(l, greeting ? CE_EAUTH : CE_ECLOSED, &err))
        err_set(&err, CE_ECLOSED,
                greeting ? "closed the connection before the greeting"
                         : "connection lost");
    go_down(l, &err);
}

/* Before WELCOME: it took too long. Afterwards: keep the channel. */
static void
on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct cloud_link *l = arg;
    struct frame f = { .type = FRAME_PING };

    (void)fd;
    (void)what;
    if (l->state == LINK_CONNECTING)
        return fail(l, CE_ETIMEOUT, "no greeting in time");
    if (clock_us() - l->last_sent_us < (int64_t)l->idle_ms * 1000 / 4)
        return;
    f.u.ping.nonce = ++l->nonce;
    send_frame(l, &f);
}

static int
make_channel(struct cloud_link *l, struct err *err)
{
    SSL *ssl = NULL;
    int fd, rc = dial(&l->config.where, l->config.connect_timeout_us, &fd, err);

    if (rc < 0)
        return rc;
    rc = tls_client_ssl(&ssl, l->config.ctx, l->config.where.host, err);
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

int
cloud_link_open(struct cloud_link **out, const struct cloud_link_config *config,
                const struct cloud_link_hooks *hooks, struct err *err)
{
    struct cloud_link *l = mem_array_alloc(1, sizeof(*l));
    struct timeval wait = { config->connect_timeout_us / 1000000,
                            config->connect_timeout_us % 1000000 };

    *out = NULL;
    if (l == NULL)
        return err_set(err, CE_ENOMEM, "no memory for the channel");
    l->config = *config;
    l->hooks = *hooks;
    rows_init(&l->rows, config->hello.d_model, config->hello.epoch);
    int rc = mailbox_new(&l->in, err);
    if (rc == 0)
        rc = make_channel(l, err);
    if (rc < 0) {
        cloud_link_close(l);
        return err_prefix(err, "cloud %s:%s", config->where.host, config->where.port);
    }
    l->mail =
        event_new(config->base, mailbox_fd(l->in), EV_READ | EV_PERSIST, on_mail, l);
    l->timer = event_new(config->base, -1, EV_PERSIST, on_timer, l);
    if (l->mail == NULL || l->timer == NULL || event_add(l->mail, NULL) < 0 ||
        event_add(l->timer, &wait) < 0) {
        cloud_link_close(l);
        return err_set(err, CE_ENOMEM, "no memory for the channel");
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
