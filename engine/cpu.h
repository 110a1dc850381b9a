/* SPDX-License-Identifier: Apache-2.0
 * cpu.h - which instruction sets this CPU has and this system lets us use.
 *
 * Thread: any; every call asks the CPU again.
 */
#ifndef CE_ENGINE_CPU_H
#define CE_ENGINE_CPU_H

#include <stddef.h>

/* What the kernels of a set need, all of it. */
#define CPU_AVX2         1u  /* AVX2, FMA, F16C */
#define CPU_AVXVNNI      2u  /* VEX-encoded vpdpbusd, besides CPU_AVX2 */
#define CPU_AVX512       4u  /* AVX-512 F, BW, VL, DQ and VNNI, besides CPU_AVX2 */
#define CPU_NEON         8u  /* Advanced SIMD: every 64-bit ARM */
#define CPU_NEON_DOTPROD 16u /* sdot, besides CPU_NEON */
#define CPU_NEON_I8MM    32u /* smmla, besides CPU_NEON_DOTPROD */

/* Sets present: CPU_* flags. */
unsigned cpu_flags(void);

/* What is missing for the sets in `wanted`, such as "avx512f avx512_vnni"; empty
 * when nothing is. Never NULL; `text` has room for `size` bytes. */
const char *cpu_missing(unsigned wanted, char *text, size_t size);

#endif
