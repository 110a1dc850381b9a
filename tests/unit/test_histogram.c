/* SPDX-License-Identifier: Apache-2.0
 * test_histogram.c - buckets, bounds, quantiles, and a reader beside recorders.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/histogram.h"

static const struct histogram_scale three = { .unit = 0.5,
                                              .n = 3,
                                              .bounds = { 1, 10, 100 } };

static void
test_empty(void **state)
{
    struct histogram h;
    struct histogram_view v;

    (void)state;
    histogram_init(&h, &three);
    histogram_read(&h, &v);
    assert_int_equal(v.upto[3], 0);
    assert_int_equal(v.sum, 0);
    assert_true(histogram_quantile(&v, 0.5) == 0);
}

/* A bucket holds its bound; below 0 is 0; above the last bound has a place. */
static void
test_bounds(void **state)
{
    const int64_t values[] = { -5, 0, 1, 2, 10, 11, 100, 101, INT64_MAX / 2 };
    struct histogram h;
    struct histogram_view v;
    size_t i;

    (void)state;
    histogram_init(&h, &three);
    for (i = 0; i < sizeof(values) / sizeof(values[0]); i++)
        histogram_record(&h, values[i]);
    histogram_read(&h, &v);
    assert_int_equal(v.upto[0], 3);
    assert_int_equal(v.upto[1], 5);
    assert_int_equal(v.upto[2], 7);
    assert_int_equal(v.upto[3], 9);
    assert_true(v.sum == 225 + INT64_MAX / 2);
}

static void
test_quantiles(void **state)
{
    struct histogram h;
    struct histogram_view v;
    int i;

    (void)state;
    histogram_init(&h, &three);
    for (i = 0; i < 10; i++)
        histogram_record(&h, 1);
    for (i = 0; i < 10; i++)
        histogram_record(&h, 5);
    histogram_read(&h, &v);
    assert_true(histogram_quantile(&v, 0.5) == 1 * 0.5);
    assert_true(histogram_quantile(&v, 0.75) == (1 + 9 * 0.5) * 0.5);
    assert_true(histogram_quantile(&v, 1) == 10 * 0.5);
    assert_true(histogram_quantile(&v, 0) == 0);
    for (i = 0; i < 100; i++)
        histogram_record(&h, 1000);
    histogram_read(&h, &v);
    assert_true(histogram_quantile(&v, 0.99) == 100 * 0.5); /* all we know */
}

/* The scales that are used ascend, and fit. */
static void
test_scales(void **state)
{
    const struct histogram_scale *scales[] = { &histogram_times, &histogram_rows };
    size_t s, i;

    (void)state;
    for (s = 0; s < 2; s++) {
        assert_in_range(scales[s]->n, 1, HISTOGRAM_MAX_BOUNDS);
        for (i = 1; i < scales[s]->n; i++)
            assert_true(scales[s]->bounds[i] > scales[s]->bounds[i - 1]);
    }
}

#define RECORDS 20000

static void *
recorder(void *arg)
{
    struct histogram *h = arg;
    int i;

    for (i = 0; i < RECORDS; i++)
        histogram_record(h, i % 200);
    return NULL;
}

/* Two threads record while a third looks: what it sees adds up and never shrinks. */
static void
test_threads(void **state)
{
    struct histogram h;
    struct histogram_view v;
    pthread_t threads[2];
    uint64_t seen = 0;
    size_t i;
    int t;

    (void)state;
    histogram_init(&h, &three);
    for (t = 0; t < 2; t++)
        assert_int_equal(pthread_create(&threads[t], NULL, recorder, &h), 0);
    do {
        histogram_read(&h, &v);
        for (i = 1; i <= 3; i++)
            assert_true(v.upto[i] >= v.upto[i - 1]);
        assert_true(v.upto[3] >= seen);
        seen = v.upto[3];
    } while (seen < RECORDS);
    for (t = 0; t < 2; t++)
        pthread_join(threads[t], NULL);
    histogram_read(&h, &v);
    assert_int_equal(v.upto[3], 2 * RECORDS);
    assert_int_equal(v.upto[0], 2 * RECORDS / 100);
    assert_int_equal(v.sum, 2LL * (RECORDS / 200) * (199 * 200 / 2));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty),     cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_quantiles), cmocka_unit_test(test_scales),
        cmocka_unit_test(test_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
