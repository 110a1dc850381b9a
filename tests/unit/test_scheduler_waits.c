/* SPDX-License-Identifier: Apache-2.0
 * test_scheduler_waits.c - simulations: how long anybody waits, deadlines, cancelled
 * work, eager work.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "tests/unit/scheduler_sim.h"

/* ---- waiting ---- */

static void
test_single_tokens_beside_a_long_prompt(void **state)
{
    struct sim_seq *prompt;
    int i;

    (void)state;
    sim_start(50 * MS, 512);
    for (i = 0; i < 32; i++)
        sim_add(1, 1, 1 + (uint32_t)i % 4, (i % 5) * 10 * MS);
    sim_steps(30);
    forget_served();
    prompt = sim_add(1, 1, 4000, NEVER / 2);
    for (i = 0; prompt->n_answers == 0; i++) {
        sim_step();
        assert_true(w.step_us <= 55 * MS);
        assert_true(i < 40); /* 240 rows a step, most of them the prompt's */
    }
    for (i = 0; i < 32; i++)
        assert_true(w.seqs[i].worst_us <= 105 * MS);
}

/* Many sequences over many steps: nobody waits longer than the others' turns. */
static void
turns(size_t n, uint32_t budget, uint32_t long_rows, size_t n_long, int steps)
{
    int64_t bound;
    size_t i;

    sim_start(0, budget);
    for (i = 0; i < n; i++)
        sim_add(1, 1, i < n_long ? long_rows : 1, 0);
    w.step_cost = 1000;
    w.row_cost = 0;
    /* Short work has at least 3/4 of the rows when it needs them, catch-ups a
     * quarter, a step's worth to each in turn. */
    bound = (int64_t)((n - n_long) * 4 / (3 * budget) + 2) * MS;
    sim_steps(steps);
    for (i = n_long; i < n; i++)
        assert_true(w.now_us - w.seqs[i].since_us <= bound);
    bound = (int64_t)(n_long * 4 + 4) * MS;
    for (i = 0; i < n_long; i++)
        assert_true(w.now_us - w.seqs[i].since_us <= bound);
    scheduler_free(w.s);
    w.s = NULL;
}

static void
test_nobody_starves(void **state)
{
    (void)state;
    turns(8, 64, 4000, 2, 500);
    turns(64, 512, 100000, 8, 500);
    turns(300, 32, 100, 150, 900); /* more than fit: they take turns */
    turns(512, 1, 300, 20, 3000);  /* one row a step */
    turns(512, 2, 300, 0, 2000);
}

static void
test_the_nearest_deadline_first(void **state)
{
    struct sim_seq *urgent;
    int i;

    (void)state;
    sim_start(0, 4);
    for (i = 0; i < 40; i++)
        sim_add(1, 1, 1, 0)->patience = 500 * MS;
    sim_steps(50);
    urgent = sim_add(1, 1, 1, 0);
    urgent->patience = 20 * MS;
    sim_steps(100);
    assert_int_equal(urgent->n_expired, 0);
    assert_true(urgent->n_answers >= 90);
    assert_true(w.seqs[0].n_answers > 5);
}

/* Work whose deadline is always nearer does not keep others waiting for ever. */
static void
test_deadlines_starve_nobody(void **state)
{
    struct sim_seq *calm;
    int i;

    (void)state;
    sim_start(0, 2);
    calm = sim_add(1, 1, 1, 0);
    for (i = 0; i < 100; i++)
        sim_add(1, 1, 1, 0)->patience = 900 * MS;
    sim_steps(3000);
    assert_true(calm->worst_us <= 1100 * MS);
}

static void
test_expired_work_is_reported(void **state)
{
    struct sim_seq *q;
    int i, expired = 0;

    (void)state;
    sim_start(0, 8);
    q = sim_add(1, 1, 100, 0); /* 13 steps of 3.6 ms, but 20 ms to live */
    q->patience = 20 * MS;
    sim_add(2, 1, 3, 0);
    for (i = 0; i < 100; i++) {
        sim_step();
        expired += (int)w.plan.n_expired;
    }
    assert_int_equal(q->n_answers, 0);
    assert_int_equal(q->n_expired, expired);
    assert_true(expired >= 10);
    w.items[0] = (struct scheduler_item){ .n_rows = 1, .deadline_us = w.now_us };
    w.plan = scheduler_plan(w.s, w.items, 1, w.now_us); /* nothing else */
    assert_int_equal(w.plan.n_expired, 1);
    assert_int_equal(w.plan.rows, 0);
}

static void
test_cancelled_work_is_gone_at_the_next_step(void **state)
{
    uint64_t others;
    size_t i;

    (void)state;
    sim_start(0, 100);
    for (i = 0; i < 10; i++)
        sim_add(i, 1, 4000, 0);
    sim_steps(5);
    for (i = 1; i < 10; i++)
        w.seqs[i].gone = true;
    others = tenant_served(0);
    sim_step();
    assert_int_equal(tenant_served(0) - others, 100); /* all of the very next */
    sim_step();
    assert_true(scheduler_n_tenants(w.s) <= 10);
    w.seqs[0].gone = true;
    sim_steps(2);
    assert_int_equal(scheduler_n_tenants(w.s), 0);
}

/* ---- eager work ---- */

static void
test_eager_work_yields(void **state)
{
    struct sim_seq *eager, *asked;
    int i, n_eager = 0;

    (void)state;
    sim_start(40 * MS, 512);
    for (i = 0; i < 3; i++) {
        eager = sim_add(1, 1, 4000, 0);
        eager->eager = true;
    }
    sim_steps(100);
    assert_true(w.plan.eager);
    assert_true(w.step_us <= 11 * MS); /* a quarter of a step */
    asked = sim_add(1, 1, 1, 25 * MS);
    for (i = 0; i < 300; i++) {
        sim_step();
        n_eager += w.plan.eager && w.plan.rows > 0;
    }
    assert_true(n_eager > 100); /* the pauses are used */
    assert_true(asked->n_answers > 50);
    assert_true(asked->worst_us <= 15 * MS); /* one eager step and its own */
    asked->pause_us = 0;                     /* always somebody waiting */
    sim_steps(2);
    forget_served();
    sim_steps(100);
    assert_int_equal(asked->n_answers, 100);
    assert_int_equal(eager->served, 0);
}

/* Between tenants that have eager work only, weights count as ever, and what was
 * used of idle time is not held against anybody later. */
static void
test_eager_work_is_charged(void **state)
{
    uint64_t before;
    size_t i;

    (void)state;
    sim_start(0, 400);
    sim_add(1, 1, 4000, 0)->eager = true;
    sim_add(2, 3, 4000, 0)->eager = true;
    sim_steps(200);
    assert_int_equal(w.plan.budget, 100);
    assert_in_range(tenant_served(2) * 100, tenant_served(1) * 285,
                    tenant_served(1) * 315);
    for (i = 0; i < 2; i++)
        w.seqs[i].eager = false;
    sim_add(3, 1, 4000, 0);
    before = tenant_served(1);
    sim_steps(50);
    assert_in_range(tenant_served(1) - before, 3800, 4200); /* one fifth */
    assert_in_range(tenant_served(3), 3800, 4200);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_teardown(name, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_single_tokens_beside_a_long_prompt),
        TEST(test_nobody_starves),
        TEST(test_the_nearest_deadline_first),
        TEST(test_deadlines_starve_nobody),
        TEST(test_expired_work_is_reported),
        TEST(test_cancelled_work_is_gone_at_the_next_step),
        TEST(test_eager_work_yields),
        TEST(test_eager_work_is_charged),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
