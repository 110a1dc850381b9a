/* SPDX-License-Identifier: Apache-2.0
 * service.c - systemd by its own library; see service.h.
 */
#include "config.h"

#include "server/service.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef HAVE_SYSTEMD

#include <sys/socket.h>

#include <event2/util.h>
#include <systemd/sd-daemon.h>

static int
take_socket(struct service_sockets *out, int fd, const char *name, struct err *err)
{
    int *place = strcmp(name, "metrics") == 0 ? &out->metrics : &out->agents;

    if (sd_is_socket_inet(fd, AF_UNSPEC, SOCK_STREAM, 1, 0) <= 0)
        return err_set(err, CE_EINVAL,
                       "socket activation: descriptor %d (%s) is not a TCP socket that "
                       "listens",
                       fd, name);
    if (*place >= 0)
        return err_set(err, CE_EINVAL,
                       "socket activation: two sockets for %s; one ListenStream serves "
                       "IPv4 and IPv6",
                       place == &out->metrics ? "the metrics" : "agents");
    if (evutil_make_socket_nonblocking(fd) < 0)
        return err_set(err, CE_EIO, "socket activation: descriptor %d: cannot be used",
                       fd);
    *place = fd;
    return 0;
}

int
service_sockets(struct service_sockets *out, struct err *err)
{
    char **names = NULL;
    int n, i, rc = 0;

    out->agents = out->metrics = -1;
    n = sd_listen_fds_with_names(1, &names); /* sets close-on-exec, clears LISTEN_FDS */
    if (n < 0)
        return err_set(err, CE_EINVAL, "socket activation: %s", strerror(-n));
    for (i = 0; i < n && rc == 0; i++)
        rc = take_socket(out, SD_LISTEN_FDS_START + i, names ? names[i] : "", err);
    for (i = 0; rc < 0 && i < n; i++)
        close(SD_LISTEN_FDS_START + i);
    for (i = 0; names && names[i]; i++)
        free(names[i]); /* the library's */
    free(names);
    if (rc < 0)
        out->agents = out->metrics = -1;
    return rc;
}

int64_t
service_watchdog_us(void)
{
    uint64_t us = 0;

    return sd_watchdog_enabled(0, &us) > 0 && us < INT64_MAX ? (int64_t)us : 0;
}

void
service_notify(const char *fmt, ...)
{
    char text[512];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    (void)sd_notify(0, text);
}

#else

int
service_sockets(struct service_sockets *out, struct err *err)
{
    const char *n = getenv("LISTEN_FDS"), *pid = getenv("LISTEN_PID");

    out->agents = out->metrics = -1;
    if (n && pid && atoi(n) > 0 && atoi(pid) == (int)getpid())
        return err_set(err, CE_EUNSUPPORTED,
                       "socket activation: this build is without libsystemd");
    return 0;
}

int64_t
service_watchdog_us(void)
{
    return 0;
}

void
service_notify(const char *fmt, ...)
{
    (void)fmt;
}

#endif
