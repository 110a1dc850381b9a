/* SPDX-License-Identifier: Apache-2.0
 * log.c - log lines.
 *
 * A line is built on the stack (nothing here allocates, so "out of memory" can
 * be logged) and written by a single write(2), which keeps lines of different
 * threads apart without a lock. A line that does not fit is cut and says so.
 * Failing writes are ignored: there is nobody left to tell.
 */
#include "common/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"

#define LINE_MAX_BYTES 2048

const char *const log_level_names[] = { "error", "warn", "info", "debug", NULL };

_Atomic int log_level_now = LOG_LEVEL_INFO;

static _Atomic int log_fd = STDERR_FILENO; /* -1: syslog */
static char syslog_ident[64];              /* openlog keeps the pointer */

void
log_set_level(enum log_level level)
{
    atomic_store(&log_level_now, (int)level);
}

enum log_level
log_get_level(void)
{
    return (enum log_level)atomic_load(&log_level_now);
}

void
log_to_syslog(const char *ident)
{
    snprintf(syslog_ident, sizeof(syslog_ident), "%s", ident);
    openlog(syslog_ident, LOG_PID, LOG_DAEMON);
    atomic_store(&log_fd, -1);
}

void
log_to_fd(int fd)
{
    atomic_store(&log_fd, fd);
}

/* Append text to line[*len], control bytes as \xNN; 0 when it did not fit. */
static int
append_clean(char *line, size_t *len, size_t max, const char *text)
{
    static const char hex[] = "0123456789abcdef";

    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;

        if (c >= 0x20 && c != 0x7f) {
            if (*len + 1 > max)
                return 0;
            line[(*len)++] = (char)c;
            continue;
        }
        if (*len + 4 > max)
            return 0;
        line[(*len)++] = '\\';
        line[(*len)++] = 'x';
        line[(*len)++] = hex[c >> 4];
        line[(*len)++] = hex[c & 15];
    }
    return 1;
}

static size_t
put_prefix(char *line, size_t size, enum log_level level)
{
    int64_t now_us = clock_wall_us();
    time_t now = (time_t)(now_us / 1000000);
    struct tm tm;
    size_t n;

    gmtime_r(&now, &tm);
    n = strftime(line, size, "%Y-%m-%dT%H:%M:%S", &tm);
    n += (size_t)snprintf(line + n, size - n, ".%06dZ %s ", (int)(now_us % 1000000),
                          log_level_names[level]);
    return n;
}

static void
emit(enum log_level level, const char *text, int cut)
{
    static const int priority[] = { LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG };
    char line[LINE_MAX_BYTES];
    int fd = atomic_load(&log_fd);
    size_t max = sizeof(line) - 5; /* "..." and newline and NUL */
    size_t len = fd >= 0 ? put_prefix(line, sizeof(line), level) : 0;

    if (!append_clean(line, &len, max, text) || cut) {
        memcpy(line + len, "...", 3);
        len += 3;
    }
    if (fd < 0) {
        line[len] = '\0';
        syslog(priority[level], "%s", line);
        return;
    }
    line[len++] = '\n';
    while (write(fd, line, len) < 0 && errno == EINTR)
        ;
}

void
log_write(enum log_level level, const char *fmt, ...)
{
    char text[LINE_MAX_BYTES];
    int saved_errno = errno;
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (n >= 0)
        emit(level, text, n >= (int)sizeof(text));
    errno = saved_errno;
}

/* Two threads may both open a period, or one may count into the old one: a line
 * more or less then, which is all that this has to guarantee. */
int
log_limit_pass(struct log_limit *limit, int64_t now_us, int *suppressed)
{
    int64_t start_us = atomic_load(&limit->period_start_us);

    *suppressed = 0;
    if (start_us == 0 || now_us - start_us >= LOG_LIMIT_US) {
        if (atomic_compare_exchange_strong(&limit->period_start_us, &start_us, now_us)) {
            atomic_store(&limit->lines, 0);
            *suppressed = atomic_exchange(&limit->suppressed, 0);
        }
    }
    if (atomic_fetch_add(&limit->lines, 1) < LOG_LIMIT_LINES)
        return 1;
    atomic_store(&limit->lines, LOG_LIMIT_LINES); /* it must not wrap */
    atomic_fetch_add(&limit->suppressed, 1);
    return 0;
}

void
log_write_limited(struct log_limit *limit, enum log_level level, const char *fmt, ...)
{
    char text[LINE_MAX_BYTES];
    int saved_errno = errno;
    int suppressed;
    va_list ap;
    int n;

    if (!log_limit_pass(limit, clock_us(), &suppressed))
        return;
    va_start(ap, fmt);
    n = vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (n < 0)
        return;
    if (suppressed > 0 && n < (int)sizeof(text) - 32)
        snprintf(text + n, sizeof(text) - (size_t)n, " suppressed=%d", suppressed);
    emit(level, text, n >= (int)sizeof(text));
    errno = saved_errno;
}

static int
is_plain(const unsigned char *s, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (s[i] <= 0x20 || s[i] >= 0x7f || s[i] == '"' || s[i] == '\\' || s[i] == '=')
            return 0;
    return len > 0;
}

const char *
log_quote(char *out, size_t size, const void *bytes, size_t len)
{
    static const char hex[] = "0123456789abcdef";
    const unsigned char *s = bytes;
    size_t n = 0;

    if (is_plain(s, len) && len < size) {
        memcpy(out, s, len);
        out[len] = '\0';
        return out;
    }
    out[n++] = '"';
    for (size_t i = 0; i < len; i++) {
        if (n + 4 + 5 > size) { /* the longest escape, then ..." and NUL */
            memcpy(out + n, "...", 3);
            n += 3;
            break;
        }
        if (s[i] == '"' || s[i] == '\\') {
            out[n++] = '\\';
            out[n++] = (char)s[i];
        } else if (s[i] >= 0x20 && s[i] < 0x7f) {
            out[n++] = (char)s[i];
        } else {
            out[n++] = '\\';
            out[n++] = 'x';
            out[n++] = hex[s[i] >> 4];
            out[n++] = hex[s[i] & 15];
        }
    }
    out[n++] = '"';
    out[n] = '\0';
    return out;
}
