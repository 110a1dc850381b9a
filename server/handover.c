/* SPDX-License-Identifier: Apache-2.0
 * handover.c - messages between the two threads; see handover.h.
 */
#include "server/handover.h"

#include <string.h>

#include "common/clock.h"
#include "common/memory.h"
#include "server/tenant.h"

struct session_link *
session_link_new(struct session *s)
{
    struct session_link *link = mem_array_alloc(1, sizeof(*link));

    if (!link)
        return NULL;
    atomic_init(&link->refs, 1);
    link->session = s;
    link->gone.kind = WORK_GONE;
    link->gone.link = link;
    link->lost.kind = REPLY_LOST;
    link->lost.link = link;
    return link;
}

struct session_link *
session_link_ref(struct session_link *link)
{
    atomic_fetch_add_explicit(&link->refs, 1, memory_order_relaxed);
    return link;
}

void
session_link_unref(struct session_link *link)
{
    if (atomic_fetch_sub_explicit(&link->refs, 1, memory_order_acq_rel) == 1) {
        tenant_unref(link->tenant);
        mem_free(link);
    }
}

struct work_msg *
work_msg_new(enum work_kind kind, struct session_link *link, size_t extra, size_t cost)
{
    struct work_msg *w = mem_array_alloc(1, sizeof(*w) + extra);

    if (!w)
        return NULL;
    w->kind = kind;
    w->link = session_link_ref(link);
    w->cost = sizeof(*w) + extra + cost;
    w->posted_us = clock_us();
    atomic_fetch_add_explicit(&link->queued, w->cost, memory_order_relaxed);
    return w;
}

void
work_msg_free(struct work_msg *w)
{
    struct session_link *link = w->link;

    atomic_fetch_sub_explicit(&link->queued, w->cost, memory_order_relaxed);
    content_chunk_free(w->chunk);
    if (w != &link->gone)
        mem_free(w);
    session_link_unref(link);
}

struct reply_msg *
reply_msg_new(struct session_link *link, const struct frame *f)
{
    struct reply_msg *r = mem_array_alloc(1, sizeof(*r));

    if (!r) {
        if (atomic_exchange(&link->lost_posted, true))
            return NULL;
        session_link_ref(link);
        return &link->lost;
    }
    r->kind = REPLY_FRAME;
    r->link = session_link_ref(link);
    r->frame = *f;
    if (f->type == FRAME_ERROR) {
        struct frame_str *text = &r->frame.u.error.text;

        if (text->len > sizeof(r->text))
            text->len = sizeof(r->text);
        memcpy(r->text, f->u.error.text.data, text->len);
        text->data = r->text;
    }
    return r;
}

void
reply_msg_free(struct reply_msg *r)
{
    struct session_link *link = r->link;

    if (r != &link->lost)
        mem_free(r);
    session_link_unref(link);
}
