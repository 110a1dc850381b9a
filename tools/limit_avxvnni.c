/* SPDX-License-Identifier: Apache-2.0
 * limit_avxvnni.c - the limits with 256-bit registers and vpdpbusd.
 *
 * The loop of limit_avx512.c at half the width, in the encoding of CPUs that have no
 * AVX-512. Fourteen accumulators are all the registers there are besides the operands,
 * and more than latency asks for. Memory is read as limit_avx2.c does.
 */
#include "tools/limit.h"

#define ACCUMULATORS 14

/* Fourteen accumulators, ymm2 to ymm15; n >= 1 rounds. What the registers hold before
 * does not matter. */
static uint64_t
multiply(size_t n)
{
    uint64_t last;

    __asm__ volatile("1:\n\t"
                     "%{vex%} vpdpbusd %%ymm1, %%ymm0, %%ymm2\n\t"
                     "%{vex%} vpdpbusd %%ymm1, %%ymm0, %%ymm3\n\t"
                     "%{vex%} vpdpbusd %%ymm1, %%ymm0, %%ymm4\n\t"
                     "%{vex%} vpdpbusd %%ymm1, %%ymm0, %%ymm5\n\t"
                     "%{vex%} vpdpbusd %%ymm1, %%ymm0, %%ymm6\n\t"
                     "%{vex%} vpdpbusd %%ymm1, %%ymm0, %%ymm7\n\t"
                     "%{vex%} vpdpbusd %%ymm1, %%ymm0, %%ymm8\n\t"
                     "%{vex%} vpdpbusd %%ymm1, %%ymm0, %%ymm9\n\t"
                     "%{vex%} vpdpbusd %%ymm1, %%ymm0, %%ymm10\n\t"
                     "%{vex%} vpdpbusd %%ymm1, %%ymm0, %%ymm11\n\t"
                     "%{vex%} vpdpbusd %%ymm1, %%ymm0, %%ymm12\n\t"
                     "%{vex%} vpdpbusd %%ymm1, %%ymm0, %%ymm13\n\t"
                     "%{vex%} vpdpbusd %%ymm1, %%ymm0, %%ymm14\n\t"
                     "%{vex%} vpdpbusd %%ymm1, %%ymm0, %%ymm15\n\t"
                     "dec %1\n\t"
                     "jnz 1b\n\t"
                     "vmovq %%xmm2, %0\n\tvzeroupper"
                     : "=r"(last), "+r"(n)
                     :
                     : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6",
                       "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",
                       "xmm14", "xmm15");
    return last;
}

const struct limit_ops limit_avxvnni = { "vpdpbusd ymm", limit_avx2_read, multiply,
                                         (size_t)32 * ACCUMULATORS };
