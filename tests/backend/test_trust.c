/* SPDX-License-Identifier: Apache-2.0
 * test_trust.c - an exit's trust: its confidence is what doc/NUMERICS.md says, however
 * the rows come and whichever kernels run; a file with a trust that cannot be is refused.
 */
#include "engine/trust.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/backend.h"
#include "engine/kernels.h"
#include "engine/model.h"
#include "engine/synth.h"

#define MODEL  "test_trust.gguf"
#define EXITS  "test_trust.exits.gguf"
#define LAYER  2
#define N_ROWS 70
#define D      64

struct rows {
    struct head_result r[N_ROWS];
    float logits[N_ROWS * 320], in[N_ROWS * D], states[N_ROWS * D];
};

static struct model *
open_kind(enum synth_exit_kind kind)
{
    struct synth_params p;
    struct model *m = NULL;
    struct err err;
    int layer = LAYER;

    synth_params_init(&p);
    p.type = GGUF_Q8_0;
    if (synth_model(&p, MODEL, &err) != 0 ||
        synth_exits_of(&p, kind, MODEL, &layer, 1, 64, EXITS, &err) != 0 ||
        model_open(&m, MODEL, EXITS, &err) != 0)
        fail_msg("%s", err.text);
    return m;
}

static void
drop_model(struct model *m)
{
    model_close(m);
    unlink(MODEL);
    unlink(EXITS);
}

static void
run(const struct model *m, struct backend_options opt, int step, struct rows *out)
{
    struct backend *b = NULL;
    struct err err;
    int seq;

    opt.exit_heads = true;
    if (backend_cpu_open(&b, m, &opt, &err) != 0)
        fail_msg("%s", err.text);
    assert_int_equal(backend_seq_open(b, &seq, &err), 0);
    for (int at = 0; at < N_ROWS; at += step) {
        int n = N_ROWS - at < step ? N_ROWS - at : step;
        int32_t tokens[N_ROWS];
        struct batch_item item = { .seq = seq,
                                   .pos = at,
                                   .n_rows = n,
                                   .tokens = tokens,
                                   .hidden_out = out->states + (size_t)at * D,
                                   .head_in = out->in + (size_t)at * D,
                                   .head_rows = n,
                                   .results = out->r + at,
                                   .logits = out->logits + (size_t)at * 320 };
        struct batch batch = {
            .layer_to = LAYER, .head = HEAD_EXIT(0), .n_items = 1, .items = &item
        };

        for (int i = 0; i < n; i++)
            tokens[i] = (at + i) * 37 % 320;
        if (backend_run(b, &batch, &err) != 0)
            fail_msg("%s", err.text);
    }
    backend_close(b);
}

/* The confidence of row r, from what the backend gave out. */
static double
expected(const struct model *m, const struct rows *rows, size_t r)
{
    const float *weight = m->exits[0].trust->data, *bias = m->exits[0].trust_bias->data;
    const float *logits = rows->logits + r * 320, *x = rows->states + r * D;
    double max = -INFINITY, sum = 0, squares = 0, t, p;

    for (int i = 0; i < 320; i++)
        max = fmax(max, (double)logits[i]);
    for (int i = 0; i < 320; i++)
        sum += exp((double)logits[i] - max);
    for (int i = 0; i < D; i++)
        squares += (double)x[i] * (double)x[i] / D;
    p = 1 / sum;
    t = (double)bias[0] * log(p / (1 - p)) + (double)bias[1];
    for (size_t i = 0; i < D; i++)
        t += (double)weight[i] * (double)rows->in[r * D + i] +
             (double)weight[D + i] * (double)x[i] / sqrt(squares + 1e-5);
    return 1 / (1 + exp(-t));
}

static void
test_confidence(void **state)
{
    struct model *m = open_kind(SYNTH_EXIT_TRUST);
    struct rows *rows = calloc(1, sizeof(*rows));
    double least = 1, most = 0;

    (void)state;
    assert_non_null(rows);
    run(m, (struct backend_options){ .n_threads = 2 }, N_ROWS, rows);
    for (size_t r = 0; r < N_ROWS; r++) {
        double c = (double)rows->r[r].confidence;

        assert_true(fabs(c - expected(m, rows, r)) < 1e-5);
        least = fmin(least, c);
        most = fmax(most, c);
    }
    assert_true(most - least > 0.1);
    free(rows);
    drop_model(m);
}

/* Nothing else changes, and without a trust nothing does. */
static void
test_only_confidence(void **state)
{
    struct model *m = open_kind(SYNTH_EXIT_TRUST);
    struct rows *with = calloc(1, sizeof(*with)), *without = calloc(1, sizeof(*without));
    size_t d = (size_t)m->config.d_model;

    (void)state;
    run(m, (struct backend_options){ .n_threads = 1 }, N_ROWS, with);
    m->exits[0].trust = m->exits[0].trust_bias = NULL;
    run(m, (struct backend_options){ .n_threads = 1 }, N_ROWS, without);
    assert_int_equal(d, D);
    for (int r = 0; r < N_ROWS; r++) {
        assert_int_equal(with->r[r].argmax, without->r[r].argmax);
        assert_true(with->r[r].lse == without->r[r].lse);
        assert_true(with->r[r].confidence != without->r[r].confidence);
        assert_true(fabs((double)without->r[r].confidence -
                         exp((double)without->r[r].max_logit -
                             (double)without->r[r].lse)) < 1e-4);
    }
    free(with);
    free(without);
    drop_model(m);
}

static void
test_same_bits(void **state)
{
    struct model *m = open_kind(SYNTH_EXIT_TRUST);
    struct rows *first = calloc(1, sizeof(*first)), *other = calloc(1, sizeof(*other));
    const struct kernels *k;

    (void)state;
    run(m, (struct backend_options){ .n_threads = 1, .cpu = "scalar" }, N_ROWS, first);
    for (int t = 0; (k = kernels_at(t)) != NULL; t++) {
        run(m, (struct backend_options){ .n_threads = 1 + t % 3, .cpu = k->name },
            1 + 8 * (t % 3), other);
        assert_memory_equal(first->r, other->r, sizeof(first->r));
    }
    free(first);
    free(other);
    drop_model(m);
}

/* It rises with p, up to where p is 1, and stays within 0 and 1. */
static void
test_monotonic(void **state)
{
    static const float biases[][2] = { { 1, 0 }, { 0.3f, -4 }, { 5, 60 }, { 0, 2 } };

    (void)state;
    for (size_t b = 0; b < sizeof(biases) / sizeof(biases[0]); b++) {
        for (int lean = -100; lean <= 100; lean += 25) {
            float before = 0;

            for (int i = 1; i <= 4096; i++) {
                float c = trust_confidence(biases[b], (float)lean, (float)i / 4096);

                assert_true(c >= before && c <= 1);
                before = c;
            }
        }
    }
    assert_true(fabs((double)trust_confidence(biases[0], 0, 0.3f) - 0.3) < 1e-6);
}

/* Open the exits with number `at` of a tensor of floats changed. */
static void
refused_with(bool in_bias, size_t at, float value)
{
    struct model *m = open_kind(SYNTH_EXIT_TRUST), *again = NULL;
    const struct gguf_tensor *t = in_bias ? m->exits[0].trust_bias : m->exits[0].trust;
    long offset = (const char *)t->data - (const char *)gguf_bytes(m->exits_file) +
                  (long)(at * sizeof(float));
    FILE *f = fopen(EXITS, "r+");
    struct err err = { 0 };

    assert_non_null(f);
    assert_int_equal(fseek(f, offset, SEEK_SET), 0);
    assert_int_equal(fwrite(&value, sizeof(value), 1, f), 1);
    fclose(f);
    assert_int_equal(model_open(&again, MODEL, EXITS, &err), CE_EFORMAT);
    assert_non_null(strstr(err.text, "exit.2.trust"));
    drop_model(m);
}

static void
test_refused(void **state)
{
    (void)state;
    refused_with(true, 0, -1);
    refused_with(true, 0, NAN);
    refused_with(true, 1, INFINITY);
    refused_with(false, 2 * D - 1, NAN);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_confidence), cmocka_unit_test(test_only_confidence),
        cmocka_unit_test(test_same_bits),  cmocka_unit_test(test_monotonic),
        cmocka_unit_test(test_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
