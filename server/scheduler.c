/* SPDX-License-Identifier: Apache-2.0
 * scheduler.c - see scheduler.h. Weights of tenants and a measured cost of rows
 * would enter here, as fields of the items.
 */
#include "server/scheduler.h"

#include <stdlib.h>

static int
by_age(const void *a, const void *b)
{
    const struct scheduler_item *x = a, *y = b;

    if (x->since_us != y->since_us)
        return x->since_us < y->since_us ? -1 : 1;
    return x->tag < y->tag ? -1 : x->tag > y->tag;
}

void
scheduler_share(struct scheduler_item *items, size_t n, uint32_t budget)
{
    uint32_t left = budget, equal;
    size_t i;

    if (n == 0)
        return;
    qsort(items, n, sizeof(*items), by_age);
    equal = n < budget ? (uint32_t)(budget / n) : 1;
    for (i = 0; i < n; i++) {
        uint32_t give = items[i].n_rows < equal ? items[i].n_rows : equal;

        items[i].share = give < left ? give : left;
        left -= items[i].share;
    }
    for (i = 0; i < n && left > 0; i++) {
        uint32_t more = items[i].n_rows - items[i].share;

        if (more > left)
            more = left;
        items[i].share += more;
        left -= more;
    }
}
