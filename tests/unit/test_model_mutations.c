/* SPDX-License-Identifier: Apache-2.0
 * test_model_mutations.c - broken model files through every layer that reads them:
 * 600 seeded mutations of a small model go through model, vocabulary, template and
 * backend, and run a step when all of them accept.
 *
 * Each either fails with a code and a text, or works; the sanitizers watch. The
 * configuration's keys and the tensor directory are struck far more often than the
 * rest, for there a file can still open and yet lie.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/backend.h"
#include "engine/chat_template.h"
#include "engine/model.h"
#include "engine/synth.h"
#include "engine/tokenizer.h"

#define MUTATIONS 600
#define MODEL     "test_model_mutations.gguf"

static unsigned char *whole; /* the model before it is broken */
static size_t whole_size;
static size_t vocab_at, directory_at, data_at; /* where these begin */

/* How many mutants came past each layer. */
static struct {
    int model, tokenizer, backend, step;
} passed;

static size_t
offset_of(const char *text)
{
    const unsigned char *p = memmem(whole, whole_size, text, strlen(text));

    return p != NULL ? (size_t)(p - whole) : 0;
}

static int
make_model(void **state)
{
    struct synth_params p;
    struct gguf *g;
    struct err err;

    (void)state;
    synth_params_init(&p);
    p.n_layers = 2;
    p.d_model = p.d_ff = 32;
    p.n_heads = 2;
    p.n_kv_heads = 1;
    p.n_ctx = 64;
    p.type = GGUF_Q8_0;
    p.graph = (struct synth_graph){ .bias = true, .rope_scale = 2, .rope_freqs = true };
    if (synth_model(&p, MODEL, &err) != 0 || gguf_open(&g, MODEL, &err) != 0)
        return -1;
    whole_size = gguf_size_bytes(g);
    whole = malloc(whole_size);
    if (whole == NULL)
        return -1;
    memcpy(whole, gguf_bytes(g), whole_size);
    data_at = (size_t)((const unsigned char *)gguf_tensor_at(g, 0)->data -
                       (const unsigned char *)gguf_bytes(g));
    gguf_close(g);
    vocab_at = offset_of("tokenizer.ggml.model");
    directory_at = offset_of("token_embd.weight");
    return vocab_at > 0 && directory_at > vocab_at && data_at > directory_at ? 0 : -1;
}

static int
forget_model(void **state)
{
    (void)state;
    free(whole);
    unlink(MODEL);
    return 0;
}

static void
write_file(const unsigned char *data, size_t size)
{
    FILE *f = fopen(MODEL, "wb");

    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

/* ---- what a file goes through ---- */

/* A refusal has a code and a text. */
static bool
accepted(int rc, const struct err *err)
{
    if (rc == 0)
        return true;
    assert_true(rc < 0);
    assert_true(err->code < 0 && err->text[0] != '\0');
    return false;
}

static void
try_step(struct backend *b)
{
    const int32_t ids[4] = { 1, 5, 7, 9 };
    struct head_result result;
    struct batch_item item = {
        .n_rows = 4, .tokens = ids, .head_rows = 1, .results = &result
    };
    struct batch batch = { .layer_to = b->info.layer_to,
                           .head = HEAD_FINAL,
                           .n_top = 4,
                           .n_items = 1,
                           .items = &item };
    struct err err = { 0 };

    if (!accepted(backend_seq_open(b, &item.seq, &err), &err))
        return;
    if (accepted(backend_run(b, &batch, &err), &err)) {
        assert_in_range(result.argmax, 0, b->info.n_vocab - 1);
        passed.step++;
    }
    backend_seq_close(b, item.seq);
}

static void
try_backend(const struct model *m)
{
    const struct backend_options options = {
        .n_threads = 1, .final_head = true, .n_ctx = 16, .max_seqs = 2
    };
    struct err err = { 0 };
    struct backend *b;

    if (!accepted(backend_cpu_open(&b, m, &options, &err), &err))
        return;
    passed.backend++;
    try_step(b);
    backend_close(b);
}

static void
try_file(void)
{
    const struct chat_template *t;
    struct tokenizer *tok;
    struct err err = { 0 };
    struct model *m;
    int32_t ids[64];
    size_t n;

    if (!accepted(model_open(&m, MODEL, "none", &err), &err))
        return;
    passed.model++;
    if (accepted(tokenizer_open(&tok, m->file, &err), &err)) {
        passed.tokenizer++;
        err.code = 0;
        (void)accepted(tokenizer_encode(tok, " what you", 9, true, ids, 64, &n, &err),
                       &err);
        tokenizer_free(tok);
    }
    err.code = 0;
    (void)accepted(chat_template_find(&t, m->file, NULL, &err), &err);
    try_backend(m);
    model_close(m);
}

/* ---- mutations ---- */

static uint32_t
rnd(uint32_t *s)
{
    *s = *s * 1664525u + 1013904223u;
    return *s >> 8;
}

static size_t
place(uint32_t *s)
{
    const size_t from[4] = { 0, directory_at, 0, data_at };
    const size_t to[4] = { vocab_at, data_at, data_at, whole_size };
    static const int share[8] = { 0, 0, 0, 0, 1, 1, 2, 3 };
    int k = share[rnd(s) % 8];

    return from[k] + ((size_t)rnd(s) << 12 ^ rnd(s)) % (to[k] - from[k]);
}

/* Break data[0..whole_size); returns its new size. */
static size_t
mutate(unsigned char *data, uint32_t *s)
{
    static const uint32_t words[] = { 0,  1,     2,          3,          31,
                                      33, 65536, 0x7fffffff, 0x80000000, 0xffffffff };
    uint32_t kind = rnd(s) % 8, n = 1 + rnd(s) % 3;
    size_t at;

    if (kind == 0)
        return place(s);
    while (n-- > 0) {
        at = place(s);
        if (kind < 3)
            data[at] ^= (unsigned char)(1u << rnd(s) % 8);
        else if (kind < 5)
            data[at] = (unsigned char)rnd(s);
        else if (whole_size - at >= 4)
            memcpy(data + at, &words[rnd(s) % 10], 4);
    }
    return whole_size;
}

static void
test_mutants(void **state)
{
    unsigned char *data = malloc(whole_size);
    uint32_t seed = 20240611;
    size_t size;
    int i;

    (void)state;
    assert_non_null(data);
    try_file();
    assert_int_equal(passed.step, 1); /* whole, it works */
    for (i = 0; i < MUTATIONS; i++) {
        memcpy(data, whole, whole_size);
        size = mutate(data, &seed);
        write_file(data, size);
        try_file();
    }
    print_message("of %d mutants %d open as models, %d as vocabularies, %d as backends, "
                  "%d ran a step\n",
                  MUTATIONS, passed.model, passed.tokenizer, passed.backend, passed.step);
    free(data);
}

/* A 32-bit value of the configuration, replaced. */
static void
with_value(const char *key, uint32_t value)
{
    unsigned char *data = malloc(whole_size);
    size_t at = offset_of(key);

    assert_non_null(data);
    assert_true(at > 0);
    memcpy(data, whole, whole_size);
    memcpy(data + at + strlen(key) + 4, &value, 4); /* behind the value's type */
    write_file(data, whole_size);
    try_file();
    free(data);
}

/* Every number of the configuration at the values that break arithmetic. */
static void
test_configurations(void **state)
{
    static const char *const keys[] = { "llama.block_count",
                                        "llama.context_length",
                                        "llama.embedding_length",
                                        "llama.feed_forward_length",
                                        "llama.attention.head_count",
                                        "llama.attention.head_count_kv",
                                        "llama.attention.key_length",
                                        "llama.attention.value_length",
                                        "llama.attention.layer_norm_rms_epsilon",
                                        "llama.rope.dimension_count",
                                        "llama.rope.freq_base",
                                        "llama.rope.scaling.factor",
                                        "llama.vocab_size" };
    static const uint32_t values[] = { 0,          1,          3,
                                       1u << 20,   1u << 30,   0x7fffffff,
                                       0x80000000, 0xffffffff, 0x7f800000 };
    size_t i, k;

    (void)state;
    for (i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        for (k = 0; k < sizeof(values) / sizeof(values[0]); k++)
            with_value(keys[i], values[k]);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mutants),
        cmocka_unit_test(test_configurations),
    };

    return cmocka_run_group_tests(tests, make_model, forget_model);
}
