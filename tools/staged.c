/* SPDX-License-Identifier: Apache-2.0
 * staged.c - see staged.h.
 */
#include "tools/staged.h"

#include "common/memory.h"

int
staged_all_stops(struct staged_stop *out, const struct backend *b)
{
    const struct backend_info *info = &b->info;
    int n = 0;

    for (; n < info->n_exits; n++)
        out[n] = (struct staged_stop){ info->exit_layers[n], HEAD_EXIT(n) };
    if (info->has_final_head)
        out[n++] = (struct staged_stop){ info->n_layers, HEAD_FINAL };
    return n;
}

int
staged_init(struct staged *s, struct backend *b, const struct staged_stop *stops, int n,
            int max_rows, int max_items, struct err *err)
{
    size_t rows = (size_t)max_rows, d = (size_t)b->info.d_model;
    bool ok;

    s->b = b;
    s->n_stops = n;
    s->max_rows = max_rows;
    s->max_items = max_items;
    s->items = mem_array_alloc((size_t)max_items, sizeof(*s->items));
    ok = s->items != NULL;
    for (int i = 0; i < n; i++) {
        s->stops[i] = stops[i];
        s->states[i] = mem_array_alloc(rows * d, sizeof(float));
        s->results[i] = mem_array_alloc(rows, sizeof(struct head_result));
        ok = ok && s->states[i] && s->results[i];
    }
    return ok ? 0 : err_set(err, CE_ENOMEM, "no memory for steps of %d rows", max_rows);
}

void
staged_fini(struct staged *s)
{
    for (int i = 0; i < s->n_stops; i++) {
        mem_free(s->states[i]);
        mem_free(s->results[i]);
    }
    mem_free(s->items);
    *s = (struct staged){ 0 };
}

/* The items of the range that ends at stop i. */
static void
fill_items(const struct staged *s, int i, const struct staged_item *items, int n)
{
    size_t d = (size_t)s->b->info.d_model, row = 0, result = 0;
    bool heads = s->stops[i].head != HEAD_NONE;

    for (int k = 0; k < n; k++) {
        const struct staged_item *from = &items[k];

        s->items[k] = (struct batch_item){
            .seq = from->seq,
            .pos = from->pos,
            .n_rows = from->n_rows,
            .tokens = i == 0 ? from->tokens : NULL,
            .hidden = i == 0 ? NULL : s->states[i - 1] + row * d,
            .hidden_out = s->states[i] + row * d,
            .head_rows = heads ? from->head_rows : 0,
            .results = heads && from->head_rows > 0 ? s->results[i] + result : NULL
        };
        row += (size_t)from->n_rows;
        result += (size_t)from->head_rows;
    }
}

int
staged_run(struct staged *s, const struct staged_item *items, int n, int n_top,
           struct err *err)
{
    int rows = 0, head_rows = 0, rc = 0;

    for (int k = 0; k < n; k++) {
        rows += items[k].n_rows;
        head_rows += items[k].head_rows;
    }
    if (n > s->max_items || rows > s->max_rows)
        return err_set(err, CE_EINVAL,
                       "a step of %d rows of %d sequences: room for %d of %d", rows, n,
                       s->max_rows, s->max_items);
    for (int i = 0; rc == 0 && i < s->n_stops; i++) {
        struct batch batch = { .layer_from = i == 0 ? 0 : s->stops[i - 1].layer,
                               .layer_to = s->stops[i].layer,
                               .head = head_rows > 0 ? s->stops[i].head : HEAD_NONE,
                               .n_top = n_top,
                               .n_items = n,
                               .items = s->items };

        fill_items(s, i, items, n);
        rc = backend_run(s->b, &batch, err);
    }
    return rc;
}
