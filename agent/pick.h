/* SPDX-License-Identifier: Apache-2.0
 * pick.h - the token that a head's result comes to: the likeliest, or one drawn from
 * what travels of the row (engine/sampler.h), at the edge and from the cloud alike.
 *
 * Thread: any; nothing here has state.
 */
#ifndef CE_AGENT_PICK_H
#define CE_AGENT_PICK_H

#include <stdint.h>

#include "engine/backend.h"
#include "engine/sampler.h"

/* pos: that the token takes; the draw depends on seed and position alone. */
int32_t pick_token(const struct sampler_params *how, const struct head_result *h,
                   int32_t pos);

#endif
