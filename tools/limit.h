/* SPDX-License-Identifier: Apache-2.0
 * limit.h - what this machine can do at most: reading memory, multiplying integers.
 *
 * Speeds say little without the limit of the machine they were measured on, in the
 * same minute. Two limits matter here (bench/METHODOLOGY.md): bytes of weights read
 * per second, for single tokens, and int8 multiply-adds per second, for many.
 *
 * Thread: one owner; uses a worker pool inside.
 */
#ifndef CE_TOOLS_LIMIT_H
#define CE_TOOLS_LIMIT_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct limit {
    const char *instruction; /* what multiplied: "vpmaddubsw"; static */
    double bytes_per_second; /* read, all threads together */
    double macs_per_second;  /* multiply-adds, all threads together */
};

/* Measure with n_threads; the buffer read has `bytes` bytes, at least 1 MB. `kernels`:
 * NULL for the best instructions this CPU has, or the name of kernels that it runs
 * ("avx2"), for those they are built on. Each limit is the best of several tries.
 * About half a second. */
int limit_measure(struct limit *out, const char *kernels, size_t bytes, int n_threads,
                  struct err *err) CE_MUSTCHECK;

/* ---- one instruction set's loops; limit.c chooses ---- */

/* Bytes that the vector loops ask for ahead of what they read: the hardware alone stops
 * at each page. The best of 1 to 16 KiB on Zen 3. */
#define LIMIT_AHEAD 1024

struct limit_ops {
    const char *instruction;
    /* Read n bytes at p (aligned to 64, n a multiple of 512) and fold them. */
    uint64_t (*read)(const void *p, size_t n);
    /* n rounds of independent multiply-adds from registers; returns something that
     * depends on them. */
    uint64_t (*multiply)(size_t n);
    size_t macs_per_round;
};

extern const struct limit_ops limit_scalar, limit_avx2, limit_avxvnni, limit_avx512;

/* The reading of limit_avx2, which is also AVX-VNNI's. */
uint64_t limit_avx2_read(const void *p, size_t n);

#endif
