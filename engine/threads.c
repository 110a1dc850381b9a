/* SPDX-License-Identifier: Apache-2.0
 * threads.c - worker pool: regions, barriers, waiting.
 *
 * Everything waits on a `struct turn`: a number that only goes up. Who waits reads
 * it, spins until it has moved, and after some tens of microseconds sleeps on a
 * condition variable. Who moves it wakes sleepers only if there are any. A region
 * starts by moving the turn `start`; the barrier is an arrival count and the turn
 * `meet`; a region's end is a last barrier for which only the caller waits.
 *
 * Spinning pays while every thread has a core: the parts between barriers are often
 * shorter than a wake-up. With more threads than cores it only keeps the one we wait
 * for from running, so then there is (nearly) none.
 *
 * No wake-up is lost: a sleeper counts itself, then looks at the number; a mover
 * changes the number, then looks at the count; all four in one total order
 * (sequentially consistent), so one of them sees the other.
 */
#include "engine/threads.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SPIN_NS         40000 /* about what a wake-up costs */
#define SPINS_PER_CHECK 64    /* looks at the turn between looks at the clock */

struct turn {
    _Alignas(64) atomic_uint number;
    atomic_int sleepers;
    pthread_mutex_t lock;
    pthread_cond_t moved;
};

struct worker {
    struct threads *pool;
    int tid;
    pthread_t thread;
};

struct threads {
    int n;
    long spin_ns;
    struct turn start; /* moved when a region begins or the pool ends */
    struct turn meet;  /* moved when the last thread reaches a barrier */
    _Alignas(64) atomic_int arrived;
    bool stop; /* this and the next two: written before `start` moves */
    threads_fn *fn;
    void *arg;
    int n_started;
    struct worker *workers; /* [n - 1] */
};

/* ---- turns ---- */

static inline void
relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static long
now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

static int
turn_init(struct turn *t)
{
    atomic_init(&t->number, 0);
    atomic_init(&t->sleepers, 0);
    if (pthread_mutex_init(&t->lock, NULL) != 0)
        return CE_ENOMEM;
    if (pthread_cond_init(&t->moved, NULL) != 0) {
        pthread_mutex_destroy(&t->lock);
        return CE_ENOMEM;
    }
    return 0;
}

static void
turn_fini(struct turn *t)
{
    pthread_cond_destroy(&t->moved);
    pthread_mutex_destroy(&t->lock);
}

static void
turn_move(struct turn *t)
{
    atomic_fetch_add(&t->number, 1);
    if (atomic_load(&t->sleepers) == 0)
        return;
    /* The lock orders us after a sleeper that has looked but does not sleep yet. */
    pthread_mutex_lock(&t->lock);
    pthread_cond_broadcast(&t->moved);
    pthread_mutex_unlock(&t->lock);
}

/* Return when the number is no longer `seen`. */
static void
turn_wait(struct turn *t, unsigned seen, long spin_ns)
{
    long until = 0;

    while (atomic_load_explicit(&t->number, memory_order_acquire) == seen) {
        long now;

        for (int i = 0; i < SPINS_PER_CHECK; i++) {
            if (atomic_load_explicit(&t->number, memory_order_acquire) != seen)
                return;
            relax();
        }
        now = now_ns();
        if (until == 0)
            until = now + spin_ns;
        if (now >= until)
            break;
    }
    pthread_mutex_lock(&t->lock);
    atomic_fetch_add(&t->sleepers, 1);
    while (atomic_load(&t->number) == seen)
        pthread_cond_wait(&t->moved, &t->lock);
    atomic_fetch_sub(&t->sleepers, 1);
    pthread_mutex_unlock(&t->lock);
}

/* ---- barrier ---- */

/* Count this thread in; true for the last one, which has moved the turn. */
static bool
arrive(struct threads *pool)
{
    if (atomic_fetch_add_explicit(&pool->arrived, 1, memory_order_acq_rel) != pool->n - 1)
        return false;
    atomic_store_explicit(&pool->arrived, 0, memory_order_relaxed);
    turn_move(&pool->meet);
    return true;
}

void
threads_barrier(struct threads *pool)
{
    unsigned seen;

    if (pool->n == 1)
        return;
    seen = atomic_load_explicit(&pool->meet.number, memory_order_acquire);
    if (!arrive(pool))
        turn_wait(&pool->meet, seen, pool->spin_ns);
}

/* ---- pool ---- */

static void *
worker_main(void *arg)
{
    struct worker *w = arg;
    struct threads *pool = w->pool;
    unsigned seen = 0;

    for (;;) {
        turn_wait(&pool->start, seen, pool->spin_ns);
        seen++;
        if (pool->stop)
            return NULL;
        pool->fn(pool->arg, w->tid, pool->n);
        arrive(pool);
    }
}

void
threads_run(struct threads *pool, threads_fn *fn, void *arg)
{
    if (pool->n == 1) {
        fn(arg, 0, 1);
        return;
    }
    pool->fn = fn;
    pool->arg = arg;
    turn_move(&pool->start);
    fn(arg, 0, pool->n);
    threads_barrier(pool);
}

void
threads_free(struct threads *pool)
{
    if (!pool)
        return;
    pool->stop = true;
    turn_move(&pool->start);
    for (int i = 0; i < pool->n_started; i++)
        pthread_join(pool->workers[i].thread, NULL);
    turn_fini(&pool->start);
    turn_fini(&pool->meet);
    free(pool->workers);
    free(pool);
}

int
threads_new(struct threads **out, int n, struct err *err)
{
    struct threads *pool;
    int cores = threads_default_count();

    *out = NULL;
    if (n == 0)
        n = cores < THREADS_MAX ? cores : THREADS_MAX;
    if (n < 1 || n > THREADS_MAX)
        return err_set(err, CE_EINVAL, "%d threads asked for; 1 to %d are possible", n,
                       THREADS_MAX);
    pool = aligned_alloc(64, sizeof(*pool)); /* sizeof is a multiple of its alignment */
    if (!pool)
        return err_set(err, CE_ENOMEM, "no memory for %d threads", n);
    memset(pool, 0, sizeof(*pool));
    pool->n = n;
    pool->spin_ns = n <= cores ? SPIN_NS : 0;
    atomic_init(&pool->arrived, 0);
    pool->workers = calloc((size_t)n, sizeof(*pool->workers));
    if (!pool->workers || turn_init(&pool->start) != 0) {
        free(pool->workers);
        free(pool);
        return err_set(err, CE_ENOMEM, "no memory for %d threads", n);
    }
    if (turn_init(&pool->meet) != 0) {
        turn_fini(&pool->start);
        free(pool->workers);
        free(pool);
        return err_set(err, CE_ENOMEM, "no memory for %d threads", n);
    }
    for (int i = 0; i < n - 1; i++) {
        struct worker *w = &pool->workers[i];

        w->pool = pool;
        w->tid = i + 1;
        if (pthread_create(&w->thread, NULL, worker_main, w) != 0) {
            threads_free(pool);
            return err_set(err, CE_ENOMEM, "the system refuses thread %d of %d", i + 1,
                           n);
        }
        pool->n_started++;
    }
    *out = pool;
    return 0;
}

int
threads_count(const struct threads *pool)
{
    return pool->n;
}
