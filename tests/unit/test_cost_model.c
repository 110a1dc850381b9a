/* SPDX-License-Identifier: Apache-2.0
 * test_cost_model.c - the fit of step times: it converges under noise, follows a
 * change, forgets nothing it is not told about, and its budgets hold.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/cost_model.h"

/* A machine, in microseconds. */
struct machine {
    double step, row, position;
    double noise; /* 0.2: 20 % either way */
};

static uint64_t dice;

static uint32_t
roll(uint32_t sides)
{
    dice = dice * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(dice >> 33) % sides;
}

static double
true_time(const struct machine *hw, uint32_t rows, double positions)
{
    return hw->step + hw->row * rows + hw->position * positions;
}

static void
run_step(struct cost_model *m, const struct machine *hw, uint32_t rows, uint32_t pos)
{
    double positions = cost_positions(pos, rows);
    double noise = 1 + hw->noise * ((double)roll(2001) / 1000 - 1);

    cost_model_ran(m, rows, positions, true_time(hw, rows, positions) * noise);
}

/* Steps as a server has them: single tokens, some catch-ups, some prompts. */
static void
run_mixed(struct cost_model *m, const struct machine *hw, int steps)
{
    while (steps-- > 0)
        switch (roll(3)) {
        case 0:
            run_step(m, hw, 1 + roll(8), roll(2000));
            break;
        case 1:
            run_step(m, hw, 10 + roll(60), roll(2000));
            break;
        default:
            run_step(m, hw, 100 + roll(300), roll(1000));
        }
}

static void
assert_near(double got, double want, double tolerance)
{
    if (got < want * (1 - tolerance) || got > want * (1 + tolerance))
        fail_msg("%g is not within %g %% of %g", got, tolerance * 100, want);
}

static void
assert_predicts(const struct cost_model *m, const struct machine *hw, double tolerance)
{
    static const uint32_t rows[] = { 1, 8, 64, 256, 400 };
    size_t i;

    for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        double positions = cost_positions(500, rows[i]);

        assert_near(cost_model_time(m, rows[i], positions),
                    true_time(hw, rows[i], positions), tolerance);
    }
}

static const struct machine machines[] = {
    { 2000, 200, 0.1, 0 },  /* SmolLM2-135M on two cores */
    { 150000, 9000, 2, 0 }, /* 7 B on a server's cores */
    { 900, 4, 0.002, 0 },   /* a GPU */
    { 50, 300, 0, 0 },      /* all in the rows */
    { 20000, 20, 0.3, 0 },  /* all in the step and the context */
};
#define N_MACHINES (sizeof(machines) / sizeof(machines[0]))

static void
test_first_guess(void **state)
{
    struct cost_model m;

    (void)state;
    cost_model_init(&m);
    assert_int_equal(cost_model_rows(&m, 50e3, 0, 512), 16); /* nothing is known */
    assert_int_equal(cost_model_rows(&m, 50e3, 0, 4), 4);
    assert_int_equal(cost_model_rows(&m, 1, 1e9, 512), 1);
    assert_true(cost_model_time(&m, 1, 1) > 0);
}

static void
test_one_step_gives_the_scale(void **state)
{
    struct cost_model m;

    (void)state;
    cost_model_init(&m);
    cost_model_ran(&m, 1, 1, 220000); /* a hundred times the guess */
    assert_near(cost_model_time(&m, 1, 1), 220000, 0.001);
    assert_near(cost_model_time(&m, 101, 101), 2220000, 0.01);
}

static void
test_grows_with_what_was_seen(void **state)
{
    const struct machine *hw = &machines[2];
    struct cost_model m;

    (void)state;
    cost_model_init(&m);
    run_step(&m, hw, 1, 0);
    assert_int_equal(cost_model_rows(&m, 1e9, 0, 512), 16);
    run_step(&m, hw, 16, 0);
    assert_int_equal(cost_model_rows(&m, 1e9, 0, 512), 64);
    run_step(&m, hw, 64, 0);
    run_step(&m, hw, 256, 0);
    assert_int_equal(cost_model_rows(&m, 1e9, 0, 512), 512);
}

static void
test_converges(void **state)
{
    size_t i;

    (void)state;
    for (i = 0; i < N_MACHINES; i++) {
        struct cost_model m;

        dice = 1;
        cost_model_init(&m);
        run_mixed(&m, &machines[i], 60);
        assert_predicts(&m, &machines[i], 0.05);
    }
}

static void
test_converges_under_noise(void **state)
{
    size_t i;

    (void)state;
    for (i = 0; i < N_MACHINES; i++) {
        struct machine hw = machines[i];
        struct cost_model m;
        int turn;

        dice = 2;
        hw.noise = 0.2;
        cost_model_init(&m);
        run_mixed(&m, &hw, 100);
        for (turn = 0; turn < 50; turn++) {
            run_mixed(&m, &hw, 20);
            assert_predicts(&m, &hw, 0.2); /* no worse than one measurement */
        }
    }
}

static void
test_follows_a_change(void **state)
{
    static const double factors[] = { 3, 1.0 / 3, 20, 0.05 };
    size_t i, k;

    (void)state;
    for (i = 0; i < N_MACHINES; i++)
        for (k = 0; k < 4; k++) {
            struct machine hw = machines[i];
            struct cost_model m;

            dice = 3;
            hw.noise = 0.1;
            cost_model_init(&m);
            run_mixed(&m, &hw, 500);
            hw.step *= factors[k];
            hw.row *= factors[k];
            hw.position *= factors[k];
            run_mixed(&m, &hw, 250);
            assert_predicts(&m, &hw, 0.2);
        }
}

static void
test_a_hiccup_is_no_change(void **state)
{
    const struct machine *hw = &machines[0];
    struct cost_model m;

    (void)state;
    dice = 4;
    cost_model_init(&m);
    run_mixed(&m, hw, 200);
    cost_model_ran(&m, 64, cost_positions(500, 64), 3e6); /* 200 times too long */
    assert_predicts(&m, hw, 0.15);
}

/* Hours of single tokens tell nothing of what a row costs; they must not spoil
 * what is known of it. */
static void
test_keeps_what_it_is_not_told(void **state)
{
    size_t i;

    (void)state;
    for (i = 0; i < N_MACHINES; i++) {
        struct machine hw = machines[i];
        struct cost_model m;
        int turn;

        dice = 5;
        cost_model_init(&m);
        run_mixed(&m, &hw, 200);
        for (turn = 0; turn < 5000; turn++)
            run_step(&m, &hw, 1, 500);
        assert_predicts(&m, &hw, 0.05);
    }
}

static void
test_budgets_hold(void **state)
{
    size_t i;

    (void)state;
    for (i = 0; i < N_MACHINES; i++) {
        const struct machine *hw = &machines[i];
        double budget = 50e3, most = budget > 2 * hw->step ? budget : 2 * hw->step;
        struct cost_model m;
        uint32_t pos;

        dice = 6;
        cost_model_init(&m);
        run_mixed(&m, hw, 200);
        for (pos = 0; pos <= 4000; pos += 500) {
            uint32_t rows = cost_model_rows(&m, budget, pos, 100000);
            double time = true_time(hw, rows, (double)rows * pos);

            assert_true(rows >= 1);
            assert_true(rows == 1 || time <= most * 1.05);
            assert_true(rows == m.most_rows * 4 || /* and are used */
                        time >= most * 0.85 - hw->row);
        }
    }
}

/* Nothing measured makes it useless: zeros, the same step for ever, absurd times. */
static void
test_odd_measurements(void **state)
{
    struct cost_model m;
    int i;

    (void)state;
    cost_model_init(&m);
    for (i = 0; i < 2000; i++)
        cost_model_ran(&m, 1, 1, 0);
    assert_in_range(cost_model_rows(&m, 50e3, 100, 512), 1, 512);
    for (i = 0; i < 2000; i++)
        cost_model_ran(&m, 16384, 1e12, 1e12);
    assert_int_equal(cost_model_rows(&m, 50e3, 1e6, 512), 1);
    dice = 7;
    run_mixed(&m, &machines[0], 1000);
    assert_predicts(&m, &machines[0], 0.05);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_guess),
        cmocka_unit_test(test_one_step_gives_the_scale),
        cmocka_unit_test(test_grows_with_what_was_seen),
        cmocka_unit_test(test_converges),
        cmocka_unit_test(test_converges_under_noise),
        cmocka_unit_test(test_follows_a_change),
        cmocka_unit_test(test_a_hiccup_is_no_change),
        cmocka_unit_test(test_keeps_what_it_is_not_told),
        cmocka_unit_test(test_budgets_hold),
        cmocka_unit_test(test_odd_measurements),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
