/* SPDX-License-Identifier: Apache-2.0
 * session_frames.c - what each frame from an agent does; see session.h.
 *
 * One handler per type in a table. By the time a handler runs, the frame is
 * whole and its type may arrive on this channel (frame_allowed). A handler
 * returns 0, or an error that ends the session (or a channel without one) with
 * that text. What concerns a sequence alone is answered with ERROR for that
 * sequence, and 0.
 *
 * Frames of another epoch and of sequences that are not open are dropped: they
 * were on their way when something ended.
 */
#include "config.h"

#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "engine/sampler.h"
#include "server/session.h"
#include "server/session_tenant.h"

#define SERVER_NAME "cecollm-cloudd/" PACKAGE_VERSION

typedef int (*frame_handler)(struct channel *ch, const struct frame *f, struct err *err);

/* ---- HELLO and ATTACH ---- */

static bool
offers_codec(const struct frame_hello *h)
{
    enum states_codec codec;
    int i;

    for (i = 0; i < h->n_codecs; i++)
        if (states_codec_find(h->codecs[i].data, h->codecs[i].len, &codec) == 0)
            return true;
    return false;
}

/* Does the agent's model fit ours? */
static int
hello_check(const struct server *srv, const struct frame_hello *h, struct err *err)
{
    if (h->proto != FRAME_VERSION)
        return err_set(err, CE_EUNSUPPORTED, "HELLO: protocol %u, this server speaks %d",
                       h->proto, FRAME_VERSION);
    if (memcmp(h->fingerprint, srv->fingerprint, sizeof(srv->fingerprint)) != 0)
        return err_set(err, CE_EMISMATCH,
                       "HELLO: your model's fingerprint begins %02x%02x%02x%02x, this "
                       "server's %02x%02x%02x%02x",
                       h->fingerprint[0], h->fingerprint[1], h->fingerprint[2],
                       h->fingerprint[3], srv->fingerprint[0], srv->fingerprint[1],
                       srv->fingerprint[2], srv->fingerprint[3]);
    if (h->n_layers != srv->n_layers || h->d_model != srv->d_model ||
        h->n_vocab != srv->n_vocab)
        return err_set(err, CE_EMISMATCH,
                       "HELLO: your model has %u layers, d_model %u, vocabulary %u; this "
                       "server's %u, %u, %u",
                       h->n_layers, h->d_model, h->n_vocab, srv->n_layers, srv->d_model,
                       srv->n_vocab);
    if (h->layer_from < srv->layer_from || h->layer_from >= srv->n_layers)
        return err_set(err, CE_EMISMATCH,
                       "HELLO: your states come after layer %u, this server continues "
                       "from layers %u to %u",
                       h->layer_from, srv->layer_from, srv->n_layers - 1);
    if (!offers_codec(h))
        return err_set(err, CE_EMISMATCH, "HELLO: none of your codecs is f32 or f16");
    if (h->whole_model && !srv->whole_model)
        return err_set(err, CE_EUNSUPPORTED,
                       "HELLO: whole_model is asked for, this server does not offer it");
    return 0;
}

static void
send_welcome(struct channel *ch, const struct session *s)
{
    const struct server *srv = ch->srv;
    struct frame f = { .type = FRAME_WELCOME };
    struct frame_welcome *w = &f.u.welcome;
    int i;

    w->proto = FRAME_VERSION;
    memcpy(w->session, s->id, sizeof(w->session));
    memcpy(w->secret, s->secret, sizeof(w->secret));
    w->node = frame_str_of(srv->node, strlen(srv->node));
    w->max_seqs = srv->max_seqs;
    w->window = srv->window;
    w->n_ctx = srv->n_ctx;
    w->numerics = frame_str_of(srv->numerics, strlen(srv->numerics));
    w->server = frame_str_of(SERVER_NAME, strlen(SERVER_NAME));
    w->whole_model = srv->whole_model;
    w->n_codecs = STATES_N_CODECS;
    for (i = 0; i < STATES_N_CODECS; i++) {
        const char *name = states_codec_name((enum states_codec)i);

        w->codecs[i] = frame_str_of(name, strlen(name));
    }
    w->idle_ms = (uint32_t)(ch->idle_us / 1000);
    channel_send(ch, &f);
}

static int
on_hello(struct channel *ch, const struct frame *f, struct err *err)
{
    const struct frame_hello *h = &f->u.hello;
    struct session *s = NULL;
    struct tenant *tenant;
    uint8_t token_hash[32];
    char agent[80];
    int rc;

    if (ch->srv->draining)
        return err_set(err, CE_ECLOSED, "HELLO: the server is stopping");
    rc = session_tenant_admit(ch, h, &tenant, token_hash, err);
    if (rc < 0) /* before anything about the model is said */
        return rc;
    rc = hello_check(ch->srv, h, err);
    if (rc == 0)
        rc = session_new(&s, ch, h, tenant, err);
    else
        tenant_unref(tenant);
    if (!s)
        return rc;
    memcpy(s->token_hash, token_hash, sizeof(s->token_hash));
    channel_forget_peer(ch);
    ch->session = s;
    ch->place = FRAME_AT_CLOUD_INFER;
    log_info_limited("session=%u peer=%s name=%s tenant=%s agent=%s epoch=%u "
                     "layer_from=%u begun",
                     s->number, ch->address, ch->name, s->tenant->name,
                     log_quote(agent, sizeof(agent), h->agent.data, h->agent.len),
                     h->epoch, h->layer_from);
    send_welcome(ch, s);
    return 0;
}

static int
on_attach(struct channel *ch, const struct frame *f, struct err *err)
{
    const struct frame_attach *a = &f->u.attach;
    struct session *s = session_find(ch->srv, a->session, a->secret);
    struct frame attached = { .type = FRAME_ATTACHED };
    struct channel *old;

    if (!s || s->epoch != a->epoch || memcmp(s->cert, ch->cert, sizeof(s->cert)) != 0)
        return err_set(err, CE_EAUTH,
                       "ATTACH: no such session for this secret and certificate");
    channel_forget_peer(ch);
    old = s->upload;
    s->upload = ch;
    ch->session = s;
    ch->place = FRAME_AT_CLOUD_UPLOAD;
    ch->idle_us = s->infer->idle_us; /* WELCOME's */
    session_set_state(s, SESSION_PAIRED);
    if (old) { /* half open, probably: the agent knows better */
        old->session = NULL;
        channel_close(old);
    }
    channel_send(ch, &attached);
    return 0;
}

/* ---- sequences ---- */

static int
no_memory(struct err *err)
{
    return err_set(err, CE_ENOMEM, "the server is out of memory");
}

static int
on_open(struct channel *ch, const struct frame *f, struct err *err)
{
    const struct frame_open *o = &f->u.open;
    struct session *s = ch->session;
    enum states_codec codec;
    struct session_seq *q;
    struct work_msg *w;
    struct err why;

    if (o->epoch != s->epoch)
        return 0;
    if (session_seq_find(s, o->seq))
        return err_set(err, CE_EPROTO, "OPEN: sequence %u is open already", o->seq);
    if (ch->srv->draining) {
        session_refuse_seq(s, o->seq, CE_ECLOSED, 0, "OPEN: the server is stopping");
        return 0;
    }
    if (states_codec_find(o->codec.data, o->codec.len, &codec) < 0) {
        session_refuse_seq(s, o->seq, CE_EUNSUPPORTED, 0,
                           "OPEN: the codec is not f32 or f16");
        return 0;
    }
    q = session_seq_add(s, o->seq);
    if (!q) {
        snprintf(why.text, sizeof(why.text),
                 "OPEN: tenant %s: max_seqs_per_session = %u are open", s->tenant->name,
                 ch->srv->max_seqs);
        session_refuse_seq(s, o->seq, CE_EQUOTA, session_tenant_retry_ms(ch->last_us),
                           why.text);
        return 0;
    }
    q->codec = codec;
    if (!session_tenant_open(s, q, o)) {
        if (ch->session == s)
            session_seq_remove(s, q);
        return 0;
    }
    w = work_msg_new(WORK_OPEN, s->link, 0, 0);
    if (!w)
        return no_memory(err);
    w->u.open = *o;
    memcpy(w->codec, o->codec.data, o->codec.len); /* "f32" or "f16" */
    w->u.open.codec.data = w->codec;
    w->layer_from = s->layer_from;
    session_post(s, ch, w);
    return 0;
}

/* Do the rows fit the sequence, its credit and its codec, and are they finite? */
static int
states_check(struct server *srv, const struct session_seq *q,
             const struct frame_states *r, struct err *err)
{
    size_t row = states_row_bytes(q->codec, srv->d_model), i;
    uint32_t limit = q->limit;

    if (r->id != q->id && q->limit_before > limit)
        limit = q->limit_before;
    if (r->id > q->id)
        return err_set(err, CE_EPROTO, "STATES: id %u, but %u is the last", r->id, q->id);
    if (r->n == 0 || r->n > FRAME_MAX_STATES || r->rows_size != r->n * row)
        return err_set(err, CE_EFORMAT,
                       "STATES: %u rows in %zu bytes, a row of sequence %u has %zu", r->n,
                       r->rows_size, r->seq, row);
    if (r->pos > limit || r->n > limit - r->pos)
        return err_set(err, CE_EPROTO, "STATES: rows %u to %u, but the limit is %u",
                       r->pos, r->pos + r->n - 1, limit);
    for (i = 0; i < r->n; i++)
        if (states_decode(q->codec, r->rows + i * row, 1, srv->d_model, srv->row) < 0)
            return err_set(err, CE_EFORMAT,
                           "STATES: row %zu has a value that is not finite", r->pos + i);
    return 0;
}

static int
on_states(struct channel *ch, const struct frame *f, struct err *err)
{
    const struct frame_states *r = &f->u.states;
    struct session *s = ch->session;
    struct session_seq *q = session_seq_find(s, r->seq);
    struct work_msg *w;
    int rc;

    if (r->epoch != s->epoch || !q)
        return 0;
    rc = states_check(ch->srv, q, r, err);
    if (rc < 0)
        return rc;
    w = work_msg_new(WORK_STATES, s->link, 0, r->rows_size);
    if (w)
        w->chunk = content_chunk_new(r);
    if (!w || !w->chunk) {
        if (w)
            work_msg_free(w);
        return no_memory(err);
    }
    session_tenant_rows(s, q, r->pos, r->n, ch->last_us);
    session_post(s, ch, w);
    return 0;
}

/* The small frames that only the content manager can judge. */
static int
pass_on(struct channel *ch, enum work_kind kind, uint32_t epoch, uint32_t seq,
        const void *frame, size_t size, struct err *err)
{
    struct session *s = ch->session;
    struct work_msg *w;

    if (epoch != s->epoch || !session_seq_find(s, seq))
        return 0;
    w = work_msg_new(kind, s->link, 0, 0);
    if (!w)
        return no_memory(err);
    memcpy(&w->u, frame, size);
    session_post(s, ch, w);
    return 0;
}

static int
on_infer(struct channel *ch, const struct frame *f, struct err *err)
{
    return pass_on(ch, WORK_INFER, f->u.infer.epoch, f->u.infer.seq, &f->u.infer,
                   sizeof(f->u.infer), err);
}

static int
on_truncate(struct channel *ch, const struct frame *f, struct err *err)
{
    struct session *s = ch->session;
    struct session_seq *q = session_seq_find(s, f->u.truncate.seq);

    if (q && f->u.truncate.epoch == s->epoch && q->received > f->u.truncate.pos)
        q->received = f->u.truncate.pos;
    return pass_on(ch, WORK_TRUNCATE, f->u.truncate.epoch, f->u.truncate.seq,
                   &f->u.truncate, sizeof(f->u.truncate), err);
}

static int
on_cancel(struct channel *ch, const struct frame *f, struct err *err)
{
    return pass_on(ch, WORK_CANCEL, f->u.cancel.epoch, f->u.cancel.seq, &f->u.cancel,
                   sizeof(f->u.cancel), err);
}

static int
on_close(struct channel *ch, const struct frame *f, struct err *err)
{
    struct session *s = ch->session;
    int rc = pass_on(ch, WORK_CLOSE, f->u.close.epoch, f->u.close.seq, &f->u.close,
                     sizeof(f->u.close), err);
    struct session_seq *q = session_seq_find(s, f->u.close.seq);

    if (rc == 0 && q && f->u.close.epoch == s->epoch)
        session_seq_remove(s, q);
    return rc;
}

static int
on_generate(struct channel *ch, const struct frame *f, struct err *err)
{
    const struct frame_generate *g = &f->u.generate;
    struct session *s = ch->session;
    struct session_seq *q = session_seq_find(s, g->seq);
    struct sampler_params p;
    struct work_msg *w;
    struct err why = { 0 };
    uint32_t retry_ms = 0;

    if (g->epoch != s->epoch || !q)
        return 0;
    sampler_params_init(&p);
    p.temperature = g->temperature;
    p.top_k = g->top_k > SAMPLER_MAX_ROW ? SAMPLER_MAX_ROW : (int)g->top_k;
    p.top_p = g->top_p;
    p.min_p = g->min_p;
    if (!ch->srv->whole_model)
        err_set(&why, CE_EUNSUPPORTED, "GENERATE: this server does not offer it");
    else if (sampler_check(&p, &why) == 0 &&
             session_tenant_generate(s, g->n_ids, ch->last_us, &retry_ms, &why) == 0)
        why.code = 0;
    if (why.code < 0) {
        w = work_msg_new(WORK_CLOSE, s->link, 0, 0);
        if (!w)
            return no_memory(err);
        w->u.close = (struct frame_close){ g->epoch, g->seq };
        session_post(s, ch, w);
        session_refuse_seq(s, g->seq, why.code, retry_ms, why.text);
        if (ch->session == s)
            session_seq_remove(s, q);
        return 0;
    }
    w = work_msg_new(WORK_GENERATE, s->link, g->n_ids * 4, 0);
    if (!w)
        return no_memory(err);
    w->u.generate = *g;
    w->u.generate.top_k = (uint32_t)p.top_k;
    w->u.generate.ids = (const uint8_t *)(w + 1);
    memcpy(w + 1, g->ids, g->n_ids * 4);
    q->generating = true;
    session_post(s, ch, w);
    return 0;
}

/* ---- the rest ---- */

static int
on_ping(struct channel *ch, const struct frame *f, struct err *err)
{
    struct frame pong = { .type = FRAME_PONG };

    (void)err;
    pong.u.ping.nonce = f->u.ping.nonce;
    channel_send(ch, &pong);
    return 0;
}

static int
on_pong(struct channel *ch, const struct frame *f, struct err *err)
{
    (void)ch;
    (void)f;
    (void)err;
    return 0;
}

static int
on_error(struct channel *ch, const struct frame *f, struct err *err)
{
    struct session *s = ch->session;
    char text[160];

    (void)err;
    if (f->u.error.has_seq)
        return 0; /* the agent will CLOSE it */
    log_quote(text, sizeof(text), f->u.error.text.data, f->u.error.text.len);
    if (s)
        session_end(s, 0, text);
    else
        channel_close(ch);
    return 0;
}

static int
on_bye(struct channel *ch, const struct frame *f, struct err *err)
{
    struct session *s = ch->session;

    (void)f;
    (void)err;
    if (s && s->infer == ch) {
        session_end(s, 0, "the agent said BYE");
        return 0;
    }
    if (s) {
        s->upload = NULL;
        ch->session = NULL;
        session_set_state(s, SESSION_READY);
    }
    channel_close(ch);
    return 0;
}

static const frame_handler handlers[] = {
    [FRAME_HELLO] = on_hello,       [FRAME_ATTACH] = on_attach,
    [FRAME_OPEN] = on_open,         [FRAME_STATES] = on_states,
    [FRAME_INFER] = on_infer,       [FRAME_TRUNCATE] = on_truncate,
    [FRAME_CANCEL] = on_cancel,     [FRAME_CLOSE] = on_close,
    [FRAME_GENERATE] = on_generate, [FRAME_PING] = on_ping,
    [FRAME_PONG] = on_pong,         [FRAME_ERROR] = on_error,
    [FRAME_BYE] = on_bye,
};

void
session_frame(struct channel *ch, const struct frame *f)
{
    struct err err = { 0 };
    frame_handler handler =
        f->type < sizeof(handlers) / sizeof(handlers[0]) ? handlers[f->type] : NULL;
    int rc;

    if (!handler) /* frame_allowed lets no other through */
        rc = err_set(&err, CE_EPROTO, "%s: not from an agent", frame_type_name(f->type));
    else
        rc = handler(ch, f, &err);
    if (rc == 0)
        return;
    log_info_limited("peer=%s refused: %s", ch->address, err.text);
    if (ch->session) {
        session_end(ch->session, rc, err.text);
    } else {
        channel_send_error(ch, rc, err.text);
        channel_close(ch);
    }
}
