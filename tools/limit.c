/* SPDX-License-Identifier: Apache-2.0
 * limit.c - see limit.h.
 *
 * A limit is a maximum, so the best of many short tries counts: whatever else the
 * machine does can only slow a try down, and a short one may slip through between. Every
 * thread touches its own share of the buffer first, so that pages lie where they are
 * read.
 */
#include "config.h"

#include "tools/limit.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/clock.h"
#include "engine/cpu.h"
#include "engine/threads.h"

#define TRIES        60
#define GRAIN        ((size_t)4096)
#define HUGE_PAGE    ((size_t)2 << 20)
#define LEAST_BYTES  ((size_t)1 << 20)
#define TRY_SECONDS  0.004 /* of multiplying: within a slice of the scheduler */
#define FIRST_ROUNDS ((size_t)1 << 14)

struct job {
    const struct limit_ops *ops;
    unsigned char *buffer;
    size_t size;
    size_t rounds;
    volatile uint64_t sink; /* keeps the loops' results alive */
};

static const struct limit_ops *
choose(const char *kernels)
{
    unsigned flags = cpu_flags();

#ifdef HAVE_KERNELS_AVX512
    if ((flags & CPU_AVX512) && (!kernels || strcmp(kernels, "avx512") == 0))
        return &limit_avx512;
#endif
#ifdef HAVE_KERNELS_AVXVNNI
    if ((flags & CPU_AVXVNNI) && (!kernels || strcmp(kernels, "avxvnni") == 0))
        return &limit_avxvnni;
#endif
#ifdef HAVE_KERNELS_AVX2
    if ((flags & CPU_AVX2) && (!kernels || strcmp(kernels, "avx2") == 0))
        return &limit_avx2;
#endif
    (void)flags;
    (void)kernels;
    return &limit_scalar;
}

static void
touch(void *arg, int tid, int n_threads)
{
    struct job *j = arg;
    size_t from, to;

    threads_share(j->size, GRAIN, tid, n_threads, &from, &to);
    memset(j->buffer + from, 1, to - from);
}

static void
read_share(void *arg, int tid, int n_threads)
{
    struct job *j = arg;
    size_t from, to;

    threads_share(j->size, GRAIN, tid, n_threads, &from, &to);
    j->sink = j->ops->read(j->buffer + from, to - from);
}

static void
multiply(void *arg, int tid, int n_threads)
{
    struct job *j = arg;

    (void)tid;
    (void)n_threads;
    j->sink = j->ops->multiply(j->rounds);
}

static double
timed(struct threads *pool, threads_fn *fn, struct job *j)
{
    int64_t start = clock_ns();

    threads_run(pool, fn, j);
    return (double)(clock_ns() - start) * 1e-9;
}

int
limit_measure(struct limit *out, const char *kernels, size_t bytes, int n_threads,
              struct err *err)
{
    struct threads *pool = NULL;
    struct job j = { .ops = choose(kernels), .rounds = FIRST_ROUNDS };
    double read = 1e9, multiplied = 1e9, t;
    int rc;

    j.size = (bytes < LEAST_BYTES ? LEAST_BYTES : bytes) / GRAIN * GRAIN;
    j.buffer = aligned_alloc(HUGE_PAGE, (j.size + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
    if (!j.buffer)
        return err_set(err, CE_ENOMEM, "no memory for a buffer of %zu bytes", j.size);
    if ((rc = threads_new(&pool, n_threads, err))) {
        free(j.buffer);
        return rc;
    }
    (void)madvise(j.buffer, j.size, MADV_HUGEPAGE); /* as the weights lie; a wish */
    threads_run(pool, touch, &j);
    for (int i = 0; i < TRIES; i++) {
        t = timed(pool, read_share, &j);
        read = t < read ? t : read;
    }
    while (timed(pool, multiply, &j) < TRY_SECONDS)
        j.rounds *= 2;
    for (int i = 0; i < TRIES; i++) {
        t = timed(pool, multiply, &j);
        multiplied = t < multiplied ? t : multiplied;
    }
    out->instruction = j.ops->instruction;
    out->bytes_per_second = (double)j.size / read;
    out->macs_per_second = (double)j.rounds * (double)j.ops->macs_per_round *
                           threads_count(pool) / multiplied;
    threads_free(pool);
    free(j.buffer);
    return 0;
}
