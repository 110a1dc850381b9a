/* SPDX-License-Identifier: Apache-2.0
 * threads.c - worker pool: regions, stages, waiting.
 *
 * Everything waits on a `struct turn`: a number that only goes up. Who waits reads
 * it, spins until it has moved, and after some tens of microseconds sleeps on a
 * condition variable. Who moves it wakes sleepers only if there are any. A region
 * starts by moving the turn `start` and ends, for the caller, with the turn `over`.
 *
 * A stage is over when its work is done, not when all threads have arrived: one that
 * the system has put aside, or that still wakes up, holds nobody up unless it has
 * taken something. The turn `stage` carries in its lower half how much is taken, so
 * that one compare-and-swap takes a run of this stage and never of another one. Runs
 * are a share of what is left, which needs few of them and ends evenly.
 *
 * Spinning pays while every thread has a core: stages are often shorter than a
 * wake-up. With more threads than cores it only keeps the one we wait for from
 * running, so then there is (nearly) none.
 *
 * No wake-up is lost: a sleeper counts itself, then looks at the number; a mover
 * changes the number, then looks at the count; all four in one total order
 * (sequentially consistent), so one of them sees the other.
 */
#include "engine/threads.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/memory.h"

#define SPIN_NS         40000 /* about what a wake-up costs */
#define SPINS_PER_CHECK 64    /* looks at the turn between looks at the clock */

struct turn {
    _Alignas(64) _Atomic uint64_t word; /* number << 32, and room for its user */
    atomic_int sleepers;
    pthread_mutex_t lock;
    pthread_cond_t moved;
};

struct worker {
    struct threads *pool;
    int tid;
    pthread_t thread;
};

/* A thread's place in the region; only the thread itself looks at it. */
struct seat {
    _Alignas(64) uint32_t stage; /* number of the turn `stage` that it works under */
    size_t taken;                /* things of that stage it has not reported done */
};

struct threads {
    int n;
    long spin_ns;
    struct turn start; /* moved when a region begins or the pool ends */
    struct turn stage; /* moved when the last thing of a stage is done; things taken */
    struct turn over;  /* moved when the last thread leaves a region */
    _Alignas(64) atomic_size_t done; /* things of the stage */
    _Alignas(64) atomic_int left;    /* threads that have left the region */
    bool stop; /* this and the next two: written before `start` moves */
    threads_fn *fn;
    void *arg;
    int n_started;
    struct worker *workers; /* [n - 1] */
    struct seat *seats;     /* [n] */
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
    atomic_init(&t->word, 0);
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

static inline uint32_t
number_of(uint64_t word)
{
    return (uint32_t)(word >> 32);
}

/* From `seen` to the next number, with nothing in the lower half. */
static void
turn_move(struct turn *t, uint32_t seen)
{
    atomic_store(&t->word, (uint64_t)(uint32_t)(seen + 1) << 32);
    if (atomic_load(&t->sleepers) == 0)
        return;
    /* The lock orders us after a sleeper that has looked but does not sleep yet. */
    pthread_mutex_lock(&t->lock);
    pthread_cond_broadcast(&t->moved);
    pthread_mutex_unlock(&t->lock);
}

/* Return when the number is no longer `seen`. */
static void
turn_wait(struct turn *t, uint32_t seen, long spin_ns)
{
    long until = 0;

    while (number_of(atomic_load_explicit(&t->word, memory_order_acquire)) == seen) {
        long now;

        for (int i = 0; i < SPINS_PER_CHECK; i++) {
            if (number_of(atomic_load_explicit(&t->word, memory_order_acquire)) != seen)
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
    while (number_of(atomic_load(&t->word)) == seen)
        pthread_cond_wait(&t->moved, &t->lock);
    atomic_fetch_sub(&t->sleepers, 1);
    pthread_mutex_unlock(&t->lock);
}

/* ---- stages ---- */

/* Report what this seat has taken; true when that was the last of the stage. */
static bool
report(struct threads *pool, struct seat *seat, size_t n)
{
    size_t taken = seat->taken;

    seat->taken = 0;
    if (taken == 0 ||
        atomic_fetch_add_explicit(&pool->done, taken, memory_order_acq_rel) + taken != n)
        return false;
    atomic_store_explicit(&pool->done, 0, memory_order_relaxed);
    turn_move(&pool->stage, seat->stage);
    return true;
}

/* Of `left` things, how many to take at once. */
static size_t
run_length(size_t left, size_t grain, int n_threads)
{
    size_t grains = (left / grain + 2 * (size_t)n_threads - 1) / (2 * (size_t)n_threads);
    size_t length = (grains ? grains : 1) * grain;

    return length < left ? length : left;
}

static bool
take_alone(struct seat *seat, size_t n, size_t *from, size_t *to)
{
    bool first = seat->taken == 0;

    seat->taken = first ? n : 0;
    *from = 0;
    *to = n;
    return first;
}

bool
threads_take(struct threads *pool, int tid, size_t n, size_t grain, size_t *from,
             size_t *to)
{
    struct seat *seat = &pool->seats[tid];
    uint64_t word;

    if (n == 0)
        return false;
    if (pool->n == 1)
        return take_alone(seat, n, from, to);
    if (report(pool, seat, n)) {
        seat->stage++;
        return false;
    }
    word = atomic_load_explicit(&pool->stage.word, memory_order_acquire);
    while (number_of(word) == seat->stage && (uint32_t)word < n) {
        size_t next = (uint32_t)word, length = run_length(n - next, grain, pool->n);

        if (atomic_compare_exchange_weak_explicit(&pool->stage.word, &word, word + length,
                                                  memory_order_acq_rel,
                                                  memory_order_acquire)) {
            seat->taken = length;
            *from = next;
            *to = next + length;
            return true;
        }
    }
    turn_wait(&pool->stage, seat->stage, pool->spin_ns);
    seat->stage++;
    return false;
}

/* ---- pool ---- */

/* Count this thread out of the region; the last one moves `over` from `seen`. */
static bool
leave(struct threads *pool, uint32_t seen)
{
    if (atomic_fetch_add_explicit(&pool->left, 1, memory_order_acq_rel) != pool->n - 1)
        return false;
    atomic_store_explicit(&pool->left, 0, memory_order_relaxed);
    turn_move(&pool->over, seen);
    return true;
}

static void *
worker_main(void *arg)
{
    struct worker *w = arg;
    struct threads *pool = w->pool;

    for (uint32_t region = 0;; region++) {
        turn_wait(&pool->start, region, pool->spin_ns);
        if (pool->stop)
            return NULL;
        pool->fn(pool->arg, w->tid, pool->n);
        leave(pool, region);
    }
}

void
threads_run(struct threads *pool, threads_fn *fn, void *arg)
{
    uint32_t region = number_of(atomic_load(&pool->start.word));

    if (pool->n == 1) {
        fn(arg, 0, 1);
        return;
    }
    pool->fn = fn;
    pool->arg = arg;
    turn_move(&pool->start, region);
    fn(arg, 0, pool->n);
    if (!leave(pool, region))
        turn_wait(&pool->over, region, pool->spin_ns);
}

void
threads_free(struct threads *pool)
{
    if (!pool)
        return;
    pool->stop = true;
    turn_move(&pool->start, number_of(atomic_load(&pool->start.word)));
    for (int i = 0; i < pool->n_started; i++)
        pthread_join(pool->workers[i].thread, NULL);
    turn_fini(&pool->start);
    turn_fini(&pool->stage);
    turn_fini(&pool->over);
    free(pool->seats);
    free(pool->workers);
    free(pool);
}

static int
init_turns(struct threads *pool)
{
    struct turn *turns[] = { &pool->start, &pool->stage, &pool->over };
    int n = 0;

    while (n < 3 && turn_init(turns[n]) == 0)
        n++;
    if (n == 3)
        return 0;
    while (n > 0)
        turn_fini(turns[--n]);
    return CE_ENOMEM;
}

/* A pool of n seats without workers, or NULL. */
static struct threads *
new_pool(int n)
{
    struct threads *pool = mem_aligned_alloc(1, sizeof(*pool));

    if (!pool)
        return NULL;
    memset(pool, 0, sizeof(*pool));
    pool->n = n;
    pool->workers = calloc((size_t)n, sizeof(*pool->workers));
    pool->seats = mem_aligned_alloc((size_t)n, sizeof(*pool->seats));
    if (!pool->workers || !pool->seats || init_turns(pool) != 0) {
        free(pool->seats);
        free(pool->workers);
        free(pool);
        return NULL;
    }
    memset(pool->seats, 0, (size_t)n * sizeof(*pool->seats));
    return pool;
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
    pool = new_pool(n);
    if (!pool)
        return err_set(err, CE_ENOMEM, "no memory for %d threads", n);
    pool->spin_ns = n <= cores ? SPIN_NS : 0;
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
