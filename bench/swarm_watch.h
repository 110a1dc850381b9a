/* SPDX-License-Identifier: Apache-2.0
 * swarm_watch.h - what a server's process holds, from /proc.
 *
 * Thread: any.
 */
#ifndef CE_BENCH_SWARM_WATCH_H
#define CE_BENCH_SWARM_WATCH_H

#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"

struct watch {
    uint64_t rss_bytes, anon_bytes; /* resident; of it, not of files */
    uint64_t n_fds;
    double cpu_seconds; /* of all its threads */
};

/* CE_ENOTFOUND when there is no such process, or it may not be looked at. */
int watch_read(struct watch *w, pid_t pid, struct err *err) CE_MUSTCHECK;

#endif
