/* SPDX-License-Identifier: Apache-2.0
 * test_model_mutations.c - broken model files through every layer that reads them, for
 * every format of weights: 2,000 seeded mutations of a small model each
 * (CECOLLM_MUTATIONS: another number) go through model, vocabulary, template, exits and
 * backend, and run a step through every head when all of them accept.
 *
 * Each either fails with a code and a text, or works (model_walk.h); the sanitizers
 * watch. The configuration's keys and the tensor directory are struck far more often than
 * the rest, for there a file can still open and yet lie.
 *
 * The model lies in memory that has a name, and is broken and mended there. It says that
 * it is a part, though one with all blocks: the digest of a whole file would cost more
 * than all else.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/log.h"
#include "engine/gguf.h"
#include "engine/quant.h"
#include "engine/synth.h"
#include "tests/unit/model_walk.h"

#define MUTATIONS 2000
#define MODEL     "test_model_mutations.gguf"
#define MLP       "test_model_mutations.mlp"
#define OWN       "test_model_mutations.own"
#define N_LAYERS  3
#define MAX_TYPE  64

static int fd = -1;
static char path[40];
static unsigned char *file;  /* [whole_size] what is at `path` */
static unsigned char *whole; /* [whole_size] the same before it is broken */
static size_t whole_size;
static size_t vocab_at, directory_at, data_at; /* where these begin */

/* ---- the model ---- */

/* What must live until the writer has finished. */
static void *owned[256];
static int n_owned;

/* A matrix in `type`, or in Q8_0 where its rows are not whole blocks of that; weights
 * that nothing encodes are any bytes whose halves are small numbers. */
static void
add_tensor(struct gguf_writer *w, const struct gguf_tensor *t, uint32_t type)
{
    size_t cols = t->ne[0], rows = t->ne[1], bytes;
    unsigned char *data;

    if (t->n_dims == 1) {
        gguf_writer_tensor(w, t->name, t->type, 1, t->ne, t->data);
        return;
    }
    if (quant_row_bytes(type, cols) == 0)
        type = GGUF_Q8_0;
    bytes = quant_row_bytes(type, cols);
    data = malloc(rows * bytes);
    assert_non_null(data);
    owned[n_owned++] = data;
    for (size_t r = 0; r < rows; r++) {
        float row[256];

        assert_int_equal(quant_dequantise_row(t->type,
                                              (const unsigned char *)t->data +
                                                  r * quant_row_bytes(t->type, cols),
                                              row, cols),
                         0);
        if (quant_quantise_row(type, row, data + r * bytes, cols) == 0)
            continue;
        for (size_t i = 0; i < bytes; i++)
            data[r * bytes + i] =
                (unsigned char)((r * 131 + i * 89) ^ (i >> 3)) & (i % 2 ? 0x9f : 0xff);
    }
    gguf_writer_tensor(w, t->name, type, 2, t->ne, data);
}

static void
add_file(struct gguf_writer *w, const struct gguf *g, bool with_keys, uint32_t type)
{
    for (int i = 0; with_keys && i < gguf_n_keys(g); i++)
        gguf_writer_copy_key(w, g, i);
    for (int i = 0; i < gguf_n_tensors(g); i++)
        add_tensor(w, gguf_tensor_at(g, i), type);
}

static void
add_keys(struct gguf_writer *w)
{
    static const char digest[] =
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    static const struct gguf_str kinds[2] = { { "mlp", 3 }, { "own", 3 } };

    gguf_writer_u32(w, "cecollm.split.layer_from", 0);
    gguf_writer_u32(w, "cecollm.split.layer_to", N_LAYERS);
    gguf_writer_str(w, "cecollm.split.source_sha256", digest, 64);
    gguf_writer_u32(w, "cecollm.exit.version", 1);
    gguf_writer_i32_array(w, "cecollm.exit.layers", (int32_t[]){ 1, 2 }, 2);
    gguf_writer_str_array(w, "cecollm.exit.kinds", kinds, 2);
    gguf_writer_f32_array(w, "cecollm.exit.theta", (float[]){ 0.8f, 0.0f }, 2);
    gguf_writer_i32_array(w, "cecollm.exit.candidates", (int32_t[]){ 8, 0 }, 2);
}

/* The model at MODEL: matrices in `type`, an exit with an adapter and a screen, and one
 * with a head of its own. */
static void
write_model(uint32_t type)
{
    const char *const parts[] = { MODEL, MLP, OWN };
    struct gguf *g[3];
    struct gguf_writer *w;
    struct synth_params p;
    size_t block = gguf_block_elems(type);
    struct err err;

    synth_params_init(&p);
    p.n_layers = N_LAYERS;
    p.d_model = block > 32 ? (int)block : 32;
    p.d_ff = 32;
    p.n_heads = 2;
    p.n_kv_heads = 1;
    p.n_ctx = 64;
    p.n_candidates = 8;
    p.graph = (struct synth_graph){ .bias = true, .rope_scale = 2, .rope_freqs = true };
    assert_int_equal(synth_model(&p, MODEL, &err), 0);
    assert_int_equal(synth_exits(&p, MODEL, (int[]){ 1 }, 1, 32, MLP, &err), 0);
    p.n_candidates = 0;
    assert_int_equal(
        synth_exits_of(&p, SYNTH_EXIT_OWN, MODEL, (int[]){ 2 }, 1, 1, OWN, &err), 0);
    assert_int_equal(gguf_writer_new(&w, &err), 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(gguf_open(&g[i], parts[i], &err), 0);
        add_file(w, g[i], i == 0, type);
    }
    add_keys(w);
    assert_int_equal(gguf_writer_finish(w, MODEL, &err), 0);
    gguf_writer_free(w);
    for (int i = 0; i < 3; i++)
        gguf_close(g[i]);
    while (n_owned > 0)
        free(owned[--n_owned]);
}

static size_t
offset_of(const char *text)
{
    const unsigned char *p = memmem(whole, whole_size, text, strlen(text));

    return p != NULL ? (size_t)(p - whole) : 0;
}

static void
forget_model(void)
{
    if (file)
        munmap(file, whole_size);
    if (fd >= 0)
        close(fd);
    free(whole);
    file = whole = NULL;
    fd = -1;
}

/* Into memory, whole and to be broken. */
static void
load_model(void)
{
    struct gguf *g;
    struct err err;

    assert_int_equal(gguf_open(&g, MODEL, &err), 0);
    whole_size = gguf_size_bytes(g);
    whole = malloc(whole_size);
    fd = memfd_create("model", MFD_CLOEXEC);
    assert_true(whole && fd >= 0 && ftruncate(fd, (off_t)whole_size) == 0);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    file = mmap(NULL, whole_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(file != MAP_FAILED);
    memcpy(whole, gguf_bytes(g), whole_size);
    memcpy(file, whole, whole_size);
    data_at = (size_t)((const unsigned char *)gguf_tensor_at(g, 0)->data -
                       (const unsigned char *)gguf_bytes(g));
    gguf_close(g);
    vocab_at = offset_of("tokenizer.ggml.model");
    directory_at = offset_of("cecollm.split.layer_from");
    assert_true(vocab_at > 0 && directory_at > vocab_at && data_at > directory_at);
}

static int
remove_files(void **state)
{
    (void)state;
    forget_model();
    unlink(MODEL);
    unlink(MLP);
    unlink(OWN);
    return 0;
}

/* ---- mutations ---- */

static uint32_t
rnd(uint32_t *s)
{
    *s = *s * 1664525u + 1013904223u;
    return *s >> 8;
}

/* The configuration; the parts, exits and tensors; the vocabulary too; the weights. */
static size_t
place(uint32_t *s)
{
    const size_t from[4] = { 0, directory_at, 0, data_at };
    const size_t to[4] = { vocab_at, data_at, data_at, whole_size };
    static const int share[8] = { 0, 0, 1, 1, 1, 2, 3, 3 };
    int k = share[rnd(s) % 8];

    return from[k] + ((size_t)rnd(s) << 12 ^ rnd(s)) % (to[k] - from[k]);
}

static void
break_at(size_t at, uint32_t kind, uint32_t *s)
{
    static const uint32_t words[] = { 0,          1,          2,         3,
                                      31,         33,         65536,     0x7fffffff,
                                      0x80000000, 0xffffffff, 0x7fc00000 };

    if (kind < 3)
        file[at] ^= (unsigned char)(1u << rnd(s) % 8);
    else if (kind < 5)
        file[at] = (unsigned char)rnd(s);
    else if (whole_size - at >= 4)
        memcpy(file + at, &words[rnd(s) % 11], 4);
}

/* One mutant through all layers; then the file is whole again. */
static void
mutant(uint32_t *s, bool scalar, struct walk *w)
{
    uint32_t kind = rnd(s) % 8, n = 1 + rnd(s) % 3;
    size_t at[3];

    if (kind == 0) {
        at[0] = place(s);
        assert_int_equal(ftruncate(fd, (off_t)at[0]), 0);
        walk_model(path, scalar, w);
        assert_int_equal(ftruncate(fd, (off_t)whole_size), 0);
        memcpy(file + at[0], whole + at[0], whole_size - at[0]);
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        at[i] = place(s);
        break_at(at[i], kind, s);
    }
    walk_model(path, scalar, w);
    for (uint32_t i = 0; i < n; i++)
        memcpy(file + at[i], whole + at[i], whole_size - at[i] < 4 ? 1 : 4);
}

static void
check_format(uint32_t type, int n)
{
    struct walk w = { 0 };
    uint32_t seed = 20240611 + type;

    write_model(type);
    load_model();
    for (int scalar = 0; scalar < 2; scalar++) { /* whole, it works */
        w = (struct walk){ 0 };
        walk_model(path, scalar == 1, &w);
        if (w.step != 1 || w.exit != 2 || w.tokenizer != 1)
            fail_msg("%s: the whole model does not run", gguf_type_name(type));
    }
    w = (struct walk){ 0 };
    for (int i = 0; i < n; i++)
        mutant(&seed, i % 4 == 0, &w);
    assert_memory_equal(file, whole, whole_size);
    print_message("%-5s of %d mutants %d open as models, %d as vocabularies, %d as "
                  "backends, %d ran a step, %d an exit\n",
                  gguf_type_name(type), n, w.model, w.tokenizer, w.backend, w.step,
                  w.exit);
    forget_model();
}

static void
test_mutants(void **state)
{
    const char *wish = getenv("CECOLLM_MUTATIONS");
    int n = wish ? atoi(wish) : MUTATIONS, n_formats = 0;

    (void)state;
    for (uint32_t type = 0; type < MAX_TYPE; type++) {
        if (quant_row_bytes(type, 256) == 0)
            continue;
        check_format(type, n);
        n_formats++;
    }
    assert_true(n_formats >= 5);
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
                                        "llama.vocab_size",
                                        "cecollm.split.layer_from",
                                        "cecollm.split.layer_to",
                                        "cecollm.exit.version" };
    static const uint32_t values[] = { 0,          1,          3,
                                       1u << 20,   1u << 30,   0x7fffffff,
                                       0x80000000, 0xffffffff, 0x7f800000 };
    struct walk w = { 0 };

    (void)state;
    write_model(GGUF_Q8_0);
    load_model();
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        size_t at = offset_of(keys[i]);

        assert_true(at > 0);
        at += strlen(keys[i]) + 4; /* behind the value's type */
        for (size_t k = 0; k < sizeof(values) / sizeof(values[0]); k++) {
            memcpy(file + at, &values[k], 4);
            walk_model(path, false, &w);
        }
        memcpy(file + at, whole + at, 4);
    }
    assert_in_range(w.model, 1, sizeof(keys) / sizeof(keys[0]) * 4);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mutants),
        cmocka_unit_test(test_configurations),
    };

    log_set_level(LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, remove_files);
}
