/* SPDX-License-Identifier: Apache-2.0
 * staged.h - rows of many sequences taken through a model from stop to stop, where the
 * stops are its exits and its end.
 *
 * What exits would have said is of interest to whoever trains, judges or compares them;
 * all of it comes from one pass: at each stop the rows' states are kept, and the stop's
 * head reads those rows that are to have results.
 *
 * Thread: the backend's owner.
 */
#ifndef CE_TOOLS_STAGED_H
#define CE_TOOLS_STAGED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "engine/backend.h"
#include "engine/model.h"

#define STAGED_MAX_STOPS (MODEL_MAX_EXITS + 1)

/* A stop: the blocks before it, and the head behind it (HEAD_NONE: states only). */
struct staged_stop {
    int layer, head;
};

/* Consecutive positions of one sequence. */
struct staged_item {
    int seq;
    int32_t pos;
    const int32_t *tokens; /* [n_rows], borrowed */
    int n_rows;            /* >= 1 */
    int head_rows;         /* the last so many go through the heads */
};

struct staged {
    struct backend *b; /* borrowed; starts at block 0 */
    int n_stops;
    struct staged_stop stops[STAGED_MAX_STOPS]; /* ascending by layer */
    int max_rows, max_items;
    /* Of the last staged_run. Rows of all items in order; results only of head_rows. */
    float *states[STAGED_MAX_STOPS];               /* [max_rows, d_model] each */
    struct head_result *results[STAGED_MAX_STOPS]; /* [max_rows] each */
    struct batch_item *items;                      /* [max_items], scratch */
};

/* Room for steps of max_rows rows of max_items items. stops: [n], ascending by layer.
 * Zero-initialise `s`; staged_fini in any case. */
int staged_init(struct staged *s, struct backend *b, const struct staged_stop *stops,
                int n, int max_rows, int max_items, struct err *err) CE_MUSTCHECK;
void staged_fini(struct staged *s);

/* The exits of `b` and its end, all with heads (the end: if it has one); returns how
 * many. out: [STAGED_MAX_STOPS]. */
int staged_all_stops(struct staged_stop *out, const struct backend *b);

/* One step of n items. n_top: as struct batch. Errors as backend_run; CE_EINVAL when the
 * step has more rows or items than there is room for. */
int staged_run(struct staged *s, const struct staged_item *items, int n, int n_top,
               struct err *err) CE_MUSTCHECK;

#endif
