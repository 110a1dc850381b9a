/* SPDX-License-Identifier: Apache-2.0
 * limit_scalar.c - the limits as plain C reaches them, for CPUs without a set of
 * their own here. The compiler may use what every CPU of the architecture has.
 */
#include "tools/limit.h"

#define LANES 64

static uint64_t
read_all(const void *p, size_t n)
{
    const uint64_t *w = p;
    uint64_t sum[8] = { 0 };

    for (size_t i = 0; i < n / 8; i += 8)
        for (size_t k = 0; k < 8; k++)
            sum[k] += w[i + k];
    for (size_t k = 1; k < 8; k++)
        sum[0] ^= sum[k];
    return sum[0];
}

static uint64_t
multiply(size_t n)
{
    int16_t a[LANES], b[LANES];
    int32_t sum[LANES] = { 0 };
    uint64_t all = 0;

    for (int i = 0; i < LANES; i++) {
        a[i] = (int16_t)(i - 7);
        b[i] = (int16_t)(3 * i - 90);
    }
    for (size_t r = 0; r < n; r++) {
        __asm__ volatile("" : : "r"(a), "r"(b) : "memory"); /* not computed once */
        for (int i = 0; i < LANES; i++)
            sum[i] += a[i] * b[i];
    }
    for (int i = 0; i < LANES; i++)
        all += (uint64_t)sum[i];
    return all;
}

const struct limit_ops limit_scalar = { "C", read_all, multiply, LANES };
