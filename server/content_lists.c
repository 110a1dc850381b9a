/* SPDX-License-Identifier: Apache-2.0
 * content_lists.c - who could be computed now, and whose time is up; see content.h.
 *
 * A sequence is in up to three lists: all, ready (it has something to compute),
 * waiting (it has a deadline). After each frame and each run content_refresh
 * decides where it belongs; so a step costs what is runnable, not what is
 * connected.
 */
#include "server/content_internal.h"

/* ---- circular lists ---- */

void
content_list_init(struct content_link *l)
{
    l->prev = l->next = l;
}

bool
content_list_linked(const struct content_link *l)
{
    return l->next != l;
}

void
content_list_add(struct content_link *head, struct content_link *l)
{
    l->prev = head->prev;
    l->next = head;
    head->prev->next = l;
    head->prev = l;
}

void
content_list_remove(struct content_link *l)
{
    l->prev->next = l->next;
    l->next->prev = l->prev;
    content_list_init(l);
}

/* ---- ready, waiting ---- */

static int64_t
seq_deadline(const struct content_seq *s)
{
    int64_t earliest = s->gen ? s->gen->deadline_us : INT64_MAX;
    int i;

    for (i = 0; i < s->n_pending; i++)
        if (s->pending[i].deadline_us < earliest)
            earliest = s->pending[i].deadline_us;
    return earliest;
}

void
content_refresh(struct content *c, struct content_seq *s, int64_t now_us)
{
    bool eager, runnable, waits = seq_deadline(s) != INT64_MAX;
    uint32_t wanted;
    int i;

    s->hurry = content_memory_pressed(c);
    wanted = content_wanted(c, s, &eager);
    content_memory_refresh(c, s, wanted, eager && wanted > s->consumed);
    runnable = content_goal(c, s, &eager) > s->consumed;
    for (i = 0; i < s->n_pending; i++)
        if (s->pending[i].pos >= s->next)
            s->pending[i].ready_us = 0;
        else if (s->pending[i].ready_us == 0)
            s->pending[i].ready_us = now_us;
    if (runnable && s->eager && !eager) /* its wait begins now */
        s->since_us = now_us;
    s->eager = eager;
    if (runnable != content_list_linked(&s->ready)) {
        if (runnable) {
            content_list_add(&c->ready, &s->ready);
            s->since_us = now_us;
            c->n_ready++;
        } else {
            content_list_remove(&s->ready);
            c->n_ready--;
        }
    }
    if (waits != content_list_linked(&s->waiting)) {
        if (waits)
            content_list_add(&c->waiting, &s->waiting);
        else
            content_list_remove(&s->waiting);
    }
}

/* The sequences that nothing was heard of for too long, the first ones of `all`.
 * What waits for an answer is not silent. */
static int64_t
expire_silent(struct content *c, int64_t now_us, int64_t earliest)
{
    while (c->config.seq_idle_us > 0 && content_list_linked(&c->all)) {
        struct content_seq *s = CONTENT_SEQ_OF(c->all.next, all);
        int64_t end_us = s->seen_us + c->config.seq_idle_us;

        if (end_us > now_us)
            return end_us < earliest ? end_us : earliest;
        if (s->n_pending || s->gen)
            content_memory_used(c, s, now_us);
        else
            content_seq_fail(c, s, CE_ETIMEOUT, 0,
                             "nothing came for this sequence for %lld s",
                             (long long)(c->config.seq_idle_us / 1000000));
    }
    return earliest;
}

int64_t
content_expire(struct content *c, int64_t now_us)
{
    struct content_link *l, *next;
    int64_t earliest = INT64_MAX;

    for (l = c->waiting.next; l != &c->waiting; l = next) {
        struct content_seq *s = CONTENT_SEQ_OF(l, waiting);
        int64_t deadline = seq_deadline(s);

        next = l->next;
        if (deadline <= now_us)
            content_seq_fail(c, s, CE_ETIMEOUT, 0,
                             s->gen ? "GENERATE: the deadline passed"
                             : s->pending[0].pos >= s->next
                                 ? "INFER %u: the deadline passed before its rows came"
                                 : "INFER %u: the deadline passed before its turn",
                             s->n_pending ? s->pending[0].pos : 0);
        else if (deadline < earliest)
            earliest = deadline;
    }
    return expire_silent(c, now_us, earliest);
}

/* ---- figures ---- */

size_t
content_bytes(const struct content *c)
{
    return c->bytes;
}

size_t
content_rows(const struct content *c)
{
    return c->rows;
}

size_t
content_n_seqs(const struct content *c)
{
    return c->n_seqs;
}

size_t
content_n_runnable(const struct content *c)
{
    return c->n_ready;
}

size_t
content_runnable(const struct content *c, struct content_work *out, size_t cap)
{
    struct content_link *l;
    size_t n = 0;

    for (l = c->ready.next; l != &c->ready && n < cap; l = l->next, n++) {
        struct content_seq *s = CONTENT_SEQ_OF(l, ready);

        out[n].seq = s;
        out[n].session = s->session;
        out[n].since_us = s->since_us;
        out[n].deadline_us = seq_deadline(s);
        out[n].pos = s->consumed;
        out[n].n_rows = content_goal(c, s, &out[n].eager) - s->consumed;
    }
    return n;
}
