/* SPDX-License-Identifier: Apache-2.0
 * test_model.c - model files that are right, wrong and hostile.
 *
 * A synthesised model is rewritten with one thing changed: a key, a tensor's shape or
 * type, a tensor left out or added. Each must be refused with a text that names it.
 */
#include "engine/model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/synth.h"

#define WHOLE  "test_model.Q8_0.gguf"
#define EXITS  "Test_Model.exits.gguf"
#define EDITED "test_model_edited.gguf"

static struct synth_params params;

/* One change to a copy of a file; unused members NULL. */
struct edit {
    const char *drop_key, *drop_tensor;
    const char *u32_key;
    uint32_t u32;
    const char *f32_key;
    float f32;
    const char *str_key, *str;
    const char *tensor; /* replaced or added */
    uint32_t type;
    size_t ne[2];
    int keep_blocks_from, keep_blocks_to; /* both 0: all */
    const int32_t *layers;                /* cecollm.exit.layers anew, two of them */
    const char *kind;                     /* cecollm.exit.kinds anew, both this */
    int32_t candidates;                   /* of both exits */
};

static bool
is_edited_key(const struct edit *e, const char *key)
{
    return (e->drop_key && strcmp(key, e->drop_key) == 0) ||
           (e->u32_key && strcmp(key, e->u32_key) == 0) ||
           (e->f32_key && strcmp(key, e->f32_key) == 0) ||
           (e->str_key && strcmp(key, e->str_key) == 0) ||
           (e->layers && strcmp(key, "cecollm.exit.layers") == 0) ||
           (e->kind && strcmp(key, "cecollm.exit.kinds") == 0);
}

static bool
is_dropped_tensor(const struct edit *e, const char *name)
{
    int block;

    if ((e->drop_tensor && strcmp(name, e->drop_tensor) == 0) ||
        (e->tensor && strcmp(name, e->tensor) == 0))
        return true;
    return e->keep_blocks_to > 0 && sscanf(name, "blk.%d.", &block) == 1 &&
           (block < e->keep_blocks_from || block >= e->keep_blocks_to);
}

static void
rewrite(const char *from, const char *to, const struct edit *e)
{
    struct gguf_writer *w;
    struct gguf *g;
    void *zeros = NULL;

    assert_int_equal(gguf_open(&g, from, NULL), 0);
    assert_int_equal(gguf_writer_new(&w, NULL), 0);
    for (int i = 0; i < gguf_n_keys(g); i++) {
        if (!is_edited_key(e, gguf_key_name(g, i)))
            gguf_writer_copy_key(w, g, i);
    }
    if (e->u32_key)
        gguf_writer_u32(w, e->u32_key, e->u32);
    if (e->f32_key)
        gguf_writer_f32(w, e->f32_key, e->f32);
    if (e->str_key)
        gguf_writer_str(w, e->str_key, e->str, strlen(e->str));
    if (e->layers)
        gguf_writer_i32_array(w, "cecollm.exit.layers", e->layers, 2);
    if (e->kind) {
        struct gguf_str kind = { e->kind, strlen(e->kind) };

        gguf_writer_str_array(w, "cecollm.exit.kinds", (struct gguf_str[]){ kind, kind },
                              2);
    }
    if (e->candidates > 0)
        gguf_writer_i32_array(w, "cecollm.exit.candidates",
                              (int32_t[]){ e->candidates, e->candidates }, 2);
    for (int i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);

        if (!is_dropped_tensor(e, t->name))
            gguf_writer_tensor(w, t->name, t->type, t->n_dims, t->ne, t->data);
    }
    if (e->tensor) {
        zeros = calloc(e->ne[0] * (e->ne[1] ? e->ne[1] : 1), 8);
        assert_non_null(zeros);
        gguf_writer_tensor(w, e->tensor, e->type, e->ne[1] ? 2 : 1, e->ne, zeros);
    }
    assert_int_equal(gguf_writer_finish(w, to, NULL), 0);
    gguf_writer_free(w);
    gguf_close(g);
    free(zeros);
}

/* The edited file is refused with `code` and a text that contains `word`. */
static void
refused(const struct edit *e, int code, const char *word)
{
    struct model *m;
    struct err err = { 0 };

    rewrite(WHOLE, EDITED, e);
    if (model_open(&m, EDITED, "none", &err) != code)
        fail_msg("%s: not refused, or not like that: %s", word, err.text);
    assert_null(m);
    if (!strstr(err.text, word) || !strstr(err.text, EDITED))
        fail_msg("\"%s\" does not name %s and %s", err.text, word, EDITED);
}

static int
make_files(void **state)
{
    static const int layers[] = { 1, 3 };
    struct err err;

    (void)state;
    synth_params_init(&params);
    params.type = GGUF_Q8_0;
    params.tied = false;
    if (synth_model(&params, WHOLE, &err) != 0 ||
        synth_exits(&params, WHOLE, layers, 2, 96, EXITS, &err) != 0) {
        print_error("%s\n", err.text);
        return -1;
    }
    return 0;
}

static int
drop_files(void **state)
{
    (void)state;
    unlink(WHOLE);
    unlink(EXITS);
    unlink(EDITED);
    return 0;
}

static void
test_whole(void **state)
{
    struct model *m;
    struct err err;
    char text[65];

    (void)state;
    if (model_open(&m, WHOLE, NULL, &err) != 0)
        fail_msg("%s", err.text);
    assert_string_equal(m->config.arch, "llama");
    assert_int_equal(m->config.n_layers, params.n_layers);
    assert_int_equal(m->config.d_model, params.d_model);
    assert_int_equal(m->config.n_heads, params.n_heads);
    assert_int_equal(m->config.n_kv_heads, params.n_kv_heads);
    assert_int_equal(m->config.head_dim, params.head_dim);
    assert_int_equal(m->config.d_ff, params.d_ff);
    assert_int_equal(m->config.n_vocab, params.n_vocab);
    assert_int_equal(m->config.n_ctx, params.n_ctx);
    assert_false(m->config.tied_output);
    assert_int_equal(m->layer_from, 0);
    assert_int_equal(m->layer_to, params.n_layers);
    assert_ptr_not_equal(m->output, m->token_embd);
    assert_non_null(m->blocks[3].down);
    assert_int_equal(m->n_exits, 2); /* found beside it, in spite of the name's case */
    assert_int_equal(m->exits[0].layer, 1);
    assert_int_equal(m->exits[1].layer, 3);
    assert_int_equal(m->exits[1].kind, MODEL_EXIT_MLP);
    assert_int_equal(m->exits[1].adapter_width, 96);
    model_fingerprint_text(m, text);
    assert_int_equal(strlen(text), 64);
    model_close(m);

    assert_int_equal(model_open(&m, WHOLE, "none", &err), 0);
    assert_int_equal(m->n_exits, 0);
    model_close(m);
    model_close(NULL);
}

static void
test_missing(void **state)
{
    static const char *keys[] = {
        "general.architecture",
        "llama.block_count",
        "llama.embedding_length",
        "llama.feed_forward_length",
        "llama.attention.head_count",
        "llama.context_length",
        "llama.attention.layer_norm_rms_epsilon",
    };
    static const char *tensors[] = {
        "token_embd.weight",   "output_norm.weight",       "blk.0.attn_norm.weight",
        "blk.1.attn_q.weight", "blk.2.attn_output.weight", "blk.3.ffn_down.weight",
    };
    struct model *m;
    struct err err;

    (void)state;
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        refused(&(struct edit){ .drop_key = keys[i] }, CE_EFORMAT, keys[i]);
    for (size_t i = 0; i < sizeof(tensors) / sizeof(tensors[0]); i++)
        refused(&(struct edit){ .drop_tensor = tensors[i] }, CE_EFORMAT, tensors[i]);
    assert_int_equal(model_open(&m, "no/such/file.gguf", NULL, &err), CE_EIO);
}

static void
test_wrong_keys(void **state)
{
    static const struct {
        const char *key;
        uint32_t value;
        int code;
    } bad[] = {
        { "llama.block_count", 0, CE_EFORMAT },
        { "llama.block_count", 1025, CE_EFORMAT },
        { "llama.block_count", 4000000000u, CE_EFORMAT },
        { "llama.embedding_length", 0, CE_EFORMAT },
        { "llama.embedding_length", 1 << 20, CE_EFORMAT },
        { "llama.attention.head_count", 0, CE_EFORMAT },
        { "llama.context_length", 0, CE_EFORMAT },
        { "llama.vocab_size", 1u << 30, CE_EFORMAT },
        { "llama.expert_count", 8, CE_EUNSUPPORTED },
        { "llama.attention.sliding_window", 128, CE_EUNSUPPORTED },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        refused(&(struct edit){ .u32_key = bad[i].key, .u32 = bad[i].value }, bad[i].code,
                bad[i].key);
    refused(&(struct edit){ .u32_key = "llama.attention.head_count_kv", .u32 = 3 },
            CE_EFORMAT, "3 key-value heads");
    refused(&(struct edit){ .u32_key = "llama.rope.dimension_count", .u32 = 18 },
            CE_EFORMAT, "rope");
    refused(&(struct edit){ .u32_key = "llama.attention.key_length", .u32 = 15 },
            CE_EUNSUPPORTED, "15");
    refused(&(struct edit){ .f32_key = "llama.rope.freq_base", .f32 = -1 }, CE_EFORMAT,
            "llama.rope.freq_base");
    refused(
        &(struct edit){ .f32_key = "llama.attention.layer_norm_rms_epsilon", .f32 = 2 },
        CE_EFORMAT, "epsilon");
    refused(&(struct edit){ .f32_key = "llama.rope.scaling.factor", .f32 = -4 },
            CE_EFORMAT, "llama.rope.scaling.factor");
    refused(&(struct edit){ .f32_key = "llama.rope.scale_linear", .f32 = NAN },
            CE_EFORMAT, "llama.rope.scale_linear");
    refused(&(struct edit){ .f32_key = "llama.rope.scaling.yarn_log_multiplier",
                            .f32 = 0.1f },
            CE_EUNSUPPORTED, "llama.rope.scaling.yarn_log_multiplier");
    refused(&(struct edit){ .u32_key = "llama.rope.scaling.type", .u32 = 1 }, CE_EFORMAT,
            "llama.rope.scaling.type");
    refused(&(struct edit){ .str_key = "llama.rope.scaling.type", .str = "yarn" },
            CE_EUNSUPPORTED, "yarn");
    refused(&(struct edit){ .str_key = "general.architecture", .str = "mamba" },
            CE_EUNSUPPORTED, "mamba");
    refused(&(struct edit){ .str_key = "general.architecture", .str = "mamba" },
            CE_EUNSUPPORTED, "known: llama, qwen2, qwen3, smollm3");
    refused(&(struct edit){ .u32_key = "llama.attention.causal", .u32 = 1 }, CE_EFORMAT,
            "llama.attention.causal");
    refused(&(struct edit){ .u32_key = "general.architecture", .u32 = 1 }, CE_EFORMAT,
            "general.architecture");
}

static void
test_wrong_tensors(void **state)
{
    (void)state;
    refused(&(struct edit){ .tensor = "blk.1.attn_k.weight",
                            .type = GGUF_Q8_0,
                            .ne = { 64, 64 } },
            CE_EFORMAT, "blk.1.attn_k.weight");
    refused(&(struct edit){ .tensor = "blk.1.ffn_down.weight",
                            .type = GGUF_Q8_0,
                            .ne = { 64, 128 } },
            CE_EFORMAT, "blk.1.ffn_down.weight");
    refused(
        &(struct edit){ .tensor = "output_norm.weight", .type = GGUF_F32, .ne = { 63 } },
        CE_EFORMAT, "output_norm.weight");
    refused(&(struct edit){ .tensor = "blk.0.ffn_norm.weight",
                            .type = GGUF_F16,
                            .ne = { 64 } },
            CE_EUNSUPPORTED, "blk.0.ffn_norm.weight");
    refused(&(struct edit){ .tensor = "blk.0.attn_q.weight",
                            .type = GGUF_I32,
                            .ne = { 64, 64 } },
            CE_EUNSUPPORTED, "I32");
    refused(&(struct edit){ .tensor = "token_embd.weight",
                            .type = GGUF_I32,
                            .ne = { 64, 320 } },
            CE_EUNSUPPORTED, "token_embd.weight");
    refused(/* zeros */
            &(struct edit){
                .tensor = "rope_freqs.weight", .type = GGUF_F32, .ne = { 8 } },
            CE_EFORMAT, "rope_freqs.weight");
    refused(
        &(struct edit){ .tensor = "rope_freqs.weight", .type = GGUF_F32, .ne = { 16 } },
        CE_EFORMAT, "rope_freqs.weight");
    refused(
        &(struct edit){ .tensor = "blk.0.attn_q.bias", .type = GGUF_F32, .ne = { 32 } },
        CE_EFORMAT, "blk.0.attn_q.bias");
    refused(&(struct edit){ .tensor = "blk.0.attn_q_norm.weight",
                            .type = GGUF_F32,
                            .ne = { 16 } },
            CE_EUNSUPPORTED, "blk.0.attn_q_norm.weight");
    refused(&(struct edit){ .tensor = "rope_factors_long.weight",
                            .type = GGUF_F32,
                            .ne = { 8 } },
            CE_EUNSUPPORTED, "rope_factors_long.weight");
    refused(&(struct edit){ .tensor = "blk.4.attn_norm.weight",
                            .type = GGUF_F32,
                            .ne = { 64 } },
            CE_EUNSUPPORTED, "blk.4.attn_norm.weight");
}

/* ---- architectures ---- */

#define OTHER "test_model_other.gguf"

/* A whole model of this architecture, at OTHER. */
static struct model *
make_other(const struct synth_graph *graph)
{
    struct synth_params p = params;
    struct model *m;
    struct err err;

    p.graph = *graph;
    if (synth_model(&p, OTHER, &err) != 0 || model_open(&m, OTHER, "none", &err) != 0)
        fail_msg("%s: %s", synth_arch_name((int)graph->arch), err.text);
    assert_string_equal(m->config.arch, synth_arch_name((int)graph->arch));
    return m;
}

/* OTHER without this tensor is refused with its name. */
static void
needs_tensor(const char *tensor)
{
    struct err err = { 0 };
    struct model *m;

    rewrite(OTHER, EDITED, &(struct edit){ .drop_tensor = tensor });
    assert_int_equal(model_open(&m, EDITED, "none", &err), CE_EFORMAT);
    if (!strstr(err.text, tensor) || !strstr(err.text, EDITED))
        fail_msg("\"%s\" does not name %s", err.text, tensor);
}

static void
test_architectures(void **state)
{
    struct model *m;

    (void)state;
    m = make_other(&(struct synth_graph){ .arch = SYNTH_QWEN2 });
    assert_true(m->config.rope_halves && m->config.rope_skip == 0);
    assert_non_null(m->blocks[3].v_bias);
    assert_null(m->blocks[3].output_bias);
    assert_null(m->blocks[3].q_norm);
    model_close(m);
    needs_tensor("blk.2.attn_k.bias");
    m = make_other(&(struct synth_graph){ .arch = SYNTH_QWEN3 });
    assert_true(m->config.rope_halves);
    assert_null(m->blocks[0].q_bias);
    assert_non_null(m->blocks[0].k_norm);
    model_close(m);
    needs_tensor("blk.1.attn_q_norm.weight");
    m = make_other(&(struct synth_graph){ .arch = SYNTH_SMOLLM3 });
    assert_true(!m->config.rope_halves && m->config.rope_skip == 4);
    model_close(m);
    m = make_other(&(struct synth_graph){
        .bias = true, .n_rot = 8, .rope_scale = 4, .rope_freqs = true });
    assert_non_null(m->blocks[0].output_bias);
    assert_int_equal(m->config.n_rot, 8);
    assert_true(m->config.rope_factor == 4.0f);
    assert_int_equal(m->rope_freqs->ne[0], 4);
    model_close(m);
    unlink(OTHER);
}

/* An edit that changes nothing that is computed. */
static struct model *
accepted(const struct edit *e)
{
    struct model *m;
    struct err err;

    rewrite(WHOLE, EDITED, e);
    if (model_open(&m, EDITED, "none", &err) != 0)
        fail_msg("%s", err.text);
    return m;
}

static void
test_harmless_keys(void **state)
{
    static const struct edit edits[] = {
        { .u32_key = "llama.attention.sliding_window", .u32 = 512 },
        { .u32_key = "llama.attention.sliding_window", .u32 = 0 },
        { .str_key = "llama.rope.scaling.type", .str = "linear" },
        { .u32_key = "llama.rope.scaling.original_context_length", .u32 = 128 },
        { .f32_key = "llama.rope.scaling.factor", .f32 = 1 },
        { .f32_key = "llama.rope.scaling.factor", .f32 = 0 },
        { .str_key = "llama.rope.scaling.type",
          .str = "none",
          .f32_key = "llama.rope.scaling.factor",
          .f32 = 8 },
    };
    struct model *m;

    (void)state;
    for (size_t i = 0; i < sizeof(edits) / sizeof(edits[0]); i++) {
        m = accepted(&edits[i]);
        assert_true(m->config.rope_factor == 1.0f);
        model_close(m);
    }
    m = accepted(&(struct edit){ .f32_key = "llama.rope.scale_linear", .f32 = 2 });
    assert_true(m->config.rope_factor == 2.0f);
    model_close(m);
}

/* ---- split files ---- */

/* Rewrite as blocks [from, to) with the source's digest; `edit` may hold one more
 * tensor to drop. */
static void
split(int from, int to, const char *drop_tensor, const char *digest)
{
    struct edit e = { .keep_blocks_from = from,
                      .keep_blocks_to = to,
                      .u32_key = "cecollm.split.layer_from",
                      .u32 = (uint32_t)from,
                      .drop_tensor = drop_tensor };
    struct edit second = { .u32_key = "cecollm.split.layer_to",
                           .u32 = (uint32_t)to,
                           .str_key = "cecollm.split.source_sha256",
                           .str = digest };

    rewrite(WHOLE, EDITED ".tmp1", &e);
    rewrite(EDITED ".tmp1", EDITED, &second);
    unlink(EDITED ".tmp1");
}

static void
test_split(void **state)
{
    struct model *whole, *m;
    struct err err;
    char text[65];

    (void)state;
    assert_int_equal(model_open(&whole, WHOLE, "none", &err), 0);
    model_fingerprint_text(whole, text);

    split(0, 3, NULL, text);
    assert_int_equal(model_open(&m, EDITED, EXITS, &err), 0); /* digest of the source */
    assert_memory_equal(m->fingerprint, whole->fingerprint, 32);
    assert_int_equal(m->layer_from, 0);
    assert_int_equal(m->layer_to, 3);
    assert_int_equal(m->config.n_layers, 4);
    assert_non_null(m->blocks[2].q);
    assert_null(m->blocks[3].q);
    assert_int_equal(m->n_exits, 2);
    model_close(m);

    split(1, 4, "token_embd.weight", text);
    assert_int_equal(model_open(&m, EDITED, EXITS, &err), 0);
    assert_null(m->token_embd);
    assert_non_null(m->output);
    assert_null(m->blocks[0].q);
    assert_int_equal(m->n_exits, 1); /* the one after block 1 is not this file's */
    assert_int_equal(m->exits[0].layer, 3);
    model_close(m);

    split(0, 2, "token_embd.weight", text);
    assert_int_equal(model_open(&m, EDITED, "none", &err), CE_EFORMAT);
    assert_non_null(strstr(err.text, "token_embd.weight"));
    split(2, 4, "output_norm.weight", text);
    assert_int_equal(model_open(&m, EDITED, "none", &err), CE_EFORMAT);
    split(2, 4, NULL, "abc");
    assert_int_equal(model_open(&m, EDITED, "none", &err), CE_EFORMAT);
    assert_non_null(strstr(err.text, "source_sha256"));
    split(3, 2, NULL, text);
    assert_int_equal(model_open(&m, EDITED, "none", &err), CE_EFORMAT);
    split(0, 5, NULL, text);
    assert_int_equal(model_open(&m, EDITED, "none", &err), CE_EFORMAT);
    refused(&(struct edit){ .u32_key = "cecollm.split.layer_from", .u32 = 0 }, CE_EFORMAT,
            "cecollm.split.layer_to");
    model_close(whole);
}

/* ---- exits ---- */

static void
exits_refused(const struct edit *e, int code, const char *word)
{
    struct model *m;
    struct err err = { 0 };

    rewrite(EXITS, EDITED, e);
    assert_int_equal(model_open(&m, WHOLE, EDITED, &err), code);
    if (!strstr(err.text, word))
        fail_msg("\"%s\" does not say %s", err.text, word);
}

static void
test_bad_exits(void **state)
{
    static const char other[] =
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    static const int32_t descending[] = { 3, 1 }, beyond[] = { 1, 4 }, zero[] = { 0, 3 };
    struct model *m;
    struct err err;

    (void)state;
    exits_refused(
        &(struct edit){ .str_key = "cecollm.exit.model_file_sha256", .str = other },
        CE_EMISMATCH, other);
    exits_refused(&(struct edit){ .drop_key = "cecollm.exit.model_file_sha256" },
                  CE_EFORMAT, "model_file_sha256");
    exits_refused(&(struct edit){ .drop_key = "cecollm.exit.version" }, CE_EFORMAT,
                  "cecollm.exit.version");
    exits_refused(&(struct edit){ .u32_key = "cecollm.exit.version", .u32 = 2 },
                  CE_EUNSUPPORTED, "version 2");
    exits_refused(&(struct edit){ .drop_key = "cecollm.exit.kinds" }, CE_EFORMAT,
                  "kinds");
    exits_refused(&(struct edit){ .u32_key = "cecollm.exit.theta", .u32 = 1 }, CE_EFORMAT,
                  "theta");
    exits_refused(&(struct edit){ .layers = descending }, CE_EFORMAT, "layers");
    exits_refused(&(struct edit){ .layers = beyond }, CE_EFORMAT, "layers");
    exits_refused(&(struct edit){ .layers = zero }, CE_EFORMAT, "layers");
    exits_refused(&(struct edit){ .drop_tensor = "exit.1.gate.weight" }, CE_EFORMAT,
                  "exit.1.gate.weight");
    exits_refused(&(struct edit){ .drop_tensor = "exit.1.down.weight" }, CE_EFORMAT,
                  "exit.1.down.weight");
    exits_refused(&(struct edit){ .drop_tensor = "exit.3.map.bias" }, CE_EFORMAT,
                  "exit.3.map.bias");
    exits_refused(&(struct edit){ .tensor = "exit.3.down.weight",
                                  .type = GGUF_F16,
                                  .ne = { 64, 64 } },
                  CE_EFORMAT, "exit.3.down.weight");
    assert_int_equal(model_open(&m, WHOLE, WHOLE, &err), CE_EFORMAT);
    assert_non_null(strstr(err.text, "not a file of exit heads"));
    assert_int_equal(model_open(&m, WHOLE, "no/such.exits.gguf", &err), CE_EIO);
}

/* Exits with a norm and an output matrix of their own. */
static void
test_own_exits(void **state)
{
    static const int layers[] = { 1, 3 };
    struct model *m;
    struct err err;

    (void)state;
    assert_int_equal(
        synth_exits_of(&params, SYNTH_EXIT_OWN, WHOLE, layers, 2, 1, EXITS, &err), 0);
    assert_int_equal(model_open(&m, WHOLE, EXITS, &err), 0);
    assert_int_equal(m->exits[1].kind, MODEL_EXIT_OWN);
    assert_string_equal(m->exits[1].output->name, "exit.3.output.weight");
    assert_int_equal(m->exits[1].output->ne[1], params.n_vocab);
    assert_int_equal(m->exits[0].norm->ne[0], params.d_model);
    assert_null(m->exits[0].map);
    model_close(m);
    exits_refused(&(struct edit){ .drop_tensor = "exit.1.norm.weight" }, CE_EFORMAT,
                  EDITED ": tensor exit.1.norm.weight");
    exits_refused(&(struct edit){ .drop_tensor = "exit.3.output.weight" }, CE_EFORMAT,
                  EDITED ": tensor exit.3.output.weight");
    exits_refused(&(struct edit){ .tensor = "exit.3.output.weight",
                                  .type = GGUF_F16,
                                  .ne = { 64, 319 } },
                  CE_EFORMAT, EDITED ": tensor exit.3.output.weight");
    exits_refused(
        &(struct edit){ .tensor = "exit.1.norm.weight", .type = GGUF_F16, .ne = { 64 } },
        CE_EUNSUPPORTED, EDITED ": tensor exit.1.norm.weight");
    exits_refused(&(struct edit){ .tensor = "exit.1.output.weight",
                                  .type = GGUF_I32,
                                  .ne = { 64, 320 } },
                  CE_EUNSUPPORTED, EDITED ": tensor exit.1.output.weight");
    exits_refused(&(struct edit){ .candidates = 8 }, CE_EUNSUPPORTED,
                  "after block 1 is of kind own");
    exits_refused(&(struct edit){ .kind = "ours" }, CE_EUNSUPPORTED, "kind \"ours\"");
    assert_int_equal(synth_exits(&params, WHOLE, layers, 2, 96, EXITS, &err), 0);
}

static void
test_shared_exits(void **state)
{
    static const int good[] = { 1, 2 }, bad[] = { 2, 2 }, last[] = { 4 };
    struct model *m;
    struct err err;

    (void)state;
    assert_int_equal(model_open(&m, WHOLE, NULL, &err), 0);
    assert_int_equal(model_set_shared_exits(m, good, 2, &err), 0);
    assert_int_equal(m->n_exits, 2);
    assert_int_equal(m->exits[1].kind, MODEL_EXIT_SHARED);
    assert_int_equal(model_set_shared_exits(m, bad, 2, &err), CE_EINVAL);
    assert_int_equal(model_set_shared_exits(m, last, 1, &err), CE_EINVAL);
    assert_int_equal(model_set_shared_exits(m, good, MODEL_MAX_EXITS + 1, &err),
                     CE_EINVAL);
    assert_int_equal(m->n_exits, 2);
    model_close(m);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),         cmocka_unit_test(test_missing),
        cmocka_unit_test(test_wrong_keys),    cmocka_unit_test(test_wrong_tensors),
        cmocka_unit_test(test_split),         cmocka_unit_test(test_bad_exits),
        cmocka_unit_test(test_shared_exits),  cmocka_unit_test(test_architectures),
        cmocka_unit_test(test_harmless_keys), cmocka_unit_test(test_own_exits),
    };

    return cmocka_run_group_tests(tests, make_files, drop_files);
}
