/* SPDX-License-Identifier: Apache-2.0
 * test_scheduler.c - shares of a step, and simulations of many steps.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "server/scheduler.h"

static struct scheduler_item
item(int64_t since_us, uint32_t n_rows, size_t tag)
{
    struct scheduler_item i = { since_us, n_rows, 0, tag };

    return i;
}

static uint32_t
sum(const struct scheduler_item *items, size_t n)
{
    uint32_t total = 0;
    size_t i;

    for (i = 0; i < n; i++)
        total += items[i].share;
    return total;
}

static void
test_all_fit(void **state)
{
    struct scheduler_item items[3] = { item(30, 1, 0), item(10, 7, 1), item(20, 100, 2) };

    (void)state;
    scheduler_share(items, 3, 512);
    assert_int_equal(items[0].tag, 1); /* longest waiting first */
    assert_int_equal(items[1].tag, 2);
    assert_int_equal(items[2].tag, 0);
    assert_int_equal(items[0].share, 7);
    assert_int_equal(items[1].share, 100);
    assert_int_equal(items[2].share, 1);
    scheduler_share(items, 0, 512);
}

static void
test_long_prompts_leave_room(void **state)
{
    struct scheduler_item items[4] = { item(1, 5000, 0), item(2, 5000, 1), item(3, 1, 2),
                                       item(4, 3, 3) };

    (void)state;
    scheduler_share(items, 4, 64);
    assert_int_equal(items[2].share, 1);
    assert_int_equal(items[3].share, 3);
    assert_int_equal(items[0].share, 64 - 16 - 4); /* the oldest takes what is left */
    assert_int_equal(items[1].share, 16);
    assert_int_equal(sum(items, 4), 64);
}

static void
test_more_sequences_than_rows(void **state)
{
    struct scheduler_item items[100];
    size_t i;

    (void)state;
    for (i = 0; i < 100; i++)
        items[i] = item((int64_t)(1000 - i), 9, i);
    scheduler_share(items, 100, 10);
    assert_int_equal(sum(items, 100), 10);
    for (i = 0; i < 100; i++)
        assert_int_equal(items[i].share, i < 10 ? 1 : 0);
    assert_int_equal(items[0].tag, 99);
}

/* Many sequences over many steps: nobody waits longer than the others' turns. */
static void
simulate(size_t n, uint32_t budget, uint32_t long_rows, size_t n_long, int steps)
{
    uint32_t wants[512];
    int64_t since[512], served[512], worst = 0;
    struct scheduler_item items[512];
    int64_t turns = (int64_t)((n + budget - 1) / budget);
    size_t i;
    int step;

    for (i = 0; i < n; i++) {
        wants[i] = i < n_long ? long_rows : 1;
        since[i] = served[i] = 0;
    }
    for (step = 1; step <= steps; step++) {
        for (i = 0; i < n; i++)
            items[i] = item(since[i], wants[i], i);
        scheduler_share(items, n, budget);
        assert_true(sum(items, n) <= budget);
        for (i = 0; i < n; i++) {
            size_t who = items[i].tag;

            if (items[i].share == 0)
                continue;
            if (step - served[who] > worst)
                worst = step - served[who];
            served[who] = since[who] = step;
            wants[who] -= items[i].share;
            if (wants[who] == 0)
                wants[who] = who < n_long ? long_rows : 1;
        }
    }
    for (i = 0; i < n; i++)
        assert_true(steps - served[i] <= turns);
    assert_true(worst <= turns);
}

static void
test_nobody_starves(void **state)
{
    (void)state;
    simulate(8, 64, 4000, 2, 500);
    simulate(64, 512, 100000, 8, 500);
    simulate(300, 32, 100, 150, 500); /* more than fit: they take turns */
    simulate(512, 1, 3, 512, 2000);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_fit),
        cmocka_unit_test(test_long_prompts_leave_room),
        cmocka_unit_test(test_more_sequences_than_rows),
        cmocka_unit_test(test_nobody_starves),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
