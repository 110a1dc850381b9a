/* SPDX-License-Identifier: Apache-2.0
 * test_log.c - levels, line format, untrusted bytes, the rate limit.
 */
#include "common/log.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static int pipe_fds[2];

/* What was logged since the last call, without the time stamps' digits. */
static const char *
logged(void)
{
    static char text[65536];
    ssize_t n = read(pipe_fds[0], text, sizeof(text) - 1);

    text[n > 0 ? n : 0] = '\0';
    return text;
}

static int
set_up(void **state)
{
    (void)state;
    if (pipe(pipe_fds) != 0)
        return -1;
    fcntl(pipe_fds[0], F_SETFL, O_NONBLOCK);
    log_to_fd(pipe_fds[1]);
    return 0;
}

static int
tear_down(void **state)
{
    (void)state;
    log_to_fd(STDERR_FILENO);
    log_set_level(LOG_LEVEL_INFO);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    return 0;
}

static int
must_not_run(void)
{
    fail_msg("an argument was evaluated though the level is off");
    return 0;
}

static void
test_levels(void **state)
{
    const char *line;

    (void)state;
    log_info("session=%d state=%s", 42, "READY");
    line = logged();
    /* 2026-03-01T12:00:00.123456Z info ... */
    assert_int_equal(line[4], '-');
    assert_int_equal(line[10], 'T');
    assert_int_equal(line[19], '.');
    assert_string_equal(line + 26, "Z info session=42 state=READY\n");

    log_debug("n=%d", must_not_run());
    assert_string_equal(logged(), "");
    log_set_level(LOG_LEVEL_ERROR);
    assert_int_equal(log_get_level(), LOG_LEVEL_ERROR);
    log_warn("n=%d", must_not_run());
    log_error("x");
    assert_string_equal(logged() + 26, "Z error x\n");
    assert_string_equal(log_level_names[LOG_LEVEL_DEBUG], "debug");
    assert_null(log_level_names[LOG_LEVEL_DEBUG + 1]);
}

static void
test_no_forged_lines(void **state)
{
    char big[5000];
    const char *line;

    (void)state;
    log_info("name=%s", "a\nb\x1b[2J");
    assert_string_equal(logged() + 26, "Z info name=a\\x0ab\\x1b[2J\n");

    memset(big, '\n', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    log_info("%s", big);
    line = logged();
    assert_true(strlen(line) < 2048);
    assert_string_equal(line + strlen(line) - 8, "\\x0a...\n");
    assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
}

static void
test_quote(void **state)
{
    static const struct {
        const char *in, *out;
    } cases[] = {
        { "acme-1.example", "acme-1.example" },
        { "", "\"\"" },
        { "a b", "\"a b\"" },
        { "k=v", "\"k=v\"" },
        { "say \"hi\\\"", "\"say \\\"hi\\\\\\\"\"" },
        { "\xff\n", "\"\\xff\\x0a\"" },
    };
    char out[64], tight[12];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_string_equal(log_quote(out, sizeof(out), cases[i].in, strlen(cases[i].in)),
                            cases[i].out);
    for (size_t n = 0; n < 40; n++) {
        memset(out, n & 1 ? 'x' : '\x01', n);
        for (size_t size = 8; size <= sizeof(tight); size++) {
            log_quote(tight, size, out, n);
            assert_true(strlen(tight) < size);
        }
    }
    assert_string_equal(log_quote(tight, 8, "abcdefghij", 10), "\"...\"");
    assert_string_equal(log_quote(tight, 11, "abcdefghijk", 11), "\"ab...\"");
}

static void
test_rate_limit(void **state)
{
    struct log_limit limit = { 0 };
    int suppressed, passed = 0;

    (void)state;
    for (int i = 0; i < 100; i++)
        passed += log_limit_pass(&limit, 1000 + i, &suppressed);
    assert_int_equal(passed, LOG_LIMIT_LINES);
    assert_int_equal(log_limit_pass(&limit, 1000 + LOG_LIMIT_US, &suppressed), 1);
    assert_int_equal(suppressed, 100 - LOG_LIMIT_LINES);
    assert_int_equal(log_limit_pass(&limit, 1001 + LOG_LIMIT_US, &suppressed), 1);
    assert_int_equal(suppressed, 0);

    for (int i = 0; i < 50; i++)
        log_warn_limited("i=%d", i);
    const char *text = logged();
    int lines = 0;
    for (const char *at = text; (at = strchr(at, '\n')) != NULL; at++)
        lines++;
    assert_int_equal(lines, LOG_LIMIT_LINES);
}

static void *
log_much(void *arg)
{
    for (int i = 0; i < 100; i++)
        log_info("thread=%d text=%s", *(int *)arg, "abcdefghijklmnopqrstuvwxyz");
    return NULL;
}

static void
test_lines_stay_whole(void **state)
{
    pthread_t threads[4];
    int ids[4];
    char *line, *rest;
    int lines = 0;

    (void)state;
    for (int i = 0; i < 4; i++) {
        ids[i] = i;
        assert_int_equal(pthread_create(&threads[i], NULL, log_much, &ids[i]), 0);
    }
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    for (line = strtok_r((char *)logged(), "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest), lines++) {
        assert_int_equal(strlen(line), 26 + strlen("Z info thread=0 text=") + 26);
    }
    assert_int_equal(lines, 400);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_levels, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_forged_lines, set_up, tear_down),
        cmocka_unit_test(test_quote),
        cmocka_unit_test_setup_teardown(test_rate_limit, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_lines_stay_whole, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
