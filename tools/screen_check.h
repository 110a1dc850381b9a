/* SPDX-License-Identifier: Apache-2.0
 * screen_check.h - how often screens are right, on rows they were not fitted to.
 *
 * Thread: the backend's owner.
 */
#ifndef CE_TOOLS_SCREEN_CHECK_H
#define CE_TOOLS_SCREEN_CHECK_H

#include <stddef.h>

#include "common/error.h"
#include "engine/backend.h"
#include "tools/screen_rows.h"

#define SCREEN_CHECK_THETAS 6

/* One exit at one threshold. */
struct screen_check {
    int layer;
    float theta;
    size_t n_above, n_kept;   /* rows at or above theta; of them, computed in full */
    size_t n_below, n_turned; /* rows below; of them, turned away by the screen */
};

/* Run the states of `rows` through the exits of `b`, with and without screens.
 * out: [rows->n_exits * SCREEN_CHECK_THETAS], exits ascending, then thresholds. */
int screen_check_run(struct screen_check *out, struct backend *b,
                     const struct screen_rows *rows, struct err *err) CE_MUSTCHECK;

#endif
