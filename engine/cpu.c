/* SPDX-License-Identifier: Apache-2.0
 * cpu.c - which instructions there are. On x86-64: cpuid for instructions, and xgetbv
 * whether the system saves their registers; on ARM: the kernel's list.
 *
 * A hypervisor may show AVX-512 while the kernel does not save its registers, so
 * both are asked; neither alone is enough. A program cannot ask an ARM processor
 * itself; what the kernel lists (getauxval) it also supports.
 */
#include "engine/cpu.h"

#include <stdint.h>
#include <string.h>

/* One row per thing a set needs. */
struct feature {
    unsigned set;
    const char *name;
    int present;
};

#define MAX_FEATURES 16

#define CPU_EVERY_X86  (CPU_AVX2 | CPU_AVXVNNI | CPU_AVX512)
#define CPU_EVERY_NEON (CPU_NEON | CPU_NEON_DOTPROD | CPU_NEON_I8MM)

#if defined(__x86_64__)

#include <cpuid.h>

#define LEAF7_1_EAX_AVXVNNI (1u << 4) /* older cpuid.h do not name it */

#define XCR0_AVX    0x06u /* SSE and upper halves of ymm */
#define XCR0_AVX512 0xe6u /* and masks, upper halves of zmm, zmm16 and up */

static uint64_t
saved_registers(void)
{
    uint32_t low, high;

    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static int
list_features(struct feature f[MAX_FEATURES])
{
    unsigned a = 0, b = 0, c = 0, d, c1 = 0, a7_1 = 0, ignored, n = 0;
    uint64_t xcr0 = 0;

    if (__get_cpuid(1, &a, &b, &c1, &d) && (c1 & bit_OSXSAVE))
        xcr0 = saved_registers();
    a = b = c = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
        a = b = c = 0;
    if (a >= 1) /* the last part of leaf 7 */
        __get_cpuid_count(7, 1, &a7_1, &ignored, &ignored, &ignored);
    f[n++] = (struct feature){ CPU_AVX2, "avx2", (b & bit_AVX2) != 0 };
    f[n++] = (struct feature){ CPU_AVX2, "fma", (c1 & bit_FMA) != 0 };
    f[n++] = (struct feature){ CPU_AVX2, "f16c", (c1 & bit_F16C) != 0 };
    f[n++] = (struct feature){ CPU_AVX2, "the system saving ymm registers",
                               (xcr0 & XCR0_AVX) == XCR0_AVX };
    f[n++] =
        (struct feature){ CPU_AVXVNNI, "avx_vnni", (a7_1 & LEAF7_1_EAX_AVXVNNI) != 0 };
    f[n++] = (struct feature){ CPU_AVX512, "avx512f", (b & bit_AVX512F) != 0 };
    f[n++] = (struct feature){ CPU_AVX512, "avx512bw", (b & bit_AVX512BW) != 0 };
    f[n++] = (struct feature){ CPU_AVX512, "avx512vl", (b & bit_AVX512VL) != 0 };
    f[n++] = (struct feature){ CPU_AVX512, "avx512dq", (b & bit_AVX512DQ) != 0 };
    f[n++] = (struct feature){ CPU_AVX512, "avx512_vnni", (c & bit_AVX512VNNI) != 0 };
    f[n++] = (struct feature){ CPU_AVX512, "the system saving zmm registers",
                               (xcr0 & XCR0_AVX512) == XCR0_AVX512 };
    f[n++] = (struct feature){ CPU_EVERY_NEON, "an ARM processor", 0 };
    return (int)n;
}

#elif defined(__aarch64__)

#include <sys/auxv.h>

/* Bits of the kernel's list, by its names in /proc/cpuinfo. */
#define HWCAP_HAS_ASIMD   (1ul << 1)
#define HWCAP_HAS_ASIMDDP (1ul << 20)
#define HWCAP2_HAS_I8MM   (1ul << 13)

static int
list_features(struct feature f[MAX_FEATURES])
{
    unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
    int n = 0;

    f[n++] = (struct feature){ CPU_NEON, "asimd", (first & HWCAP_HAS_ASIMD) != 0 };
    f[n++] =
        (struct feature){ CPU_NEON_DOTPROD, "asimddp", (first & HWCAP_HAS_ASIMDDP) != 0 };
    f[n++] = (struct feature){ CPU_NEON_I8MM, "i8mm", (second & HWCAP2_HAS_I8MM) != 0 };
    f[n++] = (struct feature){ CPU_EVERY_X86, "an x86-64 processor", 0 };
    return n;
}

#else

static int
list_features(struct feature f[MAX_FEATURES])
{
    f[0] = (struct feature){ CPU_EVERY_X86, "an x86-64 processor", 0 };
    f[1] = (struct feature){ CPU_EVERY_NEON, "an ARM processor", 0 };
    return 2;
}

#endif

/* The sets that each set builds on, itself included. */
static unsigned
with_foundations(unsigned sets)
{
    if (sets & (CPU_AVXVNNI | CPU_AVX512))
        sets |= CPU_AVX2;
    if (sets & CPU_NEON_I8MM)
        sets |= CPU_NEON_DOTPROD;
    if (sets & CPU_NEON_DOTPROD)
        sets |= CPU_NEON;
    return sets;
}

unsigned
cpu_flags(void)
{
    struct feature f[MAX_FEATURES];
    unsigned absent = 0, flags = 0;
    int n = list_features(f);

    for (int i = 0; i < n; i++)
        if (!f[i].present)
            absent |= f[i].set;
    for (unsigned set = 1; set <= CPU_NEON_I8MM; set <<= 1)
        if (!(with_foundations(set) & absent))
            flags |= set;
    return flags;
}

const char *
cpu_missing(unsigned wanted, char *text, size_t size)
{
    struct feature f[MAX_FEATURES];
    int n = list_features(f);
    size_t len = 0;

    wanted = with_foundations(wanted);
    if (size > 0)
        text[0] = '\0';
    for (int i = 0; i < n; i++) {
        size_t need = strlen(f[i].name) + (len > 0 ? 1 : 0);

        if (f[i].present || !(f[i].set & wanted) || len + need + 1 > size)
            continue;
        if (len > 0)
            text[len++] = ' ';
        memcpy(text + len, f[i].name, strlen(f[i].name) + 1);
        len += strlen(f[i].name);
    }
    return size > 0 ? text : "";
}
