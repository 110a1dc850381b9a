/* SPDX-License-Identifier: Apache-2.0
 * test_reference.c - the real model against what an independent implementation
 * computed in float32.
 *
 * The engine quantises activations and rounds the cache to float16, so it does not
 * equal that; the bounds are what these two roundings were simulated to cost, with
 * some room: logits 0.15 on average and 0.5 at most, every argmax with a margin above
 * 0.5 equal, 97 % of all. Skipped without the model or the data.
 */
#include "engine/backend.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "engine/model.h"
#include "tests/backend/reference_data.h"

/* Whose figures exits.jsonl has, beside the data; the model's own exits are others. */
#define EXITS "../exits/smollm2-135m-instruct.trial.exits.gguf"

static struct model *model;
static struct backend *backend;

static int
open_all(void **state)
{
    struct backend_options o = { .final_head = true, .exit_heads = true };
    const char *path = reference_model(), *exits;
    struct err err;

    (void)state;
    if (!path || !reference_file("reference/greedy.jsonl"))
        return 0;
    exits = reference_file(EXITS);
    if (model_open(&model, path, exits ? exits : "none", &err) != 0 ||
        backend_cpu_open(&backend, model, &o, &err) != 0) {
        print_error("%s\n", err.text);
        return -1;
    }
    print_message("%s\n", backend->info.name);
    return 0;
}

static int
close_all(void **state)
{
    (void)state;
    backend_close(backend);
    model_close(model);
    return 0;
}

static void
need(bool there)
{
    if (!there) {
        print_message("skipped: no model or no reference data\n");
        skip();
    }
}

static int
run_one(const struct batch_item *item, int from, int to, int head)
{
    struct batch b = {
        .layer_from = from, .layer_to = to, .head = head, .n_items = 1, .items = item
    };
    struct err err;
    int rc = backend_run(backend, &b, &err);

    if (rc != 0)
        print_error("%s\n", err.text);
    return rc;
}

/* ---- logits.jsonl ---- */

static void
test_logits(void **state)
{
    json_t *lines = reference_lines("reference/logits.jsonl");
    double sum = 0, worst = 0;
    int n = 0, seq;
    float *logits;

    (void)state;
    need(backend && lines);
    logits = calloc((size_t)backend->info.n_vocab, sizeof(*logits));
    assert_non_null(logits);
    for (size_t i = 0; i < json_array_size(lines); i++) {
        json_t *line = json_array_get(lines, i);
        size_t n_ids, n_top;
        int32_t *ids = reference_ints(json_object_get(line, "ids"), &n_ids);
        int32_t *top = reference_ints(json_object_get(line, "top_ids"), &n_top);
        double *want = reference_doubles(json_object_get(line, "top_logits"), &n_top);
        struct head_result r;
        struct batch_item item = { .n_rows = (int)n_ids,
                                   .tokens = ids,
                                   .head_rows = 1,
                                   .results = &r,
                                   .logits = logits };

        assert_int_equal(backend_seq_open(backend, &seq, NULL), 0);
        item.seq = seq;
        assert_int_equal(run_one(&item, 0, backend->info.n_layers, HEAD_FINAL), 0);
        for (size_t j = 0; j < n_top; j++, n++) {
            double off = fabs((double)logits[top[j]] - want[j]);

            sum += off;
            worst = off > worst ? off : worst;
        }
        backend_seq_close(backend, seq);
        free(ids);
        free(top);
        free(want);
    }
    print_message("logits: off by %.3f on average, %.3f at most\n", sum / n, worst);
    assert_true(sum / n <= 0.15);
    assert_true(worst <= 0.5);
    free(logits);
    json_decref(lines);
}

/* The residual stream's norm at the last position, block by block. */
static void
test_residual_norms(void **state)
{
    json_t *lines = reference_lines("reference/logits.jsonl");
    double worst = 0;
    size_t d;

    (void)state;
    need(backend && lines);
    d = (size_t)backend->info.d_model;
    for (size_t i = 0; i < json_array_size(lines); i++) {
        json_t *line = json_array_get(lines, i);
        size_t n_ids, n_norms;
        int32_t *ids = reference_ints(json_object_get(line, "ids"), &n_ids);
        double *want = reference_doubles(
            json_object_get(line, "residual_norm_after_block"), &n_norms);
        float *x = calloc(n_ids * d, sizeof(*x));
        int seq;

        assert_non_null(x);
        assert_int_equal(backend_seq_open(backend, &seq, NULL), 0);
        for (int l = 0; l < backend->info.n_layers; l++) {
            struct batch_item item = { .seq = seq,
                                       .n_rows = (int)n_ids,
                                       .tokens = l == 0 ? ids : NULL,
                                       .hidden = l == 0 ? NULL : x,
                                       .hidden_out = x };
            double sum = 0, off;

            assert_int_equal(run_one(&item, l, l + 1, HEAD_NONE), 0);
            for (size_t j = 0; j < d; j++)
                sum += (double)x[(n_ids - 1) * d + j] * (double)x[(n_ids - 1) * d + j];
            off = fabs(sqrt(sum) / want[l + 1] - 1);
            worst = off > worst ? off : worst;
        }
        backend_seq_close(backend, seq);
        free(ids);
        free(want);
        free(x);
    }
    print_message("residual norms: off by %.2f %% at most\n", worst * 100);
    assert_true(worst < 0.05);
    json_decref(lines);
}

/* ---- greedy.jsonl, exits.jsonl ---- */

/* Prompt and response of a line as one list; the result of the row before each
 * response token in results[0 .. n_output-1]. */
static struct head_result *
teacher_forced(const json_t *line, int layer_to, int head, size_t *n_output)
{
    size_t n_prompt;
    int32_t *prompt = reference_ints(json_object_get(line, "prompt_ids"), &n_prompt);
    int32_t *output = reference_ints(json_object_get(line, "output_ids"), n_output);
    int32_t *ids = calloc(n_prompt + *n_output, sizeof(*ids));
    struct head_result *results = calloc(*n_output, sizeof(*results));
    struct batch_item item = { .n_rows = (int)(n_prompt + *n_output) - 1,
                               .tokens = ids,
                               .head_rows = (int)*n_output,
                               .results = results };

    assert_true(prompt && output && ids && results);
    memcpy(ids, prompt, n_prompt * sizeof(*ids));
    memcpy(ids + n_prompt, output, *n_output * sizeof(*ids));
    assert_int_equal(backend_seq_open(backend, &item.seq, NULL), 0);
    assert_int_equal(run_one(&item, 0, layer_to, head), 0);
    backend_seq_close(backend, item.seq);
    free(prompt);
    free(output);
    free(ids);
    return results;
}

static void
test_greedy(void **state)
{
    json_t *lines = reference_lines("reference/greedy.jsonl");
    int n = 0, equal = 0, n_clear = 0, clear_equal = 0;
    double off = 0;

    (void)state;
    need(backend && lines);
    for (size_t i = 0; i < json_array_size(lines); i++) {
        json_t *line = json_array_get(lines, i);
        size_t n_out, n_ref;
        int32_t *argmax = reference_ints(json_object_get(line, "argmax"), &n_ref);
        double *margin = reference_doubles(json_object_get(line, "margin"), &n_ref);
        double *confidence =
            reference_doubles(json_object_get(line, "confidence"), &n_ref);
        struct head_result *r =
            teacher_forced(line, backend->info.n_layers, HEAD_FINAL, &n_out);

        assert_int_equal(n_out, n_ref);
        for (size_t j = 0; j < n_ref; j++, n++) {
            bool same = r[j].argmax == argmax[j];

            equal += same;
            n_clear += margin[j] > 0.5;
            clear_equal += margin[j] > 0.5 && same;
            off += fabs((double)r[j].confidence - confidence[j]);
        }
        free(argmax);
        free(margin);
        free(confidence);
        free(r);
    }
    print_message("greedy: %d of %d equal (%.2f %%), %d of %d with margin above 0.5; "
                  "confidence off by %.4f on average\n",
                  equal, n, 100.0 * equal / n, clear_equal, n_clear, off / n);
    assert_int_equal(clear_equal, n_clear);
    assert_true(equal >= 0.97 * n);
    json_decref(lines);
}

static void
check_exit(const json_t *lines, const json_t *prompts, int exit, int layer)
{
    int n = 0, equal = 0;
    double off = 0;
    char key[32];

    for (size_t i = 0; i < json_array_size(lines); i++) {
        const json_t *line = json_array_get(lines, i);
        size_t at = (size_t)json_integer_value(json_object_get(line, "line"));
        size_t n_out, n_ref;
        struct head_result *r =
            teacher_forced(json_array_get(prompts, at), layer, HEAD_EXIT(exit), &n_out);
        int32_t *argmax;
        double *confidence;

        snprintf(key, sizeof(key), "argmax_%d", layer);
        argmax = reference_ints(json_object_get(line, key), &n_ref);
        snprintf(key, sizeof(key), "confidence_%d", layer);
        confidence = reference_doubles(json_object_get(line, key), &n_ref);
        assert_int_equal(n_out, n_ref);
        for (size_t j = 0; j < n_ref; j++, n++) {
            equal += r[j].argmax == argmax[j];
            off += fabs((double)r[j].confidence - confidence[j]);
        }
        free(argmax);
        free(confidence);
        free(r);
    }
    print_message("exit after %d: %d of %d equal (%.2f %%), confidence off by %.4f on "
                  "average\n",
                  layer, equal, n, 100.0 * equal / n, off / n);
    assert_true(equal >= 0.97 * n);
    assert_true(off / n <= 0.03);
}

static void
test_exits(void **state)
{
    json_t *lines = reference_lines("reference/exits.jsonl");
    json_t *prompts = reference_lines("reference/greedy.jsonl");

    (void)state;
    need(backend && lines && prompts && backend->info.n_exits > 0);
    assert_int_equal(backend->info.n_exits, 2);
    for (int i = 0; i < backend->info.n_exits; i++)
        check_exit(lines, prompts, i, backend->info.exit_layers[i]);
    json_decref(lines);
    json_decref(prompts);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits),
        cmocka_unit_test(test_residual_norms),
        cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_exits),
    };

    return cmocka_run_group_tests(tests, open_all, close_all);
}
