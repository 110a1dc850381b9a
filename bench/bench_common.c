/* SPDX-License-Identifier: Apache-2.0
 * bench_common.c - see bench_common.h.
 */
#include "bench/bench_common.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/tls.h"

void
bench_die(const char *fmt, ...)
{
    va_list ap;

    fprintf(stderr, "%s: ", program_invocation_short_name);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    exit(1);
}

void
bench_pin(int core)
{
    cpu_set_t set;

    if (core < 0)
        return;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    if (pthread_setaffinity_np(pthread_self(), sizeof(set), &set) != 0)
        bench_die("no core %d", core);
}

SSL_CTX *
bench_client_tls(const struct bench_tls *t)
{
    struct tls_files files = { .ca = t->ca, .cert = t->cert, .key = t->key };
    SSL_CTX *ctx;
    struct err err;

    if (tls_client_new(&ctx, &files, &err) < 0)
        bench_die("%s", err.text);
    return ctx;
}

SSL_CTX *
bench_server_tls(const struct bench_tls *t)
{
    struct tls_files files = { .ca = t->ca,
                               .cert = t->server_cert,
                               .key = t->server_key };
    SSL_CTX *ctx;
    struct err err;

    if (tls_server_new(&ctx, &files, &err) < 0)
        bench_die("%s", err.text);
    return ctx;
}

static void
no_delay(int fd)
{
    int one = 1;

    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

int
bench_listen(int *port)
{
    struct sockaddr_in a = { .sin_family = AF_INET };
    socklen_t len = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) != 0 ||
        listen(fd, 512) != 0 || getsockname(fd, (struct sockaddr *)&a, &len) != 0)
        bench_die("listen: %s", strerror(errno));
    *port = ntohs(a.sin_port);
    return fd;
}

int
bench_connect(int port)
{
    struct sockaddr_in a = { .sin_family = AF_INET };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    a.sin_port = htons((uint16_t)port);
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) != 0)
        bench_die("connect: %s", strerror(errno));
    no_delay(fd);
    return fd;
}

int
bench_accept(int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

    if (fd < 0)
        bench_die("accept: %s", strerror(errno));
    no_delay(fd);
    return fd;
}
