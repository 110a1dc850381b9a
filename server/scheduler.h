/* SPDX-License-Identifier: Apache-2.0
 * scheduler.h - who gets how many rows of the next step.
 *
 * A pure function: times are given, nothing is remembered here. Each step has a
 * budget of rows. Everybody first gets an equal share, at most what he wants,
 * in the order of how long he has waited since he became runnable or was last
 * served; what is left goes to the one that waited longest, then the next. So
 * single tokens ride in every step, a long catch-up takes the room they leave,
 * and when there are more sequences than rows they take turns.
 *
 * Thread: any.
 */
#ifndef CE_SERVER_SCHEDULER_H
#define CE_SERVER_SCHEDULER_H

#include <stddef.h>
#include <stdint.h>

struct scheduler_item {
    int64_t since_us; /* runnable since, or last served */
    uint32_t n_rows;  /* wanted, >= 1 */
    uint32_t share;   /* out: rows of this step, 0 to n_rows */
    size_t tag;       /* the caller's own */
};

/* Sorts the items, longest waiting first (ties by tag), and sets their shares;
 * the shares' sum is min(budget, what is wanted). */
void scheduler_share(struct scheduler_item *items, size_t n, uint32_t budget);

#endif
