/* SPDX-License-Identifier: Apache-2.0
 * test_content.c - the content manager's rules, one at a time: credit, pressure,
 * holes, parking, deadlines, drafts, keep_kv, GENERATE, limits, memory.
 */
#include "tests/unit/content_double.h"

#define WINDOW 32

static struct double_state d;

static int
set_up(void **state)
{
    (void)state;
    double_init(&d, WINDOW);
    return 0;
}

static int
tear_down(void **state)
{
    (void)state;
    content_session_gone(d.content, SESSION);
    assert_int_equal(content_n_seqs(d.content), 0);
    assert_int_equal(content_n_runnable(d.content), 0);
    assert_int_equal(content_bytes(d.content), 0);
    assert_int_equal(content_rows(d.content), 0);
    double_fini(&d);
    return 0;
}

static const struct answer *
expect(enum frame_type type)
{
    const struct answer *a = next_answer(&d);

    assert_int_equal(a->type, type);
    return a;
}

static void
expect_error(int code)
{
    assert_int_equal(expect(FRAME_ERROR)->code, code);
}

static void
expect_nothing(void)
{
    assert_int_equal(d.n_seen, d.n_answers);
}

/* Rows of branch 0 and id 0 with values 1 + pos. */
static void
rows(uint32_t seq, uint32_t pos, uint32_t n)
{
    uint32_t values[MAX_POS], i;

    for (i = 0; i < n; i++)
        values[i] = pos + i + 1;
    put_states(&d, seq, 0, 0, pos, values, n);
}

static void
open_seq(uint32_t seq)
{
    put_open(&d, seq, MAX_POS, true);
    assert_int_equal(expect(FRAME_CREDIT)->limit, WINDOW);
}

static void
test_open(void **state)
{
    (void)state;
    put_open(&d, 1, 0, true);
    expect_error(CE_ECONTEXT);
    put_open(&d, 1, MAX_POS + 1, true);
    expect_error(CE_ECONTEXT);
    put_open(&d, 1, 10, true);
    assert_int_equal(expect(FRAME_CREDIT)->limit, 10);
    open_seq(2);
    open_seq(3);
    open_seq(4);
    put_open(&d, 5, 10, true); /* the double has room for four */
    expect_error(CE_EQUOTA);
    content_close(d.content, SESSION, 1);
    content_close(d.content, SESSION, 1);
    open_seq(5);
    content_session_gone(d.content, SESSION + 1);
    assert_int_equal(content_n_seqs(d.content), 4);
}

static void
test_waits_for_an_infer(void **state)
{
    (void)state;
    open_seq(1);
    rows(1, 0, 8);
    assert_int_equal(content_n_runnable(d.content), 0);
    put_infer(&d, 1, 0, 8); /* one row short */
    assert_int_equal(content_n_runnable(d.content), 0);
    rows(1, 8, 1);
    assert_int_equal(content_n_runnable(d.content), 1);
    double_drain(&d, MAX_POS);
    assert_int_equal(expect(FRAME_TOKEN)->rows, 9);
    assert_int_equal(expect(FRAME_CREDIT)->limit, WINDOW + 9);
    assert_int_equal(content_rows(d.content), 0); /* freed once computed */
    put_infer(&d, 1, 0, 3);
    expect_error(CE_EINVAL);
}

static void
test_several_answers_in_one_run(void **state)
{
    (void)state;
    open_seq(1);
    rows(1, 0, 20);
    put_infer(&d, 1, 0, 4);
    put_infer(&d, 1, 0, 5);
    put_infer(&d, 1, 0, 7);
    put_infer(&d, 1, 0, 19); /* far: a step of its own */
    assert_int_equal(double_step(&d, MAX_POS), 1);
    assert_int_equal(expect(FRAME_TOKEN)->pos, 4);
    assert_int_equal(expect(FRAME_TOKEN)->pos, 5);
    assert_int_equal(expect(FRAME_TOKEN)->pos, 7);
    assert_int_equal(expect(FRAME_CREDIT)->limit, WINDOW + 8);
    expect_nothing();
    double_drain(&d, 3); /* in chunks */
    expect(FRAME_CREDIT);
    assert_int_equal(expect(FRAME_TOKEN)->pos, 19);
}

static void
test_infer_refused(void **state)
{
    uint32_t i;

    (void)state;
    open_seq(1);
    put_infer(&d, 1, 0, 5);
    put_infer(&d, 1, 0, 5); /* not ascending */
    expect_error(CE_EINVAL);
    open_seq(2);
    put_infer(&d, 2, 1, 5);
    expect_error(CE_EPROTO);
    open_seq(3);
    put_infer(&d, 3, 0, MAX_POS);
    expect_error(CE_ECONTEXT);
    open_seq(4);
    for (i = 0; i <= CONTENT_MAX_PENDING; i++)
        put_infer(&d, 4, 0, i);
    expect_error(CE_EQUOTA);
    put_infer(&d, 99, 0, 0); /* nobody */
    expect_nothing();
}

/* What is left up to max_pos is less than a step; the agent must get it all the same. */
static void
test_last_credit(void **state)
{
    (void)state;
    put_open(&d, 1, WINDOW + 4, true);
    assert_int_equal(expect(FRAME_CREDIT)->limit, WINDOW);
    rows(1, 0, WINDOW);
    put_infer(&d, 1, 0, WINDOW + 3);
    double_drain(&d, 1);
    assert_int_equal(expect(FRAME_CREDIT)->limit, WINDOW + 1);
    assert_int_equal(expect(FRAME_CREDIT)->limit, WINDOW + 4);
    rows(1, WINDOW, 4);
    double_drain(&d, 1);
    assert_int_equal(expect(FRAME_TOKEN)->pos, WINDOW + 3);
}

static void
test_credit_in_steps(void **state)
{
    uint32_t limit = WINDOW, pos;
    int credits = 0;

    (void)state;
    open_seq(1);
    for (pos = 0; pos < 200; pos++) { /* a decode, token by token */
        assert_true(pos < limit);
        rows(1, pos, 1);
        put_infer(&d, 1, 0, pos);
        double_drain(&d, MAX_POS);
        while (d.n_seen < d.n_answers) {
            const struct answer *a = next_answer(&d);

            if (a->type != FRAME_CREDIT)
                continue;
            assert_true(a->limit > limit && a->limit <= pos + 1 + WINDOW);
            limit = a->limit;
            credits++;
        }
    }
    assert_true(credits > 10 && credits <= 200 / (WINDOW / 4));
}

static void
test_pressure(void **state)
{
    uint32_t limit = WINDOW, sent = 0, i;

    (void)state;
    open_seq(1);
    while (sent < 150) { /* a prompt longer than the window, nothing asked yet */
        uint32_t n = limit - sent < 7 ? limit - sent : 7;

        if (n == 0)
            fail_msg("no credit left at %u", sent);
        rows(1, sent, n);
        sent += n;
        double_step(&d, 4);
        while (d.n_seen < d.n_answers)
            limit = expect(FRAME_CREDIT)->limit;
        assert_true(content_rows(d.content) <= WINDOW);
        if (sent == limit) {
            double_drain(&d, MAX_POS);
            while (d.n_seen < d.n_answers)
                limit = expect(FRAME_CREDIT)->limit;
        }
    }
    assert_true(sent - d.kv[0].n >= WINDOW / 2); /* room for an INFER on its way */
    for (i = WINDOW / 2; i > 0; i--)
        put_infer(&d, 1, 0, sent - i);
    double_drain(&d, MAX_POS);
    for (i = WINDOW / 2; i > 0; i--) {
        const struct answer *a = next_answer(&d);

        if (a->type == FRAME_CREDIT)
            a = next_answer(&d);
        assert_int_equal(a->pos, sent - i);
    }
}

static void
test_holes_and_repeats(void **state)
{
    (void)state;
    open_seq(1);
    rows(1, 0, 4);
    rows(1, 0, 4); /* had */
    rows(1, 2, 4); /* half had */
    assert_int_equal(content_rows(d.content), 6);
    rows(1, 7, 1);
    expect_error(CE_EGAP);
    assert_int_equal(content_rows(d.content), 0);
    rows(1, 0, 1); /* of nobody */
    expect_nothing();
}

static void
test_states_refused(void **state)
{
    uint32_t values[1] = { 1 };

    (void)state;
    open_seq(1);
    put_states(&d, 1, 0, 1, 0, values, 1); /* an id that nobody gave */
    expect_error(CE_EPROTO);
    put_open(&d, 2, 10, true);
    expect(FRAME_CREDIT);
    rows(2, 9, 2); /* past max_pos */
    expect_error(CE_EPROTO);
}

static void
test_parked_rows_are_bounded(void **state)
{
    uint32_t values[WINDOW + 1] = { 0 };

    (void)state;
    open_seq(1);
    put_states(&d, 1, 1, 0, 0, values, WINDOW);
    expect_nothing();
    put_states(&d, 1, 2, 0, 0, values, 1); /* dropped */
    assert_int_equal(content_rows(d.content), WINDOW);
    put_truncate(&d, 1, 1, 0);
    put_truncate(&d, 1, 2, 0);
    expect_nothing();
    double_step(&d, MAX_POS);
    assert_int_equal(expect(FRAME_NEED)->pos, 0);
    put_states(&d, 1, 2, 1, 0, values, 1);
    put_infer(&d, 1, 2, 0);
    double_drain(&d, MAX_POS);
    assert_int_equal(expect(FRAME_TOKEN)->pos, 0);
}

static void
test_history_is_bounded(void **state)
{
    uint32_t values[4] = { 1, 2, 3, 4 }, b;

    (void)state;
    open_seq(1);
    for (b = 1; b <= CONTENT_HISTORY; b++)
        put_truncate(&d, 1, b, 2);
    put_states(&d, 1, 0, 0, 0, values, 4); /* two are live, after 64 truncations */
    assert_int_equal(content_rows(d.content), 2);
    put_truncate(&d, 1, b, 0);
    put_states(&d, 1, 0, 0, 0, values, 4); /* forgotten: not live */
    assert_int_equal(content_rows(d.content), 0);
    put_truncate(&d, 1, b, 0); /* the same again */
    expect_error(CE_EPROTO);
}

/* A deep truncation leaves credit far above the window: what comes past two
 * windows is asked for again instead of held. */
static void
test_deep_truncation_is_bounded(void **state)
{
    uint32_t values[MAX_POS] = { 0 }, pos;
    const struct answer *need;

    (void)state;
    open_seq(1);
    for (pos = 0; pos < 150; pos++) {
        rows(1, pos, 1);
        put_infer(&d, 1, 0, pos);
        double_drain(&d, MAX_POS);
    }
    put_truncate(&d, 1, 1, 0);
    d.n_seen = d.n_answers;
    for (pos = 0; pos < 150 && d.n_seen == d.n_answers; pos += 5)
        put_states(&d, 1, 1, 0, pos, values, 5);
    assert_true(content_rows(d.content) <= 2 * WINDOW + 5);
    need = expect(FRAME_NEED);
    assert_int_equal(need->id, 1);
    assert_int_equal(need->branch, 1);
    put_states(&d, 1, 1, 0, pos, values, 5); /* still the old id: dropped */
    double_drain(&d, MAX_POS);
    assert_true(expect(FRAME_CREDIT)->limit > need->limit);
    put_states(&d, 1, 1, 1, need->pos, values, 3);
    put_infer(&d, 1, 1, need->pos + 2);
    double_drain(&d, MAX_POS);
    assert_int_equal(expect(FRAME_TOKEN)->pos, need->pos + 2);
}

static void
test_deadlines(void **state)
{
    struct frame_infer f = { .epoch = 1, .seq = 1, .pos = 3, .deadline_ms = 20 };
    struct frame_cancel cancel = { 1, 1, 3 };

    (void)state;
    open_seq(1);
    assert_true(content_expire(d.content, d.now_us) == INT64_MAX);
    content_infer(d.content, SESSION, &f, d.now_us);
    assert_true(content_expire(d.content, d.now_us) == d.now_us + 20000);
    content_cancel(d.content, SESSION, &cancel, d.now_us);
    assert_true(content_expire(d.content, d.now_us + 90000) == INT64_MAX);
    expect_nothing();
    content_infer(d.content, SESSION, &f, d.now_us);
    content_expire(d.content, d.now_us + 19999);
    expect_nothing();
    content_expire(d.content, d.now_us + 20000);
    expect_error(CE_ETIMEOUT);
}

static void
ask_draft(uint32_t pos, uint32_t draft, uint32_t n_top)
{
    struct frame_infer f = { .epoch = 1,
                             .seq = 1,
                             .pos = pos,
                             .has_draft = true,
                             .draft = draft,
                             .n_top = n_top };

    content_infer(d.content, SESSION, &f, d.now_us);
}

static void
test_wrong_draft_drops_what_follows(void **state)
{
    (void)state;
    open_seq(1);
    rows(1, 0, 4);
    ask_draft(1, 30001, 0); /* no token is that */
    ask_draft(2, 0, 0);
    double_drain(&d, MAX_POS);
    assert_int_equal(expect(FRAME_TOKEN)->pos, 1);
    expect_nothing();
    rows(1, 4, 4);
    ask_draft(5, 30001, 9); /* the agent samples: only it knows */
    ask_draft(6, 0, 0);
    double_drain(&d, MAX_POS);
    assert_int_equal(expect(FRAME_TOKEN)->pos, 5);
    assert_int_equal(expect(FRAME_TOKEN)->pos, 6);
}

static void
test_without_keeping(void **state)
{
    uint32_t p;

    (void)state;
    put_open(&d, 1, MAX_POS, false);
    for (p = 60; p < 75; p++) { /* everything again for each token */
        rows(1, 0, p + 1);
        put_infer(&d, 1, 0, p);
        double_drain(&d, MAX_POS);
        assert_int_equal(d.kv[0].n, 0);
        assert_int_equal(content_rows(d.content), 0);
    }
    for (p = 0; d.n_seen < d.n_answers;)
        p += next_answer(&d)->type == FRAME_TOKEN;
    assert_int_equal(p, 15);
}

static void
generate(uint32_t seq, uint32_t n_ids, uint32_t max_tokens, uint32_t first)
{
    uint8_t ids[4 * MAX_POS] = { (uint8_t)first, (uint8_t)(first >> 8) };
    struct frame_generate f = { .epoch = 1,
                                .seq = seq,
                                .max_tokens = max_tokens,
                                .top_p = 1,
                                .ids = ids,
                                .n_ids = n_ids };

    content_generate(d.content, SESSION, &f, d.now_us);
}

static void
test_generate(void **state)
{
    uint32_t values[MAX_POS] = { 9 }, i;

    (void)state;
    open_seq(1);
    generate(1, 10, 5, 9);
    double_drain(&d, 4); /* the prompt in chunks of four */
    for (i = 0; i < 5; i++) {
        const struct answer *a = expect(FRAME_TOKEN);

        assert_int_equal(a->pos, 9 + i);
        assert_int_equal(a->token, hash_values(values, 10 + i));
        values[10 + i] = a->token;
        assert_int_equal(a->last, i == 4);
    }
    put_infer(&d, 1, 0, 20); /* done is done */
    expect_error(CE_EPROTO);
    put_open(&d, 2, 12, true);
    expect(FRAME_CREDIT);
    generate(2, 10, 50, 9); /* to the end of what was opened */
    double_drain(&d, 4);
    for (i = 0; i < 3; i++)
        assert_int_equal(expect(FRAME_TOKEN)->last, i == 2);
    expect_nothing();
}

static void
test_generate_refused(void **state)
{
    (void)state;
    open_seq(1);
    generate(1, 0, 5, 1);
    expect_error(CE_EINVAL);
    open_seq(1);
    generate(1, 4, 0, 1);
    expect_error(CE_EINVAL);
    open_seq(1);
    generate(1, 4, 4, 30000); /* not in the vocabulary */
    expect_error(CE_EINVAL);
    put_open(&d, 1, 3, true);
    expect(FRAME_CREDIT);
    generate(1, 4, 4, 1);
    expect_error(CE_ECONTEXT);
    open_seq(1);
    rows(1, 0, 1);
    generate(1, 4, 4, 1);
    expect_error(CE_EPROTO);
    open_seq(1);
    generate(1, 4, 4, 1);
    generate(1, 4, 4, 1);
    expect_error(CE_EPROTO);
}

static void
test_a_failed_run_ends_its_sequence(void **state)
{
    struct content_work work[2];
    struct content_run run;
    float hidden[MAX_POS * D_MODEL];
    int32_t tokens[MAX_POS];

    (void)state;
    open_seq(1);
    open_seq(2);
    rows(1, 0, 3);
    put_infer(&d, 1, 0, 2);
    assert_int_equal(content_runnable(d.content, work, 2), 1);
    assert_int_equal(content_run_begin(d.content, work[0].seq, 9, hidden, tokens, &run),
                     0);
    content_run_failed(d.content, &run, CE_EQUOTA, "full", 100);
    expect_error(CE_EQUOTA);
    assert_int_equal(content_n_seqs(d.content), 1);
}

static void
test_many_sequences(void **state)
{
    uint32_t i;

    (void)state;
    for (i = 0; i < 300; i++) { /* the table grows; kv handles come and go */
        put_open(&d, i, 5, true);
        content_close(d.content, SESSION, i > 2 ? i - 3 : 1000);
    }
    assert_int_equal(content_n_seqs(d.content), 3);
}

/* With eager, another sequence manager: the rows of a prompt, ahead of its INFER. */
static void
start_eager(enum content_eager eager)
{
    double_fini(&d);
    double_eager = eager;
    double_init(&d, 64);
    double_eager = CONTENT_EAGER_NEVER;
    put_open(&d, 1, MAX_POS, true);
    assert_int_equal(expect(FRAME_CREDIT)->limit, 64);
}

static void
test_eager_prompt(void **state)
{
    struct content_work work[1];

    (void)state;
    start_eager(CONTENT_EAGER_PROMPT);
    rows(1, 0, 20);
    assert_int_equal(content_n_runnable(d.content), 0); /* not worth a step */
    rows(1, 20, 10);
    assert_int_equal(content_runnable(d.content, work, 1), 1);
    assert_true(work[0].eager);
    assert_int_equal(work[0].n_rows, 22); /* the newest stay for an INFER */
    double_drain(&d, 30);
    assert_int_equal(content_rows(d.content), 8);
    assert_int_equal(expect(FRAME_CREDIT)->limit, 64 + 22);
    put_infer(&d, 1, 0, 29);
    assert_int_equal(content_runnable(d.content, work, 1), 1);
    assert_false(work[0].eager);
    double_drain(&d, 30);
    assert_int_equal(expect(FRAME_TOKEN)->rows, 8);
    rows(1, 30, 40); /* past the first answer: on request only */
    assert_int_equal(content_n_runnable(d.content), 0);
}

static void
test_eager_below_an_infer(void **state)
{
    struct content_work work[1];

    (void)state;
    start_eager(CONTENT_EAGER_ALWAYS);
    put_infer(&d, 1, 0, 60);
    rows(1, 0, 40);
    assert_int_equal(content_runnable(d.content, work, 1), 1);
    assert_true(work[0].eager);
    assert_int_equal(work[0].n_rows, 40); /* all: it asks above them */
    double_drain(&d, 40);
    expect(FRAME_CREDIT);
    rows(1, 40, 21);
    double_drain(&d, 40);
    assert_int_equal(expect(FRAME_TOKEN)->pos, 60);
}

static void
test_an_infer_that_eager_work_overtook(void **state)
{
    (void)state;
    start_eager(CONTENT_EAGER_ALWAYS);
    rows(1, 0, 40);
    double_drain(&d, 40);
    expect(FRAME_CREDIT);
    put_infer(&d, 1, 0, 10); /* late: its row is gone */
    assert_int_equal(expect(FRAME_NEED)->pos, 10);
    put_states(&d, 1, 0, 1, 10, (uint32_t[]){ 11, 12 }, 2); /* the replay */
    double_drain(&d, 40);
    assert_int_equal(expect(FRAME_TOKEN)->pos, 10);
    put_infer(&d, 1, 0, 10); /* asked and answered */
    expect_error(CE_EINVAL);
}

int
main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_open),
        TEST(test_waits_for_an_infer),
        TEST(test_several_answers_in_one_run),
        TEST(test_infer_refused),
        TEST(test_last_credit),
        TEST(test_credit_in_steps),
        TEST(test_pressure),
        TEST(test_holes_and_repeats),
        TEST(test_states_refused),
        TEST(test_parked_rows_are_bounded),
        TEST(test_history_is_bounded),
        TEST(test_deep_truncation_is_bounded),
        TEST(test_deadlines),
        TEST(test_wrong_draft_drops_what_follows),
        TEST(test_without_keeping),
        TEST(test_generate),
        TEST(test_generate_refused),
        TEST(test_a_failed_run_ends_its_sequence),
        TEST(test_many_sequences),
        TEST(test_eager_prompt),
        TEST(test_eager_below_an_infer),
        TEST(test_an_infer_that_eager_work_overtook),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
