/* SPDX-License-Identifier: Apache-2.0
 * drain.h - the order of stopping, as decisions over time.
 *
 *     serving -> DRAIN_WAIT     sequences that run may finish
 *             -> DRAIN_END      the time is over or nobody is left: BYE to the rest
 *             -> DRAIN_LAST     a moment for last bytes to leave
 *             -> DRAIN_LEAVE    every connection has gone, or the moment is over
 *
 * Asked to stop a second time, it ends at once: BYE, and hardly a moment.
 *
 * Pure: the clock is passed in. Thread: the event loop's.
 */
#ifndef CE_SERVER_DRAIN_H
#define CE_SERVER_DRAIN_H

#include <stdbool.h>
#include <stdint.h>

enum drain_state {
    DRAIN_NOT,
    DRAIN_WAIT,
    DRAIN_END, /* returned once */
    DRAIN_LAST,
    DRAIN_LEAVE,
};

struct drain {
    enum drain_state state;
    bool hurry;
    int64_t until_us;      /* of DRAIN_WAIT */
    int64_t last_until_us; /* of DRAIN_LAST */
};

/* Asked to stop. Returns false when it had been asked before. */
bool drain_begin(struct drain *d, int64_t now_us, int64_t timeout_us);

/* What to do now; often. */
enum drain_state drain_step(struct drain *d, int64_t now_us, uint32_t n_sessions,
                            uint32_t n_connections);

static inline bool
drain_is_on(const struct drain *d)
{
    return d->state != DRAIN_NOT;
}

/* When an agent that was told GOAWAY may connect anew, in ms: later by chance, so
 * that n_sessions agents do not arrive elsewhere at the same moment. A mutual
 * handshake costs about a millisecond of a core, a session has two, and who takes
 * them in has other things to do: 10 ms each, from 1 to 30 s in all. `random` is any
 * number. */
uint32_t drain_retry_ms(uint32_t n_sessions, uint64_t random);

#endif
