/* SPDX-License-Identifier: Apache-2.0
 * test_policy.c - every rule of where a token comes from, as one table.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "agent/policy.h"

/* A walk: confidences of two exits, and what should come of it. "1" and "2": the
 * exit is computed; E emitted there, F fallback there, A the cloud is asked. */
struct walk {
    const char *what;
    enum policy_mode mode;
    double theta1, theta2, conf1, conf2;
    int alone;
    enum policy_upload upload;
    const char *expect;
};

#define S  POLICY_STANDALONE
#define C  POLICY_COLLABORATIVE
#define N  POLICY_NAIVE
#define UA POLICY_UPLOAD_ALWAYS
#define UB POLICY_UPLOAD_BELOW

static const struct walk walks[] = {
    { "sure at once", C, 0.8, 0.8, 0.9, 0.0, 0, UA, "1E" },
    { "equal is enough", C, 0.8, 0.8, 0.8, 0.0, 0, UA, "1E" },
    { "sure at the second", C, 0.8, 0.8, 0.7, 0.9, 0, UA, "12E" },
    { "never sure", C, 0.8, 0.8, 0.7, 0.7, 0, UA, "12A" },
    { "theta 1: no exit is computed", C, 1.0, 1.0, 1.0, 1.0, 0, UA, "A" },
    { "theta above 1 likewise", C, 1.5, 2.0, 1.0, 1.0, 0, UA, "A" },
    { "only the first exit counts", C, 0.8, 1.0, 0.7, 1.0, 0, UA, "1A" },
    { "only the second exit counts", C, 1.0, 0.8, 1.0, 0.9, 0, UA, "2E" },
    { "only the second, not sure", C, 1.0, 0.8, 1.0, 0.7, 0, UA, "2A" },
    { "theta 0: always the first", C, 0.0, 0.0, 0.0, 0.0, 0, UA, "1E" },
    { "trigger looks at exit 1", C, 1.0, 1.0, 0.5, 0.5, 0, UB, "1A" },
    { "trigger, then the second", C, 1.0, 0.8, 1.0, 0.9, 0, UB, "12E" },
    { "lost: the first is sure", C, 0.8, 0.8, 0.9, 0.0, 1, UA, "1E" },
    { "lost: the second is sure", C, 0.8, 0.8, 0.1, 0.9, 1, UA, "12E" },
    { "lost: the last decides", C, 0.8, 0.8, 0.1, 0.1, 1, UA, "12F" },
    { "lost: theta 1", C, 1.0, 1.0, 1.0, 1.0, 1, UA, "2F" },
    { "lost: no trigger needed", C, 1.0, 1.0, 1.0, 1.0, 1, UB, "2F" },
    { "standalone: the first is sure", S, 0.8, 0.8, 0.9, 0.0, 0, UA, "1E" },
    { "standalone: the last decides", S, 0.8, 0.8, 0.1, 0.1, 0, UA, "12E" },
    { "standalone: theta 1", S, 1.0, 1.0, 0.1, 0.1, 0, UA, "2E" },
    { "naive: always the cloud", N, 0.1, 0.1, 0.9, 0.9, 0, UA, "A" },
};

static void
walk_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(walks) / sizeof(walks[0]); i++) {
        const struct walk *w = &walks[i];
        struct policy p = { .mode = w->mode,
                            .n_exits = 2,
                            .theta = { w->theta1, w->theta2 },
                            .upload = w->upload,
                            .upload_theta = 0.9 };
        double conf[2] = { w->conf1, w->conf2 };
        char got[8] = "";
        int k = -1;
        enum policy_step step = policy_begin(&p, w->alone, &k);
        while (step == POLICY_DEEPER) {
            strcat(got, k == 0 ? "1" : "2");
            step = policy_next(&p, w->alone, k, conf[k], &k);
        }
        strcat(got, step == POLICY_EMIT ? "E" : step == POLICY_ASK ? "A" : "F");
        if (strcmp(got, w->expect) != 0)
            print_error("%s: %s instead of %s\n", w->what, got, w->expect);
        assert_string_equal(got, w->expect);
    }
}

static void
no_exits_always_ask(void **state)
{
    struct policy p = { .mode = C, .upload = UB };
    int k;

    (void)state;
    assert_int_equal(policy_begin(&p, false, &k), POLICY_ASK);
    assert_int_equal(policy_n_stages(&p), 1);
}

static void
release(void **state)
{
    struct policy p = { .mode = C, .n_exits = 2, .upload = UA };

    (void)state;
    assert_true(policy_release(&p, true, false, 0));
    assert_true(policy_release(&p, false, false, 0));
    p.upload = POLICY_UPLOAD_ON_REQUEST;
    assert_false(policy_release(&p, true, false, 0));
    assert_false(policy_release(&p, false, true, 0));
    p.upload = UB;
    p.upload_theta = 0.9;
    assert_true(policy_release(&p, true, false, 0));
    assert_false(policy_release(&p, false, false, 0));
    assert_true(policy_release(&p, false, true, 0.89));
    assert_false(policy_release(&p, false, true, 0.9));
}

/* What a screen may be asked, of the first and of the last of two exits. */
struct screen {
    const char *what;
    enum policy_mode mode;
    double theta1, theta2, upload_theta;
    int alone;
    enum policy_upload upload;
    double at1, at2;
};

static const struct screen screens[] = {
    { "each exit its threshold", C, 0.8, 0.7, 0, 0, UA, 0.8, 0.7 },
    { "states with the request", C, 0.8, 0.7, 0, 0, POLICY_UPLOAD_ON_REQUEST, 0.8, 0.7 },
    { "lost: the last one's token counts", C, 0.8, 0.7, 0, 1, UA, 0.8, 0 },
    { "standalone likewise", S, 0.8, 0.7, 0, 0, UA, 0.8, 0 },
    { "standalone has no trigger", S, 0.8, 0.7, 0.5, 0, UB, 0.8, 0 },
    { "nothing leaves at theta 1", C, 1.0, 0.7, 0, 0, UA, 0, 0.7 },
    { "everything leaves at theta 0", C, 0.0, 0.0, 0, 0, UA, 0, 0 },
    { "trigger above the threshold", C, 0.8, 0.7, 0.9, 0, UB, 0.8, 0.7 },
    { "trigger below the threshold", C, 0.8, 0.7, 0.5, 0, UB, 0.5, 0.7 },
    { "nothing but the trigger", C, 1.0, 1.0, 0.9, 0, UB, 0.9, 0 },
    { "the trigger never fires", C, 0.8, 0.7, 0, 0, UB, 0, 0.7 },
    { "the trigger always fires", C, 1.0, 0.7, 2, 0, UB, 2, 0.7 },
    { "lost: no trigger", C, 0.8, 0.7, 0.5, 1, UB, 0.8, 0 },
    { "naive: no exit is asked", N, 0.8, 0.7, 0, 0, UA, 0, 0 },
};

static void
screen_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(screens) / sizeof(screens[0]); i++) {
        const struct screen *s = &screens[i];
        struct policy p = { .mode = s->mode,
                            .n_exits = 2,
                            .theta = { s->theta1, s->theta2 },
                            .upload = s->upload,
                            .upload_theta = s->upload_theta,
                            .screens = true };
        double at1 = policy_screen(&p, s->alone, 0), at2 = policy_screen(&p, s->alone, 1);
        if (at1 != s->at1 || at2 != s->at2)
            print_error("%s: %g and %g\n", s->what, at1, at2);
        assert_true(at1 == s->at1 && at2 == s->at2);
        p.screens = false;
        assert_true(policy_screen(&p, s->alone, 0) == 0);
        assert_true(policy_screen(&p, s->alone, 1) == 0);
    }
}

/* Below its screen's threshold, a confidence decides as any smaller one does. */
static void
below_is_enough(void **state)
{
    (void)state;
    for (int i = 0; i < 8 * 11 * 11; i++) {
        struct policy p = { .mode = C,
                            .n_exits = 2,
                            .theta = { i % 11 / 10.0, 0.5 },
                            .upload = i / 121 % 2 ? UB : UA,
                            .upload_theta = i / 11 % 11 / 10.0,
                            .screens = true };
        bool alone = i / 242 % 2;
        for (int k = 0; k < 2; k++) {
            double at = policy_screen(&p, alone, k);
            for (double c = 0.05; c < at; c += 0.1) {
                int next = -1, next0 = -1;
                assert_int_equal(policy_next(&p, alone, k, c, &next),
                                 policy_next(&p, alone, k, 0, &next0));
                assert_int_equal(next, next0);
                assert_true(policy_next(&p, alone, k, c, &next) != POLICY_EMIT);
                assert_true(k > 0 || alone ||
                            policy_release(&p, false, true, c) ==
                                policy_release(&p, false, true, 0));
            }
        }
    }
}

static void
stages(void **state)
{
    struct policy p = { .mode = C, .n_exits = 3, .theta = { 0.9, 0.9, 1.0 } };

    (void)state;
    assert_int_equal(policy_n_stages(&p), 2);
    p.on_loss = POLICY_LOSS_EDGE;
    assert_int_equal(policy_n_stages(&p), 3);
    p.on_loss = POLICY_LOSS_FAIL;
    p.theta[0] = p.theta[1] = 1;
    assert_int_equal(policy_n_stages(&p), 1);
    p.mode = S;
    assert_int_equal(policy_n_stages(&p), 3);
    p.mode = N;
    assert_int_equal(policy_n_stages(&p), 1);
}

static void
texts(void **state)
{
    static const int layers[] = { 18, 24 };
    struct policy p = { .n_exits = 2, .theta = { 0.5, 0.5 } };
    struct err e = { 0 };

    (void)state;
    assert_int_equal(policy_parse_theta(&p, layers, "0.75", &e), 0);
    assert_true(p.theta[0] == 0.75 && p.theta[1] == 0.75);
    assert_int_equal(policy_parse_theta(&p, layers, "24=0.9", &e), 0);
    assert_true(p.theta[0] == 0.75 && p.theta[1] == 0.9);
    assert_int_equal(policy_parse_theta(&p, layers, "24=1,18=0.98", &e), 0);
    assert_true(p.theta[0] == 0.98 && p.theta[1] == 1.0);
    static const char *const bad[] = { "",        "x",     "0.5x",     "-1",   "nan",
                                       "18=",     "18=a",  "18=0.5,",  "inf",  "=1",
                                       "18=.5;2", "19=.5", "18=.5,24", "18=-1" };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(policy_parse_theta(&p, layers, bad[i], &e), CE_EINVAL);
    assert_int_equal(policy_parse_upload(&p, "below:0.7", &e), 0);
    assert_int_equal(p.upload, UB);
    assert_true(p.upload_theta == 0.7);
    assert_int_equal(policy_parse_upload(&p, "on-request", &e), 0);
    assert_int_equal(policy_parse_upload(&p, "always", &e), 0);
    assert_int_equal(policy_parse_upload(&p, "below", &e), CE_EINVAL);
    assert_int_equal(policy_parse_upload(&p, "below:x", &e), CE_EINVAL);
    assert_int_equal(policy_parse_upload(&p, "never", &e), CE_EINVAL);
    assert_int_equal(policy_find_mode("edge-full"), POLICY_EDGE_FULL);
    assert_int_equal(policy_find_mode("edge"), -1);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(walk_table),      cmocka_unit_test(no_exits_always_ask),
        cmocka_unit_test(release),         cmocka_unit_test(screen_table),
        cmocka_unit_test(below_is_enough), cmocka_unit_test(stages),
        cmocka_unit_test(texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
