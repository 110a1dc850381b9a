/* SPDX-License-Identifier: Apache-2.0
 * watchdog.c - see watchdog.h.
 */
#include "server/watchdog.h"

enum watchdog_answer
watchdog_ask(struct watchdog *w, int64_t now_us, int64_t turn_since_us, int64_t stall_us)
{
    bool was = w->starves;

    w->starves = turn_since_us != 0 && now_us - turn_since_us > stall_us;
    if (w->starves)
        return was ? WATCHDOG_SILENT : WATCHDOG_STUCK;
    if (w->interval_us <= 0)
        return WATCHDOG_NOT_YET;
    if (!was && w->fed_us != 0 && now_us - w->fed_us < w->interval_us / 3)
        return WATCHDOG_NOT_YET;
    w->fed_us = now_us;
    return WATCHDOG_FEED;
}
