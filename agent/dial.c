/* SPDX-License-Identifier: Apache-2.0
 * dial.c - see dial.h.
 */
#include "agent/dial.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"

int
dial_parse(struct dial_address *a, const char *text, struct err *err)
{
    const char *host = text, *end, *colon = strrchr(text, ':');
    char *digits_end;

    if (text[0] == '[') {
        host = text + 1;
        end = strchr(text, ']');
        if (end == NULL || end[1] != ':')
            colon = NULL;
    } else {
        end = colon;
        if (colon != NULL && memchr(text, ':', (size_t)(colon - text)) != NULL)
            colon = NULL; /* an IPv6 address without brackets */
    }
    if (colon == NULL || end == host || (size_t)(end - host) >= sizeof(a->host))
        return err_set(err, CE_EINVAL, "cloud: \"%s\" is not HOST:PORT or [ADDRESS]:PORT",
                       text);
    long port = strtol(colon + 1, &digits_end, 10);
    if (colon[1] < '0' || colon[1] > '9' || *digits_end != '\0' || port < 1 ||
        port > 65535)
        return err_set(err, CE_EINVAL, "cloud: \"%s\" is not a port", colon + 1);
    memset(a, 0, sizeof(*a));
    memcpy(a->host, host, (size_t)(end - host));
    snprintf(a->port, sizeof(a->port), "%ld", port);
    return 0;
}

int
dial_node(struct dial_address *out, const struct dial_address *infer, const char *node,
          struct err *err)
{
    struct err why = { 0 };

    *out = *infer;
    if (node[0] == '\0')
        return 0;
    if (strchr(node, ':') == NULL && strlen(node) < sizeof(out->name)) {
        memcpy(out->name, node, strlen(node) + 1);
        return 0;
    }
    if (dial_parse(out, node, &why) < 0)
        return err_set(err, CE_EPROTO, "its node \"%s\" is neither NAME nor HOST:PORT",
                       node);
    return 0;
}

const char *
dial_name(const struct dial_address *a)
{
    return a->name[0] != '\0' ? a->name : a->host;
}

#define STOP_US 50000 /* how often a stop is looked at */

int
dial_poll(int fd, short events, int64_t deadline_us, const struct dial_stop *stop)
{
    struct pollfd p = { .fd = fd, .events = events };

    for (;;) {
        int64_t left = deadline_us - clock_us();
        if (left <= 0)
            return CE_ETIMEOUT;
        if (stop != NULL && stop->now(stop->ctx))
            return CE_EAGAIN;
        if (stop != NULL && left > STOP_US)
            left = STOP_US;
        int n = poll(&p, 1, (int)(left / 1000) + 1);
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return CE_EIO;
    }
}

/* 0 when connected, else an errno; ECANCELED: stopped. */
static int
connect_by(int fd, const struct addrinfo *ai, int64_t deadline_us,
           const struct dial_stop *stop)
{
    int error = 0;
    socklen_t len = sizeof(error);

    if (connect(fd, ai->ai_addr, ai->ai_addrlen) == 0)
        return 0;
    if (errno != EINPROGRESS)
        return errno;
    int rc = dial_poll(fd, POLLOUT, deadline_us, stop);
    if (rc < 0)
        return rc == CE_ETIMEOUT ? ETIMEDOUT : rc == CE_EAGAIN ? ECANCELED : errno;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
        return errno;
    return error;
}

int
dial(const struct dial_address *a, int64_t timeout_us, const struct dial_stop *stop,
     int *fd, struct err *err)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list;
    int64_t deadline = clock_us() + timeout_us;
    int error = EADDRNOTAVAIL, on = 1;

    *fd = -1;
    int rc = getaddrinfo(a->host, a->port, &hints, &list);
    if (rc != 0)
        return err_set(err, CE_EIO, "cannot resolve: %s", gai_strerror(rc));
    for (struct addrinfo *ai = list; ai != NULL && *fd < 0 && error != ECANCELED;
         ai = ai->ai_next) {
        int s = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (s < 0) {
            error = errno;
            continue;
        }
        error = connect_by(s, ai, deadline, stop);
        if (error == 0)
            *fd = s;
        else
            close(s);
    }
    freeaddrinfo(list);
    if (*fd < 0 && error == ECANCELED)
        return err_set(err, CE_EAGAIN, "no longer wanted");
    if (*fd < 0)
        return err_set(err, error == ETIMEDOUT ? CE_ETIMEOUT : CE_EIO,
                       "cannot connect: %s", strerror(error));
    setsockopt(*fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    return 0;
}
