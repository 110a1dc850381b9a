/* SPDX-License-Identifier: Apache-2.0
 * random.h - numbers that look random and are the same everywhere for the same seed.
 *
 * SplitMix64 (Steele, Lea, Flood 2014): for synthetic models and fitting. Not for keys,
 * nor for what a peer must not guess. Thread: no state but the caller's.
 */
#ifndef CE_COMMON_RANDOM_H
#define CE_COMMON_RANDOM_H

#include <stddef.h>
#include <stdint.h>

static inline uint64_t
random_next(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

/* Shuffle order [n] (Fisher and Yates). */
static inline void
random_shuffle(uint32_t *order, size_t n, uint64_t *state)
{
    for (size_t i = n; i > 1; i--) {
        size_t j = (size_t)((unsigned __int128)random_next(state) * i >> 64);
        uint32_t other = order[j];

        order[j] = order[i - 1];
        order[i - 1] = other;
    }
}

#endif
