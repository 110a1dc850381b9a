/* SPDX-License-Identifier: Apache-2.0
 * chunk.c - cutting a step, and finding the rows whose end is wanted.
 */
#include "engine/chunk.h"

bool
chunk_next(const struct batch *b, struct chunk_cursor *at, int max_rows,
           struct span_list *rows)
{
    rows->n_spans = 0;
    rows->n_rows = 0;
    while (at->item < b->n_items && rows->n_rows < max_rows) {
        const struct batch_item *item = &b->items[at->item];
        int n = item->n_rows - at->row, room = max_rows - rows->n_rows;

        if (n > room)
            n = room;
        rows->spans[rows->n_spans++] = (struct span){
            .item = at->item,
            .item_row = at->row,
            .seq = item->seq,
            .pos = item->pos + at->row,
            .n_rows = n,
            .row = rows->n_rows,
            .input_row = rows->n_rows,
        };
        rows->n_rows += n;
        at->row += n;
        if (at->row == item->n_rows) {
            at->item++;
            at->row = 0;
        }
    }
    return rows->n_rows > 0;
}

void
chunk_wanted(const struct batch *b, const struct span_list *rows,
             struct span_list *wanted)
{
    wanted->n_spans = 0;
    wanted->n_rows = 0;
    for (int i = 0; i < rows->n_spans; i++) {
        struct span s = rows->spans[i];
        const struct batch_item *item = &b->items[s.item];
        int first = item->hidden_out ? 0 : item->n_rows - item->head_rows;
        int skip = first > s.item_row ? first - s.item_row : 0;

        if (skip >= s.n_rows)
            continue;
        s.item_row += skip;
        s.pos += skip;
        s.n_rows -= skip;
        s.input_row += skip;
        s.row = wanted->n_rows;
        wanted->spans[wanted->n_spans++] = s;
        wanted->n_rows += s.n_rows;
    }
}
