/* SPDX-License-Identifier: Apache-2.0
 * cost_model.h - how long a step will take, learnt from those that ran.
 *
 *     time = step + row * rows + position * positions
 *
 * The step's constant is the weights, read once however many rows there are; a
 * row costs its multiplications; a position is one earlier position that one
 * row looks back to (cost_positions). The three are fitted to the last
 * steps, so they follow a machine that gets slower or faster.
 *
 * Pure: no clock, no memory of its own. Times in microseconds.
 * Thread: any, one at a time.
 */
#ifndef CE_SERVER_COST_MODEL_H
#define CE_SERVER_COST_MODEL_H

#include <stdint.h>

#define COST_N      3  /* step, row, position */
#define COST_MEMORY 64 /* steps remembered */

/* Plain data; the fields are cost_model.c's but for `us`. */
struct cost_model {
    double us[COST_N]; /* the fit: per step, per row, per position; >= 0 */
    struct {
        double x[COST_N]; /* 1, rows, positions */
        double us;
    } steps[COST_MEMORY]; /* a ring */
    uint32_t n_steps;     /* in the ring */
    uint32_t newest;
    uint32_t most_rows; /* of one step so far */
};

void cost_model_init(struct cost_model *m);

/* Positions that n_rows rows of one sequence look back to, themselves included,
 * the first of them being position `pos`. */
static inline double
cost_positions(uint32_t pos, uint32_t n_rows)
{
    return (double)n_rows * ((double)pos + ((double)n_rows + 1) / 2);
}

/* A step ran: rows >= 1 of all sequences together, in time_us. */
void cost_model_ran(struct cost_model *m, uint32_t rows, double positions,
                    double time_us);

double cost_model_time(const struct cost_model *m, uint32_t rows, double positions);

/* The rows that fit into budget_us, when one looks back to `lookback` positions:
 * 1 to max_rows. Where the step's constant alone is more than half the budget, a
 * step may take twice the constant: with fewer rows there would only be more
 * such steps. Never more than four times the rows of any step so far (16 before
 * the first), as the fit knows nothing of larger ones. */
uint32_t cost_model_rows(const struct cost_model *m, double budget_us, double lookback,
                         uint32_t max_rows);

#endif
