/* SPDX-License-Identifier: Apache-2.0
 * clock.c - clock.h over clock_gettime(2), which cannot fail for these clocks.
 */
#include "common/clock.h"

#include <time.h>

static int64_t
now_ns(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

int64_t
clock_ns(void)
{
    return now_ns(CLOCK_MONOTONIC);
}

int64_t
clock_us(void)
{
    return now_ns(CLOCK_MONOTONIC) / 1000;
}

int64_t
clock_wall_us(void)
{
    return now_ns(CLOCK_REALTIME) / 1000;
}
