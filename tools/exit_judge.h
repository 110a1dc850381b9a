/* SPDX-License-Identifier: Apache-2.0
 * exit_judge.h - which threshold an exit deserves, by the rows that were held out of its
 * training.
 *
 * Thread: the backend's owner.
 */
#ifndef CE_TOOLS_EXIT_JUDGE_H
#define CE_TOOLS_EXIT_JUDGE_H

#include <stddef.h>

#include "common/error.h"
#include "engine/backend.h"
#include "tools/exit_rows.h"

#define EXIT_JUDGE_PRECISION 0.98 /* of the tokens that leave */

struct exit_judgement {
    double agreement; /* share of all rows whose argmax is the final one */
    float theta;      /* the lowest of 0.6 0.7 0.8 0.9 0.95 0.98 at which so many of those
                         that leave are right; 0.98 if none is */
    double exit_rate, precision; /* at theta; 0 and 1 when none leaves */
};

/* out: [exits of b], which are the rows'; at most max_rows of the held-out rows, evenly.
 */
int exit_judge_run(struct exit_judgement *out, struct backend *b,
                   const struct exit_rows *rows, size_t max_rows,
                   struct err *err) CE_MUSTCHECK;

#endif
