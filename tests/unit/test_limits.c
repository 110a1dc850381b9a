/* SPDX-License-Identifier: Apache-2.0
 * test_limits.c - token buckets with a clock of ours.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/limits.h"

#define SECOND 1000000

static void
test_begins_full(void **state)
{
    struct limits_bucket b = { 0 };

    (void)state;
    assert_int_equal(limits_bucket_level(&b, 100, 2 * SECOND, 5 * SECOND), 200);
    assert_int_equal(limits_bucket_level(&b, 100, 2 * SECOND, 500 * SECOND), 200);
    assert_int_equal(limits_bucket_wait_ms(&b, 100), 0);
}

static void
test_debt_is_paid_at_the_rate(void **state)
{
    struct limits_bucket b = { 0 };

    (void)state;
    limits_bucket_take(&b, 100, SECOND, 300, 0); /* 100 were there */
    assert_int_equal(limits_bucket_level(&b, 100, SECOND, 0), -200);
    assert_int_equal(limits_bucket_wait_ms(&b, 100), 2010); /* until one is there */
    assert_int_equal(limits_bucket_level(&b, 100, SECOND, 2 * SECOND), 0);
    assert_int_equal(limits_bucket_wait_ms(&b, 100), 10);
    assert_int_equal(limits_bucket_level(&b, 100, SECOND, 2 * SECOND + 10000), 1);
    assert_int_equal(limits_bucket_wait_ms(&b, 100), 0);
}

/* Whatever the pieces, who takes when the level is above zero gets the rate. */
static void
test_mean_is_the_rate(void **state)
{
    static const int64_t pieces[] = { 1, 7, 100, 1000 };
    size_t i;

    (void)state;
    for (i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
        struct limits_bucket b = { 0 };
        int64_t taken = 0, now;

        for (now = 0; now < 100 * (int64_t)SECOND; now += 1000)
            while (limits_bucket_level(&b, 250, SECOND, now) > 0) {
                limits_bucket_take(&b, 250, SECOND, pieces[i], now);
                taken += pieces[i];
            }
        assert_in_range(taken, 250 * 100, 250 * 101 + 1000);
    }
}

static void
test_odd_clocks_and_rates(void **state)
{
    struct limits_bucket b = { 0 };

    (void)state;
    limits_bucket_take(&b, 10, SECOND, 10, 10 * SECOND);
    assert_int_equal(limits_bucket_level(&b, 10, SECOND, 9 * SECOND), 0); /* not back */
    assert_int_equal(limits_bucket_level(&b, 10, SECOND, 11 * SECOND), 10);
    /* A reload: less is kept at once, more comes from now on. */
    assert_int_equal(limits_bucket_level(&b, 4, SECOND, 11 * SECOND), 4);
    limits_bucket_take(&b, 4, SECOND, 4, 11 * SECOND);
    assert_int_equal(limits_bucket_level(&b, 40, SECOND, 11 * SECOND + 500000), 20);
    /* A burst of less than one still lets one pass. */
    b = (struct limits_bucket){ 0 };
    assert_int_equal(limits_bucket_level(&b, 1, 1000, 0), 1);
    /* Nothing overflows. */
    b = (struct limits_bucket){ 0 };
    limits_bucket_take(&b, 1, SECOND, INT64_MAX, 0);
    assert_true(limits_bucket_level(&b, 1, SECOND, 0) < -1000000);
    assert_int_equal(limits_bucket_wait_ms(&b, 1), UINT32_MAX);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_begins_full),
        cmocka_unit_test(test_debt_is_paid_at_the_rate),
        cmocka_unit_test(test_mean_is_the_rate),
        cmocka_unit_test(test_odd_clocks_and_rates),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
