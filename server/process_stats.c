/* SPDX-License-Identifier: Apache-2.0
 * process_stats.c - see process_stats.h.
 *
 * The allocator is asked through a weak symbol: the library is built once, and
 * whether jemalloc is there is decided where a program is linked (tests are not).
 */
#include "server/process_stats.h"

#include <dirent.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

int mallctl(const char *name, void *old, size_t *old_size, void *fresh, size_t fresh_size)
    __attribute__((weak));

/* Linux 6.2 and newer say the number in the folder's size; older ones make us count. */
static int64_t
count_fds(void)
{
    struct stat st;
    int64_t n = 0;
    DIR *dir;

    if (stat("/proc/self/fd", &st) == 0 && st.st_size > 0)
        return st.st_size;
    dir = opendir("/proc/self/fd");
    if (!dir)
        return 0;
    while (readdir(dir))
        n++;
    closedir(dir);
    return n > 3 ? n - 3 : 0; /* ".", "..", and the folder itself */
}

static void
read_memory(struct process_stats *out)
{
    long long size = 0, resident = 0;
    long page = sysconf(_SC_PAGESIZE);
    FILE *f = fopen("/proc/self/statm", "re");

    if (!f)
        return;
    if (fscanf(f, "%lld %lld", &size, &resident) == 2 && page > 0) {
        out->virtual_bytes = size * page;
        out->resident_bytes = resident * page;
    }
    fclose(f);
}

static int64_t
count_threads(void)
{
    char line[128];
    long long n = 0;
    FILE *f = fopen("/proc/self/status", "re");

    if (!f)
        return 0;
    while (fgets(line, sizeof(line), f))
        if (sscanf(line, "Threads: %lld", &n) == 1)
            break;
    fclose(f);
    return n;
}

static double
seconds(struct timeval t)
{
    return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

void
process_stats_read(struct process_stats *out)
{
    struct rusage usage;
    struct rlimit limit;

    memset(out, 0, sizeof(*out));
    read_memory(out);
    out->open_fds = count_fds();
    out->threads = count_threads();
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
        out->max_fds = (int64_t)limit.rlim_cur;
    if (getrusage(RUSAGE_SELF, &usage) == 0)
        out->cpu_seconds = seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

static int64_t
allocator_figure(const char *name)
{
    size_t value = 0, size = sizeof(value);

    return mallctl(name, &value, &size, NULL, 0) == 0 ? (int64_t)value : 0;
}

bool
allocator_stats_read(struct allocator_stats *out)
{
    uint64_t epoch = 1;

    memset(out, 0, sizeof(*out));
    if (!mallctl)
        return false;
    (void)mallctl("epoch", NULL, NULL, &epoch, sizeof(epoch)); /* fresh figures */
    out->allocated = allocator_figure("stats.allocated");
    out->active = allocator_figure("stats.active");
    out->metadata = allocator_figure("stats.metadata");
    out->resident = allocator_figure("stats.resident");
    out->mapped = allocator_figure("stats.mapped");
    out->retained = allocator_figure("stats.retained");
    return true;
}
