/* SPDX-License-Identifier: Apache-2.0
 * exit_trust.h - fit the trusts of a model's exits (engine/trust.h): when does the final
 * head say what the exit says?
 *
 * A logistic regression with a penalty on its weights, by steps of Adam over rows that
 * exits were trained on: they are plenty, and knowing some by heart harms the exit's
 * probability, not much the odds that the trust makes of it. The same rows and seed give
 * the same bits.
 *
 * Thread: the backend's owner.
 */
#ifndef CE_TOOLS_EXIT_TRUST_H
#define CE_TOOLS_EXIT_TRUST_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "engine/backend.h"
#include "tools/exit_rows.h"

struct exit_trust {
    float *weight; /* [2, d_model], owned; NULL: there is none */
    float bias[2];
};

/* trusts: [b->info.n_exits], zero-initialised; exit_trust_free in any case. The exits of
 * `b` are the rows' and have no trusts yet. At most max_rows training rows, evenly
 * spread, are looked at. CE_EINTERNAL when what comes out is not finite. */
int exit_trust_fit(struct exit_trust *trusts, struct backend *b,
                   const struct exit_rows *rows, size_t max_rows, uint64_t seed,
                   struct err *err) CE_MUSTCHECK;
void exit_trust_free(struct exit_trust *trusts, int n);

#endif
