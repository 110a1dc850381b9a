/* SPDX-License-Identifier: Apache-2.0
 * exit_spread.c - see exit_spread.h.
 */
#include "tools/exit_spread.h"

int
exit_spread_read(const struct exit_spread *s, int exit, size_t d, size_t from, size_t n,
                 const struct exit_spread_out *out, struct err *err)
{
    size_t count = exit_rows_count(s->rows, s->held_out);
    float *wanted[MODEL_MAX_EXITS] = { NULL }, logp[BACKEND_MAX_TOP];
    int32_t ids[BACKEND_MAX_TOP];
    int rc = 0;

    for (size_t r = 0; rc == 0 && r < n; r++) {
        wanted[exit] = out->states + r * d;
        rc = exit_rows_read(s->rows, s->held_out, (from + r) * count / s->n, wanted, ids,
                            logp, err);
        if (rc == 0 && out->final)
            out->final[r] = ids[0];
    }
    return rc;
}

int
exit_spread_run(const struct exit_spread *s, struct backend *b, int exit, size_t from,
                size_t n, const struct exit_spread_out *out, struct err *err)
{
    struct batch_item item = { .n_rows = (int)n,
                               .hidden = out->states,
                               .head_in = out->head_in,
                               .head_rows = (int)n,
                               .results = out->results };
    struct batch batch = { .layer_from = b->info.exit_layers[exit],
                           .layer_to = b->info.exit_layers[exit],
                           .head = HEAD_EXIT(exit),
                           .n_items = 1,
                           .items = &item };
    int rc = exit_spread_read(s, exit, (size_t)b->info.d_model, from, n, out, err);

    return rc == 0 ? backend_run(b, &batch, err) : rc;
}
