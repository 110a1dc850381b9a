/* SPDX-License-Identifier: Apache-2.0
 * test_scheduler.c - shares of one step, then simulations of many: shares by
 * weight, idle tenants, forgotten accounts.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "tests/unit/scheduler_sim.h"

/* ---- one step ---- */

static void
test_nothing(void **state)
{
    (void)state;
    sim_start(0, 64);
    w.plan = scheduler_plan(w.s, w.items, 0, w.now_us);
    assert_int_equal(w.plan.rows, 0);
    scheduler_refund(w.s, 1, 5); /* nobody */
    scheduler_free(NULL);
}

static void
test_all_fit(void **state)
{
    (void)state;
    sim_start(0, 512);
    sim_add(1, 1, 1, 0);
    sim_add(2, 7, 7, 0);
    sim_add(1, 1, 100, 0);
    sim_step();
    assert_int_equal(w.plan.rows, 108);
    assert_int_equal(w.plan.budget, 512);
}

static void
test_catchups_leave_room_and_have_some(void **state)
{
    size_t i;

    (void)state;
    sim_start(0, 64);
    sim_add(1, 1, 5000, 0);
    sim_add(1, 1, 5000, 0)->arrived_us = w.now_us - 5;
    for (i = 0; i < 20; i++)
        sim_add(1, 1, 1, 0);
    sim_step();
    assert_int_equal(share_of(1), 44); /* what is left, to the oldest */
    assert_int_equal(share_of(0), 0);
    for (i = 2; i < 22; i++)
        assert_int_equal(share_of(i), 1);
    for (i = 0; i < 80; i++)
        sim_add(1, 1, 1, 0);
    sim_step();
    assert_int_equal(share_of(0), 16); /* a quarter; and now it is its turn */
    assert_int_equal(share_of(1), 0);
}

static void
test_row_by_row_to_the_lowest(void **state)
{
    (void)state;
    sim_start(0, 60);
    sim_add(10, 1, 100, 0);
    sim_add(20, 2, 100, 0);
    sim_add(30, 3, 100, 0);
    sim_add(40, 9, 2, 0); /* less than its share: in full */
    sim_step();
    assert_in_range(share_of(0), 9, 11);
    assert_in_range(share_of(1), 19, 20);
    assert_in_range(share_of(2), 28, 30);
    assert_int_equal(share_of(3), 2);
}

static void
test_a_refund_counts(void **state)
{
    int step;

    (void)state;
    sim_start(0, 10);
    sim_add(1, 1, 100000, 0);
    sim_add(2, 1, 100000, 0);
    for (step = 0; step < 100; step++) {
        sim_step();
        scheduler_refund(w.s, 1, share_of(0) / 2); /* half of it could not run */
    }
    assert_in_range(tenant_served(1), 640, 690); /* two thirds planned, half run */
}

/* ---- fairness ---- */

/* Everybody wants more than there is, in requests of all sizes. */
static void
overload(uint64_t n_tenants, uint32_t budget, int steps)
{
    static const uint32_t sizes[] = { 1, 7, 16, 17, 300, 4000 };
    uint64_t total = 0, weights = 0, t;
    int k;

    sim_start(0, budget);
    for (t = 0; t < n_tenants; t++)
        for (k = 0; k < 20; k++) /* ids far apart, as hashes are */
            sim_add((t + 1) * 0x9e3779b97f4a7c15u, 1 + (uint32_t)(t * 7 % 5),
                    sizes[(t + (k % 2) * t) % 6] + (k == 0) * 4000, 0);
    sim_steps(20);
    forget_served();
    sim_steps(steps);
    for (t = 0; t < n_tenants; t++) {
        total += tenant_served((t + 1) * 0x9e3779b97f4a7c15u);
        weights += 1 + t * 7 % 5;
    }
    assert_int_equal(total, (uint64_t)budget * (uint64_t)steps);
    for (t = 0; t < n_tenants; t++) {
        double got = (double)tenant_served((t + 1) * 0x9e3779b97f4a7c15u) / (double)total;
        double fair = (double)(1 + t * 7 % 5) / (double)weights;

        if (got < 0.95 * fair || got > 1.05 * fair)
            fail_msg("%d tenants: %d got %.4f, fair is %.4f", (int)n_tenants, (int)t, got,
                     fair);
    }
    scheduler_free(w.s);
    w.s = NULL;
}

static void
test_shares_by_weight(void **state)
{
    uint64_t n;

    (void)state;
    for (n = 2; n <= 50; n += n < 10 ? 1 : 10) {
        overload(n, 256, 300);
        overload(n, 17, 2000); /* fewer rows than tenants */
    }
    overload(50, 256, 300);
    overload(50, 1, 8000);
}

/* The same when a step's rows come from a time budget and a measured cost. */
static void
test_shares_by_weight_of_a_time_budget(void **state)
{
    uint64_t t;

    (void)state;
    sim_start(50 * MS, 512);
    w.position_cost = 0.1;
    for (t = 1; t <= 6; t++)
        sim_add(t, (uint32_t)t, t % 2 ? 4000 : 1, 0)->pos = (uint32_t)t * 500;
    for (t = 1; t <= 600; t++) /* even tenants: many single tokens */
        sim_add(t % 3 * 2 + 2, (uint32_t)(t % 3 * 2 + 2), 1, 0);
    sim_steps(50);
    forget_served();
    for (t = 0; t < 300; t++) {
        sim_step();
        assert_in_range(w.step_us, 35 * MS, 55 * MS);
    }
    for (t = 2; t <= 6; t++)
        assert_in_range(tenant_served(t) * 1000, tenant_served(1) * t * 950,
                        tenant_served(1) * t * 1050);
}

static void
test_who_asks_for_little_waits_for_nobody(void **state)
{
    struct sim_seq *little;
    int i;

    (void)state;
    sim_start(50 * MS, 512);
    for (i = 0; i < 100; i++)
        sim_add(1, 1, i % 2 ? 1 : 2000, 0);
    little = sim_add(2, 1, 1, 7 * MS);
    sim_steps(30);
    forget_served();
    sim_steps(300);
    assert_true(little->n_answers >= 140);
    assert_true(little->worst_us <= 105 * MS); /* the step under way, and its own */
}

static void
test_idle_time_is_not_saved_up(void **state)
{
    struct sim_seq *late;
    uint64_t before;
    int i;

    (void)state;
    sim_start(0, 100);
    for (i = 0; i < 4; i++)
        sim_add(1, 1, 1000, 0);
    sim_add(3, 1, 1, 0); /* and one that asks a little in every step */
    late = sim_add(2, 1, 1000, 0);
    sim_steps(5);
    late->gone = true;
    sim_steps(1000);
    late->gone = false;
    w.seqs[4].rows = 1000;
    before = tenant_served(1);
    sim_steps(30);
    assert_in_range(tenant_served(1) - before, 950, 1050); /* a third, at once */
    assert_in_range(late->served, 1100, 1400);
}

static void
test_accounts_are_forgotten(void **state)
{
    uint64_t t;

    (void)state;
    sim_start(0, 10);
    for (t = 0; t < 1000; t++) {
        w.n = 0;
        sim_add(2 * t, 1, 100, 0);
        sim_add(2 * t + 1, 3, 3, 0);
        sim_step();
        assert_true(scheduler_n_tenants(w.s) <= 4);
    }
    for (t = 0; t < 5; t++) { /* as many as the table is for, each time others */
        w.n = 0;
        while (w.n < MAX_SEQS)
            sim_add(t * MAX_SEQS + w.n, 1, 5, 0);
        sim_steps(3);
        assert_true(scheduler_n_tenants(w.s) <= 2 * MAX_SEQS);
    }
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_teardown(name, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_nothing),
        TEST(test_all_fit),
        TEST(test_catchups_leave_room_and_have_some),
        TEST(test_row_by_row_to_the_lowest),
        TEST(test_a_refund_counts),
        TEST(test_shares_by_weight),
        TEST(test_shares_by_weight_of_a_time_budget),
        TEST(test_who_asks_for_little_waits_for_nobody),
        TEST(test_idle_time_is_not_saved_up),
        TEST(test_accounts_are_forgotten),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
