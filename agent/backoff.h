/* SPDX-License-Identifier: Apache-2.0
 * backoff.h - when to try a lost cloud again, and when to stop trying.
 *
 * Waits double from `first` to `most`, each drawn at random between half of it and
 * all of it, the first one between nothing and all: thousands of agents that lose
 * the same server at the same moment come back spread out. A peer that said how long
 * to stay away is obeyed, plus up to a quarter, for the same reason. All of it ends
 * after `total`, or `tries`.
 *
 * Pure: the clock is passed in, the draws follow from the seed.
 *
 * Thread: any; one owner per struct.
 */
#ifndef CE_AGENT_BACKOFF_H
#define CE_AGENT_BACKOFF_H

#include <stdbool.h>
#include <stdint.h>

struct backoff_limits {
    int64_t first_us, most_us; /* waits between tries */
    int64_t total_us;          /* of trying; 0: never try */
    int tries;                 /* at most */
};

struct backoff {
    struct backoff_limits limits;
    uint64_t random;
    int64_t began_us, wait_us;
    int n_tries; /* granted so far */
};

/* Begin to try. level: doublings to begin with, for one who had to begin again and
 * again without getting anywhere; 0 otherwise. */
void backoff_begin(struct backoff *b, const struct backoff_limits *limits, int level,
                   uint64_t seed, int64_t now_us);

/* May there be another try? Then true, and when in *at_us; retry_us is how long the
 * peer wants to be left alone, 0 when it did not say. False: give up. */
bool backoff_next(struct backoff *b, int64_t now_us, int64_t retry_us, int64_t *at_us);

#endif
