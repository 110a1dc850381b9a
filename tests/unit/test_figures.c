/* SPDX-License-Identifier: Apache-2.0
 * test_figures.c - what tools compute and print about numbers: medians, perplexity,
 * units, progress lines, rounds of samples, and llama.cpp's figures.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/synth.h"
#include "tools/figures.h"
#include "tools/limit.h"
#include "tools/median.h"
#include "tools/peer.h"
#include "tools/perplexity.h"
#include "tools/program.h"
#include "tools/progress.h"
#include "tools/revision.h"
#include "tools/units.h"

#define MODEL "test_figures.gguf"
#define EXITS "test_figures.exits.gguf"

static void
test_median(void **state)
{
    double odd[] = { 5, 1, 3 }, even[] = { 4, 1, 3, 2 };

    (void)state;
    assert_true(median(odd, 3) == 3);
    assert_true(median(even, 4) == 2.5);
    assert_true(median(odd, 1) == 1);
    assert_true(median(odd, 0) == 0);
    assert_true(odd[2] == 5); /* sorted on the way */
}

static void
test_perplexity(void **state)
{
    static const double nll[] = { 1, 2, 4 };
    struct perplexity p = { 0 };

    (void)state;
    assert_true(isnan(perplexity_value(&p)));
    for (int i = 0; i < 3; i++)
        perplexity_add(&p, nll[i]);
    /* mean 7/3, variance 7/3, standard error of the mean sqrt(7)/3 */
    assert_true(fabs(perplexity_value(&p) - exp(7.0 / 3)) < 1e-12);
    assert_true(fabs(perplexity_error(&p) - exp(7.0 / 3) * sqrt(7.0) / 3) < 1e-12);
}

static void
test_perplexity_is_stable(void **state)
{
    struct perplexity p = { 0 };

    (void)state;
    /* a difference of sums of squares would lose this variance */
    for (int i = 0; i < 1000; i++)
        perplexity_add(&p, 1e8 + (i % 2));
    assert_true(fabs(p.m2 / 1000 - 0.25) < 1e-6);
}

static void
test_units(void **state)
{
    char a[UNITS_TEXT];

    (void)state;
    assert_string_equal(units_bytes(a, 0), "0 B");
    assert_string_equal(units_bytes(a, 999), "999 B");
    assert_string_equal(units_bytes(a, 98362432), "98.4 MB");
    assert_string_equal(units_bytes(a, 999960), "1.0 MB");
    assert_string_equal(units_count(a, 0), "0");
    assert_string_equal(units_count(a, 999), "999");
    assert_string_equal(units_count(a, 49152), "49,152");
    assert_string_equal(units_count(a, UINT64_MAX), "18,446,744,073,709,551,615");
    assert_string_equal(units_amount(a, 134515008), "134.5 M");
    assert_string_equal(units_seconds(a, 0.000087), "87 us");
    assert_string_equal(units_seconds(a, 0.25), "250.0 ms");
    assert_string_equal(units_seconds(a, 3), "3.00 s");
}

static void
test_progress_text(void **state)
{
    struct progress p = { .label = "reading", .done = 5, .total = 20 };
    char a[200];

    (void)state;
    progress_text(a, sizeof(a), &p, 10000000, "27.0");
    assert_string_equal(a, "reading [######..................] 5/20, 30 s left; 27.0");
    progress_text(a, sizeof(a), &p, 120000000, NULL);
    assert_string_equal(a, "reading [######..................] 5/20, 6:00 min left");
    p.done = 0;
    progress_text(a, sizeof(a), &p, 10000000, NULL);
    assert_string_equal(a, "reading [........................] 0/20");
    p.done = 30; /* more than was announced */
    progress_text(a, sizeof(a), &p, 10000000, NULL);
    assert_string_equal(a, "reading [########################] 20/20, 0 s left");
    progress_text(a, 16, &p, 10000000, NULL);
    assert_int_equal(strlen(a), 15);
}

static void
test_short_jobs_are_quiet(void **state)
{
    struct progress_busy *b = progress_busy_start("nothing");
    struct progress p;

    (void)state;
    progress_start(&p, "short", 10);
    progress_set(&p, 10, NULL);
    assert_true(p.shown_us == 0);
    progress_end(&p);
    progress_busy_end(b);
    progress_busy_end(NULL);
}

/* ---- rounds of samples ---- */

static void
test_choose(void **state)
{
    static const struct bench_case cases[] = { { .name = "prefill_512" },
                                               { .name = "decode_1" },
                                               { .name = "decode_16" } };
    struct figures f = { 0 };
    struct err err;

    (void)state;
    assert_int_equal(figures_choose(&f, cases, 3, NULL, &err), 0);
    assert_int_equal(f.n, 3);
    assert_int_equal(figures_choose(&f, cases, 3, "decode_16,prefill_512", &err), 0);
    assert_int_equal(f.n, 2); /* in the order of the cases */
    assert_string_equal(f.list[0].c.name, "prefill_512");
    assert_ptr_equal(figures_find(&f, "decode_16"), &f.list[1]);
    assert_null(figures_find(&f, "decode_1"));
    assert_int_equal(figures_choose(&f, cases, 3, "decode_1,decode", &err), CE_EINVAL);
    assert_non_null(strstr(err.text, "\"decode\""));
    assert_int_equal(figures_choose(&f, cases, 3, "", &err), CE_EINVAL);
    assert_int_equal(figures_choose(&f, cases, 3, "decode_1,", &err), CE_EINVAL);
}

static void
test_sum_up(void **state)
{
    struct figures f = { .n = 1 };

    (void)state;
    f.list[0] = (struct figure){ .c.tokens = 30, .samples = { 6, 2, 3 }, .n_samples = 3 };
    figures_sum_up(&f);
    assert_true(f.list[0].seconds == 3 && f.list[0].tokens_per_second == 10);
    assert_true(f.list[0].samples[0] == 2 && f.list[0].samples[2] == 6);
}

static void
test_rounds(void **state)
{
    const struct synth_params p = { 2,   64,   2,         1, 32, 64,   200,
                                    320, true, GGUF_Q8_0, 5, 0,  { 0 } };
    const struct backend_options o = { .n_threads = 2,
                                       .final_head = true,
                                       .max_seqs = CASES_MAX_BATCH };
    struct figures f = { 0 };
    struct bench_case cases[CASES_MAX];
    struct model *m;
    struct backend *b;
    struct err err;
    int n;

    (void)state;
    assert_int_equal(synth_model(&p, MODEL, &err), 0);
    assert_int_equal(model_open(&m, MODEL, "none", &err), 0);
    assert_int_equal(backend_cpu_open(&b, m, &o, &err), 0);
    n = cases_list(cases, m, b);
    assert_int_equal(figures_choose(&f, cases, n, "prefill_200,decode_64", &err), 0);
    assert_int_equal(figures_sample(&f, b, 2, "one", &err), 0);
    assert_int_equal(figures_sample(&f, b, 0, "none", &err), 0);
    assert_int_equal(figures_sample(&f, b, 1, "two", &err), 0);
    figures_sum_up(&f);
    for (int i = 0; i < f.n; i++) {
        const struct figure *g = &f.list[i];
        double sampled = 0;

        assert_int_equal(g->n_samples, 3);
        for (int j = 0; j < 3; j++)
            sampled += g->samples[j];
        assert_true(g->tokens_per_second > 0);
        assert_true(g->spent.attention_seconds > 0);
        assert_true(g->spent.run_seconds > g->spent.attention_seconds);
        assert_true(g->spent.run_seconds <= sampled); /* neither prompts nor warm-up */
    }
    assert_int_equal(backend_kv_bytes(b, -1), 0);
    backend_close(b);
    model_close(m);
    unlink(MODEL);
}

/* 64 tokens through 10 blocks in 64 s: 0.1 s a block; two checks are 0.5 s of each token
 * more, one screened check 0.2 s. */
static void
test_check_cost(void **state)
{
    struct figures f = { .n = 3,
                         .list = {
                             { .c = { .kind = CASES_EDGE_BLOCKS, .n = 1 } },
                             { .c = { .kind = CASES_EDGE_CHECKS, .n_checks = 2 } },
                             { .c = { .kind = CASES_EDGE_SCREENED, .n_checks = 1 } } } };
    struct check_cost cost;

    (void)state;
    for (int i = 0; i < 3; i++) {
        f.list[i].c.steps = 64;
        f.list[i].c.layer_to = 10;
    }
    f.list[0].seconds = 64;
    f.list[1].seconds = 96;
    f.list[2].seconds = 76.8;
    cost = figures_check_cost(&f);
    assert_true(fabs(cost.block_seconds - 0.1) < 1e-12);
    assert_true(fabs(cost.check_blocks - 2.5) < 1e-12);
    assert_true(fabs(cost.screen_blocks - 2) < 1e-12);
    f.n = 1;
    cost = figures_check_cost(&f);
    assert_true(fabs(cost.block_seconds - 0.1) < 1e-12);
    assert_true(isnan(cost.check_blocks) && isnan(cost.screen_blocks));
    f.list[0].c.kind = CASES_EXIT; /* nothing to compare with */
    assert_true(isnan(figures_check_cost(&f).block_seconds));
}

/* A model with two exits, with screens or without. */
static void
open_edge(int n_candidates, struct model **m, struct backend **b)
{
    static const int layers[] = { 1, 3 };
    const struct synth_params p = { 4,   64,   2,         1, 32,           64,   40,
                                    320, true, GGUF_Q8_0, 5, n_candidates, { 0 } };
    const struct backend_options o = { .n_threads = 1,
                                       .final_head = true,
                                       .exit_heads = true,
                                       .max_seqs = CASES_MAX_BATCH };
    struct err err;

    assert_int_equal(synth_model(&p, MODEL, &err), 0);
    assert_int_equal(synth_exits(&p, MODEL, layers, 2, 32, EXITS, &err), 0);
    assert_int_equal(model_open(m, MODEL, EXITS, &err), 0);
    assert_int_equal(backend_cpu_open(b, *m, &o, &err), 0);
}

static void
close_edge(struct model *m, struct backend *b)
{
    assert_int_equal(backend_kv_bytes(b, -1), 0);
    backend_close(b);
    model_close(m);
    unlink(MODEL);
    unlink(EXITS);
}

static void
test_edge_figures(void **state)
{
    const char *names = "edge_blocks_3,edge_checks_3,edge_screened_3";
    struct figures f = { 0 };
    struct bench_case cases[CASES_MAX];
    struct check_cost cost;
    struct model *m;
    struct backend *b;
    struct err err;

    (void)state;
    open_edge(16, &m, &b);
    assert_int_equal(figures_choose(&f, cases, cases_list(cases, m, b), names, &err), 0);
    assert_int_equal(f.n, 3);
    for (int i = 0; i < 3; i++) {
        const struct bench_case *c = &f.list[i].c;

        assert_int_equal(c->layer_to, 3);
        assert_int_equal(c->tokens, 40); /* the context */
        assert_int_equal(c->n_checks, i == 0 ? 0 : 2);
    }
    /* A check is the output matrix (320 x 64) and the adapter (64 x 64, three of 32 x
     * 64); a screened one 16 rows of that matrix and the screen (32 x 64, 320 x 32). */
    double blocks = f.list[0].c.macs, adapter = 64 * 64 + 3 * 32 * 64;
    assert_true(f.list[1].c.macs - blocks == 40 * 2 * (320 * 64 + adapter));
    assert_true(f.list[2].c.macs - blocks ==
                40 * 2 * (16 * 64 + 32 * 64 + 320 * 32 + adapter));
    assert_true(f.list[2].c.bytes < f.list[1].c.bytes);
    assert_int_equal(figures_sample(&f, b, 2, "edge", &err), 0);
    figures_sum_up(&f);
    cost = figures_check_cost(&f);
    assert_true(cost.block_seconds > 0);
    assert_true(isfinite(cost.check_blocks) && isfinite(cost.screen_blocks));
    close_edge(m, b);
}

static void
test_edge_without_screens(void **state)
{
    struct figures f = { 0 };
    struct bench_case cases[CASES_MAX];
    struct model *m;
    struct backend *b;
    struct err err;

    (void)state;
    open_edge(0, &m, &b);
    int n = cases_list(cases, m, b);
    assert_int_equal(figures_choose(&f, cases, n, "edge_blocks_3,edge_checks_3", &err),
                     0);
    assert_int_equal(figures_choose(&f, cases, n, "edge_screened_3", &err), CE_EINVAL);
    close_edge(m, b);
}

static void
test_revision(void **state)
{
    (void)state;
    assert_true(strlen(revision) > 0);
}

/* ---- other programs ---- */

static int
shell(const char *script, char **text, struct err *err)
{
    char *argv[] = { (char[]){ "/bin/sh" }, (char[]){ "-c" }, (char *)(uintptr_t)script,
                     NULL };

    return program_capture(argv, text, err);
}

static void
test_program(void **state)
{
    char *missing[] = { (char[]){ "/nonexistent/program" }, NULL }, *text;
    struct err err;

    (void)state;
    assert_int_equal(shell("echo one; echo lost >&2; echo two", &text, &err), 0);
    assert_string_equal(text, "one\ntwo\n");
    free(text);
    assert_int_equal(shell("echo unread", NULL, &err), 0);
    assert_int_equal(shell("head -c 3000000 /dev/zero", &text, &err), 0); /* all taken */
    free(text);
    assert_int_equal(shell("echo partly; exit 7", &text, &err), CE_EIO);
    assert_null(text);
    assert_non_null(strstr(err.text, "/bin/sh failed (status 7)"));
    assert_int_equal(shell("kill -9 $$", &text, &err), CE_EIO);
    assert_non_null(strstr(err.text, "signal 9"));
    assert_int_equal(program_capture(missing, &text, &err), CE_ENOTFOUND);
    assert_null(text);
    assert_true(program_exists("/bin/sh"));
    assert_false(program_exists(missing[0]));
}

static void
test_peer_bench(void **state)
{
    struct peer p = { 0 };
    struct err err;

    (void)state;
    assert_int_equal(
        peer_read_bench(&p,
                        "[{\"n_prompt\": 512, \"n_gen\": 0, \"build_commit\": \"abc\", "
                        "\"samples_ts\": [100, 300, 200]},"
                        "{\"n_prompt\": 0, \"n_gen\": 128, \"samples_ts\": [50]}]",
                        &err),
        0);
    assert_true(peer_find(&p, "prefill_512") == 200);
    assert_true(peer_find(&p, "decode_1") == 50);
    assert_true(peer_find(&p, "decode_2") == 0);
    assert_string_equal(p.build, "llama.cpp abc");
}

static void
test_peer_batched(void **state)
{
    struct peer p = { 0 };
    struct err err;

    (void)state;
    assert_int_equal(peer_read_batched(&p,
                                       "main: chatter\n"
                                       "{\"pl\": 2, \"speed_tg\": 80.5}\n\n"
                                       "{\"pl\": 32, \"speed_tg\": 190}",
                                       &err),
                     0);
    assert_true(peer_find(&p, "decode_2") == 80.5);
    assert_true(peer_find(&p, "decode_32") == 190);
}

static void
test_peer_nonsense(void **state)
{
    struct peer p = { 0 };
    struct err err;

    (void)state;
    assert_int_equal(peer_read_bench(&p, "", &err), CE_EFORMAT);
    assert_int_equal(peer_read_bench(&p, "[1, {}, null]", &err), CE_EFORMAT);
    assert_int_equal(peer_read_bench(&p, "{\"a\": [", &err), CE_EFORMAT);
    assert_int_equal(peer_read_batched(&p, "{\"pl\": -5, \"speed_tg\": 1}", &err),
                     CE_EFORMAT);
    assert_int_equal(peer_run(&p, "/nonexistent", "x.gguf", 1, 1, &err), CE_ENOTFOUND);
    assert_non_null(strstr(err.text, "/nonexistent/llama-bench"));
    assert_int_equal(peer_run(&p, "/", "x.gguf", 1, 1, &err), CE_ENOTFOUND);
    assert_int_equal(peer_run_q4_0(&p, "/", "x.gguf", 1, 1, &err), CE_ENOTFOUND);
    assert_non_null(strstr(err.text, "llama-quantize"));
    assert_int_equal(peer_check("/nonexistent", &err), CE_ENOTFOUND);
    assert_false(peer_can_quantise("/nonexistent"));
}

static void
test_limits_are_positive(void **state)
{
    struct limit l;
    struct err err;

    (void)state;
    assert_int_equal(limit_measure(&l, NULL, 1, 1, &err), 0);
    assert_true(l.bytes_per_second > 1e6 && isfinite(l.bytes_per_second));
    assert_true(l.macs_per_second > 1e6 && isfinite(l.macs_per_second));
    assert_non_null(l.instruction);
    assert_int_equal(limit_measure(&l, "scalar", 1, 1, &err), 0);
    assert_string_equal(l.instruction, "C");
    assert_true(l.macs_per_second > 1e6 && isfinite(l.macs_per_second));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_median),
        cmocka_unit_test(test_perplexity),
        cmocka_unit_test(test_perplexity_is_stable),
        cmocka_unit_test(test_units),
        cmocka_unit_test(test_progress_text),
        cmocka_unit_test(test_short_jobs_are_quiet),
        cmocka_unit_test(test_choose),
        cmocka_unit_test(test_sum_up),
        cmocka_unit_test(test_rounds),
        cmocka_unit_test(test_check_cost),
        cmocka_unit_test(test_edge_figures),
        cmocka_unit_test(test_edge_without_screens),
        cmocka_unit_test(test_revision),
        cmocka_unit_test(test_program),
        cmocka_unit_test(test_peer_bench),
        cmocka_unit_test(test_peer_batched),
        cmocka_unit_test(test_peer_nonsense),
        cmocka_unit_test(test_limits_are_positive),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
