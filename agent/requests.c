/* SPDX-License-Identifier: Apache-2.0
 * requests.c - see requests.h.
 */
#include "agent/requests.h"

#include <string.h>

bool
requests_add(struct requests *r, const struct request *one)
{
    for (int i = 0; i < REQUESTS_MAX; i++)
        if (!r->all[i].used) {
            r->all[i] = *one;
            r->all[i].used = true;
            r->n++;
            return true;
        }
    return false;
}

static void
drop(struct requests *r, struct request *one)
{
    r->n -= one->used;
    one->used = false;
}

int64_t
requests_answered(struct requests *r, const struct frame_token *t)
{
    for (int i = 0; i < REQUESTS_MAX; i++) {
        struct request *q = &r->all[i];
        if (!q->used || q->seq != t->seq)
            continue;
        if (!q->stream && (q->pos != t->pos || q->branch != t->branch))
            continue;
        if (!q->stream || t->last)
            drop(r, q);
        return q->sent_us;
    }
    return -1;
}

void
requests_forget(struct requests *r, uint32_t seq)
{
    for (int i = 0; i < REQUESTS_MAX; i++)
        if (r->all[i].seq == seq)
            drop(r, &r->all[i]);
}

void
requests_clear(struct requests *r)
{
    memset(r, 0, sizeof(*r));
}
