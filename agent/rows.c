/* SPDX-License-Identifier: Apache-2.0
 * rows.c - see rows.h.
 */
#include "agent/rows.h"

#include <string.h>

#include "common/memory.h"

#define ROWS_PAYLOAD 65536 /* of a STATES frame, unless one row alone is larger */

void
rows_init(struct rows *r, size_t d_model, uint32_t epoch)
{
    memset(r, 0, sizeof(*r));
    r->d_model = d_model;
    r->epoch = epoch;
}

static void
rows_close(struct rows *r)
{
    mem_free(r->data);
    r->data = NULL;
    r->cap = 0;
    r->open = false;
}

void
rows_fini(struct rows *r)
{
    rows_close(r);
}

static void
begin(struct rows *r, const struct cloud_msg *m)
{
    rows_close(r);
    r->open = true;
    r->seq = m->seq;
    r->codec = m->codec;
    r->row_bytes = states_row_bytes(m->codec, r->d_model);
    r->max_pos = m->pos;
    r->branch = r->id = 0;
    r->n = r->released = r->limit = r->next = 0;
}

static int
append(struct rows *r, const struct cloud_msg *m, struct err *err)
{
    uint32_t cap = r->cap < 64 ? 64 : r->cap;

    if (m->pos != r->n || m->n > r->max_pos - r->n)
        return err_set(err, CE_EINTERNAL, "rows: %u rows at %u, %u are there", m->n,
                       m->pos, r->n);
    while (cap - r->n < m->n)
        cap *= 2;
    if (cap > r->cap) {
        uint8_t *p = mem_array_resize(r->data, cap, r->row_bytes);
        if (p == NULL)
            return err_set(err, CE_ENOMEM, "rows: no memory for %u rows", cap);
        r->data = p;
        r->cap = cap;
    }
    states_encode(r->codec, (const float *)(const void *)m->data, m->n, r->d_model,
                  r->data + (size_t)r->n * r->row_bytes);
    r->n += m->n;
    return 0;
}

static void
truncate_to(struct rows *r, uint32_t branch, uint32_t pos)
{
    r->branch = branch;
    if (r->n > pos)
        r->n = pos;
    if (r->released > pos)
        r->released = pos;
    if (r->next > pos)
        r->next = pos;
}

/* A new sequence to the cloud, with the rows of the live one. */
static void
begin_again(struct rows *r)
{
    r->branch = r->id = 0;
    r->limit = r->next = 0;
}

void
rows_session(struct rows *r, uint32_t epoch)
{
    r->epoch = epoch;
    begin_again(r);
}

int
rows_take(struct rows *r, const struct cloud_msg *m, struct err *err)
{
    if (m->kind == CLOUD_MSG_OPEN) {
        begin(r, m);
        return 0;
    }
    if (m->kind == CLOUD_MSG_REOPEN && r->open) {
        r->seq = m->seq;
        begin_again(r);
        return 0;
    }
    if (!r->open || m->seq != r->seq)
        return 0;
    switch (m->kind) {
    case CLOUD_MSG_ROWS:
        return append(r, m, err);
    case CLOUD_MSG_RELEASE:
        if (m->pos > r->released)
            r->released = m->pos;
        break;
    case CLOUD_MSG_REWIND:
        r->next = 0;
        r->released = m->pos;
        break;
    case CLOUD_MSG_TRUNCATE:
        truncate_to(r, m->branch, m->pos);
        break;
    case CLOUD_MSG_CREDIT:
        if (m->limit > r->limit)
            r->limit = m->limit;
        break;
    case CLOUD_MSG_NEED: /* lowers the limit as well, it is a new start */
        if (m->id <= r->id)
            break;
        r->id = m->id;
        r->limit = m->limit;
        if (r->next > m->pos)
            r->next = m->pos;
        break;
    case CLOUD_MSG_CLOSE:
        rows_close(r);
        break;
    default:
        break;
    }
    return 0;
}

void
rows_rewind(struct rows *r)
{
    r->next = 0;
}

bool
rows_next(struct rows *r, struct frame *f)
{
    uint32_t end = r->n;
    size_t most;

    if (!r->open)
        return false;
    end = end < r->released ? end : r->released;
    end = end < r->limit ? end : r->limit;
    if (r->next >= end)
        return false;
    most = ROWS_PAYLOAD / r->row_bytes;
    most = most > 0 ? most : 1;
    uint32_t n = end - r->next < most ? end - r->next : (uint32_t)most;
    f->type = FRAME_STATES;
    f->u.states = (struct frame_states){
        .epoch = r->epoch,
        .seq = r->seq,
        .branch = r->branch,
        .id = r->id,
        .pos = r->next,
        .n = n,
        .rows = r->data + (size_t)r->next * r->row_bytes,
        .rows_size = (size_t)n * r->row_bytes,
    };
    r->next += n;
    return true;
}
