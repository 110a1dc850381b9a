/* SPDX-License-Identifier: Apache-2.0
 * histogram.c - see histogram.h.
 *
 * The bounds of times go 1, 2.5, 5 in each decade: fine enough that a quantile is
 * within a factor of 2.5, few enough that a page of them stays small. Finding a
 * bucket is a walk from below: most values are small, and the walk is shorter than
 * the step or handshake that was measured by five orders of magnitude.
 */
#include "server/histogram.h"

#define MS 1000
#define S  1000000

const struct histogram_scale histogram_times = {
    .unit = 1e-6,
    .n = 21,
    .bounds = { 10,       25,     50,        100,     250,     500,      1 * MS,
                2500,     5 * MS, 10 * MS,   25 * MS, 50 * MS, 100 * MS, 250 * MS,
                500 * MS, 1 * S,  2500 * MS, 5 * S,   10 * S,  30 * S,   60 * S },
};

const struct histogram_scale histogram_rows = {
    .unit = 1,
    .n = 15,
    .bounds = { 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384 },
};

void
histogram_init(struct histogram *h, const struct histogram_scale *scale)
{
    size_t i;

    h->scale = scale;
    for (i = 0; i <= HISTOGRAM_MAX_BOUNDS; i++)
        atomic_init(&h->buckets[i], 0);
    atomic_init(&h->sum, 0);
}

void
histogram_record(struct histogram *h, int64_t value)
{
    const struct histogram_scale *scale = h->scale;
    size_t i = 0;

    if (value < 0)
        value = 0;
    while (i < scale->n && value > scale->bounds[i])
        i++;
    atomic_fetch_add_explicit(&h->buckets[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum, value, memory_order_relaxed);
}

void
histogram_read(const struct histogram *h, struct histogram_view *out)
{
    uint64_t upto = 0;
    size_t i;

    out->scale = h->scale;
    out->sum = atomic_load_explicit(&h->sum, memory_order_relaxed);
    for (i = 0; i <= h->scale->n; i++) {
        upto += atomic_load_explicit(&h->buckets[i], memory_order_relaxed);
        out->upto[i] = upto;
    }
}

double
histogram_quantile(const struct histogram_view *v, double q)
{
    const struct histogram_scale *scale = v->scale;
    double rank = q * (double)v->upto[scale->n];
    double low, high, below, inside;
    size_t i = 0;

    if (v->upto[scale->n] == 0)
        return 0;
    while (i < scale->n && (double)v->upto[i] < rank)
        i++;
    if (i == scale->n)
        return (double)scale->bounds[i - 1] * scale->unit;
    low = i > 0 ? (double)scale->bounds[i - 1] : 0;
    high = (double)scale->bounds[i];
    below = i > 0 ? (double)v->upto[i - 1] : 0;
    inside = (double)v->upto[i] - below;
    return (inside > 0 ? low + (high - low) * (rank - below) / inside : low) *
           scale->unit;
}
