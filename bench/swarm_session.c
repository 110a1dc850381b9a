/* SPDX-License-Identifier: Apache-2.0
 * swarm_session.c - one recorded agent: connect, upload, ask, compare.
 *
 *     OFF -> CONNECTING -> READY <-> ATTACHING -> OPENING -> ASKING <-> THINKING
 *                ^                                    |
 *                +----------- BACKING_OFF <-----------+
 *
 * Here is how a session comes up, loses its connections and comes back; what it says in
 * between is swarm_dialog.c's.
 */
#include <stdio.h>
#include <string.h>

#include "bench/swarm_session.h"
#include "common/clock.h"

#define SLOW_READ_US 500000 /* between two looks at what came */
#define SLOW_PINGS   200    /* a tick: their answers fill the server's buffers */
#define SLOW_UNSENT  65536
#define MAX_ATTEMPTS 5 /* to connect, when nothing may be lost */

static const struct conn_events infer_events, upload_events;

void
session_set_state(struct session *s, enum session_state to)
{
    bool was = s->state == SESSION_CONNECTING, is = to == SESSION_CONNECTING;

    s->state = to;
    s->swarm->n_connecting += (int)is - (int)was;
}

struct stats_group *
session_stats(struct session *s)
{
    return &s->swarm->groups[s->group];
}

bool
session_counted(const struct session *s)
{
    return s->swarm->phase == SWARM_MEASURING;
}

void
session_set_timer(struct session *s, int64_t us)
{
    struct timeval t = { us / 1000000, us % 1000000 };

    event_add(s->timer, &t);
}

static void
fail(struct session *s, const char *what)
{
    swarm_fail(s->swarm, true, "session %d: %s", s->number, what);
}

/* ---- sending ---- */

void
session_send(struct session *s, const struct frame *f)
{
    conn_send(s->infer, f);
    s->infer_us = clock_us();
}

/* ---- connecting ---- */

static void
drop_connections(struct session *s)
{
    conn_abort(s->infer);
    conn_abort(s->upload);
    s->infer = s->upload = NULL;
    s->attached = false;
}

/* Come back after a while that grows with every failure, and is different for all. */
void
session_back_off(struct session *s, int64_t least_us)
{
    uint32_t doublings = s->attempts < 5 ? s->attempts : 5;
    int64_t most = (int64_t)100000 << doublings;

    session_set_state(s, SESSION_BACKING_OFF);
    session_set_timer(s,
                      least_us + 10000 + (int64_t)swarm_random(s->swarm, (uint64_t)most));
}

/* May this session lose a connection now? */
static bool
may_lose(const struct session *s)
{
    return s->habits.may_be_cut || s->habits.slow || s->going ||
           s->swarm->config.keep_going;
}

/* While all come up at once a busy server may be too late for some. */
static bool
may_try_again(const struct session *s)
{
    return s->state == SESSION_CONNECTING && s->swarm->phase == SWARM_CONNECTING &&
           s->attempts < MAX_ATTEMPTS;
}

static void
lost(struct session *s, const char *why, int64_t retry_us)
{
    bool may = may_lose(s) || may_try_again(s);

    drop_connections(s);
    if (s->ended || s->swarm->phase >= SWARM_ENDING) {
        session_set_state(s, SESSION_OFF);
        return;
    }
    if (!may && retry_us == 0) {
        session_set_state(s, SESSION_OFF);
        fail(s, why);
        return;
    }
    if (s->lost_us == 0)
        s->lost_us = clock_us();
    session_stats(s)->lost += session_counted(s);
    session_back_off(s, retry_us);
}

void
session_cut(struct session *s)
{
    if (s->state == SESSION_OFF || s->state == SESSION_BACKING_OFF)
        return;
    lost(s, "cut", 0);
}

/* One of the two connections. */
static void
dial(struct session *s, struct conn **out, const struct conn_target *to,
     enum frame_place place, const struct conn_events *events)
{
    struct swarm *w = s->swarm;
    uint32_t source =
        w->config.sources > 1 ? 1 + (uint32_t)(s->number % w->config.sources) : 0;
    struct err err;

    if (conn_open(out, w->base, w->ctx[s->group], to, source, place, events, s, &err) < 0)
        lost(s, err.text, 0);
}

static void
connect_now(struct session *s)
{
    session_set_state(s, SESSION_CONNECTING);
    s->epoch++;
    s->attempts++;
    s->attached = s->going = false;
    s->connect_us = clock_us();
    s->swarm->n_connects++;
    dial(s, &s->infer, &s->swarm->target, FRAME_AT_AGENT_INFER_NEW, &infer_events);
}

void
session_attach(struct session *s)
{
    session_set_state(s, SESSION_ATTACHING);
    s->asked_us = clock_us();
    s->attached = false;
    dial(s, &s->upload, s->node, FRAME_AT_AGENT_UPLOAD_NEW, &upload_events);
}

static void
on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct session *s = arg;

    (void)fd;
    (void)what;
    if (s->ended)
        return;
    if (s->state == SESSION_BACKING_OFF && s->infer == NULL) {
        if (s->swarm->phase < SWARM_ENDING)
            connect_now(s);
        else
            session_set_state(s, SESSION_OFF);
    } else if (s->state == SESSION_BACKING_OFF) {
        session_set_state(s, SESSION_READY);
        session_wake(s);
    } else if (s->state == SESSION_THINKING) {
        if (s->next_request == 0)
            dialog_begin(s);
        else
            dialog_ask(s);
    }
}

void
session_wake(struct session *s)
{
    if (s->state == SESSION_READY && s->active && !s->ended)
        dialog_begin(s);
}

/* ---- what else comes ---- */

static void
on_welcome(struct session *s, const struct frame_welcome *w)
{
    struct swarm *swarm = s->swarm;

    s->node = swarm_node(swarm, w->node);
    if (!s->node)
        return;
    conn_set_place(s->infer, FRAME_AT_AGENT_INFER);
    memcpy(s->id, w->session, sizeof(s->id));
    memcpy(s->secret, w->secret, sizeof(s->secret));
    s->idle_us = (int64_t)w->idle_ms * 1000;
    s->seq = 0;
    s->attempts = 0;
    session_set_state(s, SESSION_READY);
    stats_add(&swarm->handshake, clock_us() - s->connect_us);
    swarm->n_welcomed += !s->welcomed;
    s->welcomed = true;
    if (!s->active)
        s->lost_us = 0;
    session_wake(s);
}

void
session_leave(struct session *s)
{
    struct frame bye = { .type = FRAME_BYE };

    conn_send(s->infer, &bye);
    conn_finish(s->infer);
    conn_finish(s->upload);
    s->infer = s->upload = NULL;
    s->attempts = 0;
    if (s->swarm->phase < SWARM_ENDING)
        session_back_off(s, s->return_us);
    else
        session_set_state(s, SESSION_OFF);
}

static void
on_error(struct session *s, const struct frame_error *e)
{
    int64_t retry_us = (int64_t)e->retry_ms * 1000;
    char text[300];

    snprintf(text, sizeof(text), "the server says %s: %.*s", err_name(-(int)e->code),
             (int)(e->text.len < 200 ? e->text.len : 200), e->text.data);
    if (e->has_seq && e->seq != s->seq)
        return;
    if (retry_us > 60000000)
        retry_us = 60000000;
    session_stats(s)->refused += session_counted(s);
    if (!e->has_seq && retry_us == 0 && !may_lose(s)) {
        fail(s, text);
    } else if (!e->has_seq) {
        lost(s, text, retry_us);
    } else if (retry_us > 0 || s->swarm->config.keep_going || s->group == SWARM_OTHERS) {
        s->attempts = 0;
        session_back_off(s, retry_us); /* then the same request, in a new sequence */
    } else {
        fail(s, text);
    }
}

static void
on_goaway(struct session *s, const struct frame_goaway *g)
{
    session_stats(s)->goaways += session_counted(s);
    s->going = true;
    s->return_us = (int64_t)(g->retry_ms < 60000 ? g->retry_ms : 60000) * 1000;
    if (s->state == SESSION_READY)
        session_leave(s);
}

static void
infer_frame(void *arg, const struct frame *f)
{
    struct session *s = arg;
    struct frame pong = *f;

    switch (f->type) {
    case FRAME_WELCOME:
        on_welcome(s, &f->u.welcome);
        break;
    case FRAME_ERROR:
        on_error(s, &f->u.error);
        break;
    case FRAME_GOAWAY:
        on_goaway(s, &f->u.goaway);
        break;
    case FRAME_PING:
        pong.type = FRAME_PONG;
        session_send(s, &pong);
        break;
    case FRAME_BYE:
        lost(s, "the server said BYE", 0);
        break;
    default:
        (void)dialog_frame(s, f);
        break;
    }
}

static void
infer_ready(void *arg)
{
    struct session *s = arg;
    const struct traffic_model *m = &s->swarm->traffic.model;
    const char *codec = states_codec_name(m->codec);
    struct frame f = { .type = FRAME_HELLO };
    struct frame_hello *h = &f.u.hello;

    if (s->habits.slow)
        conn_small_window(s->infer);
    h->proto = FRAME_VERSION;
    h->epoch = s->epoch;
    memcpy(h->fingerprint, m->fingerprint, sizeof(h->fingerprint));
    h->layer_from = m->layer_from;
    h->n_layers = m->n_layers;
    h->d_model = m->d_model;
    h->n_vocab = m->n_vocab;
    h->n_codecs = 1;
    h->codecs[0] = frame_str_of(codec, strlen(codec));
    h->numerics = frame_str_of(m->numerics, strlen(m->numerics));
    h->agent = frame_str_of("cecollm-swarm", 13);
    session_send(s, &f);
}

static void
infer_lost(void *arg, const char *why)
{
    struct session *s = arg;

    s->infer = NULL;
    lost(s, why, 0);
}

static const struct conn_events infer_events = { infer_ready, infer_frame, infer_lost };

/* ---- the upload channel ---- */

static void
upload_ready(void *arg)
{
    struct session *s = arg;
    struct frame f = { .type = FRAME_ATTACH };

    memcpy(f.u.attach.session, s->id, sizeof(s->id));
    memcpy(f.u.attach.secret, s->secret, sizeof(s->secret));
    f.u.attach.epoch = s->epoch;
    conn_send(s->upload, &f);
    s->upload_us = clock_us();
}

/* The channel is gone: at rest that is fine, in a sequence everything goes again. */
static void
upload_over(struct session *s, const char *why)
{
    s->upload = NULL;
    s->attached = false;
    if (s->state <= SESSION_READY || s->state == SESSION_BACKING_OFF)
        return;
    lost(s, why, 0);
}

static void
upload_frame(void *arg, const struct frame *f)
{
    struct session *s = arg;

    if (f->type == FRAME_ATTACHED) {
        conn_set_place(s->upload, FRAME_AT_AGENT_UPLOAD);
        s->attached = true;
        if (s->state == SESSION_ATTACHING)
            dialog_open(s);
    } else if (f->type == FRAME_ERROR) {
        on_error(s, &f->u.error);
    } else if (f->type == FRAME_BYE) {
        conn_finish(s->upload);
        upload_over(s, "the server closed the upload channel");
    }
}

static void
upload_lost(void *arg, const char *why)
{
    upload_over(arg, why);
}

static const struct conn_events upload_events = { upload_ready, upload_frame,
                                                  upload_lost };

/* ---- life ---- */

int
session_init(struct session *s, struct swarm *swarm, int number, int group,
             struct err *err)
{
    s->swarm = swarm;
    s->number = number;
    s->group = group;
    s->index = (uint32_t)number % swarm->traffic.n;
    s->next_request = traffic_stagger(&swarm->traffic, (uint32_t)number);
    s->timer = evtimer_new(swarm->base, on_timer, s);
    return s->timer ? 0 : err_set(err, CE_ENOMEM, "no memory for sessions");
}

void
session_start(struct session *s)
{
    if (s->state == SESSION_OFF && !s->ended)
        connect_now(s);
}

static void
ping(struct conn *c, struct session *s)
{
    struct frame f = { .type = FRAME_PING };

    f.u.ping.nonce = ++s->nonce;
    conn_send(c, &f);
}

/* Reads for a moment now and then; what it asks for meanwhile fills the server. */
static void
be_slow(struct session *s, int64_t now_us)
{
    bool look = now_us - s->read_us >= SLOW_READ_US;

    conn_pause(s->infer, true);
    if (look) {
        s->read_us = now_us;
        conn_sip(s->infer);
    }
    for (int i = 0; i < SLOW_PINGS; i++)
        if (s->infer && conn_unsent(s->infer) < SLOW_UNSENT)
            ping(s->infer, s);
    s->infer_us = now_us;
}

void
session_tick(struct session *s, int64_t now_us)
{
    int64_t patience = (int64_t)(s->swarm->config.patience + 5) * 1000000;

    if (s->state == SESSION_CONNECTING && now_us - s->connect_us > patience) {
        lost(s, "no welcome in time", 0);
        return;
    }
    if (s->state < SESSION_READY || !s->infer)
        return;
    if (s->state >= SESSION_ATTACHING && s->state <= SESSION_ASKING && !s->habits.slow &&
        now_us - s->asked_us > patience) {
        lost(s, "no answer in time", 0);
        return;
    }
    if (s->habits.slow && s->state >= SESSION_READY) {
        be_slow(s, now_us);
    } else if (s->idle_us > 0 && now_us - s->infer_us > s->idle_us / 3) {
        ping(s->infer, s);
        s->infer_us = now_us;
    }
    if (s->upload && s->attached && s->idle_us > 0 &&
        now_us - s->upload_us > s->idle_us / 3) {
        ping(s->upload, s);
        s->upload_us = now_us;
    }
}

void
session_end(struct session *s)
{
    struct frame bye = { .type = FRAME_BYE };

    if (s->ended)
        return;
    s->ended = true;
    event_del(s->timer);
    if (s->upload && s->attached)
        conn_send(s->upload, &bye);
    if (s->infer && s->state >= SESSION_READY)
        conn_send(s->infer, &bye);
    conn_finish(s->upload);
    conn_finish(s->infer);
    s->infer = s->upload = NULL;
    session_set_state(s, SESSION_OFF);
}

void
session_fini(struct session *s)
{
    if (s->timer)
        event_free(s->timer);
    s->timer = NULL;
}
