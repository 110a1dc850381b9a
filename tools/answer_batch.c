/* SPDX-License-Identifier: Apache-2.0
 * answer_batch.c - see answer_batch.h.
 *
 * A step is a row of each running answer and, in what room is left, a piece of prompts
 * that are still being read: prompts never hold the others up for long.
 */
#include "tools/answer_batch.h"

#include "common/memory.h"

struct slot {
    struct answer a;
    int seq;
    int n_read; /* of prompt and output, positions in the cache */
    bool busy;
};

struct run {
    const struct answer_batch *batch;
    struct slot *slots;        /* [width] */
    struct staged_item *items; /* [width] of the step */
    int *who;                  /* [width] the items' slots */
    int n_items;
    bool dry; /* there are no more prompts */
};

static int
known(const struct slot *s)
{
    return s->a.n_prompt + s->a.n_output;
}

static int
refill(struct run *r, struct err *err)
{
    struct backend *b = r->batch->staged->b;
    int rc = 0;

    for (int i = 0; rc == 0 && !r->dry && i < r->batch->width; i++) {
        struct slot *s = &r->slots[i];

        if (s->busy)
            continue;
        s->a = (struct answer){ 0 };
        s->n_read = 0;
        if (!r->batch->next(r->batch->ctx, &s->a))
            r->dry = true;
        else if ((rc = backend_seq_open(b, &s->seq, err)) == 0)
            s->busy = true;
    }
    return rc;
}

/* The unread tokens of slot i, at most `room` of them. */
static void
add_item(struct run *r, int i, int room)
{
    struct slot *s = &r->slots[i];
    int left = known(s) - s->n_read, n = left < room ? left : room;
    bool in_prompt = s->n_read < s->a.n_prompt;

    r->who[r->n_items] = i;
    r->items[r->n_items++] = (struct staged_item){
        .seq = s->seq,
        .pos = s->n_read,
        .tokens =
            in_prompt ? s->a.prompt + s->n_read : s->a.output + s->n_read - s->a.n_prompt,
        .n_rows = n,
        .head_rows = n == left,
    };
}

/* Writers first: each has one unread token. */
static void
plan(struct run *r)
{
    int room = r->batch->staged->max_rows;

    r->n_items = 0;
    for (int reading = 0; reading < 2; reading++) {
        for (int i = 0; i < r->batch->width && room > 0; i++) {
            const struct slot *s = &r->slots[i];

            if (!s->busy || (s->n_read < s->a.n_prompt) != reading)
                continue;
            add_item(r, i, room);
            room -= r->items[r->n_items - 1].n_rows;
        }
    }
}

/* A token for slot s; true when its answer has ended. */
static bool
write_token(const struct run *r, struct slot *s, int row, int state_row)
{
    const struct answer_batch *b = r->batch;
    int32_t id = b->choose(b->ctx, &s->a, b->staged, row, state_row);

    if (id < 0)
        return true;
    s->a.output[s->a.n_output++] = id;
    return s->a.n_output == s->a.max_output ||
           tokenizer_is_end_of_generation(b->vocab, id);
}

static int
take_results(struct run *r, struct err *err)
{
    const struct answer_batch *b = r->batch;
    int row = 0, state_row = 0, rc = 0;

    for (int k = 0; rc == 0 && k < r->n_items; k++) {
        const struct staged_item *item = &r->items[k];
        struct slot *s = &r->slots[r->who[k]];

        s->n_read += item->n_rows;
        state_row += item->n_rows;
        if (item->head_rows == 0)
            continue;
        if (write_token(r, s, row++, state_row - 1)) {
            backend_seq_close(b->staged->b, s->seq);
            s->busy = false;
            rc = b->done(b->ctx, &s->a, err);
        }
    }
    return rc;
}

int
answer_batch_run(const struct answer_batch *batch, struct err *err)
{
    size_t width = (size_t)batch->width;
    struct run r = { .batch = batch,
                     .slots = mem_array_alloc(width, sizeof(*r.slots)),
                     .items = mem_array_alloc(width, sizeof(*r.items)),
                     .who = mem_array_alloc(width, sizeof(*r.who)) };
    int rc = 0;

    if (!r.slots || !r.items || !r.who)
        rc = err_set(err, CE_ENOMEM, "no memory for %d answers", batch->width);
    for (int i = 0; rc == 0 && i < batch->width; i++)
        r.slots[i].busy = false;
    while (rc == 0 && (rc = refill(&r, err)) == 0) {
        plan(&r);
        if (r.n_items == 0)
            break;
        rc = staged_run(batch->staged, r.items, r.n_items, batch->n_top, err);
        if (rc == 0)
            rc = take_results(&r, err);
    }
    for (int i = 0; r.slots && i < batch->width; i++) {
        if (r.slots[i].busy)
            backend_seq_close(batch->staged->b, r.slots[i].seq);
    }
    mem_free(r.slots);
    mem_free(r.items);
    mem_free(r.who);
    return rc;
}
