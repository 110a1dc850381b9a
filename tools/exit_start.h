/* SPDX-License-Identifier: Apache-2.0
 * exit_start.h - where an exit's training begins: inputs scaled to order one, and the map
 * that brings its states as near to the last ones as a linear map can.
 *
 * Thread: one owner.
 */
#ifndef CE_TOOLS_EXIT_START_H
#define CE_TOOLS_EXIT_START_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "tools/exit_net.h"

/* Scales and map of `e` from the sums of exit_rows.h over n rows, and gate and up from
 * the seed. mean_t2 [d]: mean square of each dimension of rms(x). CE_ENOMEM. */
int exit_start(struct exit_net *e, const double *xx, const double *xy, size_t n,
               const double *mean_t2, uint64_t seed) CE_MUSTCHECK;

#endif
