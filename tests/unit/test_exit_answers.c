/* SPDX-License-Identifier: Apache-2.0
 * test_exit_answers.c - answers from the tree are those written from the beginning;
 * figures of exits, the frontier, and what is chosen from it.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/exits_world.h"
#include "tools/exit_figures.h"
#include "tools/exit_frontier.h"
#include "tools/exits_record.h"

#define MODEL "test_exit_answers.gguf"
#define EXITS "test_exit_answers.exits.gguf"

#define N_THETAS 6
static const double thetas[N_THETAS] = { 0.1, 0.2, 0.3, 0.4, 0.6, 0.8 };
static const int layers[] = { 1, 3 };

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
begin(struct exit_answers *a, struct exits_world *w)
{
    struct err err = { 0 };

    *a = (struct exit_answers){ .staged = &w->staged,
                                .vocab = w->vocab,
                                .prompts = &w->prompts,
                                .width = WORLD_WIDTH,
                                .max_tokens = WORLD_TOKENS,
                                .label = "test" };
    assert_int_equal(exit_answers_begin(a, &err), 0);
}

/* Every pair of thresholds, and each exit off. */
static int
all_settings(struct exit_setting *out)
{
    int n = 0;

    for (int i = 0; i <= N_THETAS; i++) {
        for (int j = 0; j <= N_THETAS; j++) {
            for (int k = 0; k < MODEL_MAX_EXITS; k++)
                out[n].theta[k] = 1;
            out[n].theta[0] = i < N_THETAS ? thetas[i] : 1;
            out[n++].theta[1] = j < N_THETAS ? thetas[j] : 1;
        }
    }
    return n;
}

static void
test_tree_is_plain_run(void **state)
{
    struct exits_world *w = *state;
    static struct exit_setting settings[(N_THETAS + 1) * (N_THETAS + 1)];
    static struct plain_run r;
    struct exit_answers a;
    struct err err = { 0 };
    int n = all_settings(settings), differ = 0, left = 0;
    size_t before;

    begin(&a, w);
    /* some first, then all: what is there already is used, not written again */
    assert_int_equal(exit_answers_complete(&a, settings + 7, 5, &err), 0);
    assert_int_equal(exit_answers_complete(&a, settings, n, &err), 0);
    before = a.n_rows;
    assert_int_equal(exit_answers_complete(&a, settings, n, &err), 0);
    assert_true(a.n_rows == before);
    for (int k = 0; k < n; k++) {
        plain_answers(&r, w, settings[k].theta, WORLD_WIDTH);
        for (int i = 0; i < WORLD_PROMPTS; i++) {
            const struct plain_answer *p = &r.answers[i];
            struct exit_tally t = { 0 };
            int32_t tokens[WORLD_TOKENS];
            int len = exit_answers_read(&a, i, &settings[k], tokens, &t);

            assert_int_equal(len, p->n);
            assert_memory_equal(tokens, p->tokens, (size_t)len * sizeof(*tokens));
            assert_int_equal(t.n_tokens, p->n);
            assert_int_equal(t.n_requests, p->n_requests);
            assert_int_equal(t.left[0], p->left[0]);
            assert_int_equal(t.left[1], p->left[1]);
            left += p->left[0] > 0 && p->left[1] > 0;
            differ += len != a.full[i].n || memcmp(tokens, a.full[i].tokens,
                                                   sizeof(*tokens) * (size_t)len) != 0;
        }
    }
    assert_true(left > 20); /* or the test would show nothing */
    assert_true(differ > 20);
    exit_answers_free(&a);
}

/* A made-up pass: confidence and mass as given, agreement where the argmax is 7. */
static void
test_figures_by_hand(void **state)
{
    static struct heard heard[] = {
        { 7, 0.95F, 0.9F },  { 7, 0.99F, 0.99F }, /* exit, final: agrees */
        { 5, 0.95F, 0.5F },  { 7, 0.6F, 0.6F },   /* sure and wrong */
        { 7, 0.5F, 0.5F },   { 7, 0.85F, 0.85F }, /* unsure and right */
        { 5, 0.02F, 0.01F }, { 7, 0.3F, 0.3F },
    };
    struct written full = { .heard = heard, .n = 4 };
    struct prompt_file prompts = { .n = 1 };
    struct exit_answers a = { .prompts = &prompts, .full = &full, .n_exits = 1 };
    const double at[] = { 0.5, 0.9, 0.99 };
    struct exit_figures f;

    (void)state;
    exit_figures_count(&f, &a, 0, at, 3);
    assert_int_equal(f.n_places, 4);
    assert_true(fabs(f.agreement - 0.5) < 1e-9);
    assert_true(fabs(f.at[0].exit_rate - 0.75) < 1e-9);
    assert_true(fabs(f.at[0].precision - 2.0 / 3) < 1e-9);
    assert_true(fabs(f.at[0].final_above - 0.75) < 1e-9);
    assert_true(fabs(f.at[1].exit_rate - 0.5) < 1e-9);
    assert_true(fabs(f.at[1].precision - 0.5) < 1e-9);
    assert_true(f.at[2].exit_rate == 0 && isnan(f.at[2].precision));
    /* bins: two of 0.95 (mass 0.7, agreement 0.5), one of 0.5 (0.5, 1), one of 0.02
     * (0.01, 0) */
    assert_true(fabs(f.mass_error - (2 * 0.25 + 0 + 0.01) / 4) < 1e-6);
    assert_true(fabs(f.agreement_error - (2 * 0.45 + 0.5 + 0.02) / 4) < 1e-6);
    exit_figures_count(&f, &a, 1, at, 3);
    assert_true(f.agreement == 1);
    assert_true(f.mass_error < 1e-6);
}

static void
make_frontier(struct exit_frontier *f, struct exit_answers *a, double row_blocks)
{
    static const bool screens[] = { true, false };
    const struct exit_frontier_params p = { .thetas = thetas,
                                            .n_thetas = N_THETAS,
                                            .floor = 0,
                                            .layers = layers,
                                            .screens = screens,
                                            .costs = { 1e-3, 10, 2, row_blocks } };
    struct err err = { 0 };

    assert_int_equal(exit_frontier_make(f, a, &p, &err), 0);
}

static void
test_frontier(void **state)
{
    struct exit_frontier f = { 0 };
    struct exit_answers a;
    char text[64];
    int best = 0;

    begin(&a, *state);
    make_frontier(&f, &a, 0.25);
    assert_int_equal(f.n, 1 + 2 * N_THETAS + N_THETAS * N_THETAS);
    assert_true(f.points[0].request_rate == 1 && f.points[0].rouge_l == 1 &&
                f.points[0].identical == 1);
    assert_true(fabs(f.points[0].edge_blocks - 1) < 1e-12); /* up to the first exit */
    for (int i = 0; i < f.n; i++) {
        const struct exit_point *p = &f.points[i];

        assert_true(p->rouge_l >= p->identical && p->rouge_l <= 1);
        assert_int_equal(p->tally.n_tokens,
                         p->tally.n_requests + p->tally.left[0] + p->tally.left[1]);
        best += p->best;
        for (int j = 0; p->best && j < f.n; j++)
            assert_false(f.points[j].request_rate < p->request_rate &&
                         f.points[j].rouge_l >= p->rouge_l);
    }
    assert_true(best > 1);
    assert_string_equal(
        exit_frontier_theta(text, sizeof(text), &f, &f.points[1 + N_THETAS].setting),
        "1=1,3=0.1");
    exit_frontier_free(&f);
    exit_answers_free(&a);
}

/* Ten tokens: 2 leave at the exit after block 1, 3 after block 3. */
static void
test_edge_blocks_by_hand(void **state)
{
    static const bool screens[] = { true, false };
    const struct exit_frontier f = { .layers = layers, .screens = screens, .n_exits = 2 };
    const struct exit_tally t = { 10, { 2, 3 }, 5 };
    const struct exit_costs costs = { 1e-3, 10, 2, 0.25 };
    struct exit_setting s = { { 0.9, 0.9 } };
    double blocks = 2 * (1 + 2 * 0.25) + 3 * 3 + 5 * 3; /* the two that left catch up */
    double checks = 10 * 2 + 2 * 10 + 8 * 10; /* screens, products behind, no screen */

    (void)state;
    assert_true(fabs(exit_frontier_edge_blocks(&f, &s, &t, &costs) -
                     (blocks + checks) / 10) < 1e-12);
    s.theta[1] = 1; /* off: nothing runs beyond block 1 */
    assert_true(fabs(exit_frontier_edge_blocks(
                         &f, &s, &(struct exit_tally){ 10, { 2 }, 8 }, &costs) -
                     (10 * 1 + 10 * 2 + 2 * 10) / 10.0) < 1e-12);
}

static struct exit_point
point(double a, double b, double requests, double rouge, double edge)
{
    struct exit_point p = { .request_rate = requests,
                            .rouge_l = rouge,
                            .edge_blocks = edge };

    for (int k = 0; k < MODEL_MAX_EXITS; k++)
        p.setting.theta[k] = 1;
    p.setting.theta[0] = a;
    p.setting.theta[1] = b;
    return p;
}

static void
test_choice(void **state)
{
    struct exit_point points[] = {
        point(1, 1, 1, 1, 18),
        point(1, 0.9, 0.8, 0.97, 30),
        point(1, 0.8, 0.7, 0.93, 29),
        point(0.95, 0.9, 0.75, 0.96, 31),
        point(0.95, 0.8, 0.65, 0.91, 28), /* only here the first exit pays */
    };
    const struct exit_frontier f = {
        .layers = layers, .n_exits = 2, .points = points, .n = 5
    };
    struct exit_wish w = { .times = { NAN, NAN, NAN } };
    const struct exit_point *p;
    struct err err = { 0 };

    (void)state;
    assert_int_equal(exit_wish_parse(&w, "rouge=0.95", &err), 0);
    assert_int_equal(exit_frontier_choose(&f, &w, &p, &err), 0);
    assert_ptr_equal(p, &points[1]); /* not 3: slower at the edge than without exit 1 */
    assert_int_equal(exit_wish_parse(&w, "rouge=0.9", &err), 0);
    assert_int_equal(exit_frontier_choose(&f, &w, &p, &err), 0);
    assert_ptr_equal(p, &points[4]);
    assert_int_equal(exit_wish_parse(&w, "requests=0.8", &err), 0);
    assert_int_equal(exit_frontier_choose(&f, &w, &p, &err), 0);
    assert_ptr_equal(p, &points[1]);
    assert_int_equal(exit_wish_parse(&w, "requests=0.5", &err), 0);
    assert_int_equal(exit_frontier_choose(&f, &w, &p, &err), CE_ENOTFOUND);
    assert_non_null(strstr(err.text, "the nearest has 0.650"));
    assert_int_equal(exit_wish_parse(&w, "time=40", &err), 0);
    assert_int_equal(exit_frontier_choose(&f, &w, &p, &err), CE_EINVAL);
    /* a token by point: 18 + 40, 30 + 32, 29 + 28, 31 + 30, 28 + 26 */
    w.times = (struct exit_times){ 1, 10, 30 };
    assert_int_equal(exit_frontier_choose(&f, &w, &p, &err), CE_ENOTFOUND);
    w.target = 57;
    assert_int_equal(exit_frontier_choose(&f, &w, &p, &err), 0);
    assert_ptr_equal(p, &points[2]);
    assert_int_equal(exit_wish_parse(&w, "rouge=0.95", &err), 0);
    assert_int_equal(exit_frontier_choose(&f, &w, &p, &err), 0);
    assert_ptr_equal(p, &points[0]); /* with a link that fast no exit is worth it */
    w.times.round_trip = 300;
    assert_int_equal(exit_frontier_choose(&f, &w, &p, &err), 0);
    assert_ptr_equal(p, &points[3]);
}

static void
test_wishes(void **state)
{
    static const char *const bad[] = {
        "",         "rouge",     "rouge=",        "rouge=1.1",
        "rouge=-1", "rouge=nan", "requests=0.5x", "cost=3"
    };
    struct exit_wish w;
    struct err err = { 0 };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(exit_wish_parse(&w, bad[i], &err), CE_EINVAL);
}

static void
test_record(void **state)
{
    struct exits_world *w = *state;
    struct exits_record r = { .theta = { 1, 0.9F },
                              .agreement = { 0.5F, 0.75F },
                              .request_rate = 0.7F,
                              .rouge_l = 0.96F,
                              .identical = 0.8F,
                              .prompts = 100,
                              .max_tokens = 96,
                              .set = "alpaca" },
                        back;
    struct model *m;
    struct err err = { 0 };

    assert_false(exits_record_read(&back, w->model));
    for (int round = 0; round < 2; round++) { /* the second replaces the first's */
        assert_int_equal(model_open(&m, MODEL, EXITS, &err), 0);
        r.theta[1] = round == 0 ? 0.9F : 0.8F;
        assert_int_equal(exits_record_write(&r, m, &err), 0);
        model_close(m);
    }
    assert_int_equal(model_open(&m, MODEL, EXITS, &err), 0);
    assert_true(exits_record_read(&back, m));
    assert_memory_equal(&back, &r, sizeof(r));
    assert_true(m->exits[0].theta == 1 && m->exits[1].theta == 0.8F);
    assert_int_equal(gguf_n_tensors(m->exits_file), gguf_n_tensors(w->model->exits_file));
    for (int i = 0; i < gguf_n_tensors(m->exits_file); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(m->exits_file, i);
        const struct gguf_tensor *u = gguf_tensor_at(w->model->exits_file, i);

        assert_string_equal(t->name, u->name);
        assert_memory_equal(t->data, u->data, t->size_bytes);
    }
    model_close(m);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tree_is_plain_run),
        cmocka_unit_test(test_figures_by_hand),
        cmocka_unit_test(test_frontier),
        cmocka_unit_test(test_choice),
        cmocka_unit_test(test_edge_blocks_by_hand),
        cmocka_unit_test(test_wishes),
        cmocka_unit_test(test_record),
    };

    return cmocka_run_group_tests(tests, open_world, close_world);
}
