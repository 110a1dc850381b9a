/* SPDX-License-Identifier: Apache-2.0
 * plain_forward.h - the Llama graph once more, in double precision and as plainly as
 * possible. Shares nothing with the engine but the reading of files.
 */
#ifndef CE_TESTS_BACKEND_PLAIN_FORWARD_H
#define CE_TESTS_BACKEND_PLAIN_FORWARD_H

#include <stdint.h>

#include "engine/model.h"

/* Logits of every position, [n, n_vocab], after `layers` blocks: through exit `exit`
 * of the model, or through the final head when it is -1. Allocated; NULL without
 * memory. */
double *plain_forward(const struct model *m, const int32_t *tokens, int n, int layers,
                      int exit);

#endif
