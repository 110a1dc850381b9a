/* SPDX-License-Identifier: Apache-2.0
 * swarm_session.c - one recorded agent: connect, upload, ask, compare.
 *
 *     OFF -> CONNECTING -> READY <-> ATTACHING -> OPENING -> ASKING <-> THINKING
 *                ^                                    |
 *                +----------- BACKING_OFF <-----------+
 *
 * A session replays sequence after sequence of the traffic. It sends an INFER and the
 * rows up to its position, within the cloud's credit, and compares the token that comes.
 * After NEED, or on a new connection, it sends again what the server has forgotten, so
 * every answer must be right whatever has happened in between.
 */
#include <stdio.h>
#include <string.h>

#include "bench/swarm.h"
#include "common/clock.h"

#define SLOW_TOP     128    /* logits that a slow reader asks for with each token */
#define SLOW_READ_US 500000 /* between two looks at what came */
#define SLOW_PINGS   200    /* a tick: their answers fill the server's buffers */
#define SLOW_UNSENT  65536

static void begin(struct session *s);
static const struct conn_events infer_events, upload_events;

static void
set_state(struct session *s, enum session_state to)
{
    bool was = s->state == SESSION_CONNECTING, is = to == SESSION_CONNECTING;

    s->state = to;
    s->swarm->n_connecting += (int)is - (int)was;
}

static struct stats_group *
group_of(struct session *s)
{
    return &s->swarm->groups[s->group];
}

static bool
counted(const struct session *s)
{
    return s->swarm->phase == SWARM_MEASURING;
}

static void
set_timer(struct session *s, int64_t us)
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

static void
send_infer(struct session *s, const struct frame *f)
{
    conn_send(s->infer, f);
    s->infer_us = clock_us();
}

static const struct traffic_seq *
sequence(const struct session *s)
{
    return &s->swarm->traffic.seqs[s->index];
}

/* Rows up to the position that is asked for, as far as the credit goes. */
static void
send_rows(struct session *s)
{
    const struct traffic *t = &s->swarm->traffic;
    const struct traffic_seq *q = sequence(s);
    uint32_t want = q->requests[s->next_request].pos + 1;
    uint32_t most = (uint32_t)(65536 / t->row_bytes);

    if (want > s->limit)
        want = s->limit;
    while (s->upload && s->attached && s->sent < want) {
        uint32_t n = want - s->sent;
        struct frame f = { .type = FRAME_STATES };

        if (n > most)
            n = most > 0 ? most : 1;
        f.u.states = (struct frame_states){ .epoch = s->epoch,
                                            .seq = s->seq,
                                            .id = s->replay,
                                            .pos = s->sent,
                                            .n = n,
                                            .rows = q->rows + s->sent * t->row_bytes,
                                            .rows_size = n * t->row_bytes };
        conn_send(s->upload, &f);
        s->upload_us = clock_us();
        s->sent += n;
    }
}

static void
ask(struct session *s)
{
    struct frame f = { .type = FRAME_INFER };

    if (!swarm_working(s->swarm)) {
        set_state(s, SESSION_READY);
        return;
    }
    f.u.infer = (struct frame_infer){
        .epoch = s->epoch,
        .seq = s->seq,
        .pos = sequence(s)->requests[s->next_request].pos,
        .deadline_ms = (uint32_t)s->swarm->config.patience * 1000,
        .n_top = s->habits.slow ? SLOW_TOP : 0,
    };
    set_state(s, SESSION_ASKING);
    s->asked_us = clock_us();
    send_infer(s, &f);
    send_rows(s);
}

static void
open_sequence(struct session *s)
{
    const char *codec = states_codec_name(s->swarm->traffic.model.codec);
    struct frame f = { .type = FRAME_OPEN };

    s->seq++;
    s->sent = s->limit = s->replay = 0;
    f.u.open = (struct frame_open){ .epoch = s->epoch,
                                    .seq = s->seq,
                                    .codec = frame_str_of(codec, strlen(codec)),
                                    .max_pos = sequence(s)->n_rows,
                                    .keep_kv = true };
    set_state(s, SESSION_OPENING);
    s->asked_us = clock_us();
    send_infer(s, &f);
}

static void
close_sequence(struct session *s)
{
    struct frame f = { .type = FRAME_CLOSE };

    f.u.close = (struct frame_close){ .epoch = s->epoch, .seq = s->seq };
    send_infer(s, &f);
}

/* ---- connecting ---- */

static void
connect_now(struct session *s)
{
    struct swarm *w = s->swarm;
    uint32_t source =
        w->config.sources > 1 ? 1 + (uint32_t)(s->number % w->config.sources) : 0;
    struct err err;

    set_state(s, SESSION_CONNECTING);
    s->epoch++;
    s->attempts++;
    s->attached = s->going = false;
    s->connect_us = clock_us();
    w->n_connects++;
    if (conn_open(&s->infer, w->base, w->ctx[s->group], &w->target, source,
                  FRAME_AT_AGENT_INFER_NEW, &infer_events, s, &err) < 0)
        fail(s, err.text);
}

static void
connect_upload(struct session *s)
{
    struct swarm *w = s->swarm;
    uint32_t source =
        w->config.sources > 1 ? 1 + (uint32_t)(s->number % w->config.sources) : 0;
    struct err err;

    set_state(s, SESSION_ATTACHING);
    s->asked_us = clock_us();
    s->attached = false;
    if (conn_open(&s->upload, w->base, w->ctx[s->group], s->node, source,
                  FRAME_AT_AGENT_UPLOAD_NEW, &upload_events, s, &err) < 0)
        fail(s, err.text);
}

static void
drop_connections(struct session *s)
{
    conn_abort(s->infer);
    conn_abort(s->upload);
    s->infer = s->upload = NULL;
    s->attached = false;
}

/* Come back after a while that grows with every failure, and is different for all. */
static void
back_off(struct session *s, int64_t least_us)
{
    uint32_t doublings = s->attempts < 5 ? s->attempts : 5;
    int64_t most = (int64_t)100000 << doublings;

    set_state(s, SESSION_BACKING_OFF);
    set_timer(s, least_us + 10000 + (int64_t)swarm_random(s->swarm, (uint64_t)most));
}

static void
lost(struct session *s, const char *why, int64_t retry_us)
{
    bool may =
        s->habits.may_be_cut || s->habits.slow || s->going || s->swarm->config.keep_going;

    drop_connections(s);
    if (s->ended || s->swarm->phase >= SWARM_ENDING) {
        set_state(s, SESSION_OFF);
        return;
    }
    if (!may && retry_us == 0) {
        set_state(s, SESSION_OFF);
        fail(s, why);
        return;
    }
    if (s->lost_us == 0)
        s->lost_us = clock_us();
    group_of(s)->lost += counted(s);
    back_off(s, retry_us);
}

void
session_cut(struct session *s)
{
    if (s->state == SESSION_OFF || s->state == SESSION_BACKING_OFF)
        return;
    lost(s, "cut", 0);
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
            set_state(s, SESSION_OFF);
    } else if (s->state == SESSION_BACKING_OFF) {
        set_state(s, SESSION_READY);
        session_wake(s);
    } else if (s->state == SESSION_THINKING) {
        if (s->next_request == 0)
            begin(s);
        else
            ask(s);
    }
}

/* ---- sequences ---- */

/* With the next request of the present sequence, over a new OPEN. */
static void
begin(struct session *s)
{
    if (!swarm_working(s->swarm)) {
        set_state(s, SESSION_READY);
        return;
    }
    if (!s->upload)
        connect_upload(s);
    else
        open_sequence(s);
}

void
session_wake(struct session *s)
{
    if (s->state == SESSION_READY && s->active && !s->ended)
        begin(s);
}

/* Every session goes through the traffic in steps of its own. */
static void
next_sequence(struct session *s)
{
    const struct traffic *t = &s->swarm->traffic;

    group_of(s)->sequences += counted(s);
    s->index = (s->index + 1 + (uint32_t)s->number % 7) % t->n;
    s->next_request = 0;
}

static void
think(struct session *s)
{
    int64_t mean = s->habits.no_think ? 0 : s->swarm->config.think_us;

    if (s->going && s->next_request == 0) { /* between two sequences: leave */
        struct frame bye = { .type = FRAME_BYE };

        conn_send(s->infer, &bye);
        conn_finish(s->infer);
        conn_finish(s->upload);
        s->infer = s->upload = NULL;
        s->attempts = 0;
        back_off(s, 0);
        return;
    }
    if (mean > 0) {
        set_state(s, SESSION_THINKING);
        set_timer(s, mean / 2 + (int64_t)swarm_random(s->swarm, (uint64_t)mean));
    } else if (s->next_request == 0) {
        begin(s);
    } else {
        ask(s);
    }
}

static void
note_token(struct session *s, const struct frame_token *t)
{
    int64_t now = clock_us(), took = now - s->asked_us;
    struct stats_group *g = group_of(s);

    if (s->lost_us != 0) { /* the first since a loss; not a latency like others */
        if (counted(s))
            stats_add(&g->recovery, now - s->lost_us);
        s->lost_us = 0;
        took = -1;
    }
    if (!counted(s))
        return;
    g->tokens++;
    g->rows += t->rows;
    if (took < 0)
        return;
    stats_add(&g->latency, took);
    stats_add(&g->beyond, took - (int64_t)t->compute_us);
}

static void
on_token(struct session *s, const struct frame_token *t)
{
    const struct traffic_seq *q = sequence(s);
    const struct traffic_request *r = &q->requests[s->next_request];

    if (t->epoch != s->epoch || t->seq != s->seq)
        return;
    if (s->state != SESSION_ASKING || t->pos != r->pos) {
        swarm_fail(s->swarm, false,
                   "session %d sequence %u: a token for position %u, asked for was %u",
                   s->number, s->index, t->pos, r->pos);
        s->swarm->n_wrong++;
        return;
    }
    if (t->token != r->token) {
        swarm_fail(s->swarm, false,
                   "session %d sequence %u position %u: token %u, expected %u", s->number,
                   s->index, r->pos, t->token, r->token);
        s->swarm->n_wrong++;
    }
    note_token(s, t);
    if (++s->next_request == q->n_requests) {
        close_sequence(s);
        next_sequence(s);
    }
    think(s);
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
    set_state(s, SESSION_READY);
    stats_add(&swarm->handshake, clock_us() - s->connect_us);
    swarm->n_welcomed += !s->welcomed;
    s->welcomed = true;
    if (!s->active)
        s->lost_us = 0;
    session_wake(s);
}

static void
on_credit(struct session *s, const struct frame_credit *c)
{
    if (c->epoch != s->epoch || c->seq != s->seq)
        return;
    if (c->limit > s->limit)
        s->limit = c->limit;
    if (s->state == SESSION_OPENING)
        ask(s);
    else if (s->state == SESSION_ASKING)
        send_rows(s);
}

static void
on_need(struct session *s, const struct frame_need *n)
{
    if (n->epoch != s->epoch || n->seq != s->seq || n->id <= s->replay)
        return;
    group_of(s)->needs += counted(s);
    s->replay = n->id;
    s->limit = n->limit;
    if (n->pos < s->sent)
        s->sent = n->pos;
    if (s->state == SESSION_ASKING)
        send_rows(s);
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
    group_of(s)->refused += counted(s);
    if (!e->has_seq) {
        lost(s, text, retry_us);
    } else if (retry_us > 0 || s->swarm->config.keep_going || s->group == SWARM_OTHERS) {
        s->attempts = 0;
        back_off(s, retry_us); /* then the same request, in a new sequence */
    } else {
        fail(s, text);
    }
}

static void
on_goaway(struct session *s)
{
    group_of(s)->goaways += counted(s);
    s->going = true;
    if (s->state == SESSION_READY && s->next_request == 0) {
        s->attempts = 0;
        lost(s, "sent away", 0);
    }
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
    case FRAME_TOKEN:
        on_token(s, &f->u.token);
        break;
    case FRAME_CREDIT:
        on_credit(s, &f->u.credit);
        break;
    case FRAME_NEED:
        on_need(s, &f->u.need);
        break;
    case FRAME_ERROR:
        on_error(s, &f->u.error);
        break;
    case FRAME_GOAWAY:
        on_goaway(s);
        break;
    case FRAME_PING:
        pong.type = FRAME_PONG;
        send_infer(s, &pong);
        break;
    case FRAME_BYE:
        lost(s, "the server said BYE", 0);
        break;
    default:
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
    send_infer(s, &f);
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
            open_sequence(s);
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
        lost(s, "no welcome in time", s->group == SWARM_OTHERS);
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
    set_state(s, SESSION_OFF);
}

void
session_fini(struct session *s)
{
    if (s->timer)
        event_free(s->timer);
    s->timer = NULL;
}
