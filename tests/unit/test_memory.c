/* SPDX-License-Identifier: Apache-2.0
 * test_memory.c - overflow, alignment, the count of bytes; clock and counters,
 * which are too small for files of their own.
 */
#include "common/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/counters.h"

static void
test_overflow(void **state)
{
    (void)state;
    assert_null(mem_array_alloc(SIZE_MAX, 2));
    assert_null(mem_array_alloc(SIZE_MAX / 2, 2));
    assert_null(mem_array_alloc((size_t)1 << 32, (size_t)1 << 32));
    assert_null(mem_aligned_alloc(SIZE_MAX, 1));
    assert_null(mem_aligned_alloc(SIZE_MAX / 4, 5));
    assert_null(mem_array_resize(NULL, SIZE_MAX / 3, 4));
    assert_int_equal(mem_used_bytes(), 0);
}

static void
test_count(void **state)
{
    uint8_t *a, *b;
    char *s;

    (void)state;
    a = mem_array_alloc(1000, 3);
    assert_non_null(a);
    for (int i = 0; i < 3000; i++)
        assert_int_equal(a[i], 0);
    assert_true(mem_used_bytes() >= 3000);
    b = mem_aligned_alloc(1, 100);
    assert_non_null(b);
    assert_int_equal((uintptr_t)b % MEM_ALIGN, 0);
    assert_true(mem_used_bytes() >= 3100);
    a[2999] = 7;
    a = mem_array_resize(a, 100000, 1);
    assert_non_null(a);
    assert_int_equal(a[2999], 7);
    assert_true(mem_used_bytes() >= 100100);
    mem_free(a);
    assert_true(mem_used_bytes() < 100000);
    mem_free(b);
    s = mem_strndup("abcdef", 3);
    assert_string_equal(s, "abc");
    mem_free(s);
    s = mem_strndup(NULL, 0); /* an empty text has no bytes to point at */
    assert_string_equal(s, "");
    mem_free(s);
    s = mem_strdup("");
    assert_string_equal(s, "");
    mem_free(s);
    mem_free(NULL);
    mem_free(mem_array_alloc(0, 8));
    assert_int_equal(mem_used_bytes(), 0);
}

static void
test_failing_on_purpose(void **state)
{
    void *a, *b;

    (void)state;
    mem_test_fail_from(2);
    a = mem_array_alloc(1, 1);
    b = mem_array_alloc(1, 1);
    assert_non_null(a);
    assert_null(b);
    assert_null(mem_strdup("x"));
    assert_null(mem_array_resize(a, 10, 10));
    mem_test_fail_from(0);
    mem_free(a);
    assert_int_equal(mem_used_bytes(), 0);
}

static void
test_clock(void **state)
{
    int64_t ns = clock_ns();
    int64_t us = clock_us();

    (void)state;
    assert_true(clock_ns() >= ns);
    assert_true(us >= ns / 1000);
    assert_true(us - ns / 1000 < 10000000);
    assert_true(clock_wall_us() > 1700000000000000); /* after 2023 */
}

static void
test_counters(void **state)
{
    static struct counter table[] = {
        { "sessions", "Sessions now open", COUNTER_GAUGE, 0 },
        { "frames_total", "Frames received", COUNTER_TOTAL, 0 },
    };
    static const char want[] = "# HELP ce_sessions Sessions now open\n"
                               "# TYPE ce_sessions gauge\nce_sessions -3\n"
                               "# HELP ce_frames_total Frames received\n"
                               "# TYPE ce_frames_total counter\nce_frames_total 12\n";
    struct bytebuf out;

    (void)state;
    counter_set(&table[0], -3);
    counter_add(&table[1], 5);
    counter_raise(&table[1], 12);
    counter_raise(&table[1], 11);
    bytebuf_init(&out, 1000);
    counters_render(table, 2, "ce_", &out);
    assert_int_equal(bytebuf_len(&out), strlen(want));
    assert_memory_equal(bytebuf_data(&out), want, strlen(want));
    bytebuf_fini(&out);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_overflow),           cmocka_unit_test(test_count),
        cmocka_unit_test(test_failing_on_purpose), cmocka_unit_test(test_clock),
        cmocka_unit_test(test_counters),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
