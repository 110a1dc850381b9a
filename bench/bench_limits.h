/* SPDX-License-Identifier: Apache-2.0
 * bench_limits.h - what one thread of this machine can do at best.
 */
#ifndef CE_BENCH_BENCH_LIMITS_H
#define CE_BENCH_BENCH_LIMITS_H

/* GB/s of reading 256 MiB of memory, every cache line once. */
double bench_limit_read(void);

/* G int8 multiply-adds a second from registers, with the instruction that the
 * kernels of that name use. NAN when there is none. */
double bench_limit_int8(const char *kernels);

#endif
