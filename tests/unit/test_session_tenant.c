/* SPDX-License-Identifier: Apache-2.0
 * test_session_tenant.c - limits and rates where sessions meet them, with a clock of
 * ours: refusals and their times, credit that is held back and comes, reloads.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>
#include <cmocka.h>

#include "server/session_tenant.h"
#include "server/tenants_reload.h"
#include "session_world.h"

#define SECOND 1000000

static struct world w;
static char path[64];

static int
set_up(void **state)
{
    int fd;

    (void)state;
    snprintf(path, sizeof(path), "/tmp/cecollm-tenants-XXXXXX");
    fd = mkstemp(path);
    world_init(&w);
    w.now_us = 100 * SECOND;
    return fd < 0 || close(fd) < 0 ? -1 : 0;
}

static int
tear_down(void **state)
{
    (void)state;
    world_fini(&w);
    return unlink(path);
}

static void
reload(const char *text)
{
    struct err err;
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
    if (tenants_reload(&w.srv, path, &err) < 0)
        fail_msg("%s", err.text);
}

/* The last frame that channel i was sent; its strings live until the next is. What was
 * before it is counted in *n of that type. */
static struct frame
last_frame(int i, int type, int *n)
{
    const uint8_t *data = bytebuf_data(&w.channels[i].out);
    size_t left = bytebuf_len(&w.channels[i].out);
    struct frame f = { 0 };

    *n = 0;
    while (left > 0) {
        struct frame_header h;
        struct frame one;
        size_t size;

        assert_int_equal(frame_header_decode(&h, data, left, NULL), 0);
        size = FRAME_HEADER_SIZE + frame_body_size(&h);
        assert_int_equal(frame_decode(&one, &h, data + FRAME_HEADER_SIZE, NULL), 0);
        if ((int)one.type == type) {
            f = one;
            ++*n;
        }
        data += size;
        left -= size;
    }
    return f;
}

static void
forget_output(int i)
{
    bytebuf_reset(&w.channels[i].out);
}

/* A session on channel i; false when it was refused. */
static bool
hello(int i)
{
    struct frame f = world_hello();
    int n;

    world_connect(&w, i, 1);
    world_frame(&w, i, &f);
    (void)last_frame(i, FRAME_WELCOME, &n);
    return n == 1;
}

/* OPEN; the limit that was granted, or -1. */
static int64_t
open_seq(int i, uint32_t seq, uint32_t max_pos)
{
    struct frame f = { .type = FRAME_OPEN };
    int n;

    forget_output(i);
    f.u.open = (struct frame_open){ 1, seq, frame_str_of("f32", 3), max_pos, true };
    world_frame(&w, i, &f);
    world_replies(&w);
    f = last_frame(i, FRAME_CREDIT, &n);
    return n == 1 ? (int64_t)f.u.credit.limit : -1;
}

static void
close_seq(int i, uint32_t seq)
{
    struct frame f = { .type = FRAME_CLOSE };

    f.u.close = (struct frame_close){ 1, seq };
    world_frame(&w, i, &f);
}

static void
send_rows(int i, uint32_t seq, uint32_t pos, uint32_t n)
{
    static float rows[WORLD_WINDOW * WORLD_D];
    struct frame f = { .type = FRAME_STATES };

    f.u.states = (struct frame_states){
        1, seq, 0, 0, pos, n, (const uint8_t *)rows, (size_t)n * WORLD_D * sizeof(float)
    };
    world_frame(&w, i, &f);
    world_replies(&w);
}

static struct frame_error
error_of(int i)
{
    int n;
    struct frame f = last_frame(i, FRAME_ERROR, &n);

    assert_int_equal(n, 1);
    return f.u.error;
}

#define assert_text(e, part)                                                             \
    assert_non_null(memmem((e).text.data, (e).text.len, part, strlen(part)))

static void
test_counts(void **state)
{
    struct frame_error e;

    (void)state;
    /* A row is 16 bytes, a sequence of 32 rows or more 512. */
    reload("[tenant t]\nsan = tester\nmax_sessions = 2\nmax_seqs = 3\n"
           "hidden_state_bytes = 1100\n");
    assert_true(hello(0));
    assert_true(hello(1));
    assert_false(hello(2));
    e = error_of(2);
    assert_int_equal(e.code, -CE_EQUOTA);
    assert_text(e, "HELLO: tenant t: max_sessions = 2 are open");
    assert_in_range(e.retry_ms, 1000, 1999);
    assert_int_equal(open_seq(0, 1, 100), WORLD_WINDOW);
    assert_int_equal(open_seq(1, 1, 100), WORLD_WINDOW);
    assert_int_equal(open_seq(1, 2, 6), -1); /* 96 bytes more */
    e = error_of(1);
    assert_int_equal(e.seq, 2);
    assert_text(e, "tenant t: hidden_state_bytes = 1100, 2 open sequences may have 1024");
    assert_in_range(e.retry_ms, 1000, 1999);
    assert_int_equal(open_seq(1, 3, 4), 4);
    close_seq(0, 1);
    assert_int_equal(open_seq(0, 2, 4), 4);
    assert_int_equal(open_seq(0, 3, 4), -1);
    e = error_of(0);
    assert_text(e, "OPEN: tenant t: max_seqs = 3 are open");
    assert_in_range(e.retry_ms, 1000, 1999);
    /* The end of a session gives back what it had. */
    world_drop(&w, 1);
    world_drop(&w, 2);
    assert_int_equal(open_seq(0, 4, 100), WORLD_WINDOW);
    assert_true(hello(2));
    assert_int_equal(w.srv.sessions->tenant->n_sessions, 2);
    assert_int_equal(w.srv.sessions->tenant->n_seqs, 2);
    assert_int_equal(w.srv.sessions->tenant->hidden_bytes, 512 + 64);
}

static void
test_one_sequence_too_large(void **state)
{
    struct frame_error e;

    (void)state;
    reload("[tenant t]\nsan = tester\nhidden_state_bytes = 100\n");
    assert_true(hello(0));
    assert_int_equal(open_seq(0, 1, 100), -1);
    e = error_of(0);
    assert_text(e, "hidden_state_bytes = 100, but this sequence may have 512 waiting");
    assert_int_equal(e.retry_ms, 0);
    assert_int_equal(open_seq(0, 2, 6), 6);
}

static void
test_rows_by_credit(void **state)
{
    struct frame f;
    int n;

    (void)state;
    reload("[tenant t]\nsan = tester\nrows_per_second = 20\nburst = 500ms\n");
    assert_true(hello(0));
    assert_int_equal(open_seq(0, 1, 100), 10);
    assert_true(server_is_holding(&w.srv));
    forget_output(0);
    send_rows(0, 1, 0, 10);
    server_resume(&w.srv, w.now_us);
    (void)last_frame(0, FRAME_CREDIT, &n);
    assert_int_equal(n, 0);
    w.now_us += SECOND / 4;
    server_resume(&w.srv, w.now_us);
    f = last_frame(0, FRAME_CREDIT, &n);
    assert_int_equal(n, 1);
    assert_int_equal(f.u.credit.limit, 15);
    /* Credit that was not used is not given twice. */
    w.now_us += SECOND / 4;
    server_resume(&w.srv, w.now_us);
    f = last_frame(0, FRAME_CREDIT, &n);
    assert_int_equal(f.u.credit.limit, 20);
    w.now_us += 60 * SECOND;
    server_resume(&w.srv, w.now_us);
    f = last_frame(0, FRAME_CREDIT, &n);
    assert_int_equal(f.u.credit.limit, 20); /* 10 in the bucket, 10 beyond what came */
    /* Rows beyond what was told are a broken rule. */
    send_rows(0, 1, 10, 11);
    assert_int_equal(w.srv.n_sessions, 0);
}

static void
test_first_credit_always_comes(void **state)
{
    (void)state;
    reload("[tenant t]\nsan = tester\nrows_per_second = 20\nburst = 500ms\n");
    assert_true(hello(0));
    assert_int_equal(open_seq(0, 1, 100), 10);
    send_rows(0, 1, 0, 10);
    assert_int_equal(open_seq(0, 2, 100), 0);
    /* Both get some when there is some, and what they need in the end. */
    w.now_us += SECOND / 2;
    server_resume(&w.srv, w.now_us);
    assert_int_equal(w.srv.sessions->seqs[0].limit, 15);
    assert_int_equal(w.srv.sessions->seqs[1].limit, 5);
    /* A reload without a rate: all at once. */
    reload("[tenant t]\nsan = tester\n");
    server_resume(&w.srv, w.now_us);
    assert_int_equal(w.srv.sessions->seqs[0].limit, WORLD_WINDOW);
    assert_int_equal(w.srv.sessions->seqs[1].limit, WORLD_WINDOW);
    assert_false(server_is_holding(&w.srv));
}

static void
test_debt_pauses_requests_only(void **state)
{
    struct frame ping = { .type = FRAME_PING }, attach;
    int i, n;

    (void)state;
    reload("[tenant t]\nsan = tester\nbytes_per_second = 1000\nburst = 100ms\n");
    assert_true(hello(0));
    world_connect(&w, 1, 1);
    attach = world_attach(&w);
    world_frame(&w, 1, &attach);
    for (i = 0; i < 10; i++)
        world_frame(&w, 0, &ping); /* those that are not read are lost here */
    assert_true(w.channels[0].paused);
    assert_false(w.channels[1].paused);
    (void)last_frame(0, FRAME_PONG, &n);
    assert_in_range(n, 0, 9);
    server_resume(&w.srv, w.now_us);
    assert_true(w.channels[0].paused);
    w.now_us += 2 * SECOND;
    server_resume(&w.srv, w.now_us);
    assert_false(w.channels[0].paused);
    world_frame(&w, 0, &ping);
    (void)last_frame(0, FRAME_PONG, &i);
    assert_int_equal(i, n + 1);
    assert_int_equal(w.srv.n_sessions, 1);
}

/* What TRUNCATE cuts off may come again within old credit: TRUNCATE waits. */
static void
test_truncate_waits_for_rows(void **state)
{
    struct frame cut = { .type = FRAME_TRUNCATE }, ping = { .type = FRAME_PING };

    (void)state;
    reload("[tenant t]\nsan = tester\nrows_per_second = 20\nburst = 500ms\n");
    assert_true(hello(0));
    assert_int_equal(open_seq(0, 1, 100), 10);
    send_rows(0, 1, 0, 10);
    cut.u.truncate = (struct frame_truncate){ 1, 1, 1, 0 };
    world_frame(&w, 0, &cut);
    assert_false(w.channels[0].paused); /* nothing above the rate yet */
    send_rows(0, 1, 0, 10);             /* of branch 0: dropped, but taken */
    world_frame(&w, 0, &ping);
    assert_false(w.channels[0].paused);
    cut.u.truncate.branch = 2;
    world_frame(&w, 0, &cut);
    assert_true(w.channels[0].paused);
    w.now_us += SECOND / 4;
    server_resume(&w.srv, w.now_us);
    assert_true(w.channels[0].paused);
    w.now_us += SECOND / 2;
    server_resume(&w.srv, w.now_us);
    assert_false(w.channels[0].paused);
    assert_int_equal(w.srv.n_sessions, 1);
}

/* Coming again does not pay a debt; when it is paid, nobody is remembered. */
static void
test_debt_outlives_sessions(void **state)
{
    (void)state;
    reload("[tenant t]\nsan = tester\nrows_per_second = 20\nburst = 500ms\n");
    assert_true(hello(0));
    assert_int_equal(open_seq(0, 1, 100), 10);
    send_rows(0, 1, 0, 10);
    world_drop(&w, 0);
    world_replies(&w);
    server_tick(&w.srv, w.now_us);
    assert_int_equal(w.srv.registry.n, 1);
    assert_true(hello(0));
    assert_int_equal(open_seq(0, 1, 100), 0);
    world_drop(&w, 0);
    world_replies(&w);
    w.now_us += SECOND;
    server_tick(&w.srv, w.now_us);
    assert_int_equal(w.srv.registry.n, 0);
}

static void
test_reload(void **state)
{
    const struct tenant *t;

    (void)state;
    reload("[tenant t]\nsan = tester\nweight = 3\n");
    assert_true(hello(0));
    t = w.srv.sessions->tenant;
    assert_int_equal(tenant_weight(t), 3);
    assert_int_equal(open_seq(0, 1, 100), WORLD_WINDOW);
    reload("[tenant t]\nsan = tester\nweight = 5\nmax_seqs = 1\n");
    assert_ptr_equal(w.srv.sessions->tenant, t);
    assert_int_equal(tenant_weight(t), 5);
    assert_int_equal(open_seq(0, 2, 100), -1);
    forget_output(0);
    reload("[tenant other-name]\nsan = tester\n");
    assert_int_equal(w.srv.n_sessions, 0);
    assert_text(error_of(0), "tenant t is no longer served here");
    server_tick(&w.srv, w.now_us);
    assert_int_equal(w.srv.registry.n, 0);
    /* With and without a file, and by [default], a name is not the same tenant. */
    reload("[default]\nunknown = own\nmax_sessions = 1\n");
    assert_true(hello(1));
    assert_string_equal(w.srv.sessions->tenant->name, "cert:tester");
    assert_false(hello(2));
    reload("[default]\nunknown = shared\n");
    assert_int_equal(w.srv.n_sessions, 0);
    assert_true(hello(3));
    assert_string_equal(w.srv.sessions->tenant->name, "default");
    assert_int_equal(tenants_reload(&w.srv, NULL, NULL), 0);
    assert_int_equal(w.srv.n_sessions, 0);
    assert_true(hello(4));
    assert_string_equal(w.srv.sessions->tenant->name, "tester");
}

static void
test_token_withdrawn(void **state)
{
    struct frame f = world_hello();
    int n;

    (void)state;
    /* SHA-256 of "abc", the standard's example. */
    reload("[tenant t]\nsan = tester\nrequire = both\ntoken_sha256 = "
           "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n");
    assert_false(hello(0));
    assert_text(error_of(0), "HELLO: tenant t: a token is required");
    f.u.hello.token = frame_str_of("abc", 3);
    world_connect(&w, 1, 1);
    world_frame(&w, 1, &f);
    (void)last_frame(1, FRAME_WELCOME, &n);
    assert_int_equal(n, 1);
    reload("[tenant t]\nsan = tester\nrequire = both\ntoken_sha256 = "
           "0000000000000000000000000000000000000000000000000000000000000000\n");
    assert_int_equal(w.srv.n_sessions, 0);
    assert_text(error_of(1), "tenant t has withdrawn this token");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_counts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_one_sequence_too_large, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_rows_by_credit, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_first_credit_always_comes, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_debt_pauses_requests_only, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_truncate_waits_for_rows, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_debt_outlives_sessions, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_reload, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_token_withdrawn, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
