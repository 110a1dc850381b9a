/* SPDX-License-Identifier: Apache-2.0
 * swarm_stats.h - what is counted of a run, for each group of sessions.
 *
 * Times go into histograms of fixed size: buckets are 1/64 of a power of two wide, so a
 * quantile is right to 1.6 %; the largest time is kept as it is.
 *
 * Thread: one owner.
 */
#ifndef CE_BENCH_SWARM_STATS_H
#define CE_BENCH_SWARM_STATS_H

#include <stdint.h>

#define STATS_BUCKETS (64 * 30) /* up to half an hour in microseconds */

struct stats_times {
    uint64_t n;
    int64_t max_us;
    uint32_t buckets[STATS_BUCKETS];
};

void stats_add(struct stats_times *t, int64_t us);

/* The time that a share q of all (0 to 1) do not exceed, in microseconds; 0 without
 * any. */
int64_t stats_quantile(const struct stats_times *t, double q);

/* Sessions of one kind. */
struct stats_group {
    struct stats_times latency;  /* request to token */
    struct stats_times beyond;   /* of it, what the server did not compute */
    struct stats_times one_row;  /* beyond, of those that needed one row computed */
    struct stats_times recovery; /* connection lost to the next token */
    uint64_t tokens, rows, sequences;
    uint64_t lost;    /* connections that ended without being asked to */
    uint64_t refused; /* errors of a sequence or session that say when to retry */
    uint64_t needs;   /* replays asked for */
    uint64_t goaways; /* sessions sent away by a server that stops */
};

#endif
