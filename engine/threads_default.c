/* SPDX-License-Identifier: Apache-2.0
 * threads_default.c - how many cores this process may use.
 *
 * A container often shows all of the machine's cores and allows a few of them, by
 * affinity or by a quota of time; more threads than that only wait for one another.
 */
#include "engine/threads.h"

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Cores that quota / period comes to, rounded up; 0 when it is no limit. */
static int
quota_cores(double quota, double period)
{
    double cores;

    if (!(quota > 0) || !(period > 0))
        return 0;
    cores = quota / period;
    if (cores >= THREADS_MAX)
        return THREADS_MAX;
    return cores > (int)cores ? (int)cores + 1 : (int)cores;
}

/* One number from a small file; -1 when it is not there or not a number. */
static double
read_number(const char *path)
{
    FILE *f = fopen(path, "re");
    double v;

    if (!f)
        return -1;
    if (fscanf(f, "%lf", &v) != 1)
        v = -1; /* also "max" */
    fclose(f);
    return v;
}

/* Limit of one group's directory, whichever version it speaks; 0 when none. */
static int
group_limit(const char *dir)
{
    char path[PATH_MAX];
    double quota = -1, period = -1;
    FILE *f;

    snprintf(path, sizeof(path), "%.*s/cpu.max", PATH_MAX - 32, dir);
    f = fopen(path, "re");
    if (f) {
        if (fscanf(f, "%lf %lf", &quota, &period) != 2)
            quota = -1; /* "max 100000" */
        fclose(f);
        return quota_cores(quota, period);
    }
    snprintf(path, sizeof(path), "%.*s/cpu.cfs_quota_us", PATH_MAX - 32, dir);
    quota = read_number(path);
    snprintf(path, sizeof(path), "%.*s/cpu.cfs_period_us", PATH_MAX - 32, dir);
    return quota_cores(quota, read_number(path));
}

/* Smallest limit of root/mount/group and everything above it, down to root/mount. */
static int
path_limit(const char *root, const char *mount, const char *group)
{
    char dir[PATH_MAX];
    size_t base;
    int best = 0, n;

    n = snprintf(dir, sizeof(dir), "%s%s%s", root, mount, group);
    if (n < 0 || (size_t)n >= sizeof(dir))
        return 0;
    base = strlen(root) + strlen(mount);
    for (;;) {
        char *slash;
        int limit = group_limit(dir);

        if (limit > 0 && (best == 0 || limit < best))
            best = limit;
        slash = strrchr(dir, '/');
        if (strlen(dir) <= base || !slash || (size_t)(slash - dir) < base)
            return best;
        *slash = '\0';
    }
}

/* Does the comma-separated list of controllers contain "cpu"? */
static int
lists_cpu(const char *list)
{
    for (;;) {
        size_t n = strcspn(list, ",");

        if (n == 3 && memcmp(list, "cpu", 3) == 0)
            return 1;
        if (list[n] == '\0')
            return 0;
        list += n + 1;
    }
}

int
threads_cgroup_limit(const char *proc_cgroup, const char *root)
{
    char line[PATH_MAX];
    const char *at = proc_cgroup;
    int best = 0;

    while (*at) { /* "HIERARCHY:CONTROLLERS:/GROUP", one a line */
        size_t n = strcspn(at, "\n");
        char *list, *group;
        int limit = 0;

        snprintf(line, sizeof(line), "%.*s", (int)(n < PATH_MAX - 1 ? n : PATH_MAX - 1),
                 at);
        at += n + (at[n] == '\n');
        list = strchr(line, ':');
        group = list ? strchr(list + 1, ':') : NULL;
        if (!group)
            continue;
        list++;
        *group++ = '\0';
        if (*list == '\0')
            limit = path_limit(root, "", group);
        else if (lists_cpu(list))
            limit = path_limit(root, "/cpu", group);
        if (limit > 0 && (best == 0 || limit < best))
            best = limit;
    }
    return best;
}

int
threads_default_count(void)
{
    char text[4096];
    cpu_set_t set;
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    int n = online > 0 ? (int)online : 1, limit;
    FILE *f;

    if (sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0)
        n = CPU_COUNT(&set);
    f = fopen("/proc/self/cgroup", "re");
    if (f) {
        size_t len = fread(text, 1, sizeof(text) - 1, f);

        text[len] = '\0';
        fclose(f);
        limit = threads_cgroup_limit(text, "/sys/fs/cgroup");
        if (limit > 0 && limit < n)
            n = limit;
    }
    return n < THREADS_MAX ? n : THREADS_MAX;
}
