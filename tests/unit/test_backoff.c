/* SPDX-License-Identifier: Apache-2.0
 * test_backoff.c - waits between tries: they grow, are spread, obey the peer, and end.
 * The clock is the test's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "agent/backoff.h"

#define MS 1000

static const struct backoff_limits limits = { 200 * MS, 5000 * MS, 60000 * MS, 1000 };

/* All waits of one who never succeeds, each try taking no time; how many. */
static int
play(struct backoff *b, int64_t *waits, int most)
{
    int64_t now = b->began_us, at;
    int n = 0;

    while (backoff_next(b, now, 0, &at)) {
        assert_true(at >= now);
        if (n < most)
            waits[n] = at - now;
        now = at;
        n++;
    }
    assert_true(now <= b->began_us + b->limits.total_us);
    return n;
}

static void
waits_grow_to_a_bound(void **state)
{
    int64_t waits[64];

    (void)state;
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct backoff b;
        backoff_begin(&b, &limits, 0, seed, (int64_t)seed * 977);
        int n = play(&b, waits, 64);
        assert_in_range(n, 14, 32); /* a minute of them */
        int64_t full = limits.first_us;
        assert_in_range(waits[0], 0, full);
        for (int i = 1; i < n && i < 64; i++) {
            assert_true(waits[i] >= full / 2 && waits[i] <= full);
            full = full * 2 < limits.most_us ? full * 2 : limits.most_us;
        }
    }
}

/* A thousand agents lose a server at once: no tenth of the first wait sees more than a
 * quarter of them. */
static void
many_are_spread(void **state)
{
    int in_part[10] = { 0 };

    (void)state;
    for (uint64_t seed = 0; seed < 1000; seed++) {
        struct backoff b;
        int64_t at;
        backoff_begin(&b, &limits, 0, seed * 7919, 0);
        assert_true(backoff_next(&b, 0, 0, &at));
        in_part[at * 10 / (limits.first_us + 1)]++;
    }
    for (int i = 0; i < 10; i++)
        assert_in_range(in_part[i], 30, 250);
}

static void
the_peer_is_obeyed(void **state)
{
    struct backoff b;
    int64_t at, least = INT64_MAX, most = 0;

    (void)state;
    for (uint64_t seed = 0; seed < 300; seed++) {
        backoff_begin(&b, &limits, 0, seed, 5);
        assert_true(backoff_next(&b, 5, 8000 * MS, &at));
        assert_true(at >= 5 + 8000 * MS && at <= 5 + 10000 * MS);
        least = at < least ? at : least;
        most = at > most ? at : most;
    }
    assert_true(most - least > 1000 * MS); /* nor do they all come at once then */
    /* It wants to be left alone for longer than we are willing to wait. */
    backoff_begin(&b, &limits, 0, 1, 0);
    assert_false(backoff_next(&b, 0, 61000 * MS, &at));
}

static void
it_ends(void **state)
{
    struct backoff_limits few = { 200 * MS, 5000 * MS, 3600000LL * MS, 3 };
    struct backoff_limits never = { 200 * MS, 5000 * MS, 0, 100 };
    struct backoff b;
    int64_t at, waits[4];

    (void)state;
    backoff_begin(&b, &few, 0, 3, 0);
    assert_int_equal(play(&b, waits, 4), 3);
    assert_int_equal(b.n_tries, 3);
    for (uint64_t seed = 1; seed < 20; seed++) {
        backoff_begin(&b, &never, 0, seed, 77);
        assert_false(backoff_next(&b, 78, 0, &at));
    }
    /* Time spent in tries counts too. */
    backoff_begin(&b, &limits, 0, 3, 0);
    assert_true(backoff_next(&b, 0, 0, &at));
    assert_false(backoff_next(&b, limits.total_us, 0, &at));
}

/* Whoever begins again and again without getting anywhere begins slower. */
static void
levels(void **state)
{
    int64_t at, sum[12] = { 0 };

    (void)state;
    for (int level = 0; level < 12; level++)
        for (uint64_t seed = 0; seed < 200; seed++) {
            struct backoff b;
            backoff_begin(&b, &limits, level, seed, 0);
            assert_true(backoff_next(&b, 0, 0, &at));
            assert_true(at <= limits.most_us);
            sum[level] += at;
        }
    assert_true(sum[3] > sum[0] * 6);
    assert_true(sum[11] == sum[10]);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(waits_grow_to_a_bound),
        cmocka_unit_test(many_are_spread),
        cmocka_unit_test(the_peer_is_obeyed),
        cmocka_unit_test(it_ends),
        cmocka_unit_test(levels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
