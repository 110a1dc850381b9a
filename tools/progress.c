/* SPDX-License-Identifier: Apache-2.0
 * progress.c - see progress.h.
 *
 * Time left is the elapsed time scaled by what is still to do: steps of one job
 * cost alike here, so nothing cleverer is needed.
 */
#include "tools/progress.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"

#define QUIET_US    2000000  /* jobs shorter than this show nothing */
#define TERMINAL_US 100000   /* between two rewrites */
#define LOG_US      10000000 /* between two plain lines */
#define BAR         24

/* "45 s", "3:20 min", "1:05 h" */
static void
duration_text(char *out, size_t cap, int64_t seconds)
{
    long long s = seconds;

    if (s < 100)
        snprintf(out, cap, "%lld s", s);
    else if (s < 3600)
        snprintf(out, cap, "%lld:%02lld min", s / 60, s % 60);
    else
        snprintf(out, cap, "%lld:%02lld h", s / 3600, s / 60 % 60);
}

void
progress_text(char *out, size_t cap, const struct progress *p, int64_t elapsed_us,
              const char *note)
{
    size_t done = p->done < p->total ? p->done : p->total;
    double share = (double)done / (double)p->total;
    char bar[BAR + 1], left[32] = "";
    int filled = (int)(share * BAR);

    memset(bar, '.', BAR);
    memset(bar, '#', (size_t)filled);
    bar[BAR] = '\0';
    if (done > 0) {
        char t[24];

        duration_text(t, sizeof(t),
                      (int64_t)((double)elapsed_us / 1e6 * (1 - share) / share + 0.5));
        snprintf(left, sizeof(left), ", %s left", t);
    }
    snprintf(out, cap, "%s [%s] %zu/%zu%s%s%s", p->label, bar, done, p->total, left,
             note ? "; " : "", note ? note : "");
}

void
progress_start(struct progress *p, const char *label, size_t total)
{
    *p = (struct progress){ .label = label,
                            .total = total > 0 ? total : 1,
                            .start_us = clock_us(),
                            .terminal = isatty(STDERR_FILENO) == 1 };
}

void
progress_set(struct progress *p, size_t done, const char *note)
{
    int64_t now = clock_us(), pause = p->terminal ? TERMINAL_US : LOG_US;
    char text[200];

    p->done = done;
    if (now - p->start_us < QUIET_US || (p->shown_us != 0 && now - p->shown_us < pause))
        return;
    p->shown_us = now;
    progress_text(text, sizeof(text), p, now - p->start_us, note);
    fprintf(stderr, p->terminal ? "\r%s\033[K" : "%s\n", text);
    fflush(stderr);
}

void
progress_end(struct progress *p)
{
    if (p->terminal && p->shown_us != 0)
        fputs("\r\033[K", stderr);
    p->shown_us = 0;
}

/* ---- jobs without a known end ---- */

struct progress_busy {
    char label[160];
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool ended; /* under lock */
};

static void *
busy_thread(void *arg)
{
    struct progress_busy *b = arg;
    bool terminal = isatty(STDERR_FILENO) == 1, shown = false;
    int64_t start = clock_us();
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += QUIET_US / 1000000;
    pthread_mutex_lock(&b->lock);
    while (!b->ended) {
        char t[24];

        if (pthread_cond_timedwait(&b->wake, &b->lock, &until) == 0)
            continue; /* ended, or woken for nothing */
        duration_text(t, sizeof(t), (clock_us() - start) / 1000000);
        fprintf(stderr, terminal ? "\r%s ... %s\033[K" : "%s ... %s\n", b->label, t);
        fflush(stderr);
        shown = true;
        until.tv_sec += terminal ? 1 : LOG_US / 1000000;
    }
    pthread_mutex_unlock(&b->lock);
    if (terminal && shown)
        fputs("\r\033[K", stderr);
    return NULL;
}

struct progress_busy *
progress_busy_start(const char *label)
{
    struct progress_busy *b = calloc(1, sizeof(*b));
    pthread_condattr_t attr;

    if (!b)
        return NULL;
    snprintf(b->label, sizeof(b->label), "%s", label);
    pthread_mutex_init(&b->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&b->wake, &attr);
    pthread_condattr_destroy(&attr);
    if (pthread_create(&b->thread, NULL, busy_thread, b) != 0) {
        pthread_cond_destroy(&b->wake);
        pthread_mutex_destroy(&b->lock);
        free(b);
        return NULL;
    }
    return b;
}

void
progress_busy_end(struct progress_busy *b)
{
    if (!b)
        return;
    pthread_mutex_lock(&b->lock);
    b->ended = true;
    pthread_cond_signal(&b->wake);
    pthread_mutex_unlock(&b->lock);
    pthread_join(b->thread, NULL);
    pthread_cond_destroy(&b->wake);
    pthread_mutex_destroy(&b->lock);
    free(b);
}
