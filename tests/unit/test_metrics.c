/* SPDX-License-Identifier: Apache-2.0
 * test_metrics.c - the text format to the letter, names of tenants, what is counted,
 * readiness, the listener's small judgements, JSON.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include <jansson.h>

#include "common/frame.h"
#include "common/memory.h"
#include "common/sha256.h"
#include "server/exposition.h"
#include "server/metrics.h"
#include "server/metrics_http.h"
#include "server/process_stats.h"
#include "server/status_json.h"

/* The buffer's text, a string until the next change. */
static const char *
text_of(struct bytebuf *b)
{
    bytebuf_put_u8(b, 0);
    assert_int_equal(bytebuf_status(b), 0);
    return (const char *)bytebuf_data(b);
}

/* ---- the format ---- */

static void
test_families(void **state)
{
    struct bytebuf b;

    (void)state;
    bytebuf_init(&b, 4096);
    exposition_gauge(&b, "a", "Help.", -3);
    exposition_counter(&b, "b_total", "More\nhelp \\ \"q\".", INT64_MAX);
    exposition_family(&b, "c", "gauge", "C.");
    exposition_double(&b, "c", 0.25);
    assert_string_equal(text_of(&b),
                        "# HELP a Help.\n# TYPE a gauge\na -3\n"
                        "# HELP b_total More\\nhelp \\\\ \"q\".\n"
                        "# TYPE b_total counter\nb_total 9223372036854775807\n"
                        "# HELP c C.\n# TYPE c gauge\nc 0.25\n");
    bytebuf_fini(&b);
}

static void
test_escaping(void **state)
{
    static const char *const pairs[] = { "x", "1", "y", "a\"b\\c\nd", NULL };
    struct bytebuf b;

    (void)state;
    bytebuf_init(&b, 4096);
    exposition_int(&b, "n", "l", "\\\"\n\xc3\xa4{}=,", 1);
    exposition_info(&b, "i", "I.", pairs);
    assert_string_equal(
        text_of(&b), "n{l=\"\\\\\\\"\\n\xc3\xa4{}=,\"} 1\n# HELP i I.\n# TYPE i gauge\n"
                     "i{x=\"1\",y=\"a\\\"b\\\\c\\nd\"} 1\n");
    bytebuf_fini(&b);
}

static void
test_histogram_text(void **state)
{
    static const struct histogram_scale scale = { 1e-6, 3, { 100, 2500, 1000000 } };
    struct histogram h;
    struct bytebuf b;

    (void)state;
    histogram_init(&h, &scale);
    histogram_record(&h, 100);
    histogram_record(&h, 500000);
    histogram_record(&h, 2000000);
    bytebuf_init(&b, 4096);
    exposition_histogram(&b, "t_seconds", "T.", &h);
    assert_string_equal(text_of(&b), "# HELP t_seconds T.\n# TYPE t_seconds histogram\n"
                                     "t_seconds_bucket{le=\"0.0001\"} 1\n"
                                     "t_seconds_bucket{le=\"0.0025\"} 1\n"
                                     "t_seconds_bucket{le=\"1\"} 2\n"
                                     "t_seconds_bucket{le=\"+Inf\"} 3\n"
                                     "t_seconds_sum 2.5001\nt_seconds_count 3\n");
    bytebuf_fini(&b);
}

/* ---- tenants ---- */

static void
test_tenants_bounded(void **state)
{
    struct usage u;
    struct tenant_usage *a, *b;
    char name[32];
    int i;

    (void)state;
    assert_int_equal(usage_init(&u, 2, NULL), 0);
    a = usage_of(&u, "a");
    b = usage_of(&u, "");
    assert_string_equal(a->name, "a");
    assert_string_equal(b->name, "default");
    assert_ptr_equal(usage_of(&u, NULL), b);
    for (i = 0; i < 1000; i++) {
        snprintf(name, sizeof(name), "n%d", i);
        assert_string_equal(usage_of(&u, name)->name, "other");
    }
    assert_ptr_equal(usage_of(&u, "a"), a);
    assert_int_equal(u.n, 3);
    usage_fini(&u);

    assert_int_equal(usage_init(&u, 0, NULL), 0); /* nobody is named */
    assert_string_equal(usage_of(&u, "a")->name, "other");
    usage_add(NULL, USAGE_ROWS, 1);
    usage_fini(&u);
}

/* Whatever a certificate says, the label is text. */
static void
test_tenant_names(void **state)
{
    char name[USAGE_NAME_SIZE], longest[256];

    (void)state;
    usage_name(name, "spiffe://x/\xc3\xa4");
    assert_string_equal(name, "spiffe://x/\xc3\xa4");
    usage_name(name, "a\nb\x1b[2J\xff\xfe");
    assert_string_equal(name, "a?b?[2J??");
    memset(longest, 'x', 255);
    longest[255] = '\0';
    usage_name(name, longest);
    assert_string_equal(name, longest);
}

static void
test_no_memory(void **state)
{
    struct metrics m;
    struct err err;

    (void)state;
    mem_test_fail_from(1);
    assert_int_equal(metrics_init(&m, 10, &err), CE_ENOMEM);
    mem_test_fail_from(0);
    metrics_fini(&m);
}

/* ---- counting ---- */

static void
test_nobody_counts(void **state)
{
    (void)state;
    metrics_add(NULL, METRICS_STEPS, 1);
    metrics_handshake(NULL, 1);
    metrics_refused(NULL, NULL, 3);
    metrics_frame_in(NULL, NULL, FRAME_INFER, 1);
    metrics_frame_out(NULL, NULL, FRAME_TOKEN, 1);
    metrics_answered(NULL, 1, 2, 3, 4);
    metrics_step(NULL, 1, 1);
    metrics_turn(NULL, 1);
    metrics_loop_delay(NULL, 1);
}

static bool
page_has(const struct metrics *m, const struct metrics_view *v, const char *line)
{
    struct bytebuf b;
    bool has;

    bytebuf_init(&b, (size_t)1 << 20);
    bytebuf_put_u8(&b, '\n');
    metrics_page(m, v, &b);
    has = strstr(text_of(&b), line) != NULL;
    bytebuf_fini(&b);
    return has;
}

static struct metrics_view
some_view(void)
{
    struct metrics_view v = { .now_us = 10000000,
                              .version = "1",
                              .backend = "cpu/x",
                              .numerics = "n",
                              .model = "m.gguf",
                              .sessions = 4,
                              .kv_bytes = 4096,
                              .kv_page_bytes = 1024,
                              .kv_budget = 16384,
                              .kv_promised = 6144,
                              .runnable = 3,
                              .step_cost_us = { 2000, 250, 0.5 },
                              .stall_us = 5000000 };

    v.fingerprint[0] = 0xab;
    return v;
}

static void
test_page(void **state)
{
    struct metrics_view v = some_view();
    struct metrics m;
    struct tenant_usage *t;
    int reason;

    (void)state;
    assert_int_equal(metrics_init(&m, 4, NULL), 0);
    t = usage_of(&m.usage, "a \"b\"");
    metrics_frame_in(&m, t, FRAME_INFER, 40);
    metrics_frame_in(&m, t, FRAME_STATES, 60);
    metrics_frame_in(&m, NULL, 77, 1); /* no such type: counted in bytes only */
    metrics_frame_out(&m, t, FRAME_TOKEN, 33);
    metrics_refused(&m, t, -CE_EQUOTA);
    metrics_refused(&m, NULL, METRICS_REFUSED_ADDRESS);
    for (reason = -3; reason < 1; reason++)
        metrics_refused(&m, NULL, reason);
    metrics_refused(&m, NULL, METRICS_N_REFUSALS);
    metrics_evicted(&m, t, CONTENT_EVICTED_ROWS);
    usage_add(t, USAGE_KV_BYTES, 4096);
    metrics_step(&m, 7, 2000);
    metrics_answered(&m, 1000, 2000, 5000, 9000);
    assert_true(page_has(&m, &v, "\ncecollm_received_bytes_total 101\n"));
    assert_true(page_has(&m, &v, "\ncecollm_sent_bytes_total 33\n"));
    assert_true(page_has(&m, &v, "\ncecollm_requests_total 1\n"));
    assert_true(page_has(&m, &v, "\ncecollm_tokens_total 1\n"));
    assert_true(page_has(&m, &v, "\ncecollm_rows_total 7\n"));
    assert_true(page_has(&m, &v, "\ncecollm_sessions 4\n"));
    assert_true(page_has(&m, &v, "\ncecollm_kv_pages 4\n"));
    assert_true(page_has(&m, &v, "\ncecollm_kv_free_pages 10\n"));
    assert_true(
        page_has(&m, &v, "\ncecollm_evictions_total{reason=\"hidden_states\"} 1\n"));
    assert_true(page_has(&m, &v, "\ncecollm_evictions_total{reason=\"idle\"} 0\n"));
    assert_true(
        page_has(&m, &v, "\ncecollm_tenant_kv_bytes{tenant=\"a \\\"b\\\"\"} 4096\n"));
    assert_true(page_has(&m, &v, "\ncecollm_runnable_sequences 3\n"));
    assert_true(page_has(&m, &v, "\ncecollm_row_cost_seconds 0.00025\n"));
    assert_true(page_has(&m, &v, "\ncecollm_refusals_total{reason=\"quota\"} 1\n"));
    assert_true(page_has(
        &m, &v, "\ncecollm_refusals_total{reason=\"max_connections_per_address\"} 1\n"));
    assert_true(page_has(&m, &v, "\ncecollm_refusals_total{reason=\"internal\"} 0\n"));
    assert_true(page_has(&m, &v, "\ncecollm_frames_received_total{type=\"STATES\"} 1\n"));
    assert_true(page_has(&m, &v, "\ncecollm_queue_seconds_sum 0.003\n"));
    assert_true(page_has(&m, &v, "\ncecollm_token_seconds_sum 0.008\n"));
    assert_true(
        page_has(&m, &v, "\ncecollm_tenant_refusals_total{tenant=\"a \\\"b\\\"\"} 1\n"));
    assert_true(page_has(&m, &v,
                         "\ncecollm_tenant_received_bytes_total{tenant=\"a "
                         "\\\"b\\\"\"} 100\n"));
    assert_true(
        page_has(&m, &v,
                 "\ncecollm_build_info{version=\"1\",backend=\"cpu/x\",numerics=\"n\","
                 "model=\"ab00"));
    assert_string_equal(metrics_refusal_name(0), "other");
    for (reason = 1; reason < METRICS_N_REFUSALS; reason++)
        assert_non_null(metrics_refusal_name(reason));
    metrics_fini(&m);
}

static void
test_ready(void **state)
{
    struct metrics_view v = some_view();
    struct metrics m;
    char why[80];

    (void)state;
    assert_int_equal(metrics_init(&m, 0, NULL), 0);
    assert_true(metrics_ready(&m, &v, why)); /* it waits */
    assert_string_equal(why, "");
    metrics_turn(&m, v.now_us - v.stall_us);
    assert_true(metrics_ready(&m, &v, why));
    metrics_turn(&m, v.now_us - v.stall_us - 1);
    assert_false(metrics_ready(&m, &v, why));
    assert_string_equal(why, "stalled: a step has run for 5 s, the limit is 5 s");
    metrics_turn(&m, v.now_us + 5); /* begun since we looked at the clock */
    assert_true(metrics_ready(&m, &v, why));
    v.draining = true;
    assert_false(metrics_ready(&m, &v, why));
    assert_string_equal(why, "draining: the server stops");
    metrics_fini(&m);
}

static void
test_json(void **state)
{
    struct metrics_view v = some_view();
    struct server srv = { 0 };
    struct metrics m;
    json_t *o;
    char *text;

    (void)state;
    assert_int_equal(metrics_init(&m, 2, NULL), 0);
    usage_add(usage_of(&m.usage, "x\xff"), USAGE_ROWS, 5);
    text = status_json(&m, &v);
    o = text ? json_loads(text, 0, NULL) : NULL;
    assert_non_null(o);
    assert_int_equal(
        json_integer_value(json_object_get(json_object_get(o, "held"), "sessions")), 4);
    assert_int_equal(json_array_size(json_object_get(o, "tenants")), 2);
    json_decref(o);
    free(text);
    text = status_json_sessions(&srv, 1);
    assert_string_equal(text, "{\"count\":0,\"more\":0,\"sessions\":[]}");
    free(text);
    metrics_fini(&m);
}

static void
test_process(void **state)
{
    struct process_stats p;
    struct allocator_stats a;

    (void)state;
    process_stats_read(&p);
    assert_true(p.resident_bytes > 0 && p.virtual_bytes >= p.resident_bytes);
    assert_true(p.open_fds >= 3 && p.open_fds <= p.max_fds && p.threads >= 1);
    if (!allocator_stats_read(&a))
        assert_int_equal(a.allocated, 0);
}

/* ---- the listener's judgements ---- */

static int
token(const char *content, uint8_t digest[32])
{
    char path[] = "/tmp/cecollm-token-XXXXXX";
    int fd = mkstemp(path), rc;
    struct err err;

    assert_true(fd >= 0);
    assert_int_equal(write(fd, content, strlen(content)), (ssize_t)strlen(content));
    close(fd);
    rc = metrics_http_token(path, digest, &err);
    assert_true(rc == 0 || strstr(err.text, path) != NULL);
    unlink(path);
    return rc;
}

static void
test_token(void **state)
{
    uint8_t digest[32], same[32];
    char longest[600];
    struct err err;

    (void)state;
    assert_int_equal(token("0123456789abcdef\r\n", digest), 0);
    assert_int_equal(sha256_bytes("0123456789abcdef", 16, same, &err), 0);
    assert_memory_equal(digest, same, 32);
    assert_int_equal(token("0123456789abcde\n", digest), CE_EINVAL);
    assert_int_equal(token("", digest), CE_EINVAL);
    assert_int_equal(token("0123456789 abcdef", digest), CE_EINVAL);
    assert_int_equal(token("0123456789abcdef\nx\n", digest), CE_EINVAL);
    memset(longest, 'x', sizeof(longest));
    longest[513] = '\0';
    assert_int_equal(token(longest, digest), CE_EINVAL);
    longest[512] = '\0';
    assert_int_equal(token(longest, digest), 0);
    assert_int_equal(metrics_http_token("/nonexistent", digest, &err), CE_EIO);
}

static void
test_hosts(void **state)
{
    static const char *const local[] = { "localhost", "LOCALHOST:80", "127.0.0.1",
                                         "[::1]",     "[::1]:9464",   "10.0.0.1:1" };
    static const char *const others[] = {
        "",
        "a",
        "localhost.a",
        "127.0.0.1.a",
        "[::1",
        "[::1]x",
        "::1",
        "[a]:1",
        ":80",
        "0123456789012345678901234567890123456789012345678"
    };
    size_t i;

    (void)state;
    for (i = 0; i < sizeof(local) / sizeof(local[0]); i++)
        assert_true(metrics_http_host_is_local(local[i]));
    for (i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        assert_false(metrics_http_host_is_local(others[i]));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_families),       cmocka_unit_test(test_escaping),
        cmocka_unit_test(test_histogram_text), cmocka_unit_test(test_tenants_bounded),
        cmocka_unit_test(test_tenant_names),   cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_nobody_counts),  cmocka_unit_test(test_page),
        cmocka_unit_test(test_ready),          cmocka_unit_test(test_json),
        cmocka_unit_test(test_process),        cmocka_unit_test(test_token),
        cmocka_unit_test(test_hosts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
