/* SPDX-License-Identifier: Apache-2.0
 * exits.c - see exits.h.
 */
#include "agent/exits.h"

#include <string.h>

void
exits_forget(struct exits *x)
{
    memset(x->have, 0, sizeof(x->have));
}

/* Does what is known of exit k answer this question too? "Below 0.9" does not say
 * whether it is below 0.8, and nothing else. */
static bool
answers(const struct exits *x, int k, const struct edge_want *want)
{
    return x->have[k] &&
           (!x->results[k].below || want->screen_theta >= x->screened_at[k]);
}

int
exits_get(struct exits *x, struct edge *e, int k, const struct edge_want *want,
          const struct head_result **res, struct err *err)
{
    *res = &x->results[k];
    if (answers(x, k, want))
        return 0;
    int rc = edge_advance(e, k, &x->results[k], want, err);
    x->have[k] = rc == 0;
    x->screened_at[k] = want->screen_theta;
    return rc;
}

int
exits_n_below(const struct exits *x)
{
    int n = 0;

    for (int k = 0; k < MODEL_MAX_EXITS; k++)
        n += x->have[k] && x->results[k].below;
    return n;
}
