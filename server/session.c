/* SPDX-License-Identifier: Apache-2.0
 * session.c - sessions made, found and ended; see session.h.
 *
 * A session ends in one place, session_end, whatever the reason: its channels
 * get ERROR (if there is one) and BYE, the backend gets WORK_GONE, the link
 * forgets the session. The struct is freed there, so a handler that ended the
 * session must not touch it again; it returns at once.
 */
#include "server/session.h"

#include <string.h>

#include <openssl/crypto.h>
#include <openssl/rand.h>

#include "common/log.h"
#include "common/memory.h"
#include "server/session_tenant.h"
#include "server/tenant.h"

static const char *const state_names[] = { "READY", "PAIRED", "ENDED" };

void
session_set_state(struct session *s, enum session_state state)
{
    if (s->state == state)
        return;
    log_debug("session=%u state=%s from=%s", s->number, state_names[state],
              state_names[s->state]);
    s->state = state;
}

static void
session_unlink(struct session *s)
{
    if (s->prev)
        s->prev->next = s->next;
    else
        s->srv->sessions = s->next;
    if (s->next)
        s->next->prev = s->prev;
    s->srv->n_sessions--;
}

static void
session_free(struct session *s)
{
    OPENSSL_cleanse(s->secret, sizeof(s->secret));
    mem_free(s->seqs);
    mem_free(s);
}

int
session_new(struct session **out, struct channel *ch, const struct frame_hello *h,
            struct tenant *tenant, struct err *err)
{
    struct server *srv = ch->srv;
    struct session *s;

    s = mem_array_alloc(1, sizeof(*s));
    if (s)
        s->seqs = mem_array_alloc(srv->max_seqs, sizeof(*s->seqs));
    if (s && s->seqs)
        s->link = session_link_new(s);
    if (!s || !s->link || RAND_bytes(s->id, sizeof(s->id)) != 1 ||
        RAND_bytes(s->secret, sizeof(s->secret)) != 1) {
        if (s && s->link)
            session_link_unref(s->link);
        if (s)
            session_free(s);
        tenant_unref(tenant);
        return err_set(err, CE_ENOMEM, "HELLO: the server is out of memory");
    }
    s->srv = srv;
    s->state = SESSION_READY;
    s->number = ++srv->next_number;
    s->epoch = h->epoch;
    s->layer_from = (int)h->layer_from;
    s->whole_model = h->whole_model;
    s->since_us = ch->last_us;
    s->usage = srv->metrics ? usage_of(&srv->metrics->usage, tenant->name) : NULL;
    s->tenant = s->link->tenant = tenant;
    tenant->n_sessions++;
    s->link->usage = s->usage;
    usage_add(s->usage, USAGE_SESSIONS, 1);
    metrics_add(srv->metrics, METRICS_SESSIONS, 1);
    memcpy(s->cert, ch->cert, sizeof(s->cert));
    s->infer = ch;
    s->next = srv->sessions;
    if (s->next)
        s->next->prev = s;
    srv->sessions = s;
    srv->n_sessions++;
    *out = s;
    return 0;
}

struct session *
session_find(struct server *srv, const uint8_t id[16], const uint8_t secret[16])
{
    static const uint8_t none[16];
    struct session *s = srv->sessions;
    int differ;

    while (s && CRYPTO_memcmp(s->id, id, sizeof(s->id)) != 0)
        s = s->next;
    differ = CRYPTO_memcmp(s ? s->secret : none, secret, sizeof(none));
    return s && differ == 0 ? s : NULL;
}

static void
end_channel(struct channel *ch, int code, const char *text)
{
    if (!ch)
        return;
    ch->session = NULL;
    if (code < 0)
        channel_send_error(ch, code, text);
    channel_close(ch);
}

static void
seq_close(struct session *s, struct session_seq *q)
{
    q->open = false;
    s->n_open--;
    s->tenant->n_seqs--;
    s->tenant->hidden_bytes -= q->hidden_bytes;
    usage_add(s->usage, USAGE_SEQUENCES, -1);
}

void
session_end(struct session *s, int code, const char *text)
{
    struct session_link *link = s->link;
    struct channel *infer = s->infer, *upload = s->upload;
    uint32_t i;

    log_info_limited("session=%u ended: %s", s->number, text);
    session_set_state(s, SESSION_ENDED);
    s->infer = s->upload = NULL;
    session_unlink(s);
    session_tenant_unhold(s);
    for (i = 0; i < s->srv->max_seqs; i++)
        if (s->seqs[i].open)
            seq_close(s, &s->seqs[i]);
    s->tenant->n_sessions--;
    usage_add(s->usage, USAGE_SESSIONS, -1);
    usage_add(s->usage, USAGE_REFUSALS, code < 0);
    link->session = NULL;
    link->gone.cost = 0;
    s->srv->post(s->srv->post_arg, &link->gone); /* takes the session's reference */
    if (infer)
        infer->session = NULL;
    if (upload)
        upload->session = NULL;
    session_free(s);
    end_channel(upload, code, text);
    end_channel(infer, code, text);
}

struct session_seq *
session_seq_find(struct session *s, uint32_t seq)
{
    uint32_t i;

    for (i = 0; i < s->srv->max_seqs; i++)
        if (s->seqs[i].open && s->seqs[i].seq == seq)
            return &s->seqs[i];
    return NULL;
}

struct session_seq *
session_seq_add(struct session *s, uint32_t seq)
{
    uint32_t i;

    for (i = 0; i < s->srv->max_seqs; i++)
        if (!s->seqs[i].open) {
            memset(&s->seqs[i], 0, sizeof(s->seqs[i]));
            s->seqs[i].open = true;
            s->seqs[i].seq = seq;
            s->n_open++;
            s->tenant->n_seqs++;
            usage_add(s->usage, USAGE_SEQUENCES, 1);
            return &s->seqs[i];
        }
    return NULL;
}

void
session_seq_remove(struct session *s, struct session_seq *q)
{
    seq_close(s, q);
    if (s->n_open == 0 && s->srv->draining)
        session_end(s, 0, "drained");
}

void
session_refuse_seq(struct session *s, uint32_t seq, int code, uint32_t retry_ms,
                   const char *text)
{
    struct frame f = { .type = FRAME_ERROR };

    f.u.error.code = (uint32_t)-code;
    f.u.error.text = frame_str_of(text, strnlen(text, FRAME_MAX_TEXT));
    f.u.error.has_seq = true;
    f.u.error.seq = seq;
    f.u.error.retry_ms = retry_ms;
    channel_send(s->infer, &f);
}

void
session_post(struct session *s, struct channel *ch, struct work_msg *w)
{
    size_t queued = atomic_load_explicit(&s->link->queued, memory_order_relaxed);

    s->srv->post(s->srv->post_arg, w);
    if (queued > s->srv->max_queued)
        channel_pause(ch, true);
}
