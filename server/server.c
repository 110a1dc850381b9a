/* SPDX-License-Identifier: Apache-2.0
 * server.c - what happens to all sessions at once, and replies; see server.h.
 *
 * Ending one session can close and free any channel, its partner's included, so
 * a walk that acts starts again from the beginning after each act. Acting
 * removes the reason to act, so the walks end.
 */
#include "server/server.h"

#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"
#include "common/random.h"
#include "server/channel.h"
#include "server/drain.h"
#include "server/session.h"
#include "server/session_tenant.h"

int
server_init(struct server *srv, struct err *err)
{
    srv->row = mem_array_alloc(srv->d_model, sizeof(float));
    if (!srv->row)
        return err_set(err, CE_ENOMEM, "server: no memory");
    return 0;
}

void
server_fini(struct server *srv)
{
    mem_free(srv->row);
    srv->row = NULL;
    tenants_free(srv->tenants);
    srv->tenants = NULL;
    tenant_free_all(&srv->registry);
}

/* CREDIT: told as far as the tenant's rates allow. The first one is always sent, it
 * answers OPEN. */
static bool
credit_note(struct session *s, struct frame_credit *f, int64_t now_us)
{
    struct session_seq *q = session_seq_find(s, f->seq);
    bool first, more;

    if (!q)
        return false;
    first = !q->answered;
    q->answered = true;
    q->granted = f->limit;
    more = session_tenant_grant(s, q, now_us);
    f->limit = q->limit;
    return more || first;
}

/* NEED: what comes again is new to the rates as well. */
static bool
need_note(struct session *s, struct frame_need *f, int64_t now_us)
{
    struct session_seq *q = session_seq_find(s, f->seq);

    if (!q)
        return false;
    if (q->limit > q->limit_before)
        q->limit_before = q->limit;
    q->id = f->id;
    q->granted = f->limit;
    q->received = q->limit = f->pos;
    (void)session_tenant_grant(s, q, now_us);
    f->limit = q->limit;
    return true;
}

static bool
token_note(struct session *s, const struct frame_token *f, int64_t now_us)
{
    const struct session_seq *q = session_seq_find(s, f->seq);

    if (q && q->generating) /* the next row of the sequence */
        tenant_took(s->tenant, 1, 0, now_us);
    return q != NULL;
}

/* What a reply changes in our view of its sequence, and in itself. Returns false when
 * it is not to be sent: the sequence has ended here. */
static bool
reply_note(struct session *s, struct frame *f, int64_t now_us)
{
    switch (f->type) {
    case FRAME_CREDIT:
        return credit_note(s, &f->u.credit, now_us);
    case FRAME_NEED:
        return need_note(s, &f->u.need, now_us);
    case FRAME_TOKEN:
        return token_note(s, &f->u.token, now_us);
    default:
        return true;
    }
}

/* The content manager knows no names: say whose limit it is. */
static void
send_reply(struct session *s, struct frame *f)
{
    char text[FRAME_MAX_TEXT + 1];
    int n;

    if (f->type == FRAME_ERROR && f->u.error.code == (uint32_t)-CE_EQUOTA) {
        n = snprintf(text, sizeof(text), "tenant %s: %.*s", s->tenant->name,
                     (int)f->u.error.text.len, f->u.error.text.data);
        f->u.error.text =
            frame_str_of(text, (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1);
    }
    channel_send(s->infer, f);
}

void
server_reply(struct server *srv, struct reply_msg *r, int64_t now_us)
{
    struct session *s = r->link->session;

    (void)srv;
    if (s && r->kind == REPLY_LOST) {
        session_end(s, CE_ENOMEM, "the server is out of memory");
    } else if (s && r->frame.type == FRAME_ERROR && !r->frame.u.error.has_seq) {
        char text[FRAME_MAX_TEXT + 1] = { 0 };

        memcpy(text, r->frame.u.error.text.data, r->frame.u.error.text.len);
        session_end(s, -(int)r->frame.u.error.code, text);
    } else if (s && reply_note(s, &r->frame, now_us)) {
        send_reply(s, &r->frame);
        s = r->link->session; /* a peer that does not read has ended it */
        if (s && r->frame.type == FRAME_ERROR) {
            struct session_seq *q = session_seq_find(s, r->frame.u.error.seq);

            if (q)
                session_seq_remove(s, q);
        }
    }
    reply_msg_free(r);
}

/* One channel whose time is over; NULL when there is none. */
static struct channel *
find_expired(const struct server *srv, int64_t now_us)
{
    struct channel *ch;

    for (ch = srv->channels; ch; ch = ch->next) {
        if (ch->closed || ch->paused)
            continue;
        if (ch->place == FRAME_AT_CLOUD_NEW ? now_us - ch->since_us >= srv->first_frame_us
                                            : now_us - ch->last_us >= ch->idle_us)
            return ch;
    }
    return NULL;
}

void
server_tick(struct server *srv, int64_t now_us)
{
    struct channel *ch;

    tenant_sweep(&srv->registry, now_us);
    while ((ch = find_expired(srv, now_us)) != NULL) {
        struct session *s = ch->session;

        if (s && s->upload == ch) { /* the session goes on */
            s->upload = NULL;
            ch->session = NULL;
            session_set_state(s, SESSION_READY);
            channel_close(ch);
        } else if (s) {
            session_end(s, CE_ETIMEOUT, "nothing came for too long");
        } else {
            channel_send_error(ch, CE_ETIMEOUT, "no first frame in time");
            channel_close(ch);
        }
    }
}

static bool
may_resume(const struct channel *ch, int64_t now_us)
{
    const struct session *s = ch->session;

    if (ch->closed)
        return false;
    if (!s)
        return true;
    if (session_tenant_must_wait(ch, now_us))
        return false;
    return atomic_load_explicit(&s->link->queued, memory_order_relaxed) <=
           ch->srv->max_queued / 2;
}

/* Resuming reads at once what waits, and that can end any session. */
static struct channel *
find_resumable(const struct server *srv, int64_t now_us)
{
    struct channel *ch;

    for (ch = srv->paused; ch && !may_resume(ch, now_us); ch = ch->paused_next)
        ;
    return ch;
}

void
server_resume(struct server *srv, int64_t now_us)
{
    struct channel *ch;

    while ((ch = find_resumable(srv, now_us)) != NULL)
        channel_pause(ch, false);
    session_tenant_refill(srv, now_us);
}

bool
server_is_holding(const struct server *srv)
{
    return srv->n_paused > 0 || srv->held;
}

static struct session *
find_idle(const struct server *srv)
{
    struct session *s;

    for (s = srv->sessions; s && s->n_open > 0; s = s->next)
        ;
    return s;
}

/* A channel that is open without a session: before its first frame, or after
 * its session. */
static struct channel *
find_single(const struct server *srv)
{
    struct channel *ch;

    for (ch = srv->channels; ch; ch = ch->next)
        if (!ch->closed && !ch->session)
            return ch;
    return NULL;
}

void
server_drain(struct server *srv, uint32_t deadline_ms, const char *reason)
{
    struct frame f = { .type = FRAME_GOAWAY };
    struct session *s, *next;
    struct channel *ch;
    uint32_t n_sessions;
    uint64_t seed;

    srv->draining = true;
    n_sessions = srv->n_sessions;
    seed = (uint64_t)clock_us();
    f.u.goaway.deadline_ms = deadline_ms;
    f.u.goaway.reason = frame_str_of(reason, strlen(reason));
    for (s = srv->sessions; s; s = next) {
        next = s->next; /* sending can end this session, never another */
        f.u.goaway.retry_ms = drain_retry_ms(n_sessions, random_next(&seed));
        channel_send(s->infer, &f);
    }
    while ((s = find_idle(srv)) != NULL)
        session_end(s, 0, "drained");
    while ((ch = find_single(srv)) != NULL)
        channel_close(ch);
}

void
server_end_all(struct server *srv)
{
    struct channel *ch;

    while (srv->sessions)
        session_end(srv->sessions, 0, "the server stops");
    while ((ch = find_single(srv)) != NULL)
        channel_close(ch);
}
