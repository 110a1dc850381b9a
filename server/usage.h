/* SPDX-License-Identifier: Apache-2.0
 * usage.h - what each tenant uses, for as many tenants as the metrics may name.
 *
 * A name becomes a label of time series, and every label costs memory in whatever
 * collects them: so the first `max` names that come get an entry each, all later
 * ones share the entry "other". Entries are never given away again, so their
 * totals only grow; the table is as large from the start as it can become.
 *
 * Thread: usage_of and walking from the I/O thread; the numbers of an entry are
 * atomic and may be changed by any thread, as long as the table lives.
 */
#ifndef CE_SERVER_USAGE_H
#define CE_SERVER_USAGE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define USAGE_OTHER   "other"
#define USAGE_UNNAMED "default" /* a tenant whose certificate has no name */

#define USAGE_NAME_SIZE 256

/* What is counted. The first USAGE_GAUGES go up and down, the others only up. */
enum usage_figure {
    USAGE_SESSIONS,
    USAGE_SEQUENCES,
    USAGE_KV_BYTES,
    USAGE_STATE_BYTES,
    USAGE_GAUGES,
    USAGE_REQUESTS = USAGE_GAUGES,
    USAGE_TOKENS,
    USAGE_ROWS,
    USAGE_BYTES_IN,
    USAGE_BYTES_OUT,
    USAGE_REFUSALS,
    USAGE_EVICTIONS,
    USAGE_N,
};

struct tenant_usage {
    char name[USAGE_NAME_SIZE]; /* as usage_name makes it */
    _Atomic int64_t figures[USAGE_N];
};

struct usage {
    struct tenant_usage *entries; /* [max + 1], owned; [0] is "other" */
    size_t n, max;                /* n: entries in use, [0] included */
};

int usage_init(struct usage *u, size_t max, struct err *err) CE_MUSTCHECK;
void usage_fini(struct usage *u);

/* A name as it may be shown: valid UTF-8 without control characters, whatever an
 * authority has signed; USAGE_UNNAMED for NULL and "". */
void usage_name(char out[USAGE_NAME_SIZE], const char *name);

/* The entry to charge for this name ("" or NULL: unnamed); never NULL, lives as
 * long as the table. */
struct tenant_usage *usage_of(struct usage *u, const char *name);

/* t may be NULL: nobody is charged. */
static inline void
usage_add(struct tenant_usage *t, enum usage_figure figure, int64_t n)
{
    if (t)
        atomic_fetch_add_explicit(&t->figures[figure], n, memory_order_relaxed);
}

static inline int64_t
usage_get(const struct tenant_usage *t, enum usage_figure figure)
{
    return atomic_load_explicit(&t->figures[figure], memory_order_relaxed);
}

#endif
