/* SPDX-License-Identifier: Apache-2.0
 * threads.h - the worker pool that runs one function on all of its threads.
 *
 * The engine's parallel parts are regions: threads_run calls fn(arg, tid, n) on the
 * caller (tid 0) and on n-1 workers, and returns when all have. Inside a region the
 * threads meet at barriers. Waiting is a short spin, then sleep, so an idle pool
 * costs nothing. Knows nothing of layers or matrices.
 *
 * Thread: one owner calls threads_run; regions do not nest.
 */
#ifndef CE_ENGINE_THREADS_H
#define CE_ENGINE_THREADS_H

#include <stddef.h>

#include "common/error.h"

#define THREADS_MAX 256

struct threads;

typedef void threads_fn(void *arg, int tid, int n_threads);

/* n: threads including the caller, 1 to THREADS_MAX; 0: threads_default_count(). */
int threads_new(struct threads **out, int n, struct err *err) CE_MUSTCHECK;
void threads_free(struct threads *pool); /* accepts NULL; no region may be running */
int threads_count(const struct threads *pool);

void threads_run(struct threads *pool, threads_fn *fn, void *arg);

/* Wait until all threads of the region are here; what they wrote before is then
 * visible to all. Called by every thread of the region the same number of times. */
void threads_barrier(struct threads *pool);

/* Cores that this process may use: affinity, and the CPU quota of its control group
 * rounded up. At least 1. */
int threads_default_count(void);

/* The quota alone, of the group that the text of /proc/self/cgroup names, below
 * `root` ("/sys/fs/cgroup"); version 2 and 1. 0 when there is no limit. */
int threads_cgroup_limit(const char *proc_cgroup, const char *root);

/* This thread's share [*from, *to) of n things, cut at multiples of `grain`. */
static inline void
threads_share(size_t n, size_t grain, int tid, int n_threads, size_t *from, size_t *to)
{
    size_t grains = (n + grain - 1) / grain, t = (size_t)tid, k = (size_t)n_threads;

    *from = grains * t / k * grain;
    *to = grains * (t + 1) / k * grain;
    if (*from > n)
        *from = n;
    if (*to > n)
        *to = n;
}

#endif
