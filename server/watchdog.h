/* SPDX-License-Identifier: Apache-2.0
 * watchdog.h - when the service manager may be told that the server is alive.
 *
 * Alive are two threads. The event loop is when it comes to ask here: a loop that is
 * stuck asks nothing. The backend thread is while its present turn (a step and the
 * messages before it) has not lasted longer than stall_timeout; then nothing is told
 * until the turn has ended, and the manager restarts a server that stays silent.
 *
 * Pure: the clock is passed in. Thread: the event loop's.
 */
#ifndef CE_SERVER_WATCHDOG_H
#define CE_SERVER_WATCHDOG_H

#include <stdbool.h>
#include <stdint.h>

struct watchdog {
    int64_t interval_us; /* that the manager waits; 0: no watchdog */
    int64_t fed_us;      /* when it was last told */
    bool starves;        /* the backend is stuck */
};

enum watchdog_answer {
    WATCHDOG_NOT_YET,
    WATCHDOG_FEED,   /* tell the manager now */
    WATCHDOG_STUCK,  /* the backend's turn has just become too long: say so once */
    WATCHDOG_SILENT, /* and it still lasts */
};

/* Ask several times an interval; it is fed three times in one. turn_since_us: when
 * the backend's turn began, 0 while it waits for work. */
enum watchdog_answer watchdog_ask(struct watchdog *w, int64_t now_us,
                                  int64_t turn_since_us, int64_t stall_us);

#endif
