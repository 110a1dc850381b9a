/* SPDX-License-Identifier: Apache-2.0
 * screen_fit.h - a screen for each of a model's exits (doc/EXITS.md), from the second
 * moment of what the exit's output matrix reads and the matrix itself.
 *
 * Thread: the owner of the pool.
 */
#ifndef CE_TOOLS_SCREEN_FIT_H
#define CE_TOOLS_SCREEN_FIT_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "engine/model.h"
#include "engine/threads.h"
#include "tools/exits_file.h"
#include "tools/screen_rows.h"

#define SCREEN_FIT_ROWS_PER_RANK 4 /* fewer rows to fit would be learnt by heart */

struct screen_fit_params {
    size_t rank;      /* a multiple of 32, at most d_model */
    uint32_t up_type; /* format of the larger matrix */
    uint64_t seed;
};

/* screens [m->n_exits], zero-initialised; screen_fit_free in any case. */
int screen_fit_run(struct exits_screen *screens, const struct model *m,
                   const struct screen_rows *rows, const struct screen_fit_params *p,
                   struct threads *pool, struct err *err) CE_MUSTCHECK;
void screen_fit_free(struct exits_screen *screens, int n);

#endif
