/* SPDX-License-Identifier: Apache-2.0
 * sockets.c - see sockets.h.
 *
 * Silence: keep-alive probes begin after half the time and come three times in the
 * other half; TCP_USER_TIMEOUT is the same time for data under way, which keep-alive
 * does not watch. It also ends probing a peer whose window stays closed.
 */
#include "server/sockets.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/address.h"

#define N_PROBES 3

static int
bind_one(const struct addrinfo *ai)
{
    int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int one = 1, error;

    if (fd < 0)
        return -1;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) == 0 &&
        bind(fd, ai->ai_addr, ai->ai_addrlen) == 0)
        return fd;
    error = errno;
    close(fd);
    errno = error;
    return -1;
}

int
sockets_bind(const char *key, const char *text, int *fd, struct err *err)
{
    struct addrinfo *list, *ai;
    int rc = address_resolve(key, text, &list, err);

    *fd = -1;
    if (rc < 0)
        return rc;
    for (ai = list; ai && *fd < 0; ai = ai->ai_next)
        *fd = bind_one(ai);
    if (*fd < 0)
        rc = err_set(err, CE_EIO, "%s = %s: %s", key, text, strerror(errno));
    freeaddrinfo(list);
    return rc;
}

bool
sockets_is_loopback(int fd)
{
    struct sockaddr_storage sa;
    socklen_t len = sizeof(sa);

    memset(&sa, 0, sizeof(sa));
    return getsockname(fd, (struct sockaddr *)&sa, &len) == 0 &&
           address_is_loopback((const struct sockaddr *)&sa);
}

void
sockets_tune(int fd, int64_t silence_us)
{
    int64_t ms = silence_us / 1000;
    int one = 1, probes = N_PROBES, idle = (int)(silence_us / 2000000), interval;
    unsigned user_ms = ms < INT32_MAX ? (unsigned)ms : INT32_MAX;

    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
    if (silence_us <= 0)
        return;
    interval = idle / N_PROBES;
    idle = idle > 0 ? idle : 1;
    interval = interval > 0 ? interval : 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_ms, sizeof(user_ms));
}
