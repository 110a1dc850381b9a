/* SPDX-License-Identifier: Apache-2.0
 * test_decode.c - the decode loop against a backend and a cloud that only count
 * (decode_world.h).
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

static void
origins_follow_confidence(void **state)
{
    struct run *r = run_new(POLICY_COLLABORATIVE, 0.8, 0.8);

    (void)state;
    script("9191181", "0901101");
    assert_int_equal(run_prompt(r, 7), 0);
    assert_string_equal(r->origins, "12"
                                    "1"
                                    "CC"
                                    "1"
                                    "C");
    assert_int_equal(r->result.by_exit[0], 3);
    assert_int_equal(r->result.by_exit[1], 1);
    assert_int_equal(r->result.by_cloud, 3);
    assert_int_equal(r->result.requests, 3);
    assert_int_equal(r->result.stalls, 3);
    assert_int_equal(r->result.end, DECODE_END_LENGTH);
    assert_int_equal(r->port.closes, 1);
    assert_false(r->backend.open);
    /* Stage 0 ran every position; stage 1 caught up all 11 by the last request. */
    assert_int_equal(decode_rows_run(r->decoder, 0), 11);
    assert_int_equal(decode_rows_run(r->decoder, 1), 11);
    run_free(r);
}

static void
skipped_positions_wait(void **state)
{
    struct run *r = run_new(POLICY_COLLABORATIVE, 0.8, 0.8);

    (void)state;
    script("9999", "0000");
    assert_int_equal(run_prompt(r, 4), 0);
    assert_string_equal(r->origins, "1111");
    assert_int_equal(decode_rows_run(r->decoder, 0), 8);
    assert_int_equal(decode_rows_run(r->decoder, 1), 0);
    assert_int_equal(r->result.requests, 0);
    run_free(r);
}

static void
theta_one_equals_the_whole_model(void **state)
{
    struct run *whole = run_new(POLICY_EDGE_FULL, 1, 1);
    struct run *split = run_new(POLICY_COLLABORATIVE, 1, 1);
    struct run *naive = run_new(POLICY_NAIVE, 0.1, 0.1);

    (void)state;
    script("99999999", "99999999");
    assert_int_equal(run_prompt(whole, 8), 0);
    assert_int_equal(run_prompt(split, 8), 0);
    assert_int_equal(run_prompt(naive, 8), 0);
    assert_string_equal(whole->origins, "WWWWWWWW");
    assert_string_equal(split->origins, "CCCCCCCC");
    assert_memory_equal(whole->ids, split->ids, sizeof(whole->ids));
    assert_memory_equal(whole->hashes, split->hashes, sizeof(whole->hashes));
    assert_memory_equal(whole->ids, naive->ids, sizeof(whole->ids));
    assert_int_equal(split->backend.heads, 0); /* no exit head was computed */
    run_free(whole);
    run_free(split);
    run_free(naive);
}

/* Mixed origins: every token must still be a function of the whole text. The exits
 * computed from scratch over the same ids must give the same. */
static void
catch_up_is_exact(void **state)
{
    struct run *r = run_new(POLICY_COLLABORATIVE, 0.8, 0.8);
    struct fake_backend again = { .base = r->backend.base };
    int32_t text[CTX];
    float h = 0;

    (void)state;
    script("9911919191", "0019000900");
    assert_int_equal(run_prompt(r, 10), 0);
    memcpy(text, prompt, sizeof(prompt));
    memcpy(text + 5, r->ids, sizeof(int32_t) * 10);
    for (int p = 0; p < 14; p++) {
        float at[LAYERS + 1] = { (float)text[p] };
        h = at[0];
        for (int l = 0; l < LAYERS; l++)
            at[l + 1] = h = block(&again, l, h);
        if (p < 4)
            continue;
        char o = r->origins[p - 4];
        int layer = o == '1' ? 2 : o == '2' ? 4 : LAYERS;
        assert_int_equal(r->ids[p - 4], (int32_t)at[layer]);
    }
    run_free(r);
}

static void
upload_triggers(void **state)
{
    struct run *r = run_new(POLICY_COLLABORATIVE, 0.8, 1);

    (void)state;
    script("9959", "0000");
    assert_int_equal(run_prompt(r, 4), 0);
    /* chunks of 2, each released as it comes; requests at position 6 */
    assert_string_equal(r->port.log, "r2 r4 r5 r6 r7 i6 r8 ");
    run_free(r);

    r = run_new(POLICY_COLLABORATIVE, 0.8, 1);
    r->policy.upload = POLICY_UPLOAD_BELOW;
    r->policy.upload_theta = 0.6;
    assert_int_equal(run_prompt(r, 4), 0);
    assert_string_equal(r->port.log, "r2 r4 r7 i6 ");
    run_free(r);

    r = run_new(POLICY_COLLABORATIVE, 0.8, 1);
    r->policy.upload = POLICY_UPLOAD_ON_REQUEST;
    assert_int_equal(run_prompt(r, 4), 0);
    assert_string_equal(r->port.log, "i6 "); /* which releases what it needs */
    run_free(r);
}

static void
standalone_needs_no_cloud(void **state)
{
    struct run *r = run_new(POLICY_STANDALONE, 0.8, 0.8);

    (void)state;
    script("9111", "0900");
    assert_int_equal(run_prompt(r, 4), 0);
    assert_string_equal(r->origins, "1222");
    assert_string_equal(r->port.log, "");
    run_free(r);
}

static void
losing_the_cloud(void **state)
{
    struct run *r = run_new(POLICY_COLLABORATIVE, 0.8, 0.8);

    (void)state;
    script("191191", "011191");
    r->port.lose_at = 2;
    assert_int_equal(run_prompt(r, 6), CE_ECLOSED);
    assert_string_equal(r->err.text, "cloud: gone");
    assert_string_equal(r->origins, "C1");
    assert_int_equal(r->result.end, DECODE_END_ERROR);
    assert_int_equal(r->port.closes, 1);
    run_free(r);

    r = run_new(POLICY_COLLABORATIVE, 0.8, 0.8);
    r->port.lose_at = 2;
    r->policy.on_loss = POLICY_LOSS_EDGE;
    assert_int_equal(run_prompt(r, 6), 0);
    assert_string_equal(r->origins, "C1FF1F");
    assert_true(r->result.cloud_lost);
    assert_string_equal(r->result.loss.text, "cloud: gone");
    assert_int_equal(r->port.infers, 2); /* not asked again */
    assert_int_equal(r->result.by_fallback, 3);
    run_free(r);
}

/* The cloud comes back in the middle: the positions made alone went up meanwhile, and its
 * tokens are again those of the whole model. */
static void
the_cloud_comes_back(void **state)
{
    struct run *r = run_new(POLICY_COLLABORATIVE, 0.8, 0.8);

    (void)state;
    script("191191", "011191");
    r->port.base.ops = &fp_ops_back;
    r->port.lose_at = 2;
    r->port.back_at = 1; /* at the next position */
    r->policy.on_loss = POLICY_LOSS_EDGE;
    assert_int_equal(run_prompt(r, 6), 0);
    assert_string_equal(r->origins, "C1FC1C");
    assert_true(r->result.cloud_lost);
    assert_int_equal(r->port.n_backs, 1); /* not asked when it is there */
    run_free(r);

    r = run_new(POLICY_COLLABORATIVE, 0.8, 0.8);
    r->port.base.ops = &fp_ops_back;
    r->port.lose_at = 2;
    r->port.back_at = -1;
    r->policy.on_loss = POLICY_LOSS_EDGE;
    assert_int_equal(run_prompt(r, 6), 0);
    assert_string_equal(r->origins, "C1FF1F");
    assert_int_equal(r->port.n_backs, 1);
    run_free(r);
}

static void
trace_computes_every_head(void **state)
{
    struct run *r = run_new(POLICY_COLLABORATIVE, 0.8, 0.8);
    struct run *plain = run_new(POLICY_COLLABORATIVE, 0.8, 0.8);

    (void)state;
    script("91191", "01910");
    r->trace = true;
    assert_int_equal(run_prompt(r, 5), 0);
    assert_int_equal(run_prompt(plain, 5), 0);
    assert_int_equal(r->cells, 15);
    assert_string_equal(r->origins, plain->origins);
    assert_memory_equal(r->ids, plain->ids, sizeof(r->ids));
    assert_int_equal(r->result.requests, plain->result.requests);
    assert_int_equal(r->result.probes, 5 - r->result.requests);
    run_free(r);
    run_free(plain);
}

static void
ends_of_answers(void **state)
{
    struct run *r = run_new(POLICY_EDGE_FULL, 1, 1);

    (void)state;
    assert_int_equal(run_prompt(r, 100), 0); /* the context: 16 positions, 5 taken */
    assert_int_equal(r->result.end, DECODE_END_CONTEXT);
    assert_int_equal(r->n, 12); /* the last one needs no place of its own */
    run_free(r);

    int32_t longer[17] = { 0 };
    struct decode_request q = { .prompt = longer, .n_prompt = 17, .max_tokens = 1 };
    sampler_params_init(&q.sampling);
    r = run_new(POLICY_EDGE_FULL, 1, 1);
    assert_int_equal(run_prompt(r, 1), 0);
    assert_int_equal(decode_answer(r->decoder, &q, &r->result, &r->err), CE_ECONTEXT);
    assert_string_equal(r->err.text, "the prompt has 17 tokens, the context holds 16");
    q.n_prompt = 0;
    assert_int_equal(decode_answer(r->decoder, &q, &r->result, &r->err), CE_EINVAL);
    static const int32_t forced[] = { 7, 8, EOG, 9 };
    q.n_prompt = 2;
    q.forced = forced;
    q.n_forced = 4;
    assert_int_equal(decode_answer(r->decoder, &q, &r->result, &r->err), 0);
    assert_int_equal(r->result.end, DECODE_END_FORCED);
    assert_int_equal(r->result.n_tokens, 4);
    decode_interrupt(r->decoder);
    assert_int_equal(decode_answer(r->decoder, &q, &r->result, &r->err), 0);
    assert_int_equal(r->result.end, DECODE_END_INTERRUPT);
    assert_int_equal(r->result.n_tokens, 0);
    run_free(r);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(origins_follow_confidence),
        cmocka_unit_test(skipped_positions_wait),
        cmocka_unit_test(theta_one_equals_the_whole_model),
        cmocka_unit_test(catch_up_is_exact),
        cmocka_unit_test(upload_triggers),
        cmocka_unit_test(standalone_needs_no_cloud),
        cmocka_unit_test(losing_the_cloud),
        cmocka_unit_test(the_cloud_comes_back),
        cmocka_unit_test(trace_computes_every_head),
        cmocka_unit_test(ends_of_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
