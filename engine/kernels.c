/* SPDX-License-Identifier: Apache-2.0
 * kernels.c - which kernels run here.
 *
 * Tables are layered: scalar fills one, each instruction set that this build and
 * this CPU have overwrites what it improves. They are built once and never change.
 */
#include "engine/kernels.h"

#include <pthread.h>
#include <string.h>

#include "config.h"
#include "engine/cpu.h"

/* Worst first. */
enum { SCALAR, AVX2, AVXVNNI, AVX512, NEON, NEON_DOTPROD, NEON_I8MM, N_TABLES };

#ifdef HAVE_KERNELS_AVX2
#define BUILT_AVX2 1
#else
#define BUILT_AVX2 0
#endif
#ifdef HAVE_KERNELS_AVXVNNI
#define BUILT_AVXVNNI 1
#else
#define BUILT_AVXVNNI 0
#endif
#ifdef HAVE_KERNELS_AVX512
#define BUILT_AVX512 1
#else
#define BUILT_AVX512 0
#endif
#ifdef HAVE_KERNELS_NEON
#define BUILT_NEON 1
#else
#define BUILT_NEON 0
#endif
#ifdef HAVE_KERNELS_NEON_DOTPROD
#define BUILT_NEON_DOTPROD 1
#else
#define BUILT_NEON_DOTPROD 0
#endif
#ifdef HAVE_KERNELS_NEON_I8MM
#define BUILT_NEON_I8MM 1
#else
#define BUILT_NEON_I8MM 0
#endif

static const struct {
    const char *name;
    unsigned needs; /* CPU_* */
    int built;
} sets[N_TABLES] = {
    [SCALAR] = { "scalar", 0, 1 },
    [AVX2] = { "avx2", CPU_AVX2, BUILT_AVX2 },
    [AVXVNNI] = { "avxvnni", CPU_AVXVNNI, BUILT_AVXVNNI },
    [AVX512] = { "avx512", CPU_AVX512, BUILT_AVX512 },
    [NEON] = { "neon", CPU_NEON, BUILT_NEON },
    [NEON_DOTPROD] = { "neon-dotprod", CPU_NEON_DOTPROD, BUILT_NEON_DOTPROD },
    [NEON_I8MM] = { "neon-i8mm", CPU_NEON_I8MM, BUILT_NEON_I8MM },
};

static struct kernels tables[N_TABLES];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void
build_tables(void)
{
    for (int i = 0; i < N_TABLES; i++)
        kernels_scalar_install(&tables[i]);
#ifdef HAVE_KERNELS_AVX2
    for (int i = AVX2; i <= AVX512; i++)
        kernels_avx2_install(&tables[i]);
#endif
#ifdef HAVE_KERNELS_AVXVNNI
    kernels_avxvnni_install(&tables[AVXVNNI]);
#endif
#ifdef HAVE_KERNELS_AVX512
    kernels_avx512_install(&tables[AVX512]);
#endif
#ifdef HAVE_KERNELS_NEON
    for (int i = NEON; i <= NEON_I8MM; i++)
        kernels_neon_install(&tables[i]);
#endif
#ifdef HAVE_KERNELS_NEON_DOTPROD
    kernels_neon_dotprod_install(&tables[NEON_DOTPROD]);
#endif
#ifdef HAVE_KERNELS_NEON_I8MM
    kernels_neon_i8mm_install(&tables[NEON_I8MM]);
#endif
}

static int
runs_here(int i)
{
    return sets[i].built && (sets[i].needs & ~cpu_flags()) == 0;
}

const struct kernels *
kernels_at(int i)
{
    pthread_once(&once, build_tables);
    for (int t = 0; t < N_TABLES; t++)
        if (runs_here(t) && i-- == 0)
            return &tables[t];
    return NULL;
}

static int
choose_by_name(const struct kernels **out, const char *cpu, struct err *err)
{
    char missing[200];

    for (int t = 0; t < N_TABLES; t++) {
        if (strcmp(cpu, sets[t].name) != 0)
            continue;
        if (runs_here(t)) {
            *out = &tables[t];
            return 0;
        }
        if (cpu_missing(sets[t].needs, missing, sizeof(missing))[0] != '\0')
            return err_set(err, CE_EUNSUPPORTED, "cpu %s: this machine lacks %s", cpu,
                           missing);
        return err_set(err, CE_EUNSUPPORTED, "cpu %s: not in this build", cpu);
    }
    return err_set(err, CE_EINVAL,
                   "cpu \"%s\" is none of auto, scalar, avx2, avxvnni, avx512, neon, "
                   "neon-dotprod, neon-i8mm",
                   cpu);
}

int
kernels_choose(const struct kernels **out, const char *cpu, struct err *err)
{
    pthread_once(&once, build_tables);
    *out = NULL;
    if (cpu != NULL && strcmp(cpu, "auto") != 0)
        return choose_by_name(out, cpu, err);
    for (int t = 0; t < N_TABLES; t++)
        if (runs_here(t))
            *out = &tables[t];
    return 0;
}
