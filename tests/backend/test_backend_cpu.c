/* SPDX-License-Identifier: Apache-2.0
 * test_backend_cpu.c - the CPU backend: the suite on models of every format and of
 * awkward shapes; the same bits from every instruction set and number of threads; the
 * graph against a plain one in double precision. (Logits spread by about 4. Rounding K
 * and V to float16 costs them 0.003 on average, int8 activations 0.1 at these widths; a
 * mistake in the graph costs whole units.)
 */
#include "engine/backend.h"

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/log.h"
#include "engine/kernels.h"
#include "engine/synth.h"
#include "tests/backend/plain_forward.h"
#include "tests/backend/reference_data.h"
#include "tests/backend/suite.h"

#define MODEL "test_backend_cpu.gguf"
#define EXITS "test_backend_cpu.exits.gguf"

static const struct shape {
    const char *what;
    struct synth_params p; /* n_ctx and seed are filled in */
    double tolerance;      /* of a logit, on average, against double precision */
} shapes[] = {
    { "GQA 3:1, F32",
      { 3, 96, 6, 2, 16, 160, 0, 320, true, GGUF_F32, 0, 0, { 0 } },
      0.005 },
    { "MHA, odd sizes, F16, untied",
      { 3, 72, 3, 3, 16, 100, 0, 333, false, GGUF_F16, 0, 0, { 0 } },
      0.005 },
    { "MHA, Q8_0", { 4, 64, 4, 4, 16, 96, 0, 320, true, GGUF_Q8_0, 0, 0, { 0 } }, 0.2 },
    { "GQA 2:1, Q4_0, untied",
      { 3, 128, 4, 2, 32, 224, 0, 1500, false, GGUF_Q4_0, 0, 0, { 0 } },
      0.2 },
    { "GQA 3:1, Q4_1",
      { 4, 192, 3, 1, 64, 288, 0, 2100, true, GGUF_Q4_1, 0, 0, { 0 } },
      0.2 },
    { "qwen2, F32, linear scaling",
      { 3,
        96,
        6,
        2,
        16,
        160,
        0,
        320,
        true,
        GGUF_F32,
        0,
        0,
        { .arch = SYNTH_QWEN2, .rope_base = 1e6, .rope_scale = 4 } },
      0.005 },
    { "qwen3, Q8_0, wide heads",
      { 3, 64, 4, 2, 48, 96, 0, 320, true, GGUF_Q8_0, 0, 0, { .arch = SYNTH_QWEN3 } },
      0.2 },
    { "smollm3, F16, every bias, factors, part of a head",
      { 4,
        72,
        3,
        3,
        32,
        100,
        0,
        333,
        false,
        GGUF_F16,
        0,
        0,
        { .arch = SYNTH_SMOLLM3, .bias = true, .n_rot = 20, .rope_freqs = true } },
      0.005 },
    { "GQA 2:1, Q4_K, untied",
      { 3, 256, 4, 2, 64, 256, 0, 320, false, GGUF_Q4_K, 0, 0, { 0 } },
      0.2 },
};
#define N_SHAPES (sizeof(shapes) / sizeof(shapes[0]))

/* The shape's model with exits of a kind after block 1 and the last but one. */
static struct model *
make_model_with(const struct shape *s, enum synth_exit_kind kind, int width)
{
    struct synth_params p = s->p;
    int layers[2] = { 1, p.n_layers - 1 };
    struct model *m = NULL;
    struct err err;

    p.n_ctx = 400;
    p.seed = 77;
    if (synth_model(&p, MODEL, &err) != 0 ||
        synth_exits_of(&p, kind, MODEL, layers, 2, width, EXITS, &err) != 0 ||
        model_open(&m, MODEL, EXITS, &err) != 0)
        fail_msg("%s: %s", s->what, err.text);
    return m;
}

static struct model *
make_model_of(const struct shape *s, enum synth_exit_kind kind)
{
    return make_model_with(s, kind, 64);
}

static struct model *
make_model(const struct shape *s)
{
    return make_model_of(s, SYNTH_EXIT_MLP);
}

static void
drop_model(struct model *m)
{
    model_close(m);
    unlink(MODEL);
    unlink(EXITS);
}

static void
test_suite(void **state)
{
    static const int shared[] = { 1, 2 };

    (void)state;
    for (size_t i = 0; i < N_SHAPES; i++) {
        struct suite s = { .open = backend_cpu_open, .n_tokens = 83 };
        struct model *m = make_model(&shapes[i]);

        s.model = m;
        s.options.n_threads = 1 + (int)(i % 3);
        suite_run(&s);
        if (i == 0) { /* once with shared heads, and once past a chunk's rows */
            assert_int_equal(model_set_shared_exits(m, shared, 2, NULL), 0);
            s.n_tokens = 300;
            suite_run(&s);
        }
        if (i == N_SHAPES - 1) { /* once with nothing packed */
            s.options.packing_off = true;
            suite_run(&s);
        }
        drop_model(m);
    }
}

/* Every instruction set, every number of threads, packed or not: the same bits. */
static void
same_bits(const struct model *m, int n_tokens)
{
    struct suite s = { .open = backend_cpu_open, .model = m, .n_tokens = n_tokens };
    struct suite_trace first, t;
    const struct kernels *k;

    s.options.cpu = "scalar";
    s.options.n_threads = 1;
    suite_trace_take(&first, &s);
    for (int i = 0; (k = kernels_at(i)) != NULL; i++) {
        for (int n = 1; n <= 5; n++) {
            s.options.cpu = k->name;
            s.options.n_threads = n <= 3 ? n : n - 3;
            s.options.packing_off = n > 3;
            suite_trace_take(&t, &s);
            suite_trace_equal(&first, &t);
            suite_trace_free(&t);
        }
    }
    suite_trace_free(&first);
}

static void
test_same_bits(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SHAPES; i++) {
        struct model *m = make_model(&shapes[i]);

        same_bits(m, 50);
        drop_model(m);
    }
}

/* Adapters without a gated part, through the whole suite. */
static void
test_affine_exits(void **state)
{
    struct suite s = { .open = backend_cpu_open, .n_tokens = 41 };

    (void)state;
    for (size_t i = 0; i < N_SHAPES; i++) {
        struct model *m = make_model_with(&shapes[i], SYNTH_EXIT_MLP, 0);

        s.model = m;
        s.options.n_threads = 1 + (int)(i % 2);
        suite_run(&s);
        drop_model(m);
    }
}

/* Exits with norms and output matrices of their own, through the whole suite. */
static void
test_own_exits(void **state)
{
    struct suite s = { .open = backend_cpu_open, .n_tokens = 41 };

    (void)state;
    for (size_t i = 0; i < N_SHAPES; i++) {
        struct model *m = make_model_of(&shapes[i], SYNTH_EXIT_OWN);

        s.model = m;
        s.options.n_threads = 1 + (int)(i % 2);
        s.options.packing_off = i == 0;
        suite_run(&s);
        same_bits(m, 40);
        drop_model(m);
    }
}

static size_t
resident(const struct model *m, struct backend_options o)
{
    struct backend *b;
    size_t bytes;

    o.n_threads = 1;
    assert_int_equal(backend_cpu_open(&b, m, &o, NULL), 0);
    bytes = b->info.weight_bytes;
    backend_close(b);
    return bytes;
}

/* An exit's own matrix is in memory when the exit is in use; the model's is not, unless
 * a head reads it. */
static void
test_own_exits_memory(void **state)
{
    struct model *m = make_model_of(&shapes[1], SYNTH_EXIT_OWN);     /* not quantised */
    size_t norm = 72 * sizeof(float), matrix = (size_t)336 * 72 * 2; /* whole tiles */
    struct backend_options o = { .layer_to = 1 };
    size_t blocks = resident(m, o);

    (void)state;
    o.exit_heads = true;
    assert_int_equal(resident(m, o), blocks + norm + matrix);
    o = (struct backend_options){ 0 };
    blocks = resident(m, o);
    o.exit_heads = true;
    assert_int_equal(resident(m, o), blocks + 2 * (norm + matrix));
    o.final_head = true;
    assert_int_equal(resident(m, o), blocks + 3 * (norm + matrix));
    drop_model(m);
}

/* What is not packed is not counted, and a tile larger than a thread's usual room still
 * has its place. */
static void
test_packing_off(void **state)
{
    static const struct synth_params wide = { 3, 96,   6,        2, 16, 2000, 0,
                                              0, true, GGUF_F32, 0, 0,  { 0 } };
    struct backend_options o = { .n_threads = 2, .final_head = true };
    struct shape s = { "wide", wide, 0 };
    struct suite_trace packed, off;
    struct suite suite = { .open = backend_cpu_open, .n_tokens = 3 };
    size_t norms = (2 * 3 + 1) * 96 * sizeof(float), tile = 2000 * 64;
    struct backend *b;
    struct model *m;

    (void)state;
    s.p.n_vocab = 320;
    m = make_model(&s);
    o.packing_off = true;
    assert_int_equal(backend_cpu_open(&b, m, &o, NULL), 0);
    assert_int_equal(b->info.weight_bytes, norms + 2 * tile);
    backend_close(b);
    suite.model = m;
    suite_trace_take(&packed, &suite);
    suite.options = o;
    suite_trace_take(&off, &suite);
    suite_trace_equal(&packed, &off);
    suite_trace_free(&packed);
    suite_trace_free(&off);
    drop_model(m);
}

/* ---- the folder of packed weights ---- */

#define CACHE "test_backend_cpu.cache"

/* Files there; the first one's path, and with `wipe` none are left. */
static int
cache_files(char *path, size_t size, bool wipe)
{
    DIR *d = opendir(CACHE);
    int n = 0;

    for (struct dirent *e; d && (e = readdir(d)) != NULL;) {
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, size, "%s/%s", CACHE, e->d_name);
        if (wipe)
            unlink(path);
        n++;
    }
    if (d)
        closedir(d);
    return n;
}

/* What comes out with one and two threads is `want`. */
static void
cached_bits(const struct suite *suite, const struct suite_trace *want)
{
    struct suite s = *suite;
    struct suite_trace t;

    s.options.packing_cache = CACHE;
    for (int n = 1; n <= 2; n++) {
        s.options.n_threads = n;
        suite_trace_take(&t, &s);
        suite_trace_equal(want, &t);
        suite_trace_free(&t);
    }
}

static void
test_packing_cache(void **state)
{
    char path[300];

    (void)state;
    log_set_level(LOG_LEVEL_ERROR); /* it warns of what we do to its files */
    cache_files(path, sizeof(path), true);
    rmdir(CACHE);
    assert_int_equal(mkdir(CACHE, 0700), 0);
    for (size_t i = 0; i < N_SHAPES; i++) {
        struct model *m = make_model(&shapes[i]);
        struct suite s = { .open = backend_cpu_open, .model = m, .n_tokens = 40 };
        struct suite_trace want;

        suite_trace_take(&want, &s);
        cached_bits(&s, &want); /* written, then mapped */
        assert_int_equal(cache_files(path, sizeof(path), false), 1);
        assert_int_equal(truncate(path, 70000), 0);
        cached_bits(&s, &want); /* replaced, then mapped */
        assert_int_equal(cache_files(path, sizeof(path), true), 1);
        assert_int_equal(symlink("nowhere", CACHE "/link"), 0);
        assert_int_equal(cache_files(path, sizeof(path), true), 1);
        suite_trace_free(&want);
        drop_model(m);
    }
    assert_int_equal(rmdir(CACHE), 0);
}

/* Open and close once; how many files there are then. */
static int
opened(const struct model *m, struct backend_options o)
{
    struct backend *b;
    char path[300];

    o.packing_cache = CACHE;
    assert_int_equal(backend_cpu_open(&b, m, &o, NULL), 0);
    assert_true(b->info.weight_bytes > 0);
    backend_close(b);
    return cache_files(path, sizeof(path), false);
}

/* One file for each range, set of heads, and side file of exits. */
static void
test_cache_files(void **state)
{
    static const struct backend_options options[] = {
        { .final_head = true },
        { .final_head = true, .exit_heads = true },
        { .exit_heads = true, .layer_to = 2 },
        { .layer_from = 1, .layer_to = 2 },
    };
    struct backend_options off = { .packing_off = true };
    struct synth_params p = shapes[0].p;
    struct model *m = make_model(&shapes[0]);
    int layer = 1;
    char path[300];

    (void)state;
    log_set_level(LOG_LEVEL_ERROR);
    cache_files(path, sizeof(path), true);
    rmdir(CACHE);
    p.n_ctx = 400;
    p.seed = 77;
    assert_int_equal(opened(m, options[0]), 0); /* no folder: it goes on without */
    assert_int_equal(mkdir(CACHE, 0700), 0);
    for (int i = 0; i < 8; i++)
        assert_int_equal(opened(m, options[i % 4]), i < 4 ? i + 1 : 4);
    assert_int_equal(opened(m, off), 4);
    model_close(m);
    assert_int_equal(synth_exits(&p, MODEL, &layer, 1, 32, EXITS, NULL), 0);
    assert_int_equal(model_open(&m, MODEL, EXITS, NULL), 0);
    assert_int_equal(opened(m, options[0]), 4);
    assert_int_equal(opened(m, options[1]), 5);
    drop_model(m);
    assert_int_equal(cache_files(path, sizeof(path), true), 5);
    assert_int_equal(rmdir(CACHE), 0);
}

/* ---- against the plain graph ---- */

static void
compare_plain(const struct shape *shape, const struct model *m, struct backend *b,
              int exit)
{
    enum { N = 70 };
    size_t n_vocab = (size_t)m->config.n_vocab;
    int layers = exit < 0 ? m->config.n_layers : m->exits[exit].layer;
    float *logits = calloc(N * n_vocab, sizeof(*logits));
    struct head_result results[N];
    int32_t tokens[N];
    struct batch_item item = { .n_rows = N,
                               .tokens = tokens,
                               .head_rows = N,
                               .results = results,
                               .logits = logits };
    struct batch batch = { .layer_to = layers,
                           .head = exit < 0 ? HEAD_FINAL : HEAD_EXIT(exit),
                           .n_items = 1,
                           .items = &item };
    double *plain, worst = 0, sum = 0;

    for (int i = 0; i < N; i++)
        tokens[i] = suite_token(m, 0, i);
    plain = plain_forward(m, tokens, N, layers, exit);
    assert_true(logits && plain);
    assert_int_equal(backend_seq_open(b, &item.seq, NULL), 0);
    assert_int_equal(backend_run(b, &batch, NULL), 0);
    backend_seq_close(b, item.seq);
    for (size_t i = 0; i < N * n_vocab; i++) {
        double off = fabs((double)logits[i] - plain[i]);

        sum += off;
        worst = off > worst ? off : worst;
    }
    print_message("%s, head %d: off by %.4f on average, %.4f at most\n", shape->what,
                  exit, sum / (double)(N * n_vocab), worst);
    assert_true(sum / (double)(N * n_vocab) <= shape->tolerance);
    assert_true(worst <= 12 * shape->tolerance);
    for (int i = 0; i < N; i++) { /* confidence and log-sum-exp of these logits */
        double s = 0;

        for (size_t j = 0; j < n_vocab; j++)
            s += exp((double)logits[(size_t)i * n_vocab + j] -
                     (double)results[i].max_logit);
        assert_true(fabs((double)results[i].confidence - 1 / s) < 1e-5);
        assert_true(fabs((double)results[i].lse - (double)results[i].max_logit - log(s)) <
                    1e-5);
    }
    free(logits);
    free(plain);
}

static void
test_plain(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SHAPES; i++) {
        struct backend_options o = { .n_threads = 1,
                                     .final_head = true,
                                     .exit_heads = true };
        struct model *m = make_model(&shapes[i]);
        struct backend *b;

        assert_int_equal(backend_cpu_open(&b, m, &o, NULL), 0);
        for (int e = -1; e < m->n_exits; e++)
            compare_plain(&shapes[i], m, b, e);
        backend_close(b);
        drop_model(m);
        for (int k = 0; k < 2; k++) {
            m = k == 0 ? make_model_of(&shapes[i], SYNTH_EXIT_OWN)
                       : make_model_with(&shapes[i], SYNTH_EXIT_MLP, 0); /* affine */
            assert_int_equal(backend_cpu_open(&b, m, &o, NULL), 0);
            for (int e = 0; e < m->n_exits; e++)
                compare_plain(&shapes[i], m, b, e);
            backend_close(b);
            drop_model(m);
        }
    }
}

/* ---- logits that are not finite ---- */

/* Write NaN over the embedding of token 7. */
static void
poison(struct model *m)
{
    long at = (const char *)m->token_embd->data - (const char *)gguf_bytes(m->file);
    float nan_value = NAN;
    FILE *f = fopen(MODEL, "r+");

    assert_non_null(f);
    at += 7 * m->config.d_model * (long)sizeof(float);
    assert_int_equal(fseek(f, at, SEEK_SET), 0);
    assert_int_equal(fwrite(&nan_value, sizeof(nan_value), 1, f), 1);
    assert_int_equal(fclose(f), 0);
}

static void
test_not_finite(void **state)
{
    struct backend_options o = { .n_threads = 2, .final_head = true };
    struct shape untied = shapes[0]; /* so that only token 7's rows read what is bad */
    struct model *m;
    struct head_result good[2], alone[2], bad[2];
    int32_t fine[] = { 5, 6 }, poisoned[] = { 5, 7 };
    struct batch_item items[2] = {
        { .n_rows = 2, .tokens = poisoned, .head_rows = 2, .results = bad },
        { .n_rows = 2, .tokens = fine, .head_rows = 2, .results = good },
    };
    struct batch batch = {
        .layer_to = 3, .head = HEAD_FINAL, .n_items = 2, .items = items
    };
    struct backend *b;
    struct err err;

    (void)state;
    untied.p.tied = false;
    m = make_model(&untied);
    poison(m);
    model_close(m);
    assert_int_equal(model_open(&m, MODEL, "none", &err), 0);
    assert_int_equal(backend_cpu_open(&b, m, &o, &err), 0);
    assert_int_equal(backend_seq_open(b, &items[0].seq, NULL), 0);
    assert_int_equal(backend_seq_open(b, &items[1].seq, NULL), 0);
    assert_int_equal(backend_run(b, &batch, &err), CE_EINTERNAL);
    assert_int_equal(bad[1].argmax, -1);
    assert_true(bad[0].argmax >= 0 && good[0].argmax >= 0);
    assert_int_equal(backend_n_past(b, items[0].seq, 2), 2);
    backend_truncate(b, items[1].seq, 0);
    batch.n_items = 1;
    batch.items = &items[1];
    items[1].results = alone;
    assert_int_equal(backend_run(b, &batch, &err), 0);
    assert_memory_equal(good, alone, sizeof(good));
    backend_close(b);
    drop_model(m);
}

/* ---- where time went ---- */

static void
test_times(void **state)
{
    struct backend_options o = { .n_threads = 2 };
    struct model *m = make_model(&shapes[0]);
    int32_t tokens[300] = { 0 };
    struct batch_item item = { .n_rows = 300, .tokens = tokens };
    struct batch batch = {
        .layer_to = 3, .head = HEAD_NONE, .n_items = 1, .items = &item
    };
    struct backend_times t, later;
    struct backend *b, silent = { .ops = &(const struct backend_ops){ 0 } };

    (void)state;
    assert_int_equal(backend_cpu_open(&b, m, &o, NULL), 0);
    t = backend_times(b);
    assert_true(t.run_seconds == 0 && t.attention_seconds == 0);
    assert_int_equal(backend_seq_open(b, &item.seq, NULL), 0);
    assert_int_equal(backend_run(b, &batch, NULL), 0);
    t = backend_times(b);
    assert_true(t.attention_seconds > 0 && t.attention_seconds < t.run_seconds);
    assert_int_equal(backend_run(b, &batch, NULL), CE_EGAP); /* a step that is refused */
    later = backend_times(b);
    assert_true(later.attention_seconds == t.attention_seconds);
    backend_close(b);
    drop_model(m);
    t = backend_times(&silent);
    assert_true(t.run_seconds == 0 && t.attention_seconds == 0);
}

/* ---- options, and the real model ---- */

static void
test_options(void **state)
{
    struct model *m = make_model(&shapes[0]);
    struct backend *b;
    struct err err;

    (void)state;
#define TRY(code, ...)                                                                   \
    do {                                                                                 \
        struct backend_options o = { __VA_ARGS__ };                                      \
        assert_int_equal(backend_cpu_open(&b, m, &o, &err), code);                       \
        assert_null(b);                                                                  \
    } while (0)
    TRY(CE_EINVAL, .layer_to = 4);
    TRY(CE_EINVAL, .layer_from = -1);
    TRY(CE_EINVAL, .layer_from = 3);
    TRY(CE_EINVAL, .n_ctx = 401);
    TRY(CE_EINVAL, .n_ctx = -1);
    TRY(CE_EINVAL, .max_seqs = -1);
    TRY(CE_EINVAL, .n_threads = -3);
    TRY(CE_EINVAL, .cpu = "z80");
#undef TRY
    assert_int_equal(
        backend_cpu_open(&b, m, &(struct backend_options){ .layer_from = 1, .n_ctx = 10 },
                         &err),
        0);
    assert_int_equal(b->info.layer_from, 1);
    assert_int_equal(b->info.n_ctx, 10);
    assert_int_equal(b->info.n_exits, 0);
    assert_false(b->info.has_final_head);
    assert_string_equal(b->info.numerics_id, "cecollm-1/cpu/kv-f16");
    assert_int_equal(strncmp(b->info.name, "cpu/", 4), 0);
    assert_true(b->info.weight_bytes > 0);
    assert_int_equal(b->info.kv_page_bytes, 64 * 2 * 2 * 2 * 16);
    backend_close(b);
    backend_close(NULL);
    drop_model(m);
}

static void
test_real_model(void **state)
{
    struct suite s = { .open = backend_cpu_open, .n_tokens = 70 };
    const char *path = reference_model();
    struct model *m;

    (void)state;
    if (!path) {
        print_message("skipped: no model\n");
        skip();
    }
    assert_int_equal(model_open(&m, path, NULL, NULL), 0);
    s.model = m;
    suite_run(&s);
    model_close(m);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_suite),
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_affine_exits),
        cmocka_unit_test(test_own_exits),
        cmocka_unit_test(test_own_exits_memory),
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_times),
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_real_model),
        cmocka_unit_test(test_packing_off),
        cmocka_unit_test(test_packing_cache),
        cmocka_unit_test(test_cache_files),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
