/* SPDX-License-Identifier: Apache-2.0
 * progress.h - how far a long job is, on stderr.
 *
 * Nothing appears for jobs that end within two seconds. Later a terminal gets one
 * line that is rewritten (label, bar, count, time left, a note), anything else a
 * plain line every ten seconds, so that logs show life without filling up.
 *
 * Thread: one owner; progress_busy_* keep a thread of their own inside.
 */
#ifndef CE_TOOLS_PROGRESS_H
#define CE_TOOLS_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct progress {
    const char *label; /* borrowed */
    size_t done, total;
    int64_t start_us, shown_us; /* shown_us: 0 until the first line */
    bool terminal;
};

/* total: steps in all, at least 1. */
void progress_start(struct progress *p, const char *label, size_t total);

/* `done` steps are behind us; `note` (may be NULL) is put at the end of the line. */
void progress_set(struct progress *p, size_t done, const char *note);

/* Take the line away. */
void progress_end(struct progress *p);

/* The line's text alone, as after elapsed_us. out: [cap], cap >= 16. */
void progress_text(char *out, size_t cap, const struct progress *p, int64_t elapsed_us,
                   const char *note);

/* A job whose end is not known beforehand: label and elapsed time. NULL (no memory,
 * no thread) is fine: then nothing is shown. */
struct progress_busy;
struct progress_busy *progress_busy_start(const char *label); /* label is copied */
void progress_busy_end(struct progress_busy *b);              /* accepts NULL */

#endif
