/* SPDX-License-Identifier: Apache-2.0
 * session_tenant.c - see session_tenant.h.
 */
#include "server/session_tenant.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/random.h"
#include "server/tenant.h"

uint32_t
session_tenant_retry_ms(int64_t now_us)
{
    uint64_t state = (uint64_t)now_us;

    return 1000 + (uint32_t)(random_next(&state) % 1000);
}

/* ---- sessions ---- */

/* Which tenant, by certificate and token. */
static int
identify(struct channel *ch, const struct frame_hello *h, struct tenant **tenant,
         uint8_t token_hash[32], struct err *err)
{
    struct server *srv = ch->srv;
    const struct tenants_member *m = NULL;
    int rc = 0;

    memset(token_hash, 0, 32);
    if (srv->tenants)
        rc = tenants_find(srv->tenants, ch->peer, h->token.data, h->token.len, &m,
                          token_hash, err);
    else if (!ch->peer->has_cert)
        rc = err_set(err, CE_EAUTH, "no certificate came");
    if (rc < 0) {
        err_prefix(err, "HELLO");
        return rc;
    }
    *tenant = tenant_get(&srv->registry, srv->tenants, m, ch->peer->name);
    if (!*tenant)
        return err_set(err, CE_ENOMEM, "HELLO: the server is out of memory");
    return 0;
}

int
session_tenant_admit(struct channel *ch, const struct frame_hello *h,
                     struct tenant **tenant, uint8_t token_hash[32], struct err *err)
{
    struct server *srv = ch->srv;
    struct tenant *t;
    int rc = identify(ch, h, tenant, token_hash, err);

    if (rc < 0)
        return rc;
    t = *tenant;
    if (t->limits.max_sessions && t->n_sessions >= t->limits.max_sessions)
        rc = err_set(err, CE_EQUOTA,
                     "HELLO: tenant %s: max_sessions = %" PRId64 " are open", t->name,
                     t->limits.max_sessions);
    else if (srv->n_sessions >= srv->max_sessions)
        rc = err_set(err, CE_EQUOTA,
                     "HELLO: tenant %s: the server's max_sessions = %u are open", t->name,
                     srv->max_sessions);
    if (rc < 0) {
        ch->retry_ms = session_tenant_retry_ms(ch->last_us);
        if (srv->metrics)
            usage_add(usage_of(&srv->metrics->usage, t->name), USAGE_REFUSALS, 1);
        tenant_unref(t);
        *tenant = NULL;
    }
    return rc;
}

/* ---- sequences ---- */

/* What the sequence may have waiting. */
static int64_t
may_hold(const struct session *s, const struct session_seq *q, const struct frame_open *o)
{
    uint32_t n = s->srv->window < o->max_pos ? s->srv->window : o->max_pos;

    if (!o->keep_kv) /* all of it comes again with each request */
        n = o->max_pos < s->srv->n_ctx ? o->max_pos : s->srv->n_ctx;
    return (int64_t)n * (int64_t)states_row_bytes(q->codec, s->srv->d_model);
}

bool
session_tenant_open(struct session *s, struct session_seq *q, const struct frame_open *o)
{
    struct tenant *t = s->tenant;
    int64_t bytes = may_hold(s, q, o);
    uint32_t retry_ms = session_tenant_retry_ms(s->infer->last_us);
    struct err why = { 0 };

    if (t->limits.max_seqs && t->n_seqs > t->limits.max_seqs) /* q is counted already */
        err_set(&why, CE_EQUOTA, "OPEN: tenant %s: max_seqs = %" PRId64 " are open",
                t->name, t->limits.max_seqs);
    else if (t->limits.hidden_state_bytes && bytes > t->limits.hidden_state_bytes)
        err_set(&why, CE_EQUOTA,
                "OPEN: tenant %s: hidden_state_bytes = %" PRId64
                ", but this sequence may have %" PRId64 " waiting",
                t->name, t->limits.hidden_state_bytes, bytes),
            retry_ms = 0; /* never */
    else if (t->limits.hidden_state_bytes &&
             t->hidden_bytes + bytes > t->limits.hidden_state_bytes)
        err_set(&why, CE_EQUOTA,
                "OPEN: tenant %s: hidden_state_bytes = %" PRId64
                ", %u open sequences may have %" PRId64 " of it waiting",
                t->name, t->limits.hidden_state_bytes, t->n_seqs - 1, t->hidden_bytes);
    if (why.code == 0) {
        q->hidden_bytes = bytes;
        t->hidden_bytes += bytes;
        return true;
    }
    session_refuse_seq(s, o->seq, why.code, retry_ms, why.text);
    return false;
}

int
session_tenant_generate(struct session *s, size_t rows, int64_t now_us,
                        uint32_t *retry_ms, struct err *err)
{
    struct tenant *t = s->tenant;

    *retry_ms = tenant_wait_ms(t, now_us);
    if (*retry_ms > 0)
        return err_set(err, CE_EQUOTA,
                       "GENERATE: tenant %s: rows_per_second = %" PRId64
                       " or bytes_per_second = %" PRId64 " are used up",
                       t->name, t->limits.rows_per_second, t->limits.bytes_per_second);
    tenant_took(t, (int64_t)rows, 0, now_us);
    return 0;
}

/* ---- rates ---- */

void
session_tenant_frame(struct channel *ch, int type, size_t bytes, int64_t now_us)
{
    struct session *s = ch->session;

    if (!s)
        return;
    tenant_took(s->tenant, 0, (int64_t)bytes, now_us);
    ch->cut = type == FRAME_TRUNCATE;
    if (session_tenant_must_wait(ch, now_us))
        channel_pause(ch, true); /* server_resume ends it */
}

bool
session_tenant_must_wait(const struct channel *ch, int64_t now_us)
{
    const struct session *s = ch->session;

    return s && ch == s->infer &&
           (tenant_bytes_debt(s->tenant, now_us) ||
            (ch->cut && tenant_rows_debt(s->tenant, now_us)));
}

void
session_tenant_rows(struct session *s, struct session_seq *q, uint32_t pos, uint32_t n,
                    int64_t now_us)
{
    tenant_took(s->tenant, n, 0, now_us);
    if (q->received < pos + n)
        q->received = pos + n;
}

static void
hold(struct session *s)
{
    if (s->held)
        return;
    s->held = true;
    s->held_prev = NULL;
    s->held_next = s->srv->held;
    if (s->held_next)
        s->held_next->held_prev = s;
    s->srv->held = s;
}

void
session_tenant_unhold(struct session *s)
{
    if (!s->held)
        return;
    s->held = false;
    if (s->held_prev)
        s->held_prev->held_next = s->held_next;
    else
        s->srv->held = s->held_next;
    if (s->held_next)
        s->held_next->held_prev = s->held_prev;
}

bool
session_tenant_grant(struct session *s, struct session_seq *q, int64_t now_us)
{
    size_t row_bytes = states_row_bytes(q->codec, s->srv->d_model);
    uint32_t more = tenant_allowance(s->tenant, row_bytes, now_us);
    uint32_t limit = q->granted;

    if (more < limit && q->received < limit - more)
        limit = q->received + more;
    if (limit < q->granted)
        hold(s);
    if (limit <= q->limit)
        return false;
    q->limit = limit;
    return true;
}

/* One session: true when something is still held back. */
static bool
refill(struct session *s, int64_t now_us)
{
    struct frame f = { .type = FRAME_CREDIT };
    struct session_link *link = session_link_ref(s->link);
    uint32_t i, n = s->srv->max_seqs;
    bool left = false;

    for (i = 0; i < n && link->session; i++) {
        struct session_seq *q = &s->seqs[i];

        if (!q->open || q->limit >= q->granted)
            continue;
        if (session_tenant_grant(s, q, now_us)) {
            f.u.credit.epoch = s->epoch;
            f.u.credit.seq = q->seq;
            f.u.credit.limit = q->limit;
            left |= q->limit < q->granted;
            channel_send(s->infer, &f); /* can end the session */
        } else {
            left = true;
        }
    }
    left = left && link->session;
    session_link_unref(link);
    return left;
}

void
session_tenant_refill(struct server *srv, int64_t now_us)
{
    struct session *s, *next;

    for (s = srv->held; s; s = next) {
        struct session_link *link = session_link_ref(s->link);

        next = s->held_next; /* sending ends this session at most */
        if (!refill(s, now_us) && link->session)
            session_tenant_unhold(s);
        session_link_unref(link);
    }
}
