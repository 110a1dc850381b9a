/* SPDX-License-Identifier: Apache-2.0
 * exit_costs.c - what blocks and checks cost on this machine; see exit_frontier.h.
 */
#include "tools/exit_frontier.h"

#include <math.h>

#include "tools/figures.h"

#define ROUNDS 7

int
exit_costs_measure(struct exit_costs *out, const struct model *m, struct backend *b,
                   struct err *err)
{
    struct bench_case all[CASES_MAX], some[CASES_MAX];
    const struct figure *rows = NULL;
    struct figures f;
    struct check_cost cost;
    int n = cases_list(all, m, b), n_some = 0, rc;

    for (int i = 0; i < n; i++) {
        if (all[i].kind == CASES_CATCH_UP || all[i].kind >= CASES_EDGE_BLOCKS)
            some[n_some++] = all[i];
    }
    rc = figures_choose(&f, some, n_some, NULL, err);
    if (rc == 0)
        rc = figures_sample(&f, b, ROUNDS, "timing blocks and checks", err);
    if (rc != 0)
        return rc;
    figures_sum_up(&f);
    cost = figures_check_cost(&f);
    for (int i = 0; i < f.n; i++) {
        if (f.list[i].c.kind == CASES_CATCH_UP)
            rows = &f.list[i];
    }
    *out = (struct exit_costs){ .block_seconds = cost.block_seconds,
                                .check_blocks = cost.check_blocks,
                                .screen_blocks = cost.screen_blocks,
                                .row_blocks = NAN };
    if (rows)
        out->row_blocks = rows->seconds / rows->c.n /
                          (m->config.n_layers - rows->c.layer_from) / cost.block_seconds;
    return 0;
}
