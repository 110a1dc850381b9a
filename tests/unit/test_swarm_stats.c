/* SPDX-License-Identifier: Apache-2.0
 * test_swarm_stats.c - quantiles of times in buckets: how wrong they may be.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "bench/swarm_stats.h"

static struct stats_times t;

static int
set_up(void **state)
{
    (void)state;
    t = (struct stats_times){ 0 };
    return 0;
}

static void
test_empty(void **state)
{
    (void)state;
    assert_int_equal(stats_quantile(&t, 0.5), 0);
    assert_int_equal(stats_quantile(&t, 1), 0);
}

/* Every time alone comes back within a bucket, and never above the largest. */
static void
test_each_time(void **state)
{
    int64_t us;

    (void)state;
    for (us = 0; us < 1000000000; us = us * 21 / 20 + 1) {
        t = (struct stats_times){ 0 };
        stats_add(&t, us);
        assert_int_equal(t.max_us, us);
        assert_int_equal(stats_quantile(&t, 0.5), us);
        stats_add(&t, 1800000000);
        assert_true(stats_quantile(&t, 0.49) >= us);
        assert_true(stats_quantile(&t, 0.49) <= us + us / 64 + 1);
    }
}

static void
test_quantiles(void **state)
{
    int i;

    (void)state;
    for (i = 1; i <= 1000; i++)
        stats_add(&t, i * 10);
    assert_in_range(stats_quantile(&t, 0.5), 5000, 5090);
    assert_in_range(stats_quantile(&t, 0.9), 9000, 9160);
    assert_in_range(stats_quantile(&t, 0.99), 9900, 10000);
    assert_int_equal(stats_quantile(&t, 1), 10000);
}

/* What is no sensible time goes to the ends. */
static void
test_ends(void **state)
{
    (void)state;
    stats_add(&t, -5);
    assert_int_equal(stats_quantile(&t, 1), 0);
    stats_add(&t, INT64_MAX);
    assert_int_equal(t.max_us, INT64_MAX);
    assert_true(stats_quantile(&t, 1) > 1700000000);
    assert_int_equal(t.n, 2);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_empty, set_up),
        cmocka_unit_test_setup(test_each_time, set_up),
        cmocka_unit_test_setup(test_quantiles, set_up),
        cmocka_unit_test_setup(test_ends, set_up),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
