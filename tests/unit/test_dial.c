/* SPDX-License-Identifier: Apache-2.0
 * test_dial.c - addresses, a session's node, connecting, and connecting in a thread.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/dial.h"
#include "agent/dialer.h"
#include "common/clock.h"

static void
nodes(void **state)
{
    static const struct {
        const char *node, *host, *port, *name;
    } cases[] = {
        { "", "balancer", "7443", "balancer" },
        { "cloud-1.nodes", "balancer", "7443", "cloud-1.nodes" },
        { "cloud-1:99", "cloud-1", "99", "cloud-1" },
        { "[::1]:99", "::1", "99", "::1" },
    };
    static const char *const bad[] = { "a:b", "::1", ":7", "a:0", "a:70000", "a:7x" };
    struct dial_address infer, a;
    struct err err;

    (void)state;
    assert_int_equal(dial_parse(&infer, "balancer:7443", NULL), 0);
    assert_string_equal(dial_name(&infer), "balancer");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(dial_node(&a, &infer, cases[i].node, NULL), 0);
        assert_string_equal(a.host, cases[i].host);
        assert_string_equal(a.port, cases[i].port);
        assert_string_equal(dial_name(&a), cases[i].name);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(dial_node(&a, &infer, bad[i], &err), CE_EPROTO);
        assert_non_null(strstr(err.text, bad[i]));
    }
}

/* A socket that listens, or only has a port. */
static int
server(struct dial_address *a, bool listens)
{
    struct sockaddr_in at = { .sin_family = AF_INET };
    socklen_t len = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    if (listens)
        assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    memset(a, 0, sizeof(*a));
    snprintf(a->host, sizeof(a->host), "127.0.0.1");
    snprintf(a->port, sizeof(a->port), "%d", ntohs(at.sin_port));
    return fd;
}

static int
attempt(const struct dial_address *a, int *fd, struct err *err)
{
    struct dialer *d;

    assert_int_equal(dialer_start(&d, a, 20000000, NULL), 0);
    struct pollfd p = { .fd = dialer_fd(d), .events = POLLIN };
    assert_int_equal(poll(&p, 1, 30000), 1);
    int rc = dialer_take(d, fd, err);
    dialer_drop(d);
    return rc;
}

static void
in_a_thread(void **state)
{
    struct dial_address a;
    struct err err = { 0 };
    struct dialer *d;
    int fd, there = server(&a, true);

    (void)state;
    assert_int_equal(attempt(&a, &fd, &err), 0);
    assert_true(fd >= 0);
    close(fd);
    /* Forgotten at once, or with a socket that nobody took. */
    for (int i = 0; i < 50; i++) {
        assert_int_equal(dialer_start(&d, &a, 20000000, NULL), 0);
        if (i % 2)
            usleep(200);
        int rc = dialer_take(d, &fd, NULL);
        assert_true(rc == 0 || rc == CE_EAGAIN);
        if (rc == 0)
            close(fd);
        dialer_drop(d);
        int s = i % 8 == 7 ? accept(there, NULL, NULL) : -1;
        if (s >= 0)
            close(s);
    }
    close(there);
    dialer_drop(NULL);
    there = server(&a, false);
    assert_int_equal(attempt(&a, &fd, &err), CE_EIO);
    assert_int_equal(fd, -1);
    assert_non_null(strstr(err.text, "cannot connect"));
    close(there);
}

static bool
at_once(void *ctx)
{
    return ++*(int *)ctx > 3;
}

/* Whoever waits for nothing looks up now and then whether it is still wanted. */
static void
stopping(void **state)
{
    int asked = 0, pair[2];
    struct dial_stop stop = { at_once, &asked };
    int64_t began = clock_us();

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_int_equal(dial_poll(pair[0], POLLIN, began + 60000000, &stop), CE_EAGAIN);
    assert_int_equal(asked, 4);
    assert_true(clock_us() - began < 30000000);
    assert_int_equal(dial_poll(pair[0], POLLOUT, clock_us() + 60000000, NULL), 0);
    assert_int_equal(dial_poll(pair[0], POLLIN, clock_us() + 1000, NULL), CE_ETIMEOUT);
    close(pair[0]);
    close(pair[1]);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nodes),
        cmocka_unit_test(in_a_thread),
        cmocka_unit_test(stopping),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
