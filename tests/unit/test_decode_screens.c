/* SPDX-License-Identifier: Apache-2.0
 * test_decode_screens.c - when the decode loop lets a screen end an exit's check, and
 * what becomes of the token.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/decode_world.h"

static struct run *
run_screened(enum policy_mode mode, double theta1, double theta2)
{
    struct run *r = run_new(mode, theta1, theta2);

    r->policy.screens = true;
    r->no_hash = true;
    memset(mistaken, 0, sizeof(mistaken));
    return r;
}

static void
screens_change_no_token(void **state)
{
    struct run *plain = run_new(POLICY_COLLABORATIVE, 0.8, 0.7);
    struct run *r = run_screened(POLICY_COLLABORATIVE, 0.8, 0.7);

    (void)state;
    script("9191181", "0901101");
    plain->no_hash = true;
    assert_int_equal(run_prompt(plain, 7), 0);
    assert_int_equal(run_prompt(r, 7), 0);
    assert_string_equal(r->origins, "121CC1C");
    assert_string_equal(plain->origins, r->origins);
    assert_memory_equal(plain->ids, r->ids, sizeof(r->ids));
    assert_string_equal(plain->port.log, r->port.log);
    assert_string_equal(r->backend.asked, "1/0.8 "
                                          "1/0.8 2/0.7 "
                                          "1/0.8 "
                                          "1/0.8 2/0.7 "
                                          "1/0.8 2/0.7 "
                                          "1/0.8 "
                                          "1/0.8 2/0.7 ");
    assert_int_equal(r->result.screened, 7);
    assert_int_equal(r->backend.below, 7);
    assert_int_equal(plain->result.screened, 0);
    assert_int_equal(plain->backend.heads, r->backend.heads);
    run_free(plain);
    run_free(r);
}

/* A mistaken screen sends a token deeper; what comes from there is whole. */
static void
a_mistaken_screen_goes_deeper(void **state)
{
    struct run *r = run_screened(POLICY_COLLABORATIVE, 0.8, 0.8);

    (void)state;
    script("9999", "9099");
    mistaken[0][4] = mistaken[0][5] = mistaken[0][7] = mistaken[1][7] = true;
    assert_int_equal(run_prompt(r, 4), 0);
    assert_string_equal(r->origins, "2C1C");
    for (int i = 0; i < r->n; i++)
        assert_true(r->ids[i] != 777777);
    assert_int_equal(r->result.screened, 5);
    run_free(r);
}

/* The last exit's token counts, whatever its confidence. */
static void
standalone_screens_all_but_the_last(void **state)
{
    struct run *r = run_screened(POLICY_STANDALONE, 0.8, 0.8);

    (void)state;
    script("911", "091");
    assert_int_equal(run_prompt(r, 3), 0);
    assert_string_equal(r->origins, "122");
    assert_string_equal(r->backend.asked, "1/0.8 1/0.8 2/0 1/0.8 2/0 ");
    assert_int_equal(r->result.screened, 2);
    run_free(r);
}

/* Lost in the middle of a position: the last exit has said "below" and is asked again,
 * on the same row; the first one's answer still holds. */
static void
a_fallback_asks_in_full(void **state)
{
    struct run *r = run_screened(POLICY_COLLABORATIVE, 0.8, 0.7);
    struct run *plain = run_new(POLICY_COLLABORATIVE, 0.8, 0.7);

    (void)state;
    script("191", "010");
    plain->policy.on_loss = r->policy.on_loss = POLICY_LOSS_EDGE;
    plain->port.lose_at = r->port.lose_at = 1;
    assert_int_equal(run_prompt(plain, 3), 0);
    assert_int_equal(run_prompt(r, 3), 0);
    assert_string_equal(r->origins, "F1F");
    assert_memory_equal(plain->ids, r->ids, sizeof(r->ids));
    assert_string_equal(r->backend.asked, "1/0.8 2/0.7 2/0 "
                                          "1/0.8 "
                                          "1/0.8 2/0 ");
    assert_int_equal(r->result.screened, 2); /* and one that had to be done after all */
    run_free(r);
    run_free(plain);
}

/* The first exit's confidence has two thresholds: the smaller one is screened. */
static void
upload_trigger_and_screen(void **state)
{
    static const struct {
        double theta, upload;
        const char *origins, *log, *asked;
    } cases[] = {
        { 0.8, 0.6, "11C1", "r2 r4 r7 i6 ", "1/0.6 1/0.6 1/0.6 1/0.6 " },
        { 0.6, 0.8, "11C1", "r2 r4 r7 i6 ", "1/0.6 1/0.6 1/0.6 1/0.6 " },
        { 1.0, 0.6, "CCCC", "r2 r4 i4 i5 r7 i6 i7 ", "1/0.6 1/0.6 1/0.6 1/0.6 " },
    };

    (void)state;
    script("9959", "0000");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct run *r = run_screened(POLICY_COLLABORATIVE, cases[i].theta, 1);
        r->policy.upload = POLICY_UPLOAD_BELOW;
        r->policy.upload_theta = cases[i].upload;
        assert_int_equal(run_prompt(r, 4), 0);
        assert_string_equal(r->origins, cases[i].origins);
        assert_string_equal(r->port.log, cases[i].log);
        assert_string_equal(r->backend.asked, cases[i].asked);
        run_free(r);
    }
}

static void
nothing_is_screened_that_is_shown(void **state)
{
    struct run *traced = run_screened(POLICY_COLLABORATIVE, 0.8, 0.8);
    struct run *hashed = run_screened(POLICY_COLLABORATIVE, 0.8, 0.8);
    struct run *off = run_screened(POLICY_COLLABORATIVE, 0.8, 0.8);

    (void)state;
    script("191", "091");
    traced->trace = true;
    hashed->no_hash = false;
    off->policy.screens = false;
    assert_int_equal(run_prompt(traced, 3), 0);
    assert_int_equal(run_prompt(hashed, 3), 0);
    assert_int_equal(run_prompt(off, 3), 0);
    assert_null(strstr(traced->backend.asked, "/0."));
    assert_null(strstr(hashed->backend.asked, "/0."));
    assert_null(strstr(off->backend.asked, "/0."));
    assert_int_equal(traced->result.screened, 0);
    run_free(traced);
    run_free(hashed);
    run_free(off);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(screens_change_no_token),
        cmocka_unit_test(a_mistaken_screen_goes_deeper),
        cmocka_unit_test(standalone_screens_all_but_the_last),
        cmocka_unit_test(a_fallback_asks_in_full),
        cmocka_unit_test(upload_trigger_and_screen),
        cmocka_unit_test(nothing_is_screened_that_is_shown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
