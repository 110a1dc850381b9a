/* SPDX-License-Identifier: Apache-2.0
 * drain.c - see drain.h.
 */
#include "server/drain.h"

#define LAST_US          2500000
#define LAST_IN_HURRY_US 200000
#define MS_PER_SESSION   10
#define MIN_SPREAD_MS    1000
#define MAX_SPREAD_MS    30000

bool
drain_begin(struct drain *d, int64_t now_us, int64_t timeout_us)
{
    if (d->state != DRAIN_NOT) {
        d->hurry = true;
        d->until_us = now_us;
        if (d->last_until_us > now_us + LAST_IN_HURRY_US)
            d->last_until_us = now_us + LAST_IN_HURRY_US;
        return false;
    }
    d->state = DRAIN_WAIT;
    d->until_us = now_us + timeout_us;
    return true;
}

enum drain_state
drain_step(struct drain *d, int64_t now_us, uint32_t n_sessions, uint32_t n_connections)
{
    switch (d->state) {
    case DRAIN_WAIT:
        if (n_sessions > 0 && now_us < d->until_us)
            return DRAIN_WAIT;
        d->state = DRAIN_LAST;
        d->last_until_us = now_us + (d->hurry ? LAST_IN_HURRY_US : LAST_US);
        return DRAIN_END;
    case DRAIN_LAST:
        if (n_connections == 0 || now_us >= d->last_until_us)
            d->state = DRAIN_LEAVE;
        return d->state;
    default:
        return d->state;
    }
}

uint32_t
drain_retry_ms(uint32_t n_sessions, uint64_t random)
{
    uint64_t spread = (uint64_t)n_sessions * MS_PER_SESSION;

    if (spread < MIN_SPREAD_MS)
        spread = MIN_SPREAD_MS;
    if (spread > MAX_SPREAD_MS)
        spread = MAX_SPREAD_MS;
    return (uint32_t)(1 + random % spread); /* 0 would mean "nothing said" */
}
