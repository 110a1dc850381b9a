/* SPDX-License-Identifier: Apache-2.0
 * swarm_dialog.c - what a session says of its sequences, and what it makes of the
 * answers.
 *
 * A session replays sequence after sequence of the traffic. It sends an INFER and the
 * rows up to its position, within the cloud's credit, and compares the token that comes.
 * After NEED, or on a new connection, it sends again what the server has forgotten, so
 * every answer must be right whatever has happened in between.
 */
#include "bench/swarm_session.h"

#include <string.h>

#include "common/clock.h"

#define SLOW_TOP 128 /* logits that a slow reader asks for with each token */

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

void
dialog_ask(struct session *s)
{
    struct frame f = { .type = FRAME_INFER };

    if (!swarm_working(s->swarm)) {
        session_set_state(s, SESSION_READY);
        return;
    }
    f.u.infer = (struct frame_infer){
        .epoch = s->epoch,
        .seq = s->seq,
        .pos = sequence(s)->requests[s->next_request].pos,
        .deadline_ms = (uint32_t)s->swarm->config.patience * 1000,
        .n_top = s->habits.slow ? SLOW_TOP : 0,
    };
    session_set_state(s, SESSION_ASKING);
    s->asked_us = clock_us();
    session_send(s, &f);
    send_rows(s);
}

void
dialog_open(struct session *s)
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
    session_set_state(s, SESSION_OPENING);
    s->asked_us = clock_us();
    session_send(s, &f);
}

static void
close_sequence(struct session *s)
{
    struct frame f = { .type = FRAME_CLOSE };

    f.u.close = (struct frame_close){ .epoch = s->epoch, .seq = s->seq };
    session_send(s, &f);
}

/* With the next request of the present sequence, over a new OPEN. */
void
dialog_begin(struct session *s)
{
    if (!swarm_working(s->swarm)) {
        session_set_state(s, SESSION_READY);
        return;
    }
    if (!s->upload)
        session_attach(s);
    else
        dialog_open(s);
}

static void
next_sequence(struct session *s)
{
    session_stats(s)->sequences += session_counted(s);
    s->index = traffic_next(&s->swarm->traffic, (uint32_t)s->number, s->index);
    s->next_request = 0;
}

static void
think(struct session *s)
{
    int64_t mean = s->habits.no_think ? 0 : s->swarm->config.think_us;

    if (s->going && s->next_request == 0) { /* between two sequences: leave */
        session_leave(s);
        return;
    }
    if (mean > 0) {
        session_set_state(s, SESSION_THINKING);
        session_set_timer(s, mean / 2 + (int64_t)swarm_random(s->swarm, (uint64_t)mean));
    } else if (s->next_request == 0) {
        dialog_begin(s);
    } else {
        dialog_ask(s);
    }
}

static void
note_token(struct session *s, const struct frame_token *t)
{
    int64_t now = clock_us(), took = now - s->asked_us;
    struct stats_group *g = session_stats(s);

    s->swarm->n_answered += !s->answered && s->group == SWARM_POLITE;
    s->answered = true;
    if (s->lost_us != 0) { /* the first since a loss; not a latency like others */
        if (session_counted(s))
            stats_add(&g->recovery, now - s->lost_us);
        s->lost_us = 0;
        took = -1;
    }
    if (!session_counted(s))
        return;
    g->tokens++;
    g->rows += t->rows;
    if (took < 0)
        return;
    stats_add(&g->latency, took);
    stats_add(&g->beyond, took - (int64_t)t->compute_us);
    if (t->rows == 1)
        stats_add(&g->one_row, took - (int64_t)t->compute_us);
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

static void
on_credit(struct session *s, const struct frame_credit *c)
{
    if (c->epoch != s->epoch || c->seq != s->seq)
        return;
    if (c->limit > s->limit)
        s->limit = c->limit;
    if (s->state == SESSION_OPENING)
        dialog_ask(s);
    else if (s->state == SESSION_ASKING)
        send_rows(s);
}

static void
on_need(struct session *s, const struct frame_need *n)
{
    if (n->epoch != s->epoch || n->seq != s->seq || n->id <= s->replay)
        return;
    session_stats(s)->needs += session_counted(s);
    s->replay = n->id;
    s->limit = n->limit;
    if (n->pos < s->sent)
        s->sent = n->pos;
    if (s->state == SESSION_ASKING)
        send_rows(s);
}

bool
dialog_frame(struct session *s, const struct frame *f)
{
    switch (f->type) {
    case FRAME_TOKEN:
        on_token(s, &f->u.token);
        return true;
    case FRAME_CREDIT:
        on_credit(s, &f->u.credit);
        return true;
    case FRAME_NEED:
        on_need(s, &f->u.need);
        return true;
    default:
        return false;
    }
}
