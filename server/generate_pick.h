/* SPDX-License-Identifier: Apache-2.0
 * generate_pick.h - the token that a GENERATE goes on with.
 *
 * Thread: any.
 */
#ifndef CE_SERVER_GENERATE_PICK_H
#define CE_SERVER_GENERATE_PICK_H

#include <stddef.h>
#include <stdint.h>

#include "server/content.h"

/* After ids[0 .. n-1], of which r is what the head said. */
int32_t generate_pick(const struct content_sampling *how, const struct head_result *r,
                      const int32_t *ids, size_t n);

#endif
