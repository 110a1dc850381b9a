/* SPDX-License-Identifier: Apache-2.0
 * finite.h - are all the weights of a file finite?
 *
 * Thread: one owner; uses the pool's threads.
 */
#ifndef CE_TOOLS_FINITE_H
#define CE_TOOLS_FINITE_H

#include <stdint.h>

#include "common/error.h"
#include "engine/gguf.h"
#include "engine/threads.h"

/* Decode every tensor that holds weights, with a progress bar. *n_values (may be NULL):
 * how many. CE_EFORMAT names the first value that is not finite, by tensor, row and
 * column; CE_EUNSUPPORTED a tensor that cannot be decoded; CE_ENOMEM. */
int finite_check(const struct gguf *g, struct threads *pool, uint64_t *n_values,
                 struct err *err) CE_MUSTCHECK;

#endif
