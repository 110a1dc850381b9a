/* SPDX-License-Identifier: Apache-2.0
 * swarm_stats.c - see swarm_stats.h. Below 128 us a bucket is a microsecond.
 */
#include "bench/swarm_stats.h"

static int
bucket_of(int64_t us)
{
    uint64_t v = us > 0 ? (uint64_t)us : 0;
    int shift = v < 128 ? 0 : 57 - __builtin_clzll(v), b;

    b = shift * 64 + (int)(v >> shift);
    return b < STATS_BUCKETS ? b : STATS_BUCKETS - 1;
}

/* The largest time of bucket b. */
static int64_t
bucket_end(int b)
{
    int shift = b < 128 ? 0 : b / 64 - 1;

    return ((int64_t)(b - shift * 64 + 1) << shift) - 1;
}

void
stats_add(struct stats_times *t, int64_t us)
{
    t->n++;
    t->buckets[bucket_of(us)]++;
    if (us > t->max_us)
        t->max_us = us;
}

int64_t
stats_quantile(const struct stats_times *t, double q)
{
    uint64_t seen = 0, want = (uint64_t)(q * (double)t->n);

    if (t->n == 0)
        return 0;
    for (int b = 0; b < STATS_BUCKETS; b++) {
        seen += t->buckets[b];
        if (seen > want || seen == t->n)
            return bucket_end(b) < t->max_us ? bucket_end(b) : t->max_us;
    }
    return t->max_us;
}
