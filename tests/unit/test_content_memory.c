/* SPDX-License-Identifier: Apache-2.0
 * test_content_memory.c - the content manager when pages and rows do not suffice:
 * never more than the budget, every answer right, nobody waits for ever.
 *
 * First the rules one by one, then worlds of many agents whose budget is a quarter of
 * what they want, in turns and at random.
 */
#define MAX_KV 24
#include "tests/unit/content_agent.h"

#include <stdio.h>
#include <stdlib.h>

#define WINDOW 32
#define LAYERS 2 /* that a sequence runs; a page of one block is a byte */

static struct double_state d;

static int
tear_down(void **state)
{
    uint64_t session;

    (void)state;
    if (!d.content)
        return 0;
    for (session = 1; session < 30; session++)
        content_session_gone(d.content, session);
    assert_int_equal(content_n_seqs(d.content), 0);
    assert_int_equal(content_bytes(d.content), 0);
    assert_int_equal(content_kv_bytes(d.content), 0);
    assert_int_equal(content_row_bytes(d.content), 0);
    assert_int_equal(content_n_wants(d.content), 0);
    double_fini(&d);
    d.content = NULL;
    double_kv_budget = double_states_budget = double_kv_limit = 0;
    double_seq_idle_us = 0;
    double_session = SESSION;
    double_eager = CONTENT_EAGER_NEVER;
    return 0;
}

/* Pages that the "cache" really has. */
static size_t
pages_held(void)
{
    size_t n = 0, i;

    for (i = 0; i < MAX_KV; i++)
        if (d.kv[i].open)
            n += (d.kv[i].n + 63) / 64 * LAYERS;
    return n;
}

static void
check_budgets(void)
{
    if (double_kv_budget) {
        assert_true(pages_held() <= content_kv_bytes(d.content));
        assert_true(content_kv_bytes(d.content) <= double_kv_budget);
    }
    if (double_states_budget)
        assert_true(content_row_bytes(d.content) <= double_states_budget);
}

static void
step(void)
{
    double_step(&d, MAX_POS);
    check_budgets();
}

static void
start(size_t kv_budget)
{
    double_kv_budget = kv_budget;
    double_init(&d, WINDOW);
}

static void
rows_at(uint32_t seq, uint32_t id, uint32_t pos, uint32_t n)
{
    uint32_t values[MAX_POS], i;

    for (i = 0; i < n; i++)
        values[i] = seq * 1000 + pos + i;
    put_states(&d, seq, 0, id, pos, values, n);
}

static uint32_t
token_of(uint32_t seq, uint32_t pos)
{
    uint32_t values[MAX_POS], i;

    for (i = 0; i <= pos; i++)
        values[i] = seq * 1000 + i;
    return hash_values(values, pos + 1);
}

/* The next reply that is not CREDIT. */
static const struct answer *
next_word(void)
{
    const struct answer *a;

    do
        a = next_answer(&d);
    while (a->type == FRAME_CREDIT);
    return a;
}

static void
expect_silence(void)
{
    while (d.n_seen < d.n_answers)
        assert_int_equal(next_answer(&d)->type, FRAME_CREDIT);
}

static void
expect_token(uint32_t seq, uint32_t pos)
{
    const struct answer *a = next_word();

    assert_int_equal(a->type, FRAME_TOKEN);
    assert_int_equal(a->seq, seq);
    assert_int_equal(a->pos, pos);
    assert_int_equal(a->token, token_of(seq, pos));
}

static void
expect_need(uint32_t seq, uint32_t pos, uint32_t id)
{
    const struct answer *a = next_word();

    assert_int_equal(a->type, FRAME_NEED);
    assert_int_equal(a->seq, seq);
    assert_int_equal(a->pos, pos);
    assert_int_equal(a->id, id);
}

/* A new sequence of n positions, answered. */
static void
fill(uint32_t seq, uint32_t n)
{
    put_open(&d, seq, MAX_POS, true);
    rows_at(seq, 0, 0, n);
    put_infer(&d, seq, 0, n - 1);
    step();
    expect_token(seq, n - 1);
    d.now_us += 1000;
}

/* ---- the rules ---- */

static void
test_the_least_recently_used_goes(void **state)
{
    (void)state;
    start(3 * LAYERS);
    fill(1, 20);
    fill(2, 20);
    fill(3, 20);
    rows_at(1, 0, 20, 1);
    put_infer(&d, 1, 0, 20); /* 2 is the oldest now */
    step();
    expect_token(1, 20);
    assert_int_equal(pages_held(), 3 * LAYERS);
    fill(4, 20);
    assert_int_equal(d.n_evicted[CONTENT_EVICTED_IDLE], 1);
    expect_silence(); /* nobody is told before they ask */
    rows_at(2, 0, 20, 1);
    expect_silence();
    put_infer(&d, 2, 0, 20);
    step();
    expect_need(2, 0, 1);
    rows_at(2, 1, 0, 21);
    step();
    expect_token(2, 20);
    assert_int_equal(d.n_evicted[CONTENT_EVICTED_IDLE], 2); /* for 2: it was 3 */
    rows_at(1, 0, 21, 1);
    put_infer(&d, 1, 0, 21);
    step();
    expect_token(1, 21);
}

static void
test_a_replay_stays_until_its_answer(void **state)
{
    (void)state;
    start(LAYERS);
    fill(1, 20);
    fill(2, 20); /* evicts 1 */
    rows_at(1, 0, 20, 1);
    put_infer(&d, 1, 0, 20);
    step(); /* evicts 2 */
    expect_need(1, 0, 1);
    rows_at(2, 0, 20, 1);
    put_infer(&d, 2, 0, 20);
    step();
    expect_silence(); /* 1 is restoring */
    rows_at(1, 1, 0, 10);
    d.now_us += 1000000;
    step();
    expect_silence();
    rows_at(1, 1, 10, 11);
    step();
    expect_token(1, 20);
    step(); /* and a little longer, for the second that it took: here 1 s */
    expect_silence();
    rows_at(1, 1, 21, 1);
    put_infer(&d, 1, 0, 21);
    step();
    expect_token(1, 21);
    d.now_us += 1000000;
    step();
    expect_need(2, 0, 1);
    assert_int_equal(d.n_evicted[CONTENT_EVICTED_WAITING], 0);
}

static void
test_an_infer_without_rows_does_not_hold_for_ever(void **state)
{
    (void)state;
    start(2 * LAYERS);
    put_open(&d, 1, MAX_POS, true);
    rows_at(1, 0, 0, WINDOW);
    put_infer(&d, 1, 0, 100); /* two pages, promised */
    step();
    put_open(&d, 2, MAX_POS, true);
    rows_at(2, 0, 0, 10);
    put_infer(&d, 2, 0, 9);
    step();
    expect_silence();
    d.now_us += 6000000;
    step();
    expect_token(2, 9);
    assert_int_equal(d.n_evicted[CONTENT_EVICTED_WAITING], 1);
    step();
    expect_need(1, 0, 1); /* its turn again: 2 is idle */
    rows_at(1, 1, 0, 32);
    step();
}

static void
test_more_than_there_is(void **state)
{
    (void)state;
    start(2 * LAYERS);
    put_open(&d, 1, MAX_POS, true);
    put_infer(&d, 1, 0, 128);
    step();
    while (d.answers[d.n_seen].type == FRAME_CREDIT)
        d.n_seen++;
    assert_int_equal(next_answer(&d)->code, CE_EQUOTA);
    assert_int_equal(content_n_seqs(d.content), 0);
}

/* Tenant 1 has three sequences, older is tenant 2's one: over its share, 1 loses. */
static void
test_who_is_over_his_share_goes_first(void **state)
{
    uint32_t seq;

    (void)state;
    start(4 * LAYERS);
    double_session = 2;
    fill(10, 20);
    double_session = 1;
    for (seq = 1; seq <= 3; seq++)
        fill(seq, 20);
    for (seq = 4; seq <= 8; seq++) /* asks and asks */
        fill(seq, 20);
    assert_int_equal(d.n_evicted[CONTENT_EVICTED_IDLE], 5);
    double_session = 2;
    rows_at(10, 0, 20, 1);
    put_infer(&d, 10, 0, 20);
    step();
    expect_token(10, 20); /* without NEED */
    fill(11, 20);
    assert_int_equal(d.n_evicted[CONTENT_EVICTED_IDLE], 6);
    fill(12, 20); /* both had their share: the oldest of all went, of tenant 1 */
    fill(13, 20); /* now 2 is over its share: the oldest of its own is 10 */
    rows_at(10, 0, 21, 1);
    put_infer(&d, 10, 0, 21);
    step();
    expect_need(10, 0, 1);
}

/* A tenant's own limit: its own go, the least recently used first; nobody else's. */
static void
test_a_tenants_own_limit(void **state)
{
    (void)state;
    double_kv_limit = 2 * LAYERS;
    start(10 * LAYERS);
    double_session = 2;
    fill(10, 20);
    double_session = 1;
    fill(1, 20);
    fill(2, 20);
    fill(3, 20); /* 1 goes */
    assert_int_equal(d.n_evicted[CONTENT_EVICTED_IDLE], 1);
    assert_int_equal(pages_held(), 3 * LAYERS);
    rows_at(2, 0, 20, 1);
    put_infer(&d, 2, 0, 20);
    step();
    expect_token(2, 20);
    rows_at(1, 0, 20, 1);
    put_infer(&d, 1, 0, 20);
    step();
    expect_need(1, 0, 1);
    rows_at(1, 1, 0, 21);
    step();
    expect_token(1, 20);
    double_session = 2;
    rows_at(10, 0, 20, 1);
    put_infer(&d, 10, 0, 20);
    step();
    expect_token(10, 20);
    double_session = 1;
    put_open(&d, 4, MAX_POS, true);
    put_infer(&d, 4, 0, 128); /* three pages */
    step();
    while (d.answers[d.n_seen].type == FRAME_CREDIT)
        d.n_seen++;
    assert_int_equal(next_answer(&d)->code, CE_EQUOTA);
    double_kv_limit = LAYERS; /* a reload */
    d.now_us += 2000000;
    fill(5, 20);
    assert_int_equal(pages_held(), 2 * LAYERS);
}

/* Who waits for room within its own limit keeps nobody else waiting. */
static void
test_own_limit_blocks_nobody(void **state)
{
    (void)state;
    double_kv_limit = LAYERS;
    start(10 * LAYERS);
    double_session = 1;
    put_open(&d, 1, MAX_POS, true);
    rows_at(1, 0, 0, WINDOW);
    put_infer(&d, 1, 0, 60); /* the page is promised; rows are missing */
    put_open(&d, 2, MAX_POS, true);
    rows_at(2, 0, 0, 10);
    put_infer(&d, 2, 0, 9);
    step();
    expect_silence();
    double_session = 2;
    fill(10, 20);
    double_session = 1;
    d.now_us += 1000000;
    rows_at(1, 0, WINDOW, 29);
    step();
    expect_token(1, 60);
    step();
    expect_token(2, 9);
}

/* A prompt of more than a window whose agent waits for credit before it asks. */
static void
test_who_can_send_no_more_is_told(void **state)
{
    const struct answer *a;
    uint32_t sent = WINDOW, id = 1;
    int turns;

    (void)state;
    start(LAYERS);
    put_open(&d, 1, MAX_POS, true);
    assert_int_equal(next_answer(&d)->limit, WINDOW);
    rows_at(1, 0, 0, WINDOW); /* the window is full: half of it is computed */
    fill(2, 20);              /* evicts it */
    step();
    a = next_word();
    assert_int_equal(a->type, FRAME_NEED);
    assert_int_equal(a->limit, WINDOW);
    rows_at(1, id, 0, WINDOW);
    for (turns = 0; turns < 40 && sent < 60; turns++) {
        step();
        while (d.n_seen < d.n_answers) {
            a = next_answer(&d);
            assert_int_equal(a->type, FRAME_CREDIT);
            if (a->seq == 1 && a->limit > sent) {
                uint32_t end = a->limit < 60 ? a->limit : 60;

                rows_at(1, id, sent, end - sent);
                sent = end;
            }
        }
    }
    assert_int_equal(sent, 60);
    put_infer(&d, 1, 0, 59);
    step();
    expect_token(1, 59);
}

static void
test_generate_comes_back_by_itself(void **state)
{
    uint8_t ids[8] = { 7, 0, 0, 0, 9, 0, 0, 0 };
    struct frame_generate g = {
        .epoch = 1, .seq = 1, .max_tokens = 200, .ids = ids, .n_ids = 2
    };
    uint32_t alone[256], beside[256], *out = alone;
    int n_alone = 0, n = 0, run, other;

    (void)state;
    for (run = 0; run < 2; run++) {
        start(run ? 16 : 0); /* four blocks: 16 are 256 positions */
        put_open(&d, 1, MAX_POS, true);
        content_generate(d.content, SESSION, &g, d.now_us);
        for (n = 0, other = 100; n == 0 || !d.answers[d.n_seen - 1].last;) {
            if (run && other < 160) { /* somebody else, now and then */
                put_open(&d, (uint32_t)other, MAX_POS, true);
                rows_at((uint32_t)other, 0, 0, 30);
                put_infer(&d, (uint32_t)other++, 0, 29);
                if (other > 104)
                    content_close(d.content, SESSION, (uint32_t)other - 5);
            }
            step();
            while (d.n_seen < d.n_answers && (n == 0 || !d.answers[d.n_seen - 1].last)) {
                const struct answer *a = next_answer(&d);

                assert_int_not_equal(a->type, FRAME_ERROR);
                if (a->type == FRAME_TOKEN && a->seq == 1)
                    out[n++] = a->token;
            }
        }
        if (run == 0) {
            n_alone = n;
            out = beside;
            content_session_gone(d.content, SESSION);
            double_fini(&d);
        }
    }
    assert_int_equal(n, n_alone);
    assert_memory_equal(alone, beside, (size_t)n * sizeof(*alone));
}

static void
test_silent_sequences_end(void **state)
{
    (void)state;
    double_seq_idle_us = 5000000;
    start(0);
    fill(1, 10);
    fill(2, 10);
    put_open(&d, 3, MAX_POS, true);
    put_infer(&d, 3, 0, 9); /* waits for its rows: not silent */
    d.now_us += 3000000;
    rows_at(2, 0, 10, 1);
    assert_true(content_expire(d.content, d.now_us) <= d.now_us + 2000000);
    assert_int_equal(content_n_seqs(d.content), 3);
    d.now_us += 2500000;
    (void)content_expire(d.content, d.now_us);
    assert_int_equal(content_n_seqs(d.content), 2);
    while (d.answers[d.n_seen].type == FRAME_CREDIT)
        d.n_seen++;
    assert_int_equal(d.answers[d.n_seen].seq, 1);
    assert_int_equal(next_answer(&d)->code, CE_ETIMEOUT);
    rows_at(2, 0, 11, 1);
}

/* ---- worlds ---- */

#define N_AGENTS 12

static struct agent *agents;

static void
hear_all(void)
{
    int i;

    for (i = 0; i < d.n_answers; i++) {
        struct agent *a = &agents[d.answers[i].seq - 1];

        if (d.answers[i].type == FRAME_ERROR)
            fail_msg("sequence %u: ERROR %d", d.answers[i].seq, d.answers[i].code);
        agent_hear(a, &d.answers[i]);
    }
    d.n_answers = d.n_seen = 0;
}

static void
deliver_one(struct agent *a, bool upload)
{
    int *head = upload ? &a->up_head : &a->ask_head;
    int *tail = upload ? &a->up_tail : &a->ask_tail;
    const struct wire_frame *frames = upload ? a->up : a->ask;

    double_session = SESSION + (a->seq - 1) % 3; /* three sessions, three tenants */
    if (*head < *tail)
        wire_deliver(&d, a, &frames[(*head)++]);
    if (*head == *tail)
        *head = *tail = 0;
}

static void
agents_start(size_t kv_budget, size_t states_budget, uint32_t window)
{
    uint32_t i;

    double_kv_budget = kv_budget;
    double_states_budget = states_budget;
    double_init(&d, window);
    agents = test_calloc(N_AGENTS, sizeof(*agents));
    for (i = 0; i < N_AGENTS; i++) {
        agents[i].seq = agents[i].cuts[0] = i + 1;
        agents[i].window = window;
        double_session = SESSION + i % 3;
        put_open(&d, i + 1, MAX_POS, true);
    }
    hear_all();
}

/* All is sent and delivered until nobody waits for an answer. */
static void
agents_finish(void)
{
    int turn, i, waiting = 1;

    for (turn = 0; waiting; turn++) {
        assert_true(turn < 200000);
        waiting = 0;
        for (i = 0; i < N_AGENTS; i++) {
            struct agent *a = &agents[i];

            while (a->up_head < a->up_tail)
                deliver_one(a, true);
            while (a->ask_head < a->ask_tail)
                deliver_one(a, false);
            agent_send_rows(a, 8);
            waiting += a->n_asked > 0;
            check_budgets();
        }
        double_step(&d, 16);
        d.now_us += 1000;
        check_budgets();
        hear_all();
    }
}

static void
agents_end(void)
{
    test_free(agents);
    agents = NULL;
}

/* Everybody asks for one position after another, in turns: the worst for
 * least-recently-used. */
static void
test_in_turns(void **state)
{
    uint32_t i, pos;
    long answers = 0;

    (void)state;
    agents_start(N_AGENTS * 4 * LAYERS / 4, 0, WINDOW);
    for (pos = 0; pos < 200; pos += pos < 150 ? 50 : 7) {
        for (i = 0; i < N_AGENTS; i++) {
            agents[i].length = pos + 1;
            agent_ask(&agents[i]);
        }
        agents_finish();
    }
    for (i = 0; i < N_AGENTS; i++) {
        assert_int_equal(agents[i].n_asked, 0);
        answers += agents[i].answers;
    }
    assert_int_equal(answers, N_AGENTS * 11);
    assert_true(d.n_evicted[CONTENT_EVICTED_IDLE] > N_AGENTS);
    agents_end();
}

/* Agents that speculate, truncate and dawdle, pages and rows both short. */
static void
world(uint64_t seed, size_t kv_budget, size_t states_budget, uint32_t window,
      uint32_t length)
{
    int turn, i;

    double_eager = (enum content_eager)(seed % 3);
    agents_start(kv_budget, states_budget, window);
    for (turn = 0; turn < 6000; turn++) {
        struct agent *a = &agents[rnd(&seed, N_AGENTS)];

        d.now_us += 200;
        switch (rnd(&seed, 6)) {
        case 0:
        case 1:
            deliver_one(a, true);
            break;
        case 2:
            deliver_one(a, false);
            break;
        case 3:
            double_step(&d, 1 + rnd(&seed, 20));
            hear_all();
            break;
        default:
            if (a->up_tail < QUEUE && a->ask_tail < QUEUE)
                agent_act(a, &seed, length);
        }
        check_budgets();
    }
    agents_finish();
    for (i = 0; i < N_AGENTS; i++)
        assert_int_equal(agents[i].n_asked, 0);
    agents_end();
}

static void
test_worlds(void **state)
{
    int evicted[CONTENT_N_EVICTIONS] = { 0 }, w, i;

    (void)state;
    for (w = 0; w < 60; w++) {
        world((uint64_t)w, 12 * LAYERS, 0, WINDOW, 240);
        for (i = 0; i < CONTENT_N_EVICTIONS; i++)
            evicted[i] += d.n_evicted[i];
        tear_down(NULL);
        world((uint64_t)w, 0, 3000, WINDOW, 240); /* some 40 frames */
        evicted[CONTENT_EVICTED_ROWS] += d.n_evicted[CONTENT_EVICTED_ROWS];
        tear_down(NULL);
        world((uint64_t)w, (4 + (size_t)w % 8) * LAYERS, 1500 + (size_t)w * 100,
              CONTENT_MIN_WINDOW * (1 + (uint32_t)w % 3), 200);
        evicted[CONTENT_EVICTED_ROWS] += d.n_evicted[CONTENT_EVICTED_ROWS];
        tear_down(NULL);
    }
    print_message("evicted: %d idle, %d waiting, %d rows\n", evicted[0], evicted[1],
                  evicted[2]);
    for (i = 0; i < CONTENT_N_EVICTIONS; i++)
        assert_true(evicted[i] > 0);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_teardown(name, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_the_least_recently_used_goes),
        TEST(test_a_replay_stays_until_its_answer),
        TEST(test_an_infer_without_rows_does_not_hold_for_ever),
        TEST(test_more_than_there_is),
        TEST(test_who_is_over_his_share_goes_first),
        TEST(test_a_tenants_own_limit),
        TEST(test_own_limit_blocks_nobody),
        TEST(test_who_can_send_no_more_is_told),
        TEST(test_generate_comes_back_by_itself),
        TEST(test_silent_sequences_end),
        TEST(test_in_turns),
        TEST(test_worlds),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
