/* SPDX-License-Identifier: Apache-2.0
 * histogram.h - how often a value fell where: fixed buckets, no locks.
 *
 * A histogram counts whole numbers (microseconds, rows) in buckets whose upper
 * bounds are fixed when it is made. One thread records, any thread reads; both are
 * a few relaxed atomic operations, so a reader never holds up the recorder. A copy
 * may be torn between two records, by a value or two; but its count is the sum of
 * its own buckets, so what is shown always adds up.
 *
 * Thread: record from one thread at a time or many, read from any.
 */
#ifndef CE_SERVER_HISTOGRAM_H
#define CE_SERVER_HISTOGRAM_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define HISTOGRAM_MAX_BOUNDS 24

/* What is measured and where the buckets end; constant. */
struct histogram_scale {
    double unit; /* of a recorded 1, in what is shown: 1e-6 for microseconds in seconds */
    size_t n;    /* of bounds, at most HISTOGRAM_MAX_BOUNDS */
    int64_t bounds[HISTOGRAM_MAX_BOUNDS]; /* ascending; a bucket holds its bound */
};

extern const struct histogram_scale histogram_times; /* 10 us to 60 s */
extern const struct histogram_scale histogram_rows;  /* 1 to 16384 */

struct histogram {
    const struct histogram_scale *scale;
    _Atomic uint64_t buckets[HISTOGRAM_MAX_BOUNDS + 1]; /* [n]: above the last bound */
    _Atomic int64_t sum;
};

/* A copy that holds still. */
struct histogram_view {
    const struct histogram_scale *scale;
    uint64_t upto[HISTOGRAM_MAX_BOUNDS + 1]; /* at most bounds[i]; [n]: all of them */
    int64_t sum;                             /* as recorded, without the unit */
};

/* The scale is borrowed for good; the rest becomes 0. */
void histogram_init(struct histogram *h, const struct histogram_scale *scale);

/* Values below 0 (a clock that was asked in the wrong order) count as 0. */
void histogram_record(struct histogram *h, int64_t value);

void histogram_read(const struct histogram *h, struct histogram_view *out);

/* The value below which a share q (0 to 1) of the records lies, as if each bucket
 * were filled evenly; the last bound when it is above it, 0 when there is none. */
double histogram_quantile(const struct histogram_view *v, double q);

#endif
