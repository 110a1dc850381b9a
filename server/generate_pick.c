/* SPDX-License-Identifier: Apache-2.0
 * generate_pick.c - sampling of GENERATE: the same function of (seed, position) as the
 * agent's, so that both give the same text. The agent's penalties are not on the wire.
 */
#include "server/generate_pick.h"

#include "engine/sampler.h"

int32_t
generate_pick(const struct content_sampling *how, const struct head_result *r,
              const int32_t *ids, size_t n)
{
    int32_t top_ids[BACKEND_MAX_TOP];
    float logits[BACKEND_MAX_TOP];
    struct sampler_row row = { r->n_top, top_ids, logits, r->lse };
    struct sampler_params p;
    int i;

    if (how->temperature <= 0)
        return r->argmax;
    for (i = 0; i < r->n_top; i++) {
        top_ids[i] = r->top[i].id;
        logits[i] = r->top[i].logit;
    }
    sampler_params_init(&p);
    p.temperature = how->temperature;
    p.top_k = (int)how->top_k;
    p.top_p = how->top_p;
    p.min_p = how->min_p;
    p.seed = how->seed;
    return sampler_pick(&p, &row, ids, n, 0, (uint32_t)n, NULL);
}
