/* SPDX-License-Identifier: Apache-2.0
 * log.h - one line per event, key=value, to standard error or syslog.
 *
 *     log_info("session=%u tenant=%s state=READY", id, tenant);
 *     2026-03-01T12:00:00.123456Z info session=42 tenant=acme state=READY
 *
 * error: an operator must act. warn: something was lost or refused. info:
 * start, stop, reload, sessions. debug: every state change. Nothing is
 * formatted when the level is off. Prompts, tokens, hidden states and keys are
 * never logged.
 *
 * A line never contains control characters: they come out as \xNN, so no peer
 * can forge a line or drive a terminal. Bytes from a peer that may hold spaces
 * or quotes go through log_quote, so that key=value stays parseable. What a
 * peer can cause in a loop uses the _limited forms.
 *
 * Thread: any; a line is written whole by one write(2).
 */
#ifndef CE_COMMON_LOG_H
#define CE_COMMON_LOG_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum log_level {
    LOG_LEVEL_ERROR,
    LOG_LEVEL_WARN,
    LOG_LEVEL_INFO,
    LOG_LEVEL_DEBUG,
};

/* The default is info to standard error. May be called again at any time. */
void log_set_level(enum log_level level);
enum log_level log_get_level(void);

/* "error", "warn", "info", "debug", then NULL; indexed by enum log_level, and
 * fit for the choices of a conffile key. */
extern const char *const log_level_names[];

/* Send lines to syslog (facility daemon) from now on, or back to the
 * descriptor. `ident` is copied. */
void log_to_syslog(const char *ident);
void log_to_fd(int fd);

extern _Atomic int log_level_now; /* read through log_enabled */

static inline int
log_enabled(enum log_level level)
{
    return (int)level <= atomic_load_explicit(&log_level_now, memory_order_relaxed);
}

void log_write(enum log_level level, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

#define log_at(level, ...)                                                               \
    do {                                                                                 \
        if (log_enabled(level))                                                          \
            log_write(level, __VA_ARGS__);                                               \
    } while (0)
#define log_error(...) log_at(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...)  log_at(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...)  log_at(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_at(LOG_LEVEL_DEBUG, __VA_ARGS__)

/* At most LOG_LIMIT_LINES lines per LOG_LIMIT_US and call site; the first line
 * of the next period ends with suppressed=N. */
#define LOG_LIMIT_LINES 10
#define LOG_LIMIT_US    10000000

struct log_limit {
    _Atomic int64_t period_start_us;
    _Atomic int lines;
    _Atomic int suppressed;
};

/* 1 when a line may go out at `now_us`; *suppressed gets how many did not
 * since the last period. For tests; otherwise use the macros. */
int log_limit_pass(struct log_limit *limit, int64_t now_us, int *suppressed);

void log_write_limited(struct log_limit *limit, enum log_level level, const char *fmt,
                       ...) __attribute__((format(printf, 3, 4)));

#define log_limited(level, ...)                                                          \
    do {                                                                                 \
        static struct log_limit log_limit_here;                                          \
        if (log_enabled(level))                                                          \
            log_write_limited(&log_limit_here, level, __VA_ARGS__);                      \
    } while (0)
#define log_warn_limited(...) log_limited(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info_limited(...) log_limited(LOG_LEVEL_INFO, __VA_ARGS__)

/* Write `len` bytes as a value into out (NUL-terminated, cut with "..." when
 * they do not fit): bare when it is plain, else in double quotes with \", \\
 * and \xNN. Returns out. size >= 8. */
const char *log_quote(char *out, size_t size, const void *bytes, size_t len);

#endif
