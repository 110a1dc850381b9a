/* SPDX-License-Identifier: Apache-2.0
 * threads.h - the worker pool that runs one function on all of its threads.
 *
 * The engine's parallel parts are regions: threads_run calls fn(arg, tid, n) on the
 * caller (tid 0) and on n-1 workers, and returns when all have. A region is a list of
 * stages: pieces of work that the threads take while there are any. Waiting is a short
 * spin, then sleep, so an idle pool costs nothing. Knows nothing of layers or matrices.
 *
 * Thread: one owner calls threads_run; regions do not nest.
 */
#ifndef CE_ENGINE_THREADS_H
#define CE_ENGINE_THREADS_H

#include <stdbool.h>
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

/* A stage of n things (below 2^32), written by all threads of a region as
 *
 *     while (threads_take(pool, tid, n, grain, &from, &to))
 *         things from .. to-1
 *
 * Runs start at multiples of `grain` and get smaller towards the end. The loop ends
 * when all n things are done, by whoever took them, and what was written is visible;
 * a thread that comes late finds the stage done and passes. All threads go through the
 * same stages with the same n and grain, and leave none before its loop ends. Between
 * stages they may only read what no later stage of the region changes. */
bool threads_take(struct threads *pool, int tid, size_t n, size_t grain, size_t *from,
                  size_t *to);

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
