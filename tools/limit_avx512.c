/* SPDX-License-Identifier: Apache-2.0
 * limit_avx512.c - the limits with 512-bit registers.
 *
 * vpdpbusd multiplies 64 bytes by 64 bytes and accumulates in one instruction of
 * four or five cycles, up to two a cycle: fewer than ten accumulators show the
 * latency instead. Written as instructions for the reason that limit_avx2.c gives.
 */
#include "tools/limit.h"

#include <immintrin.h>

#define ACCUMULATORS 16

static uint64_t
read_all(const void *p, size_t n)
{
    const __m512i *v = p;
    __m512i sum[4] = { _mm512_setzero_si512(), _mm512_setzero_si512(),
                       _mm512_setzero_si512(), _mm512_setzero_si512() };

    for (size_t i = 0; i < n / 64; i += 4) {
        for (size_t k = 0; k < 4; k++) {
            _mm_prefetch((const char *)(v + i + k) + LIMIT_AHEAD, _MM_HINT_T0);
            sum[k] = _mm512_xor_si512(sum[k], _mm512_load_si512(v + i + k));
        }
    }
    sum[0] = _mm512_xor_si512(_mm512_xor_si512(sum[0], sum[1]),
                              _mm512_xor_si512(sum[2], sum[3]));
    return (uint64_t)_mm512_reduce_add_epi64(sum[0]);
}

/* Sixteen accumulators, zmm2 to zmm17; n >= 1 rounds. What the registers hold before
 * does not matter. */
static uint64_t
multiply(size_t n)
{
    uint64_t last;

    __asm__ volatile("1:\n\t"
                     "vpdpbusd %%zmm1, %%zmm0, %%zmm2\n\t"
                     "vpdpbusd %%zmm1, %%zmm0, %%zmm3\n\t"
                     "vpdpbusd %%zmm1, %%zmm0, %%zmm4\n\t"
                     "vpdpbusd %%zmm1, %%zmm0, %%zmm5\n\t"
                     "vpdpbusd %%zmm1, %%zmm0, %%zmm6\n\t"
                     "vpdpbusd %%zmm1, %%zmm0, %%zmm7\n\t"
                     "vpdpbusd %%zmm1, %%zmm0, %%zmm8\n\t"
                     "vpdpbusd %%zmm1, %%zmm0, %%zmm9\n\t"
                     "vpdpbusd %%zmm1, %%zmm0, %%zmm10\n\t"
                     "vpdpbusd %%zmm1, %%zmm0, %%zmm11\n\t"
                     "vpdpbusd %%zmm1, %%zmm0, %%zmm12\n\t"
                     "vpdpbusd %%zmm1, %%zmm0, %%zmm13\n\t"
                     "vpdpbusd %%zmm1, %%zmm0, %%zmm14\n\t"
                     "vpdpbusd %%zmm1, %%zmm0, %%zmm15\n\t"
                     "vpdpbusd %%zmm1, %%zmm0, %%zmm16\n\t"
                     "vpdpbusd %%zmm1, %%zmm0, %%zmm17\n\t"
                     "dec %1\n\t"
                     "jnz 1b\n\t"
                     "vmovq %%xmm2, %0\n\tvzeroupper"
                     : "=r"(last), "+r"(n)
                     :
                     : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6",
                       "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",
                       "xmm14", "xmm15", "xmm16", "xmm17");
    return last;
}

const struct limit_ops limit_avx512 = { "vpdpbusd", read_all, multiply,
                                        (size_t)64 * ACCUMULATORS };
