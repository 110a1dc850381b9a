/* SPDX-License-Identifier: Apache-2.0
 * exits.h - what the exits say at the newest position: each computed once, and by its
 * screen alone where that is enough.
 *
 * A result that a screen cut short (head_result.below) answers only "below that
 * threshold". Whoever asks for less than that gets it again; whoever needs all of it,
 * such as the last exit's token for want of a cloud, makes the edge compute it anew.
 *
 * Thread: the decode worker.
 */
#ifndef CE_AGENT_EXITS_H
#define CE_AGENT_EXITS_H

#include "agent/edge.h"
#include "common/error.h"
#include "engine/backend.h"
#include "engine/model.h"

struct exits {
    bool have[MODEL_MAX_EXITS];
    float screened_at[MODEL_MAX_EXITS]; /* edge_want.screen_theta of the result */
    struct head_result results[MODEL_MAX_EXITS];
};

/* There is a new position, of which nothing is known. */
void exits_forget(struct exits *x);

/* The result of exit k, which stage k of the edge ends in. *res: owned by x, until the
 * same exit is asked again or the position forgotten. */
int exits_get(struct exits *x, struct edge *e, int k, const struct edge_want *want,
              const struct head_result **res, struct err *err) CE_MUSTCHECK;

/* How many exits of this position a screen turned away, for good. */
int exits_n_below(const struct exits *x);

#endif
