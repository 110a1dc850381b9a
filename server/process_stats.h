/* SPDX-License-Identifier: Apache-2.0
 * process_stats.h - what the kernel and the allocator say about this process.
 *
 * Reads a few lines of /proc, which never waits for a disk.
 *
 * Thread: any.
 */
#ifndef CE_SERVER_PROCESS_STATS_H
#define CE_SERVER_PROCESS_STATS_H

#include <stdbool.h>
#include <stdint.h>

/* A figure that could not be read is 0. */
struct process_stats {
    int64_t resident_bytes, virtual_bytes;
    int64_t open_fds, max_fds;
    int64_t threads;
    double cpu_seconds; /* user and system, of all threads */
};

void process_stats_read(struct process_stats *out);

/* jemalloc's, in bytes. */
struct allocator_stats {
    int64_t allocated, active, metadata, resident, mapped, retained;
};

/* false when the program is not linked with jemalloc; *out is then all 0. */
bool allocator_stats_read(struct allocator_stats *out);

#endif
