/* SPDX-License-Identifier: Apache-2.0
 * tune_report.h - what `cecollm-model tune-exits` made: a page, or JSON.
 *
 * Thread: one owner.
 */
#ifndef CE_TOOLS_TUNE_REPORT_H
#define CE_TOOLS_TUNE_REPORT_H

#include <jansson.h>
#include <stddef.h>

#include "tools/exit_judge.h"
#include "tools/exit_tune.h"
#include "tools/screen_check.h"

/* Arrays are borrowed, [n_exits] long. */
struct tune_report {
    const char *file; /* of exits; of rows when there are no exits */
    int n_exits;      /* 0: rows were collected, and that is all */
    const int *layers;
    const struct exit_adapter *adapters;
    const struct exit_judgement *judged;
    const struct screen_check
        *checks;           /* [n_exits, SCREEN_CHECK_THETAS]; NULL: no screens */
    size_t n_rows, n_held; /* trained on, held out */
    size_t n_steps, file_bytes;
    double collect_seconds, train_seconds;
};

void tune_report_print(const struct tune_report *r);
json_t *tune_report_json(const struct tune_report *r);

#endif
