/* SPDX-License-Identifier: Apache-2.0
 * limits.c - see limits.h. Levels are doubles: a rate of 2^53 still counts single
 * units over a microsecond well enough, and nothing can overflow.
 */
#include "server/limits.h"

#include <math.h>

static double
capacity(int64_t rate, int64_t burst_us)
{
    double size = (double)rate * (double)burst_us / 1e6;

    return size < 1 ? 1 : size; /* else nothing would ever pass */
}

void
limits_bucket_fill(struct limits_bucket *b, int64_t rate, int64_t burst_us,
                   int64_t now_us)
{
    double most = capacity(rate, burst_us);

    if (!b->begun)
        b->level = most;
    else if (now_us > b->at_us)
        b->level += (double)rate * (double)(now_us - b->at_us) / 1e6;
    if (b->level > most)
        b->level = most;
    if (!b->begun || now_us > b->at_us)
        b->at_us = now_us;
    b->begun = true;
}

int64_t
limits_bucket_level(struct limits_bucket *b, int64_t rate, int64_t burst_us,
                    int64_t now_us)
{
    limits_bucket_fill(b, rate, burst_us, now_us);
    return (int64_t)floor(b->level);
}

void
limits_bucket_take(struct limits_bucket *b, int64_t rate, int64_t burst_us, int64_t n,
                   int64_t now_us)
{
    limits_bucket_fill(b, rate, burst_us, now_us);
    b->level -= (double)n;
}

uint32_t
limits_bucket_wait_ms(const struct limits_bucket *b, int64_t rate)
{
    double ms = ceil((1 - b->level) / (double)rate * 1e3);

    return ms <= 0 ? 0 : ms >= (double)UINT32_MAX ? UINT32_MAX : (uint32_t)ms;
}
