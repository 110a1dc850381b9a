/* SPDX-License-Identifier: Apache-2.0
 * counters.h - named numbers that many threads change and one page shows.
 *
 * A module declares its counters once, as a table indexed by an enum:
 *
 *     enum { COUNT_SESSIONS, COUNT_BYTES_UP, COUNT_N };
 *     static struct counter table[COUNT_N] = {
 *         [COUNT_SESSIONS] = { "sessions", "Sessions now open", COUNTER_GAUGE },
 *         [COUNT_BYTES_UP] = { "bytes_up_total", "Bytes received", COUNTER_TOTAL },
 *     };
 *     counter_add(&table[COUNT_BYTES_UP], n);
 *
 * Thread: any. Each value is atomic; two values read one after the other need
 * not fit together.
 */
#ifndef CE_COMMON_COUNTERS_H
#define CE_COMMON_COUNTERS_H

#include <stdatomic.h>
#include <stdint.h>

#include "common/bytebuf.h"

enum counter_kind {
    COUNTER_TOTAL, /* only grows */
    COUNTER_GAUGE, /* goes up and down */
};

struct counter {
    const char *name; /* lower case and underscores; a total ends in _total */
    const char *help; /* one line, no backslash */
    enum counter_kind kind;
    _Atomic int64_t value;
};

static inline void
counter_add(struct counter *c, int64_t n)
{
    atomic_fetch_add_explicit(&c->value, n, memory_order_relaxed);
}

static inline void
counter_set(struct counter *c, int64_t v)
{
    atomic_store_explicit(&c->value, v, memory_order_relaxed);
}

static inline int64_t
counter_get(const struct counter *c)
{
    return atomic_load_explicit(&c->value, memory_order_relaxed);
}

/* Raise to v when v is larger (for "largest seen"). */
void counter_raise(struct counter *c, int64_t v);

/* Append the table in Prometheus' text format, each name after `prefix`. */
void counters_render(const struct counter *table, int n, const char *prefix,
                     struct bytebuf *out);

#endif
