/* SPDX-License-Identifier: Apache-2.0
 * pick.c - see pick.h.
 */
#include "agent/pick.h"

#include <stddef.h>

int32_t
pick_token(const struct sampler_params *how, const struct head_result *h, int32_t pos)
{
    int32_t ids[BACKEND_MAX_TOP];
    float logits[BACKEND_MAX_TOP];

    if (how->temperature <= 0 || h->n_top == 0)
        return h->argmax;
    for (int i = 0; i < h->n_top; i++) {
        ids[i] = h->top[i].id;
        logits[i] = h->top[i].logit;
    }
    struct sampler_row row = { h->n_top, ids, logits, h->lse };
    return sampler_pick(how, &row, NULL, 0, 0, (uint32_t)pos, NULL);
}
