/* SPDX-License-Identifier: Apache-2.0
 * test_exit_tune.c - training of exits as a whole, on a tiny model and rows in memory: it
 * learns, the same seed gives the same bits with any number of threads, a run that was
 * interrupted ends as one that was not, and what cannot be is refused.
 */
#include "tools/exit_tune.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/random.h"
#include "engine/synth.h"
#include "tests/unit/exit_rows_double.h"

#define D     64
#define N     8000
#define N_TOP 8
#define EXITS 2

struct world {
    struct model *m;
    struct exit_rows *rows;
    struct exit_tune_params p;
    struct exit_adapter out[EXITS];
    size_t done;
    volatile sig_atomic_t stop;
    char checkpoint[64];
};

/* Uniform in [-1, 1). */
static float
draw(uint64_t *state)
{
    return (float)((double)(random_next(state) >> 11) * 0x1p-52 - 1);
}

/* The last state: what no linear map gives. */
static void
draw_row(struct world *s, uint64_t *state, const float *a, bool held_out)
{
    const float *w = s->m->output->data, *norm = s->m->output_norm->data;
    float x[D], noisy[D], last[D], *logits = calloc(SYNTH_MIN_VOCAB, sizeof(*logits));
    float squares = 0;

    assert_non_null(logits);
    for (int i = 0; i < D; i++) {
        x[i] = 2 * draw(state);
        noisy[i] = 5 * (x[i] + 0.2f * draw(state)) + 1;
    }
    for (int o = 0; o < D; o++) {
        float y = 0;

        for (int i = 0; i < 4; i++)
            y += a[o * D + i] * x[(o + i) % D];
        last[o] = y + 2 * a[o * D + 9] * (fabsf(x[0]) - 1);
        squares += last[o] * last[o] / D;
    }
    for (int v = 0; v < SYNTH_MIN_VOCAB; v++) {
        for (int i = 0; i < D; i++)
            logits[v] += w[v * D + i] * norm[i] * last[i] / sqrtf(squares);
    }
    exit_rows_double_add(s->rows, (const float *[]){ noisy, x }, last, logits, held_out);
    free(logits);
}

static struct world *
world_new(void)
{
    struct world *s = calloc(1, sizeof(*s));
    struct synth_params p;
    struct exit_rows_shape shape = {
        .n_exits = EXITS, .layers = { 1, 3 }, .d_model = D, .n_top = N_TOP
    };
    char path[] = "/tmp/exit_tune.XXXXXX";
    float a[D * D];
    uint64_t state = 11;
    int fd = mkstemp(path);

    assert_non_null(s);
    assert_true(fd >= 0);
    close(fd);
    synth_params_init(&p);
    assert_int_equal(synth_model(&p, path, NULL), 0);
    assert_int_equal(model_open(&s->m, path, "none", NULL), 0);
    unlink(path);
    snprintf(s->checkpoint, sizeof(s->checkpoint), "%s.state", path);
    shape.n_vocab = s->m->config.n_vocab;
    memcpy(shape.fingerprint, s->m->fingerprint, sizeof(shape.fingerprint));
    s->rows = exit_rows_double_new(&shape, N);
    for (int i = 0; i < D * D; i++)
        a[i] = draw(&state);
    for (int i = 0; i < N; i++)
        draw_row(s, &state, a, i % 10 == 9);
    s->p = (struct exit_tune_params){ .widths = { 32, 32 },
                                      .steps = { 250, 250 },
                                      .batch = 64,
                                      .rate = 5e-3,
                                      .seed = 7,
                                      .threads = 2,
                                      .stop = &s->stop };
    return s;
}

static void
world_free(struct world *s)
{
    for (int e = 0; e < EXITS; e++)
        exit_adapter_free(&s->out[e]);
    exit_rows_double_free(s->rows);
    model_close(s->m);
    unlink(s->checkpoint);
    free(s);
}

static void
set_steps(struct world *s, size_t first, size_t second)
{
    s->p.steps[0] = first;
    s->p.steps[1] = second;
}

static int
run(struct world *s, struct err *err)
{
    for (int e = 0; e < EXITS; e++)
        exit_adapter_free(&s->out[e]);
    return exit_tune_run(s->out, &s->done, s->m, s->rows, &s->p, err);
}

static void
assert_same(const struct world *a, const struct world *b)
{
    for (int e = 0; e < EXITS; e++) {
        const struct exit_adapter *x = &a->out[e], *y = &b->out[e];

        assert_int_equal(x->w, y->w);
        assert_memory_equal(x->map, y->map, x->d * x->d * sizeof(float));
        assert_memory_equal(x->bias, y->bias, x->d * sizeof(float));
        assert_memory_equal(x->gate, y->gate, x->w * x->d * sizeof(float));
        assert_memory_equal(x->down, y->down, x->w * x->d * sizeof(float));
        assert_true(x->loss == y->loss && x->agreement == y->agreement);
    }
}

/* From the least-squares map down; the exit without noise further. */
static void
test_learns(void **state)
{
    struct world *s = world_new(), *start = world_new();
    struct err err = { 0 };

    (void)state;
    set_steps(start, 1, 1);
    start->p.rate = 1e-12;
    assert_int_equal(run(start, NULL), 0);
    if (run(s, &err) != 0)
        fail_msg("%s", err.text);
    assert_int_equal(s->done, 250);
    for (int e = 0; e < EXITS; e++)
        print_message("exit %d: loss %.4f to %.4f, agreement %.3f to %.3f\n", e,
                      start->out[e].loss, s->out[e].loss, start->out[e].agreement,
                      s->out[e].agreement);
    assert_true(s->out[1].loss < 0.6 * start->out[1].loss);
    assert_true(s->out[1].agreement > start->out[1].agreement);
    assert_true(s->out[0].loss < start->out[0].loss);
    world_free(start);
    world_free(s);
}

static void
test_affine_alone(void **state)
{
    struct world *s = world_new();

    (void)state;
    s->p.widths[0] = 0;
    set_steps(s, 100, 100);
    assert_int_equal(run(s, NULL), 0);
    assert_int_equal(s->out[0].w, 0);
    assert_null(s->out[0].gate);
    assert_non_null(s->out[1].gate);
    world_free(s);
}

static void
test_same_seed_same_bits(void **state)
{
    struct world *a = world_new(), *b = world_new();

    (void)state;
    set_steps(a, 120, 120);
    set_steps(b, 120, 120);
    b->p.threads = 3;
    assert_int_equal(run(a, NULL), 0);
    assert_int_equal(run(b, NULL), 0);
    assert_same(a, b);
    b->p.seed = 8;
    assert_int_equal(run(b, NULL), 0);
    assert_memory_not_equal(a->out[0].map, b->out[0].map, D * D * sizeof(float));
    world_free(a);
    world_free(b);
}

/* An exit with fewer steps than the others is left alone after them. */
static void
test_rests(void **state)
{
    struct world *a = world_new(), *b = world_new();
    const struct exit_adapter *x = &a->out[0], *y = &b->out[0];

    (void)state;
    set_steps(a, 60, 60);
    set_steps(b, 60, 250);
    assert_int_equal(run(a, NULL), 0);
    assert_int_equal(run(b, NULL), 0);
    assert_int_equal(b->done, 250);
    assert_memory_equal(x->map, y->map, x->d * x->d * sizeof(float));
    assert_memory_equal(x->down, y->down, x->w * x->d * sizeof(float));
    assert_true(x->loss == y->loss);
    assert_true(b->out[1].loss < a->out[1].loss);
    b->p.steps[1] = 0;
    assert_int_equal(run(b, NULL), CE_EINVAL);
    world_free(a);
    world_free(b);
}

/* Stopped in the midst, and again, it ends as if it had not been. */
static void
test_resume(void **state)
{
    struct world *whole = world_new(), *s = world_new();
    const long stops[] = { 64 * 70, 64 * 30 };
    struct err err = { 0 };

    (void)state;
    assert_int_equal(run(whole, NULL), 0);
    s->p.checkpoint = s->checkpoint;
    s->rows->stop = &s->stop;
    for (int i = 0; i < 2; i++) {
        s->rows->stop_after =
            stops[i] + 800 + 4096; /* scales' and the first check's reads */
        assert_int_equal(run(s, NULL), 0);
        assert_true(s->stop && s->done < 250 && s->done > 50);
        assert_true(isfinite(s->out[0].loss) && s->out[0].map);
        s->stop = 0;
        s->p.resume = true;
    }
    s->rows->stop = NULL;
    if (run(s, &err) != 0)
        fail_msg("%s", err.text);
    assert_int_equal(s->done, 250);
    assert_same(whole, s);

    s->p.rate *= 2; /* another run's */
    assert_int_equal(run(s, &err), CE_EINVAL);
    assert_non_null(strstr(err.text, "other parameters"));
    s->p.rate /= 2;
    assert_int_equal(truncate(s->checkpoint, 1000), 0);
    assert_int_equal(run(s, &err), CE_EFORMAT);
    world_free(whole);
    world_free(s);
}

/* Far too fast, it does not get better. */
static void
test_patience(void **state)
{
    struct world *s = world_new();

    (void)state;
    set_steps(s, 1000, 1000);
    s->p.rate = 3;
    s->p.patience = 2;
    assert_int_equal(run(s, NULL), 0);
    assert_true(s->done < 1000);
    world_free(s);
}

static void
test_refuses(void **state)
{
    struct world *s = world_new();
    struct err err = { 0 };

    (void)state;
    s->rows->ids[0][1700 * N_TOP] = 9999;
    assert_int_equal(run(s, &err), CE_EFORMAT);
    assert_non_null(strstr(err.text, "9999"));
    s->rows->ids[0][1700 * N_TOP] = 1;
    s->rows->states[0][1700 * EXITS * D] = NAN;
    assert_int_equal(run(s, &err), CE_EINTERNAL);
    assert_non_null(strstr(err.text, "step "));
    assert_non_null(strstr(err.text, "not finite"));
    s->rows->shape.fingerprint[0] ^= 1;
    assert_int_equal(run(s, &err), CE_EMISMATCH);
    s->rows->shape.fingerprint[0] ^= 1;
    s->rows->n[1] = 0;
    assert_int_equal(run(s, &err), CE_EINVAL);
    assert_non_null(strstr(err.text, "too few"));
    s->rows->n[1] = 1;
    s->p.rate = 0;
    assert_int_equal(run(s, &err), CE_EINVAL);
    world_free(s);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_learns),
        cmocka_unit_test(test_affine_alone),
        cmocka_unit_test(test_same_seed_same_bits),
        cmocka_unit_test(test_rests),
        cmocka_unit_test(test_resume),
        cmocka_unit_test(test_patience),
        cmocka_unit_test(test_refuses),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
