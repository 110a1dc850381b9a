/* SPDX-License-Identifier: Apache-2.0
 * limit_avx2.c - the limits with 256-bit registers.
 *
 * vpmaddubsw multiplies 32 bytes by 32 bytes and adds pairs; vpaddw accumulates on
 * ports of its own. Kernels must widen the sums now and then, which this loop does
 * not: it is a bound, not a kernel. Written as instructions, because compilers moved
 * invariant products out of the loop, or accumulators into memory.
 */
#include "tools/limit.h"

#include <immintrin.h>

#define ACCUMULATORS 12

uint64_t
limit_avx2_read(const void *p, size_t n)
{
    const __m256i *v = p;
    __m256i sum[4] = { _mm256_setzero_si256(), _mm256_setzero_si256(),
                       _mm256_setzero_si256(), _mm256_setzero_si256() };

    for (size_t i = 0; i < n / 32; i += 4) {
        _mm_prefetch((const char *)(v + i) + LIMIT_AHEAD, _MM_HINT_T0);
        _mm_prefetch((const char *)(v + i) + LIMIT_AHEAD + 64, _MM_HINT_T0);
        for (size_t k = 0; k < 4; k++)
            sum[k] = _mm256_xor_si256(sum[k], _mm256_load_si256(v + i + k));
    }
    sum[0] = _mm256_xor_si256(_mm256_xor_si256(sum[0], sum[1]),
                              _mm256_xor_si256(sum[2], sum[3]));
    return (uint64_t)_mm256_extract_epi64(sum[0], 0);
}

/* Twelve accumulators, ymm2 to ymm13; n >= 1 rounds. What the registers hold before
 * does not matter. */
static uint64_t
multiply(size_t n)
{
    uint64_t last;

    __asm__ volatile(
        "1:\n\t"
        "vpmaddubsw %%ymm1, %%ymm0, %%ymm14\n\tvpaddw %%ymm14, %%ymm2, %%ymm2\n\t"
        "vpmaddubsw %%ymm1, %%ymm0, %%ymm15\n\tvpaddw %%ymm15, %%ymm3, %%ymm3\n\t"
        "vpmaddubsw %%ymm1, %%ymm0, %%ymm14\n\tvpaddw %%ymm14, %%ymm4, %%ymm4\n\t"
        "vpmaddubsw %%ymm1, %%ymm0, %%ymm15\n\tvpaddw %%ymm15, %%ymm5, %%ymm5\n\t"
        "vpmaddubsw %%ymm1, %%ymm0, %%ymm14\n\tvpaddw %%ymm14, %%ymm6, %%ymm6\n\t"
        "vpmaddubsw %%ymm1, %%ymm0, %%ymm15\n\tvpaddw %%ymm15, %%ymm7, %%ymm7\n\t"
        "vpmaddubsw %%ymm1, %%ymm0, %%ymm14\n\tvpaddw %%ymm14, %%ymm8, %%ymm8\n\t"
        "vpmaddubsw %%ymm1, %%ymm0, %%ymm15\n\tvpaddw %%ymm15, %%ymm9, %%ymm9\n\t"
        "vpmaddubsw %%ymm1, %%ymm0, %%ymm14\n\tvpaddw %%ymm14, %%ymm10, %%ymm10\n\t"
        "vpmaddubsw %%ymm1, %%ymm0, %%ymm15\n\tvpaddw %%ymm15, %%ymm11, %%ymm11\n\t"
        "vpmaddubsw %%ymm1, %%ymm0, %%ymm14\n\tvpaddw %%ymm14, %%ymm12, %%ymm12\n\t"
        "vpmaddubsw %%ymm1, %%ymm0, %%ymm15\n\tvpaddw %%ymm15, %%ymm13, %%ymm13\n\t"
        "dec %1\n\t"
        "jnz 1b\n\t"
        "vmovq %%xmm2, %0\n\tvzeroupper"
        : "=r"(last), "+r"(n)
        :
        : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
          "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
    return last;
}

const struct limit_ops limit_avx2 = { "vpmaddubsw", limit_avx2_read, multiply,
                                      (size_t)32 * ACCUMULATORS };
