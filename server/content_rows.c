/* SPDX-License-Identifier: Apache-2.0
 * content_rows.c - hidden states received, in order, and which of them count.
 *
 * A row (branch b, id i, position p) counts when p lies below every TRUNCATE of
 * branches b+1 .. now and below every NEED of ids i+1 .. now: the first says
 * that its text is still the text, the second that the agent will not send it
 * again. Both rules have the same shape, so both histories are rings of 64
 * positions, and what is older than the ring does not count.
 *
 * Rows of one channel are in order, so a row above the next expected one is a
 * hole and ends the sequence. Rows of a branch above ours are parked until the
 * TRUNCATE on the other channel says where it begins. Rows that we have are
 * skipped.
 *
 * What a deep TRUNCATE leaves of the credit can be more than a window; past two
 * windows the rest is refused by NEED instead of held.
 */
#include "server/content_internal.h"

#include <string.h>

#include "common/memory.h"

struct content_chunk *
content_chunk_new(const struct frame_states *f)
{
    struct content_chunk *k = mem_array_alloc(1, sizeof(*k) + f->rows_size);

    if (!k)
        return NULL;
    k->seq = f->seq;
    k->branch = f->branch;
    k->id = f->id;
    k->pos = f->pos;
    k->n = f->n;
    k->size = f->rows_size;
    memcpy(k->data, f->rows, f->rows_size);
    return k;
}

void
content_chunk_free(struct content_chunk *chunk)
{
    mem_free(chunk);
}

static size_t
chunk_bytes(const struct content_chunk *k)
{
    return sizeof(*k) + k->size;
}

static void
chunk_account(struct content *c, struct content_seq *s, const struct content_chunk *k)
{
    c->bytes += chunk_bytes(k);
    c->rows += k->n;
    content_charge(c, s, 0, (int64_t)chunk_bytes(k));
}

static void
chunk_discount(struct content *c, struct content_seq *s, const struct content_chunk *k)
{
    c->bytes -= chunk_bytes(k);
    c->rows -= k->n;
    content_charge(c, s, 0, -(int64_t)chunk_bytes(k));
}

/* Give an accounted chunk back. */
static void
chunk_release(struct content *c, struct content_seq *s, struct content_chunk *k)
{
    chunk_discount(c, s, k);
    mem_free(k);
}

static uint32_t
lowest_since(const uint32_t *ring, uint32_t then, uint32_t now)
{
    uint32_t low = UINT32_MAX;

    if (now - then > CONTENT_HISTORY)
        return 0;
    while (then++ != now)
        if (ring[then % CONTENT_HISTORY] < low)
            low = ring[then % CONTENT_HISTORY];
    return low;
}

uint32_t
content_live_below(const struct content_seq *s, uint32_t branch)
{
    return lowest_since(s->cut, branch, s->branch);
}

void
content_rows_drop_from(struct content *c, struct content_seq *s, uint32_t pos)
{
    struct content_chunk **at = &s->first, *k, *kept = NULL;

    while ((k = *at) != NULL && k->pos < pos) {
        if (pos - k->pos < k->n) {
            c->rows -= k->n - (pos - k->pos);
            k->n = pos - k->pos;
        }
        kept = k;
        at = &k->next;
    }
    *at = NULL;
    s->last = kept;
    while (k) {
        struct content_chunk *next = k->next;

        chunk_release(c, s, k);
        k = next;
    }
}

void
content_rows_consume(struct content *c, struct content_seq *s, uint32_t n)
{
    struct content_chunk *k;

    s->consumed += n;
    while (n > 0 && (k = s->first) != NULL) {
        uint32_t take = n < k->n ? n : k->n;

        k->pos += take;
        k->n -= take;
        k->skip += take * s->row_bytes;
        c->rows -= take;
        n -= take;
        if (k->n == 0) {
            s->first = k->next;
            if (!s->first)
                s->last = NULL;
            chunk_release(c, s, k);
        }
    }
}

void
content_rows_drop_parked(struct content *c, struct content_seq *s, uint32_t from)
{
    struct content_chunk **at = &s->parked, *k;

    s->parked_last = NULL;
    while ((k = *at) != NULL) {
        if (k->pos < from) {
            s->parked_last = k;
            at = &k->next;
            continue;
        }
        *at = k->next;
        s->n_parked -= k->n;
        chunk_release(c, s, k);
    }
}

int
content_rows_decode(const struct content *c, const struct content_seq *s, uint32_t n,
                    float *out)
{
    const struct content_chunk *k;

    for (k = s->first; n; k = k->next) {
        uint32_t take = n < k->n ? n : k->n;
        int rc = states_decode(s->codec, k->data + k->skip, take, c->config.d_model, out);

        if (rc < 0)
            return rc;
        out += take * c->config.d_model;
        n -= take;
    }
    return 0;
}

/* Keep for later, or not: then the branch begins with NEED. */
static void
park(struct content *c, struct content_seq *s, struct content_chunk *k, int64_t now_us)
{
    if (s->lost || k->n > c->config.window - s->n_parked ||
        !content_memory_rows(c, s, chunk_bytes(k), now_us)) {
        if (s->gap_branch < k->branch)
            s->gap_branch = k->branch;
        mem_free(k);
        return;
    }
    k->next = NULL;
    chunk_account(c, s, k);
    if (s->parked_last)
        s->parked_last->next = k;
    else
        s->parked = k;
    s->parked_last = k;
    s->n_parked += k->n;
}

/* NEED will ask for them. */
static void
drop(struct content_seq *s, struct content_chunk *k)
{
    s->lost = true;
    if (s->n_pending == 0 && k->pos + k->n >= s->limit && s->limit < s->max_pos)
        s->begs = true;
    mem_free(k);
}

/* Take a chunk (not accounted) of a branch that is known. May end s. */
static void
arrive(struct content *c, struct content_seq *s, struct content_chunk *k, int64_t now_us)
{
    uint32_t below = content_live_below(s, k->branch);
    uint32_t replayed = lowest_since(s->need_at, k->id, s->id);
    uint32_t room = s->keep_kv ? 2 * c->config.window : s->max_pos;
    uint32_t skip;

    if (replayed < below)
        below = replayed;
    if (k->pos >= below) {
        mem_free(k);
        return;
    }
    if (s->lost) {
        drop(s, k);
        return;
    }
    if (k->pos > s->next) {
        uint32_t pos = k->pos;

        mem_free(k);
        content_seq_fail(c, s, CE_EGAP, 0, "STATES: rows from %u, but the next is %u",
                         pos, s->next);
        return;
    }
    if (k->n > below - k->pos)
        k->n = below - k->pos;
    if (k->n <= s->next - k->pos) {
        mem_free(k);
        return;
    }
    if (s->next - s->consumed > room) {
        mem_free(k);
        content_lost(c, s->session, s->seq, s->next, now_us);
        return;
    }
    if (!content_memory_rows(c, s, chunk_bytes(k), now_us)) {
        drop(s, k);
        return;
    }
    skip = s->next - k->pos;
    k->pos += skip;
    k->n -= skip;
    k->skip += skip * s->row_bytes;
    k->next = NULL;
    if (s->last)
        s->last->next = k;
    else
        s->first = k;
    s->last = k;
    s->next += k->n;
    chunk_account(c, s, k);
}

bool
content_rows_unpark(struct content *c, struct content_seq *s, int64_t now_us)
{
    uint64_t session = s->session;
    uint32_t number = s->seq;
    struct content_chunk **at = &s->parked, *k, *before = NULL;
    struct content_chunk *due = NULL, **due_end = &due;
    bool alive;

    while ((k = *at) != NULL) {
        if (k->branch <= s->branch) {
            *at = k->next;
            s->n_parked -= k->n;
            chunk_discount(c, s, k);
            *due_end = k;
            due_end = &k->next;
        } else {
            before = k;
            at = &k->next;
        }
    }
    *due_end = NULL;
    s->parked_last = before;
    for (alive = true; due; due = k) {
        k = due->next;
        if (alive) {
            arrive(c, s, due, now_us);
            alive = content_seq_find(c, session, number) != NULL;
        } else {
            mem_free(due);
        }
    }
    return alive;
}

void
content_states(struct content *c, uint64_t session, struct content_chunk *chunk,
               int64_t now_us)
{
    uint32_t number = chunk->seq;
    struct content_seq *s = content_seq_find(c, session, number);

    if (!s) {
        mem_free(chunk);
        return;
    }
    if (s->generated || chunk->id > s->id || chunk->n == 0 ||
        chunk->size != chunk->n * s->row_bytes || chunk->pos >= s->max_pos ||
        chunk->n > s->max_pos - chunk->pos) {
        mem_free(chunk);
        content_seq_fail(c, s, CE_EPROTO, 0,
                         "STATES: not within what was opened and granted");
        return;
    }
    content_memory_used(c, s, now_us);
    if (chunk->branch > s->branch)
        park(c, s, chunk, now_us);
    else
        arrive(c, s, chunk, now_us);
    s = content_seq_find(c, session, number);
    if (s)
        content_refresh(c, s, now_us);
}
