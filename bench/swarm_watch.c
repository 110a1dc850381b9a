/* SPDX-License-Identifier: Apache-2.0
 * swarm_watch.c - see swarm_watch.h.
 */
#include "bench/swarm_watch.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void
read_status(struct watch *w, FILE *f)
{
    char line[256];

    while (fgets(line, sizeof(line), f)) {
        if (strncmp(line, "VmRSS:", 6) == 0)
            w->rss_bytes = strtoull(line + 6, NULL, 10) * 1024;
        else if (strncmp(line, "RssAnon:", 8) == 0)
            w->anon_bytes = strtoull(line + 8, NULL, 10) * 1024;
    }
}

/* utime and stime, the 14th and 15th field; the second may hold anything in (). */
static double
read_cpu(FILE *f)
{
    char line[1024], *p;
    unsigned long long user, system;

    if (!fgets(line, sizeof(line), f) || !(p = strrchr(line, ')')))
        return 0;
    p++;
    for (int i = 0; i < 11 && p; i++) {
        p = strchr(p + 1, ' ');
    }
    if (!p)
        return 0;
    user = strtoull(p, &p, 10);
    system = strtoull(p, &p, 10);
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

static uint64_t
count_fds(DIR *d)
{
    const struct dirent *e;
    uint64_t n = 0;

    while ((e = readdir(d)) != NULL)
        n += e->d_name[0] != '.';
    return n;
}

int
watch_read(struct watch *w, pid_t pid, struct err *err)
{
    char path[64];
    FILE *f;
    DIR *d;

    memset(w, 0, sizeof(*w));
    snprintf(path, sizeof(path), "/proc/%ld/status", (long)pid);
    f = fopen(path, "re");
    if (!f)
        return err_set(err, CE_ENOTFOUND, "no process %ld to watch", (long)pid);
    read_status(w, f);
    fclose(f);
    snprintf(path, sizeof(path), "/proc/%ld/stat", (long)pid);
    f = fopen(path, "re");
    if (f) {
        w->cpu_seconds = read_cpu(f);
        fclose(f);
    }
    snprintf(path, sizeof(path), "/proc/%ld/fd", (long)pid);
    d = opendir(path);
    if (!d)
        return err_set(err, CE_ENOTFOUND, "process %ld may not be watched", (long)pid);
    w->n_fds = count_fds(d);
    closedir(d);
    return 0;
}
