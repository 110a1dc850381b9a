/* SPDX-License-Identifier: Apache-2.0
 * exit_loss.h - how far an exit's distribution is from the final one, and which way its
 * adapter's output should go.
 *
 * The final distribution q is known by its n_top likeliest ids; all others are one event,
 * "the rest". With p the exit's distribution, the loss of a row is the divergence
 *
 *     sum over the top of q_i ln(q_i / p_i) + q_rest ln(q_rest / p_rest)
 *
 * and its gradient with respect to logit j p_j - q_j in the top, else
 * p_j (1 - q_rest / p_rest). Logits are the engine's own, with its rounding; the way back
 * takes the matrix as it is stored, and leaves out logits whose gradient is below a cut.
 *
 * Thread: immutable after exit_loss_new; any number of threads, each with its own room.
 */
#ifndef CE_TOOLS_EXIT_LOSS_H
#define CE_TOOLS_EXIT_LOSS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "engine/kernels.h"
#include "engine/model.h"
#include "engine/threads.h"

/* Of a logit's gradient. A row has at most 2 / cut such logits. */
#define EXIT_LOSS_CUT 2e-5f

struct exit_loss;

/* m and k are borrowed. The pool packs the output matrix. */
int exit_loss_new(struct exit_loss **out, const struct model *m, const struct kernels *k,
                  float cut, struct threads *pool, struct err *err) CE_MUSTCHECK;
void exit_loss_free(struct exit_loss *l); /* accepts NULL */

struct exit_loss_room;

/* For blocks of at most max_rows rows. CE_ENOMEM. */
int exit_loss_room_new(struct exit_loss_room **out, const struct exit_loss *l,
                       size_t max_rows) CE_MUSTCHECK;
void exit_loss_room_free(struct exit_loss_room *room); /* accepts NULL */

struct exit_loss_row {
    double loss;       /* NaN when the logits are not finite */
    double kept, lost; /* |gradient| of the logits that were taken and left out; only with
                          a gradient */
    int32_t argmax;
};

/* n rows z [n, d] of adapters; ids [n, n_top] within the vocabulary and logp [n, n_top]
 * as in exit_rows.h. With `gradient` z becomes the gradient of the loss. */
void exit_loss_rows(const struct exit_loss *l, struct exit_loss_room *room, float *z,
                    size_t n, const int32_t *ids, const float *logp, int n_top,
                    bool gradient, struct exit_loss_row *out);

#endif
