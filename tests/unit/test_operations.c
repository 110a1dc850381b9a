/* SPDX-License-Identifier: Apache-2.0
 * test_operations.c - what the server decides about its own running: the watchdog, the
 * order of stopping, which settings change while it runs, sockets, limits, the loader.
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/memory.h"
#include "server/drain.h"
#include "server/loader.h"
#include "server/privileges.h"
#include "server/reload.h"
#include "server/sockets.h"
#include "server/watchdog.h"

#define S 1000000LL

/* ---- watchdog ---- */

static void
test_watchdog(void **state)
{
    struct watchdog w = { .interval_us = 3 * S };
    int64_t now = 100 * S;
    int fed = 0;

    (void)state;
    assert_int_equal(watchdog_ask(&w, now, 0, 30 * S), WATCHDOG_FEED);
    assert_int_equal(watchdog_ask(&w, now + S / 2, 0, 30 * S), WATCHDOG_NOT_YET);
    assert_int_equal(watchdog_ask(&w, now + S, now, 30 * S), WATCHDOG_FEED);
    /* A long turn feeds until it has lasted too long, then says so once. */
    assert_int_equal(watchdog_ask(&w, now + 30 * S, now, 30 * S), WATCHDOG_FEED);
    assert_int_equal(watchdog_ask(&w, now + 30 * S + 1, now, 30 * S), WATCHDOG_STUCK);
    assert_int_equal(watchdog_ask(&w, now + 40 * S, now, 30 * S), WATCHDOG_SILENT);
    /* And feeds at once when it has ended after all. */
    assert_int_equal(watchdog_ask(&w, now + 40 * S + 1, now + 40 * S, 30 * S),
                     WATCHDOG_FEED);
    for (now = 200 * S; now < 230 * S; now += S / 4)
        fed += watchdog_ask(&w, now, 0, 30 * S) == WATCHDOG_FEED;
    assert_in_range(fed, 29, 31);
    w.interval_us = 0; /* nobody waits: being stuck is said all the same */
    assert_int_equal(watchdog_ask(&w, now, 0, 30 * S), WATCHDOG_NOT_YET);
    assert_int_equal(watchdog_ask(&w, now, now - 31 * S, 30 * S), WATCHDOG_STUCK);
    assert_int_equal(watchdog_ask(&w, now, 0, 30 * S), WATCHDOG_NOT_YET);
}

/* ---- drain ---- */

static void
test_drain_when_all_go(void **state)
{
    struct drain d = { 0 };

    (void)state;
    assert_false(drain_is_on(&d));
    assert_int_equal(drain_step(&d, 5, 3, 3), DRAIN_NOT);
    assert_true(drain_begin(&d, 10 * S, 30 * S));
    assert_true(drain_is_on(&d));
    assert_int_equal(drain_step(&d, 10 * S, 2, 4), DRAIN_WAIT);
    assert_int_equal(drain_step(&d, 39 * S, 1, 2), DRAIN_WAIT);
    assert_int_equal(drain_step(&d, 39 * S, 0, 2), DRAIN_END); /* once */
    assert_int_equal(drain_step(&d, 39 * S, 0, 2), DRAIN_LAST);
    assert_int_equal(drain_step(&d, 39 * S + 1, 0, 0), DRAIN_LEAVE);
    assert_int_equal(drain_step(&d, 50 * S, 0, 0), DRAIN_LEAVE);
}

static void
test_drain_when_time_is_over(void **state)
{
    struct drain d = { 0 };
    int64_t last;

    (void)state;
    assert_true(drain_begin(&d, 0, 30 * S));
    assert_int_equal(drain_step(&d, 30 * S - 1, 1, 2), DRAIN_WAIT);
    assert_int_equal(drain_step(&d, 30 * S, 1, 2), DRAIN_END);
    last = d.last_until_us;
    assert_int_equal(drain_step(&d, last - 1, 0, 2), DRAIN_LAST);
    assert_int_equal(drain_step(&d, last, 0, 2), DRAIN_LEAVE);
}

static void
test_drain_asked_twice(void **state)
{
    struct drain d = { 0 };

    (void)state;
    assert_true(drain_begin(&d, 0, 3600 * S));
    assert_int_equal(drain_step(&d, S, 7, 14), DRAIN_WAIT);
    assert_false(drain_begin(&d, 2 * S, 3600 * S));
    assert_int_equal(drain_step(&d, 2 * S, 7, 14), DRAIN_END);
    assert_int_equal(drain_step(&d, 2 * S + S / 4, 0, 14), DRAIN_LEAVE);
    /* Also while last bytes leave. */
    memset(&d, 0, sizeof(d));
    assert_true(drain_begin(&d, 0, 0));
    assert_int_equal(drain_step(&d, 0, 0, 1), DRAIN_END);
    assert_int_equal(drain_step(&d, S, 0, 1), DRAIN_LAST);
    assert_false(drain_begin(&d, S, 0));
    assert_int_equal(drain_step(&d, S + S / 4, 0, 1), DRAIN_LEAVE);
}

static void
test_retry_hints(void **state)
{
    uint64_t random;

    (void)state;
    for (random = 0; random < 5000; random += 7) {
        assert_in_range(drain_retry_ms(1, random), 1, 1000);
        assert_in_range(drain_retry_ms(500, random), 1, 5000);
        assert_in_range(drain_retry_ms(UINT32_MAX, random * 1000003), 1, 30000);
    }
    assert_int_equal(drain_retry_ms(500, 4999), 5000); /* all of it is used */
    assert_int_equal(drain_retry_ms(500, 5000), 1);
}

/* ---- reload ---- */

static void
load(struct server_conf *conf, const char *a, const char *b, const char *c)
{
    char *set[] = { (char *)(uintptr_t)a, (char *)(uintptr_t)b, (char *)(uintptr_t)c };
    struct err err;

    assert_int_equal(server_conf_load(conf, NULL, set, 3, &err), 0);
}

static void
test_reload_merge(void **state)
{
    struct server_conf now, fresh;
    struct reload_changes changes;

    (void)state;
    load(&now, "cert=old.crt", "max_connections=10", "threads=2");
    load(&fresh, "cert=new.crt", "max_connections=20", "threads=4");
    reload_merge(&now, &fresh, &changes);
    assert_string_equal(changes.applied, "cert,max_connections");
    assert_string_equal(changes.needs_restart, "threads");
    assert_string_equal(now.cert, "new.crt");
    assert_string_equal(fresh.cert, "old.crt");
    assert_int_equal(now.max_connections, 20);
    assert_int_equal(now.threads, 2);
    server_conf_free(&fresh);
    load(&fresh, "cert=new.crt", "max_connections=20", "threads=2");
    reload_merge(&now, &fresh, &changes);
    assert_string_equal(changes.applied, "");
    assert_string_equal(changes.needs_restart, "");
    server_conf_free(&fresh);
    server_conf_free(&now);
}

/* The manual's list of keys that change at once is the program's. */
static void
test_manual_lists_live_keys(void **state)
{
    const struct conffile_section *s = &server_conf_schema.sections[0];
    const char *root = getenv("CECOLLM_SRCDIR");
    char path[4096], line[256], listed[4096] = " ", name[80];
    bool inside = false;
    FILE *f;
    int i;

    (void)state;
    snprintf(path, sizeof(path), "%s/man/cecollm.conf.5", root ? root : ".");
    f = fopen(path, "r");
    if (!f)
        skip();
    while (fgets(line, sizeof(line), f)) {
        if (strncmp(line, "These keys take effect at once", 30) == 0)
            inside = true;
        else if (inside && strncmp(line, ".Cm ", 4) != 0)
            break;
        else if (inside)
            snprintf(listed + strlen(listed), sizeof(listed) - strlen(listed), "%.*s ",
                     (int)strcspn(line + 4, "\n"), line + 4);
    }
    fclose(f);
    assert_true(inside);
    for (i = 0; i < s->n_keys; i++) {
        snprintf(name, sizeof(name), " %s ", s->keys[i].name);
        if (reload_is_live(s->keys[i].name) != (strstr(listed, name) != NULL))
            fail_msg("cecollm.conf(5) and reload.c disagree on %s", s->keys[i].name);
    }
}

/* ---- sockets and limits ---- */

static int
option(int fd, int level, int name)
{
    int value = -1;
    socklen_t len = sizeof(value);

    assert_int_equal(getsockopt(fd, level, name, &value, &len), 0);
    return value;
}

static void
test_sockets(void **state)
{
    char other[32];
    struct sockaddr_in sa;
    socklen_t len = sizeof(sa);
    struct err err;
    int fd, second;

    (void)state;
    assert_int_equal(sockets_bind("listen", "127.0.0.1:0", &fd, &err), 0);
    assert_true(sockets_is_loopback(fd));
    assert_int_equal(option(fd, SOL_SOCKET, SO_ACCEPTCONN), 0); /* not yet */
    assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
    snprintf(other, sizeof(other), "127.0.0.1:%d", ntohs(sa.sin_port));
    assert_int_equal(sockets_bind("listen", other, &second, &err), CE_EIO);
    assert_int_equal(second, -1);
    assert_non_null(strstr(err.text, "listen = 127.0.0.1:"));
    assert_non_null(strstr(err.text, "in use"));
    assert_int_equal(sockets_bind("listen", "nonsense", &second, &err), CE_EINVAL);
    close(fd);
    assert_int_equal(sockets_bind("listen", "0.0.0.0:0", &fd, &err), 0);
    assert_false(sockets_is_loopback(fd));
    sockets_tune(fd, 60 * S);
    assert_int_equal(option(fd, IPPROTO_TCP, TCP_NODELAY), 1);
    assert_int_equal(option(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
    assert_int_equal(option(fd, IPPROTO_TCP, TCP_KEEPIDLE), 30);
    assert_int_equal(option(fd, IPPROTO_TCP, TCP_KEEPINTVL), 10);
    assert_int_equal(option(fd, IPPROTO_TCP, TCP_KEEPCNT), 3);
    assert_int_equal(option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT), 60000);
    sockets_tune(fd, S / 10); /* whole seconds are the least for probes */
    assert_int_equal(option(fd, IPPROTO_TCP, TCP_KEEPIDLE), 1);
    assert_int_equal(option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT), 100);
    close(fd);
}

static void
test_open_files(void **state)
{
    struct rlimit before, limit;

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    limit = before;
    limit.rlim_cur = 64;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(privileges_open_files(32), 64); /* never lowered */
    assert_int_equal(privileges_open_files(100), 100);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(limit.rlim_cur, 100);
    assert_int_equal(limit.rlim_max, before.rlim_max);
    /* More than any system allows: as many as there can be. */
    assert_in_range(privileges_open_files((int64_t)1 << 40), 100, INT32_MAX);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
}

static void
test_users(void **state)
{
    struct err err;

    (void)state;
    assert_int_equal(privileges_check("", "", &err), 0);
    assert_int_equal(privileges_check("root", "", &err), 0);
    assert_int_equal(privileges_check("root", "root", &err), 0);
    assert_int_equal(privileges_check("no such user", "", &err), CE_EINVAL);
    assert_string_equal(err.text, "user = no such user: there is no such user");
    assert_int_equal(privileges_check("root", "no such group", &err), CE_EINVAL);
    assert_string_equal(err.text, "group = no such group: there is no such group");
    assert_int_equal(privileges_check("", "root", &err), CE_EINVAL);
    assert_int_equal(privileges_drop("no such user", "", &err), CE_EINVAL);
}

/* ---- loader ---- */

struct job {
    struct event_base *base;
    int worked, rc, done_rc;
    char text[400];
};

static int
work(void *arg, struct err *err)
{
    struct job *j = arg;

    j->worked++;
    return j->rc < 0 ? err_set(err, j->rc, "it broke") : 0;
}

static void
done(void *arg, int rc, const struct err *err)
{
    struct job *j = arg;

    j->done_rc = rc;
    snprintf(j->text, sizeof(j->text), "%s", err->text);
    event_base_loopbreak(j->base);
}

static void
test_loader(void **state)
{
    struct job j = { .done_rc = 1 };
    const struct loader_job job = { &j, work, done };
    struct loader *l;
    struct err err;

    (void)state;
    j.base = event_base_new();
    assert_int_equal(loader_start(&l, j.base, &job, &err), 0);
    assert_int_equal(event_base_dispatch(j.base), 0);
    assert_int_equal(j.worked, 1);
    assert_int_equal(j.done_rc, 0);
    loader_free(l);
    j.rc = CE_EFORMAT;
    assert_int_equal(loader_start(&l, j.base, &job, &err), 0);
    assert_int_equal(event_base_dispatch(j.base), 0);
    assert_int_equal(j.done_rc, CE_EFORMAT);
    assert_string_equal(j.text, "it broke");
    loader_free(l);
    j.done_rc = 1; /* freed before the loop heard of it */
    assert_int_equal(loader_start(&l, j.base, &job, &err), 0);
    loader_free(l);
    loader_free(NULL);
    assert_int_equal(j.worked, 3);
    assert_int_equal(j.done_rc, 1);
    event_base_free(j.base);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_watchdog),
        cmocka_unit_test(test_drain_when_all_go),
        cmocka_unit_test(test_drain_when_time_is_over),
        cmocka_unit_test(test_drain_asked_twice),
        cmocka_unit_test(test_retry_hints),
        cmocka_unit_test(test_reload_merge),
        cmocka_unit_test(test_manual_lists_live_keys),
        cmocka_unit_test(test_sockets),
        cmocka_unit_test(test_open_files),
        cmocka_unit_test(test_users),
        cmocka_unit_test(test_loader),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
