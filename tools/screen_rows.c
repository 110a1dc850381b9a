/* SPDX-License-Identifier: Apache-2.0
 * screen_rows.c - see screen_rows.h.
 */
#include "tools/screen_rows.h"

#include "common/memory.h"
#include "tools/exit_spread.h"
#include "tools/low_rank.h"
#include "tools/progress.h"

#define KEPT_STEP ((size_t)256) /* rows kept that go through a head at once */

/* Room for one window, or for a step. */
struct room {
    float *hidden[2];            /* [length, d] each: in and out of a range */
    float *head_in;              /* [length, d] */
    struct head_result *results; /* [length] */
};

/* n_check: rows set apart; length: rows at once. */
static int
prepare(struct screen_rows *rows, struct room *room, const struct backend *b,
        size_t n_check, size_t length, struct err *err)
{
    size_t d = (size_t)b->info.d_model;

    rows->n_exits = b->info.n_exits;
    rows->d = d;
    for (int i = 0; i < rows->n_exits; i++) {
        rows->moments[i] = mem_array_alloc(d * d, sizeof(double));
        rows->states[i] = mem_array_alloc(n_check * d, sizeof(float));
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

static void
free_room(struct room *room)
{
    mem_free(room->hidden[0]);
    mem_free(room->hidden[1]);
    mem_free(room->head_in);
    mem_free(room->results);
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
    int rc = prepare(rows, &room, b, text_windows_count(windows, true),
                     (size_t)windows->length, err);

    rows->n_fit = text_windows_count(windows, false);
    progress_start(&progress, "reading", windows->n);
    for (size_t i = 0; rc == 0 && i < windows->n; i++) {
        const struct text_window *w = &windows->list[i];

        rc = run_window(rows, &room, b, windows->ids + w->at, w->n,
                        text_windows_apart(i, windows->n), pool, err);
        progress_set(&progress, i + 1, NULL);
    }
    progress_end(&progress);
    free_room(&room);
    return rc;
}

/* ---- from rows kept ---- */

static int
add_moments(struct screen_rows *rows, const struct room *room, struct backend *b, int i,
            const struct exit_rows *kept, struct threads *pool, struct err *err)
{
    const struct exit_spread spread = { kept, false, rows->n_fit };
    const struct exit_spread_out out = { .states = room->hidden[0],
                                         .results = room->results,
                                         .head_in = room->head_in };
    int rc = 0;

    for (size_t from = 0, n; rc == 0 && from < rows->n_fit; from += n) {
        n = rows->n_fit - from < KEPT_STEP ? rows->n_fit - from : KEPT_STEP;
        rc = exit_spread_run(&spread, b, i, from, n, &out, err);
        if (rc == 0)
            low_rank_add_moment(rows->moments[i], room->head_in, n, rows->d, pool);
    }
    return rc;
}

int
screen_rows_from_exits(struct screen_rows *rows, struct backend *b,
                       const struct exit_rows *kept, size_t max_fit, size_t max_check,
                       struct threads *pool, struct err *err)
{
    size_t n_fit = exit_rows_count(kept, false), n_check = exit_rows_count(kept, true);
    struct room room = { 0 };
    struct progress progress;
    int rc;

    n_check = n_check < max_check ? n_check : max_check;
    rc = prepare(rows, &room, b, n_check, KEPT_STEP, err);
    rows->n_fit = n_fit < max_fit ? n_fit : max_fit;
    rows->n_check = n_check;
    progress_start(&progress, "reading rows", (size_t)rows->n_exits);
    for (int i = 0; rc == 0 && i < rows->n_exits; i++) {
        const struct exit_spread check = { kept, true, n_check };
        const struct exit_spread_out out = { .states = rows->states[i] };

        rc = add_moments(rows, &room, b, i, kept, pool, err);
        if (rc == 0)
            rc = exit_spread_read(&check, i, rows->d, 0, n_check, &out, err);
        progress_set(&progress, (size_t)i + 1, NULL);
    }
    progress_end(&progress);
    free_room(&room);
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
