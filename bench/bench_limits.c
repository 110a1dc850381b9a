/* SPDX-License-Identifier: Apache-2.0
 * bench_limits.c - measures the limits that kernels are held against.
 *
 * The loops for vector units are in functions with a target of their own, so this
 * file needs no special flags; they run only on a CPU that has the instruction.
 */
#include "bench/bench_limits.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/memory.h"

#define READ_BYTES ((size_t)256 << 20)

static double
now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

#if defined(__x86_64__)

#include <immintrin.h>

__attribute__((target("avx2"))) static uint64_t
read_all(const uint8_t *p, size_t n)
{
    __m256i s[4] = { _mm256_setzero_si256(), _mm256_setzero_si256(),
                     _mm256_setzero_si256(), _mm256_setzero_si256() };

    for (size_t i = 0; i < n; i += 128) {
        for (int j = 0; j < 4; j++)
            s[j] = _mm256_xor_si256(
                s[j], _mm256_load_si256((const __m256i *)(p + i + 32 * (size_t)j)));
    }
    s[0] = _mm256_xor_si256(_mm256_xor_si256(s[0], s[1]), _mm256_xor_si256(s[2], s[3]));
    return (uint64_t)_mm256_extract_epi64(s[0], 0) ^
           (uint64_t)_mm256_extract_epi64(s[0], 2);
}

/* n rounds of 8 independent products; only the instruction, no sums. */
__attribute__((target("avx2"), noinline)) static void
madd_avx2(long n)
{
    for (long i = 0; i < n; i++)
        __asm__ volatile("vpmaddubsw %%ymm8, %%ymm9, %%ymm0\n\t"
                         "vpmaddubsw %%ymm8, %%ymm9, %%ymm1\n\t"
                         "vpmaddubsw %%ymm8, %%ymm9, %%ymm2\n\t"
                         "vpmaddubsw %%ymm8, %%ymm9, %%ymm3\n\t"
                         "vpmaddubsw %%ymm8, %%ymm9, %%ymm4\n\t"
                         "vpmaddubsw %%ymm8, %%ymm9, %%ymm5\n\t"
                         "vpmaddubsw %%ymm8, %%ymm9, %%ymm6\n\t"
                         "vpmaddubsw %%ymm8, %%ymm9, %%ymm7"
                         :
                         :
                         : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6",
                           "xmm7");
}

/* n rounds of 12 independent vpdpbusd, which add by themselves. */
__attribute__((target("avx512f,avx512vnni"), noinline)) static int
madd_avx512(long n, int seed)
{
    __m512i x = _mm512_set1_epi32(seed), s[12];

    for (int j = 0; j < 12; j++)
        s[j] = _mm512_set1_epi32(seed + j);
    for (long i = 0; i < n; i++)
        for (int j = 0; j < 12; j++) {
            s[j] = _mm512_dpbusd_epi32(s[j], x, x);
            __asm__("" : "+v"(s[j]));
        }
    for (int j = 1; j < 12; j++)
        s[0] = _mm512_xor_si512(s[0], s[j]);
    return _mm512_reduce_add_epi32(s[0]);
}

#else

static uint64_t
read_all(const uint8_t *p, size_t n)
{
    uint64_t sum = 0, v;

    for (size_t i = 0; i < n; i += sizeof(v)) {
        memcpy(&v, p + i, sizeof(v));
        sum ^= v;
    }
    return sum;
}

#endif

static volatile uint64_t sink;

double
bench_limit_read(void)
{
    uint8_t *p = mem_aligned_alloc(READ_BYTES + 4096, 1);
    double best = 1e9;

    if (p == NULL)
        return NAN;
    memset(p, 1, READ_BYTES + 4096);
    for (int i = 0; i < 10; i++) {
        double from = now(), took;

        sink += read_all(p, READ_BYTES);
        took = now() - from;
        best = took < best ? took : best;
    }
    mem_free(p);
    return (double)READ_BYTES / best * 1e-9;
}

double
bench_limit_int8(const char *kernels)
{
#if defined(__x86_64__)
    const long n = 200000;
    int wide = strcmp(kernels, "avx512") == 0;
    double best = 1e9;

    if (!wide && strcmp(kernels, "avx2") != 0)
        return NAN;
    for (int i = 0; i < 60; i++) {
        double from = now(), took;

        if (wide)
            sink += (uint64_t)madd_avx512(n, i + 1);
        else
            madd_avx2(n);
        took = now() - from;
        best = took < best ? took : best;
    }
    return (double)n * (wide ? 12 * 64 : 8 * 32) / best * 1e-9;
#else
    (void)kernels;
    return NAN;
#endif
}
