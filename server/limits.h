/* SPDX-License-Identifier: Apache-2.0
 * limits.h - what a tenant may have at once and per second: the numbers, and the
 * arithmetic of rates.
 *
 * A rate is a token bucket: it fills at the rate, holds at most a burst, and what is
 * used is taken out. Use is never refused here. It may bring the level below zero, and
 * the caller then holds back whatever it can hold back until the level is above zero
 * again; so the mean is the rate, however large the single pieces are.
 *
 * Pure: the clock is passed in. Thread: one at a time.
 */
#ifndef CE_SERVER_LIMITS_H
#define CE_SERVER_LIMITS_H

#include <stdbool.h>
#include <stdint.h>

/* 0 anywhere: no limit. */
struct limits {
    int64_t max_sessions;       /* open at once */
    int64_t max_seqs;           /* of all its sessions together */
    int64_t kv_bytes;           /* of its KV caches */
    int64_t hidden_state_bytes; /* rows that may wait for computing */
    int64_t rows_per_second;
    int64_t bytes_per_second; /* of frames that arrive */
    int64_t burst_us;         /* a rate's bucket holds so much time of it */
};

struct limits_bucket {
    double level;  /* may be negative: a debt */
    int64_t at_us; /* when the level was that */
    bool begun;    /* false: full, whatever the rate */
};

/* Bring the level up to date. rate: per second, > 0; a rate or burst changed since then
 * counts from now on. */
void limits_bucket_fill(struct limits_bucket *b, int64_t rate, int64_t burst_us,
                        int64_t now_us);

/* The level after filling, rounded down. */
int64_t limits_bucket_level(struct limits_bucket *b, int64_t rate, int64_t burst_us,
                            int64_t now_us);

/* Take n out, after filling. */
void limits_bucket_take(struct limits_bucket *b, int64_t rate, int64_t burst_us,
                        int64_t n, int64_t now_us);

/* Milliseconds from now until the level is at least 1, rounded up; 0: it is. The bucket
 * has just been filled. At most UINT32_MAX. */
uint32_t limits_bucket_wait_ms(const struct limits_bucket *b, int64_t rate);

#endif
