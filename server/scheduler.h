/* SPDX-License-Identifier: Apache-2.0
 * scheduler.h - who gets how many rows of the next step.
 *
 * Before each step the caller lists all that could be computed now, and gets
 * a share for each: rows of one ragged step. What was cancelled, cut off or left
 * by its client is not in the next list, so it costs nothing from then on.
 *
 *  1. How long a step may take (step_budget_us) and the cost model say how many
 *     rows it has.
 *  2. Tenants share them by weight. A tenant has a counter of the rows it was
 *     given, divided by its weight; each row goes to the lowest counter. Who asks
 *     for less than his share is served in full, at once. Who was away comes back
 *     with the counter of those that are waiting: idle time is not saved up.
 *  3. Within a tenant short work goes before long catch-ups; but a quarter of its
 *     rows is the catch-ups' when there are any, and whatever short work leaves.
 *     In both classes first whose deadline is nearest, where a second of waiting
 *     counts as a deadline: so they take turns, and nobody starves.
 *  4. Eager work, which nobody waits for yet, runs only in steps with nothing
 *     else, in a quarter of the time, so that a request that comes in meanwhile
 *     hardly notices. It is charged like any other.
 *
 * Pure: times are passed in, nothing is locked, nothing is allocated after _new.
 * Rows are the currency; results never depend on the shares (doc/NUMERICS.md).
 *
 * Thread: any, one at a time.
 */
#ifndef CE_SERVER_SCHEDULER_H
#define CE_SERVER_SCHEDULER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "server/cost_model.h"

#define SCHEDULER_SHORT      16        /* rows; more is a catch-up */
#define SCHEDULER_MAX_WEIGHT (1 << 16) /* a weight is 1 to this; others are clamped */

struct scheduler;

struct scheduler_config {
    int64_t
        step_budget_us; /* what a step should take at most; 0: max_rows alone counts */
    uint32_t max_rows;  /* of a step, >= 1: what buffers and backend take */
    size_t max_items;   /* of a list, >= 1 */
};

/* One sequence that has something to compute. */
struct scheduler_item {
    uint64_t tenant;
    uint32_t weight;     /* the tenant's: the same in all its items */
    uint32_t pos;        /* position of the first row */
    uint32_t n_rows;     /* wanted, >= 1 */
    int64_t since_us;    /* runnable since, or last served */
    int64_t deadline_us; /* past it nobody wants the answer; INT64_MAX: none */
    bool eager;          /* nobody asked yet */
    size_t tag;          /* the caller's own */

    uint32_t share; /* out: rows of this step, 0 to n_rows */
    bool expired;   /* out: the deadline has passed; the share is 0 */
};

struct scheduler_plan {
    uint32_t budget; /* rows that the step had */
    uint32_t rows;   /* given: min(budget, what is wanted) */
    size_t n_expired;
    bool eager; /* a step of eager work */
};

int scheduler_new(struct scheduler **out, const struct scheduler_config *config,
                  struct err *err) CE_MUSTCHECK;
void scheduler_free(struct scheduler *s); /* accepts NULL */

/* Share out a step among n <= max_items items. Reorders them. The shares are
 * charged. */
struct scheduler_plan scheduler_plan(struct scheduler *s, struct scheduler_item *items,
                                     size_t n, int64_t now_us);

/* The tenant was charged for rows that were not run after all. Before the next
 * plan. */
void scheduler_refund(struct scheduler *s, uint64_t tenant, uint32_t rows);

/* The planned step ran; see cost_model_ran. */
void scheduler_ran(struct scheduler *s, uint32_t rows, double positions, double time_us);

const struct cost_model *scheduler_cost(const struct scheduler *s);
size_t scheduler_n_tenants(const struct scheduler *s); /* with a counter; for tests */

#endif
