/* SPDX-License-Identifier: Apache-2.0
 * content.c - sequences and the frames that steer them; see content.h.
 *
 * Why:   keeping rows is content_rows.c's job, deciding what to run
 *        content_run.c's, who is runnable content_lists.c's. This file opens and
 *        ends sequences, keeps the table by number, and applies INFER, TRUNCATE,
 *        CANCEL, NEED and credit.
 * Owns:  every sequence, with its chunks and KV handle.
 */
#include "server/content.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/memory.h"
#include "server/content_internal.h"

#define FIRST_BUCKETS 64

/* ---- the table ---- */

static size_t
bucket_of(const struct content *c, uint64_t session, uint32_t seq)
{
    uint64_t h = (session * 0x9e3779b97f4a7c15u) ^ (seq * 0xc2b2ae3d27d4eb4fu);
    h ^= h >> 29;
    return (size_t)(h * 0x9e3779b97f4a7c15u >> 20) & (c->n_buckets - 1);
}

struct content_seq *
content_seq_find(struct content *c, uint64_t session, uint32_t seq)
{
    struct content_seq *s = c->buckets[bucket_of(c, session, seq)];

    while (s && (s->session != session || s->seq != seq))
        s = s->bucket_next;
    return s;
}

static void
table_put(struct content *c, struct content_seq *s)
{
    size_t b = bucket_of(c, s->session, s->seq);

    s->bucket_next = c->buckets[b];
    c->buckets[b] = s;
}

/* A table that could not grow is slower, not wrong. */
static void
table_grow(struct content *c)
{
    struct content_seq **bigger =
        mem_array_alloc(c->n_buckets * 2, sizeof(struct content_seq *));
    struct content_link *l;

    if (!bigger)
        return;
    mem_free(c->buckets);
    c->buckets = bigger;
    c->n_buckets *= 2;
    for (l = c->all.next; l != &c->all; l = l->next)
        table_put(c, CONTENT_SEQ_OF(l, all));
}

static void
table_remove(struct content *c, struct content_seq *s)
{
    struct content_seq **at = &c->buckets[bucket_of(c, s->session, s->seq)];

    while (*at != s)
        at = &(*at)->bucket_next;
    *at = s->bucket_next;
}

/* ---- making and ending ---- */

int
content_new(struct content **out, const struct content_config *config,
            const struct content_hooks *hooks, struct err *err)
{
    struct content *c = mem_array_alloc(1, sizeof(*c));

    *out = NULL;
    if (!c)
        return err_set(err, CE_ENOMEM, "content manager: no memory");
    c->config = *config;
    c->hooks = *hooks;
    if (c->config.window < CONTENT_MIN_WINDOW)
        c->config.window = CONTENT_MIN_WINDOW;
    c->n_buckets = FIRST_BUCKETS;
    c->buckets = mem_array_alloc(c->n_buckets, sizeof(struct content_seq *));
    if (!c->buckets) {
        mem_free(c);
        return err_set(err, CE_ENOMEM, "content manager: no memory");
    }
    content_list_init(&c->all);
    content_list_init(&c->ready);
    content_list_init(&c->waiting);
    content_list_init(&c->wants);
    content_list_init(&c->held);
    *out = c;
    return 0;
}

static void
gen_free(struct content *c, struct content_seq *s)
{
    if (!s->gen)
        return;
    c->bytes -= sizeof(*s->gen) + s->gen->cap_ids * sizeof(int32_t);
    mem_free(s->gen);
    s->gen = NULL;
}

static void
seq_free(struct content *c, struct content_seq *s)
{
    content_rows_drop_from(c, s, 0);
    content_rows_drop_parked(c, s, 0);
    gen_free(c, s);
    if (s->kv >= 0)
        c->hooks.kv_close(c->hooks.arg, s->kv);
    if (content_list_linked(&s->ready))
        c->n_ready--;
    content_list_remove(&s->ready);
    content_list_remove(&s->waiting);
    content_list_remove(&s->all);
    content_memory_free(c, s);
    table_remove(c, s);
    c->n_seqs--;
    c->bytes -= sizeof(*s);
    mem_free(s);
}

void
content_free(struct content *c)
{
    if (!c)
        return;
    while (content_list_linked(&c->all))
        seq_free(c, CONTENT_SEQ_OF(c->all.next, all));
    mem_free(c->buckets);
    mem_free(c);
}

static void
reply_error(struct content *c, uint64_t session, uint32_t seq, int code,
            uint32_t retry_ms, const char *text)
{
    struct frame f = { .type = FRAME_ERROR };

    f.u.error.code = (uint32_t)-code;
    f.u.error.text = frame_str_of(text, strnlen(text, FRAME_MAX_TEXT));
    f.u.error.has_seq = true;
    f.u.error.seq = seq;
    f.u.error.retry_ms = retry_ms;
    c->hooks.reply(c->hooks.arg, session, &f);
}

void
content_seq_fail(struct content *c, struct content_seq *s, int code, uint32_t retry_ms,
                 const char *fmt, ...)
{
    uint64_t session = s->session;
    uint32_t seq = s->seq;
    char text[256];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    seq_free(c, s); /* first: the peer may rely on it */
    reply_error(c, session, seq, code, retry_ms, text);
}

void
content_open(struct content *c, uint64_t session, const struct frame_open *f,
             int layer_from, int64_t now_us)
{
    struct content_seq *s;
    enum states_codec codec;
    struct err err;
    int rc;

    if (content_seq_find(c, session, f->seq))
        return; /* the session refuses an OPEN that is not new */
    if (states_codec_find(f->codec.data, f->codec.len, &codec) < 0) {
        reply_error(c, session, f->seq, CE_EUNSUPPORTED, 0, "OPEN: unknown codec");
        return;
    }
    s = mem_array_alloc(1, sizeof(*s));
    if (!s) {
        reply_error(c, session, f->seq, CE_ENOMEM, 1000, "OPEN: server out of memory");
        return;
    }
    rc = c->hooks.kv_open(c->hooks.arg, &s->kv, &err);
    s->session = session;
    if (rc == 0 && content_tenant_join(c, s) < 0) {
        c->hooks.kv_close(c->hooks.arg, s->kv);
        rc = CE_ENOMEM;
    }
    if (rc < 0) {
        mem_free(s);
        reply_error(c, session, f->seq, CE_EQUOTA, 1000,
                    "OPEN: the server has no room for another sequence");
        return;
    }
    s->seq = f->seq;
    s->epoch = f->epoch;
    s->codec = codec;
    s->row_bytes = states_row_bytes(codec, c->config.d_model);
    s->layer_from = layer_from;
    s->max_pos = f->max_pos;
    s->keep_kv = f->keep_kv;
    content_list_init(&s->ready);
    content_list_init(&s->waiting);
    content_list_init(&s->wants);
    content_list_init(&s->held);
    content_list_add(&c->all, &s->all);
    s->seen_us = s->progress_us = now_us;
    c->n_seqs++;
    c->bytes += sizeof(*s);
    table_put(c, s);
    if (c->n_seqs > c->n_buckets)
        table_grow(c);
    if (f->max_pos == 0 || f->max_pos > c->config.n_ctx) {
        content_seq_fail(c, s, CE_ECONTEXT, 0,
                         "OPEN: max_pos %u, but the context here is 1 to %u positions",
                         f->max_pos, c->config.n_ctx);
        return;
    }
    content_grant(c, s, true);
    content_refresh(c, s, now_us);
}

void
content_close(struct content *c, uint64_t session, uint32_t seq)
{
    struct content_seq *s = content_seq_find(c, session, seq);

    if (s)
        seq_free(c, s);
}

void
content_session_gone(struct content *c, uint64_t session)
{
    struct content_link *l, *next;

    for (l = c->all.next; l != &c->all; l = next) {
        next = l->next;
        if (CONTENT_SEQ_OF(l, all)->session == session)
            seq_free(c, CONTENT_SEQ_OF(l, all));
    }
}

/* ---- credit ---- */

/* In steps of a quarter window, so that a stream of single tokens does not cost
 * a CREDIT each. An agent that stands at its limit always gets one: it has at
 * most three quarters waiting (beyond that they are computed unasked), so at
 * least a quarter has been consumed since. The last credit, up to max_pos, may be
 * smaller than a step and is granted as soon as it can be: nothing may follow. */
void
content_grant(struct content *c, struct content_seq *s, bool force)
{
    uint32_t window = c->config.window;
    uint32_t limit =
        s->max_pos - s->consumed > window ? s->consumed + window : s->max_pos;
    struct frame f = { .type = FRAME_CREDIT };

    if (!force && (limit <= s->limit || (limit - s->limit < window / 4 &&
                                         limit < s->max_pos && s->next < s->limit)))
        return;
    if (s->limit < limit)
        s->limit = limit;
    f.u.credit.epoch = s->epoch;
    f.u.credit.seq = s->seq;
    f.u.credit.limit = s->limit;
    c->hooks.reply(c->hooks.arg, s->session, &f);
}

/* ---- INFER, TRUNCATE, CANCEL, NEED ---- */

static void
pending_remove(struct content_seq *s, int i)
{
    s->n_pending--;
    memmove(&s->pending[i], &s->pending[i + 1],
            (size_t)(s->n_pending - i) * sizeof(s->pending[0]));
}

/* Refuse an INFER that breaks a rule; true when it did (and s is gone). */
static bool
infer_refused(struct content *c, struct content_seq *s, const struct frame_infer *f)
{
    if (s->generated)
        content_seq_fail(c, s, CE_EPROTO, 0, "INFER: the sequence is generating");
    else if (f->branch > s->branch)
        content_seq_fail(c, s, CE_EPROTO, 0, "INFER: branch %u was not announced",
                         f->branch);
    else if (f->pos >= s->max_pos)
        content_seq_fail(c, s, CE_ECONTEXT, 0, "INFER: position %u, but max_pos is %u",
                         f->pos, s->max_pos);
    else if (f->pos < s->answered)
        content_seq_fail(c, s, CE_EINVAL, 0,
                         "INFER: position %u, but those below %u have had their answers",
                         f->pos, s->answered);
    else if (s->n_pending && f->pos <= s->pending[s->n_pending - 1].pos)
        content_seq_fail(c, s, CE_EINVAL, 0,
                         "INFER: position %u is not above the pending %u", f->pos,
                         s->pending[s->n_pending - 1].pos);
    else if (s->n_pending == CONTENT_MAX_PENDING)
        content_seq_fail(c, s, CE_EQUOTA, 0, "INFER: more than %d are pending",
                         CONTENT_MAX_PENDING);
    else
        return false;
    return true;
}

void
content_infer(struct content *c, uint64_t session, const struct frame_infer *f,
              int64_t now_us)
{
    struct content_seq *s = content_seq_find(c, session, f->seq);
    struct content_pending *p;

    if (!s || f->epoch != s->epoch)
        return;
    if (f->branch < s->branch && f->pos >= content_live_below(s, f->branch))
        return;
    if (infer_refused(c, s, f) || content_memory_too_much(c, s, f->pos + 1))
        return;
    content_memory_used(c, s, now_us);
    if (f->pos < s->consumed) /* computed unasked, and the state is gone: once more */
        content_lost(c, session, f->seq, f->pos, now_us);
    p = &s->pending[s->n_pending++];
    memset(p, 0, sizeof(*p));
    p->pos = f->pos;
    p->branch = f->branch;
    p->has_draft = f->has_draft;
    p->draft = f->draft;
    p->n_top = (int)f->n_top;
    p->want_hash = f->want_hash;
    p->asked_us = now_us;
    p->deadline_us = f->deadline_ms ? now_us + (int64_t)f->deadline_ms * 1000 : INT64_MAX;
    content_refresh(c, s, now_us);
}

void
content_forget_from(struct content *c, struct content_seq *s, uint32_t pos)
{
    content_rows_drop_from(c, s, pos);
    if (s->next > pos)
        s->next = pos;
    if (s->consumed > pos) {
        s->consumed = pos;
        c->hooks.kv_truncate(c->hooks.arg, s->kv, pos);
    }
}

void
content_truncate(struct content *c, uint64_t session, const struct frame_truncate *f,
                 int64_t now_us)
{
    struct content_seq *s = content_seq_find(c, session, f->seq);

    if (!s || f->epoch != s->epoch)
        return;
    if (s->generated || f->branch != s->branch + 1) {
        content_seq_fail(c, s, CE_EPROTO, 0, "TRUNCATE: branch %u after %u", f->branch,
                         s->branch);
        return;
    }
    s->branch = f->branch;
    s->cut[s->branch % CONTENT_HISTORY] = f->pos;
    while (s->n_pending && s->pending[s->n_pending - 1].pos >= f->pos)
        s->n_pending--;
    if (s->answered > f->pos)
        s->answered = f->pos;
    if (s->gap_branch >= s->branch) { /* some of the new branch's rows were dropped */
        s->lost = true;
        s->begs = s->n_pending == 0;
    } else if (f->pos <= s->next) { /* what is lost comes again, under the new branch */
        s->lost = s->begs = false;
    }
    content_forget_from(c, s, f->pos);
    content_memory_used(c, s, now_us);
    if (content_rows_unpark(c, s, now_us))
        content_refresh(c, s, now_us);
}

void
content_cancel(struct content *c, uint64_t session, const struct frame_cancel *f,
               int64_t now_us)
{
    struct content_seq *s = content_seq_find(c, session, f->seq);
    int i;

    if (!s || f->epoch != s->epoch)
        return;
    for (i = 0; i < s->n_pending; i++)
        if (s->pending[i].pos == f->pos) {
            pending_remove(s, i);
            break;
        }
    content_memory_used(c, s, now_us);
    content_refresh(c, s, now_us);
}

void
content_lost(struct content *c, uint64_t session, uint32_t seq, uint32_t pos,
             int64_t now_us)
{
    struct content_seq *s = content_seq_find(c, session, seq);
    struct frame f = { .type = FRAME_NEED };
    uint32_t window = c->config.window;

    if (!s || s->generated)
        return;
    if (pos > s->next)
        pos = s->next;
    content_forget_from(c, s, pos);
    content_rows_drop_parked(c, s, pos); /* their id is too low now */
    s->lost = s->begs = false;
    s->id++;
    s->need_at[s->id % CONTENT_HISTORY] = pos;
    s->limit = s->max_pos - s->consumed > window ? s->consumed + window : s->max_pos;
    f.u.need.epoch = s->epoch;
    f.u.need.seq = s->seq;
    f.u.need.branch = s->branch;
    f.u.need.pos = pos;
    f.u.need.id = s->id;
    f.u.need.limit = s->limit;
    c->hooks.reply(c->hooks.arg, s->session, &f);
    content_refresh(c, s, now_us);
}

/* ---- GENERATE ---- */

void
content_generate(struct content *c, uint64_t session, const struct frame_generate *f,
                 int64_t now_us)
{
    struct content_seq *s = content_seq_find(c, session, f->seq);
    struct content_gen *g;
    uint32_t room;
    size_t cap, i;

    if (!s || f->epoch != s->epoch)
        return;
    if (s->generated || s->next || s->n_parked || s->n_pending || s->branch) {
        content_seq_fail(c, s, CE_EPROTO, 0, "GENERATE: the sequence is not new");
        return;
    }
    if (f->n_ids == 0 || f->max_tokens == 0 || f->n_ids > s->max_pos) {
        content_seq_fail(c, s, f->n_ids > s->max_pos ? CE_ECONTEXT : CE_EINVAL, 0,
                         "GENERATE: a prompt of %zu tokens, max_pos %u, max_tokens %u",
                         f->n_ids, s->max_pos, f->max_tokens);
        return;
    }
    room = s->max_pos - (uint32_t)f->n_ids + 1; /* the last token needs no position */
    cap = f->n_ids + (f->max_tokens < room ? f->max_tokens : room);
    g = mem_array_alloc(1, sizeof(*g) + cap * sizeof(int32_t));
    if (!g) {
        content_seq_fail(c, s, CE_ENOMEM, 1000, "GENERATE: server out of memory");
        return;
    }
    g->how.temperature = f->temperature;
    g->how.top_k = f->top_k;
    g->how.top_p = f->top_p;
    g->how.min_p = f->min_p;
    g->how.seed = f->seed;
    g->n_ids = f->n_ids;
    g->cap_ids = cap;
    g->left = (uint32_t)(cap - f->n_ids);
    g->want_hash = f->want_hash;
    g->ready_us = now_us;
    g->deadline_us = f->deadline_ms ? now_us + (int64_t)f->deadline_ms * 1000 : INT64_MAX;
    s->gen = g;
    s->generated = true;
    content_memory_used(c, s, now_us);
    c->bytes += sizeof(*g) + cap * sizeof(int32_t);
    for (i = 0; i < f->n_ids; i++) {
        uint32_t id = frame_id_at(f, i);

        if (id >= c->config.n_vocab) {
            content_seq_fail(c, s, CE_EINVAL, 0,
                             "GENERATE: token %u at %zu, but the vocabulary has %u", id,
                             i, c->config.n_vocab);
            return;
        }
        g->ids[i] = (int32_t)id;
    }
    content_refresh(c, s, now_us);
}
