/* SPDX-License-Identifier: Apache-2.0
 * screen_rows.c - see screen_rows.h.
 */
#include "tools/screen_rows.h"

#include "common/memory.h"
#include "tools/low_rank.h"
#include "tools/progress.h"

/* Room for one window. */
struct room {
    float *hidden[2];            /* [length, d] each: in and out of a range */
    float *head_in;              /* [length, d] */
    struct head_result *results; /* [length] */
};

static int
prepare(struct screen_rows *rows, struct room *room, const struct backend *b,
        const struct text_windows *windows, struct err *err)
{
    size_t length = (size_t)windows->length, d = (size_t)b->info.d_model;

    rows->n_exits = b->info.n_exits;
    rows->d = d;
    rows->n_fit = text_windows_count(windows, false);
    for (int i = 0; i < rows->n_exits; i++) {
        rows->moments[i] = mem_array_alloc(d * d, sizeof(double));
        rows->states[i] =
            mem_array_alloc(text_windows_count(windows, true) * d, sizeof(float));
        if (!rows->moments[i] || !rows->states[i])
            return err_set(err, CE_ENOMEM, "no memory for the rows of %d exits",
                           rows->n_exits);
    }
    room->hidden[0] = mem_array_alloc(length * d, sizeof(float));
    room->hidden[1] = mem_array_alloc(length * d, sizeof(float));
    room->head_in = mem_array_alloc(length * d, sizeof(float));
    room->results = mem_array_alloc(length, sizeof(*room->results));
    if (!room->hidden[0] || !room->hidden[1] || !room->head_in || !room->results)
        return err_set(err, CE_ENOMEM, "no memory for %zu rows", length);
    return 0;
}

/* One window from exit to exit. Rows set apart only leave their states; they go through
 * the heads when the screens are checked. */
static int
run_window(struct screen_rows *rows, const struct room *room, struct backend *b,
           const int32_t *ids, int n, bool apart, struct threads *pool, struct err *err)
{
    int seq, rc = backend_seq_open(b, &seq, err);
    bool opened = rc == 0;

    for (int i = 0; rc == 0 && i < rows->n_exits; i++) {
        float *out =
            apart ? rows->states[i] + rows->n_check * rows->d : room->hidden[i % 2];
        float *in = i == 0  ? NULL
                    : apart ? rows->states[i - 1] + rows->n_check * rows->d
                            : room->hidden[(i + 1) % 2];
        struct batch_item item = { .seq = seq,
                                   .n_rows = n,
                                   .tokens = i == 0 ? ids : NULL,
                                   .hidden = in,
                                   .hidden_out = out,
                                   .head_in = apart ? NULL : room->head_in,
                                   .head_rows = apart ? 0 : n,
                                   .results = apart ? NULL : room->results };
        struct batch batch = { .layer_from = i == 0 ? 0 : b->info.exit_layers[i - 1],
                               .layer_to = b->info.exit_layers[i],
                               .head = apart ? HEAD_NONE : HEAD_EXIT(i),
                               .n_items = 1,
                               .items = &item };

        rc = backend_run(b, &batch, err);
        if (rc == 0 && !apart)
            low_rank_add_moment(rows->moments[i], room->head_in, (size_t)n, rows->d,
                                pool);
    }
    if (opened)
        backend_seq_close(b, seq);
    if (apart)
        rows->n_check += (size_t)n;
    return rc;
}

int
screen_rows_collect(struct screen_rows *rows, struct backend *b,
                    const struct text_windows *windows, struct threads *pool,
                    struct err *err)
{
    struct room room = { 0 };
    struct progress progress;
    int rc = prepare(rows, &room, b, windows, err);

    progress_start(&progress, "reading", windows->n);
    for (size_t i = 0; rc == 0 && i < windows->n; i++) {
        const struct text_window *w = &windows->list[i];

        rc = run_window(rows, &room, b, windows->ids + w->at, w->n,
                        text_windows_apart(i, windows->n), pool, err);
        progress_set(&progress, i + 1, NULL);
    }
    progress_end(&progress);
    mem_free(room.hidden[0]);
    mem_free(room.hidden[1]);
    mem_free(room.head_in);
    mem_free(room.results);
    return rc;
}

void
screen_rows_free(struct screen_rows *rows)
{
    for (int i = 0; i < MODEL_MAX_EXITS; i++) {
        mem_free(rows->moments[i]);
        mem_free(rows->states[i]);
    }
    *rows = (struct screen_rows){ 0 };
}
