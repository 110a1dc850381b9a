/* SPDX-License-Identifier: Apache-2.0
 * test_answer_batch.c - answers do not depend on how many are written side by side.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/exits_world.h"

#define MODEL "test_answer_batch.gguf"
#define EXITS "test_answer_batch.exits.gguf"

static int
open_world(void **state)
{
    static struct exits_world world;

    exits_world_open(&world, MODEL, EXITS);
    *state = &world;
    return 0;
}

static int
close_world(void **state)
{
    exits_world_close(*state, MODEL, EXITS);
    return 0;
}

static void
compare(struct exits_world *w, const double *theta)
{
    static struct plain_run alone, together;

    plain_answers(&alone, w, theta, 1);
    assert_int_equal(alone.most, 1);
    for (int width = 2; width <= WORLD_WIDTH; width += 3) {
        plain_answers(&together, w, theta, width);
        assert_int_equal(together.most, width);
        for (int i = 0; i < WORLD_PROMPTS; i++)
            assert_memory_equal(&alone.answers[i], &together.answers[i],
                                sizeof(alone.answers[i]));
    }
}

static void
test_full_model(void **state)
{
    compare(*state, (double[]){ 1, 1 });
}

static void
test_with_exits(void **state)
{
    compare(*state, (double[]){ 0.3, 0.2 });
}

/* The token by token way of a lone sequence. */
static void
test_against_steps(void **state)
{
    struct exits_world *w = *state;
    static struct plain_run r;
    struct err err = { 0 };

    plain_answers(&r, w, (double[]){ 1, 1 }, WORLD_WIDTH);
    for (int i = 0; i < WORLD_PROMPTS; i++) {
        const struct prompt *p = &w->prompts.list[i];
        int seq;

        assert_int_equal(backend_seq_open(w->backend, &seq, &err), 0);
        for (int j = 0; j < p->n + r.answers[i].n - 1; j++) {
            int32_t id = j < p->n ? p->ids[j] : r.answers[i].tokens[j - p->n];
            struct head_result result;
            struct batch_item item = { .seq = seq,
                                       .pos = j,
                                       .n_rows = 1,
                                       .tokens = &id,
                                       .head_rows = 1,
                                       .results = &result };
            struct batch batch = { .layer_to = w->backend->info.n_layers,
                                   .head = HEAD_FINAL,
                                   .n_items = 1,
                                   .items = &item };

            assert_int_equal(backend_run(w->backend, &batch, &err), 0);
            if (j >= p->n - 1)
                assert_int_equal(result.argmax, r.answers[i].tokens[j - p->n + 1]);
        }
        backend_seq_close(w->backend, seq);
    }
}

static int
refuse(void *ctx, struct answer *a, struct err *err)
{
    (void)ctx;
    (void)a;
    return err_set(err, CE_EIO, "enough");
}

/* An error ends the batch, and no sequence is left open. */
static void
test_error_ends(void **state)
{
    struct exits_world *w = *state;
    static struct plain_run r;
    struct answer_batch batch = { .staged = &w->staged,
                                  .vocab = w->vocab,
                                  .width = WORLD_WIDTH,
                                  .next = plain_next,
                                  .choose = plain_choose,
                                  .done = refuse,
                                  .ctx = &r };
    struct err err = { 0 };

    r.prompts = &w->prompts;
    r.theta = (double[]){ 1, 1 };
    assert_int_equal(answer_batch_run(&batch, &err), CE_EIO);
    assert_string_equal(err.text, "enough");
    assert_int_equal(backend_kv_bytes(w->backend, -1), 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_full_model),
                                        cmocka_unit_test(test_with_exits),
                                        cmocka_unit_test(test_against_steps),
                                        cmocka_unit_test(test_error_ends) };

    return cmocka_run_group_tests(tests, open_world, close_world);
}
