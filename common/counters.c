/* SPDX-License-Identifier: Apache-2.0
 * counters.c - the slow parts of counters.h.
 */
#include "common/counters.h"

#include <inttypes.h>

void
counter_raise(struct counter *c, int64_t v)
{
    int64_t now = counter_get(c);

    while (now < v && !atomic_compare_exchange_weak_explicit(
                          &c->value, &now, v, memory_order_relaxed, memory_order_relaxed))
        ; /* `now` was reloaded */
}

void
counters_render(const struct counter *table, int n, const char *prefix,
                struct bytebuf *out)
{
    for (int i = 0; i < n; i++) {
        const struct counter *c = &table[i];

        bytebuf_printf(out, "# HELP %s%s %s\n", prefix, c->name, c->help);
        bytebuf_printf(out, "# TYPE %s%s %s\n", prefix, c->name,
                       c->kind == COUNTER_GAUGE ? "gauge" : "counter");
        bytebuf_printf(out, "%s%s %" PRId64 "\n", prefix, c->name, counter_get(c));
    }
}
