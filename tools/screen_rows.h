/* SPDX-License-Identifier: Apache-2.0
 * screen_rows.h - what a model's exits see of a text: the rows to fit screens to, and
 * those to check them on.
 *
 * Of the rows to fit only their second moment is kept, so their number costs no memory.
 *
 * Thread: the backend's owner.
 */
#ifndef CE_TOOLS_SCREEN_ROWS_H
#define CE_TOOLS_SCREEN_ROWS_H

#include <stddef.h>

#include "common/error.h"
#include "engine/backend.h"
#include "engine/model.h"
#include "engine/threads.h"
#include "tools/exit_rows.h"
#include "tools/text_windows.h"

struct screen_rows {
    int n_exits;
    size_t d, n_fit, n_check;         /* d_model; rows of each exit */
    double *moments[MODEL_MAX_EXITS]; /* [d, d]: sums over what the output matrix reads */
    float *states[MODEL_MAX_EXITS];   /* [n_check, d]: after the exit's blocks */
};

/* Run all windows through the exits of `b`, which starts at block 0 and has a context of
 * windows->length and room for a sequence. Zero-initialise `rows`; free it in any case.
 */
int screen_rows_collect(struct screen_rows *rows, struct backend *b,
                        const struct text_windows *windows, struct threads *pool,
                        struct err *err) CE_MUSTCHECK;

/* The same from rows kept for training (exit_rows.h), evenly of all: at most max_fit of
 * those trained on, at most max_check of those held out. The exits of `b` are the rows'.
 */
int screen_rows_from_exits(struct screen_rows *rows, struct backend *b,
                           const struct exit_rows *kept, size_t max_fit, size_t max_check,
                           struct threads *pool, struct err *err) CE_MUSTCHECK;
void screen_rows_free(struct screen_rows *rows);

#endif
