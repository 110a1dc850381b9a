/* SPDX-License-Identifier: Apache-2.0
 * clock.h - what time it is, in integers.
 *
 * Deadlines and durations use the monotonic clock, which never jumps; the wall
 * clock is for log lines and people. Signed, so that a difference may be
 * negative. Structures that decide by time take it as an argument instead of
 * asking here (the scheduler, the policy), so that tests can drive them.
 *
 * Thread: any.
 */
#ifndef CE_COMMON_CLOCK_H
#define CE_COMMON_CLOCK_H

#include <stdint.h>

int64_t clock_ns(void); /* monotonic, nanoseconds */
int64_t clock_us(void); /* monotonic, microseconds */

int64_t clock_wall_us(void); /* since 1970-01-01 UTC, microseconds */

#endif
