/* SPDX-License-Identifier: Apache-2.0
 * synth.c - random weights in the shape of a model.
 *
 * Every tensor draws from a stream of its own, keyed by the seed and its name, so
 * the weights of a block do not depend on what was written before it, and models
 * that differ in one option share the rest.
 *
 * Scales: rows of the embedding and output matrices have a norm of about 4, so
 * that logits, products with a normalised state, spread by about 4. What blocks add
 * to the residual stream is twice the embedding's size, so that the state is more
 * than the newest token's own row (which, with tied matrices, would just repeat
 * it), and grows only with the square root of the number of blocks.
 *
 * Used by: cecollm-model synth, tests. Thread: any, no shared state.
 */
#include "engine/synth.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/random.h"
#include "common/sha256.h"
#include "engine/quant.h"

/* Tensor data lives until the writer has finished: a list of what to free. */
struct job {
    struct gguf_writer *w;
    const struct synth_params *p;
    enum synth_exit_kind exit_kind;
    void **owned;
    size_t n_owned;
    int rc;
    struct err *err;
};

/* ---- random numbers ---- */

/* Uniform in [-1, 1), a multiple of 2^-23. */
static float
draw(uint64_t *state)
{
    return (float)(random_next(state) >> 40) * 0x1p-23f - 1.0f;
}

static uint64_t
stream_of(const char *name, uint64_t seed)
{
    uint64_t h = seed;

    for (; *name != '\0'; name++) {
        h ^= (unsigned char)*name;
        random_next(&h);
    }
    return h;
}

/* ---- tensors ---- */

static void *
job_alloc(struct job *j, size_t size)
{
    void **owned;
    void *p;

    if (j->rc != 0)
        return NULL;
    owned = realloc(j->owned, (j->n_owned + 1) * sizeof(*owned));
    if (owned != NULL)
        j->owned = owned;
    p = owned != NULL ? malloc(size) : NULL;
    if (p == NULL) {
        j->rc = err_set(j->err, CE_ENOMEM, "no memory for the model's weights");
        return NULL;
    }
    j->owned[j->n_owned++] = p;
    return p;
}

/* A matrix [rows, cols] of standard deviation `deviation`, plus `diagonal` on the
 * diagonal. */
static void
put_matrix(struct job *j, const char *name, uint32_t type, size_t rows, size_t cols,
           double deviation, float diagonal)
{
    size_t row_bytes = quant_row_bytes(type, cols), r, c, bytes = 0;
    float scale = (float)(deviation * sqrt(3.0)), *row;
    uint64_t stream = stream_of(name, j->p->seed);
    unsigned char *data;

    if (j->rc == 0 && row_bytes == 0)
        j->rc = err_set(j->err, CE_EINVAL, "%s: rows of %zu cannot be stored as %s", name,
                        cols, gguf_type_name(type));
    if (j->rc == 0 && __builtin_mul_overflow(rows, row_bytes, &bytes))
        j->rc = err_set(j->err, CE_EINVAL, "%s: too large", name);
    if (j->rc != 0)
        return;
    row = malloc(cols * sizeof(*row));
    data = job_alloc(j, bytes);
    if (row != NULL && data != NULL) {
        for (r = 0; r < rows; r++) {
            for (c = 0; c < cols; c++)
                row[c] = draw(&stream) * scale + (r == c ? diagonal : 0.0f);
            if (quant_quantise_row(type, row, data + r * row_bytes, cols) != 0)
                j->rc = err_set(j->err, CE_EINTERNAL, "%s: cannot be encoded", name);
        }
        gguf_writer_tensor(j->w, name, type, 2, (size_t[]){ cols, rows }, data);
    } else if (j->rc == 0) {
        j->rc = err_set(j->err, CE_ENOMEM, "no memory for %s", name);
    }
    free(row);
}

/* A float32 vector around `centre`. */
static void
put_vector(struct job *j, const char *name, size_t n, float centre, float spread)
{
    uint64_t stream = stream_of(name, j->p->seed);
    float *v = job_alloc(j, n * sizeof(*v));
    size_t i;

    if (v == NULL)
        return;
    for (i = 0; i < n; i++)
        v[i] = centre + spread * draw(&stream);
    gguf_writer_tensor(j->w, name, GGUF_F32, 1, &n, v);
}

const char *
synth_arch_name(int arch)
{
    static const char *const names[] = {
        [SYNTH_LLAMA] = "llama",
        [SYNTH_QWEN2] = "qwen2",
        [SYNTH_QWEN3] = "qwen3",
        [SYNTH_SMOLLM3] = "smollm3",
    };

    if (arch < 0 || (size_t)arch >= sizeof(names) / sizeof(names[0]))
        return NULL;
    return names[arch];
}

static int
n_rot_of(const struct synth_params *p)
{
    return p->graph.n_rot > 0 ? p->graph.n_rot : p->head_dim;
}

/* Factors as Llama 3.1's: 1 for the fastest frequencies, 8 for the slowest. */
static void
put_rope_freqs(struct job *j)
{
    size_t n = (size_t)n_rot_of(j->p) / 2, i;
    float *v = job_alloc(j, n * sizeof(*v));

    if (v == NULL)
        return;
    for (i = 0; i < n; i++)
        v[i] = 1.0f + 7.0f * (float)i / (float)n;
    gguf_writer_tensor(j->w, "rope_freqs.weight", GGUF_F32, 1, &n, v);
}

static const char *
block_name(char buf[64], int block, const char *part)
{
    snprintf(buf, 64, "blk.%d.%s.weight", block, part);
    return buf;
}

static void
put_block_vector(struct job *j, int block, const char *name, size_t n, float centre,
                 float spread)
{
    char full[64];

    snprintf(full, sizeof(full), "blk.%d.%s", block, name);
    put_vector(j, full, n, centre, spread);
}

/* Biases and norms of heads: large enough that leaving one out shows. */
static void
put_extras(struct job *j, int i)
{
    const struct synth_params *p = j->p;
    size_t hd = (size_t)p->head_dim, kv = (size_t)p->n_kv_heads * hd;

    if (p->graph.bias || p->graph.arch == SYNTH_QWEN2) {
        put_block_vector(j, i, "attn_q.bias", (size_t)p->n_heads * hd, 0.0f, 1.0f);
        put_block_vector(j, i, "attn_k.bias", kv, 0.0f, 1.0f);
        put_block_vector(j, i, "attn_v.bias", kv, 0.0f, 1.0f);
    }
    if (p->graph.bias)
        put_block_vector(j, i, "attn_output.bias", (size_t)p->d_model, 0.0f, 0.2f);
    if (p->graph.arch == SYNTH_QWEN3) {
        put_block_vector(j, i, "attn_q_norm.weight", hd, 1.0f, 0.5f);
        put_block_vector(j, i, "attn_k_norm.weight", hd, 1.0f, 0.5f);
    }
}

static void
put_block(struct job *j, int i)
{
    const struct synth_params *p = j->p;
    size_t d = (size_t)p->d_model, q = (size_t)p->n_heads * (size_t)p->head_dim;
    size_t kv = (size_t)p->n_kv_heads * (size_t)p->head_dim, ff = (size_t)p->d_ff;
    double in = 1 / sqrt((double)d), add = 2 * 4 / sqrt((double)d);
    char name[64];

    put_vector(j, block_name(name, i, "attn_norm"), d, 1.0f, 0.1f);
    put_matrix(j, block_name(name, i, "attn_q"), p->type, q, d, 1.5 * in, 0);
    put_matrix(j, block_name(name, i, "attn_k"), p->type, kv, d, 1.5 * in, 0);
    put_matrix(j, block_name(name, i, "attn_v"), p->type, kv, d, 2 * in, 0);
    put_matrix(j, block_name(name, i, "attn_output"), p->type, d, q,
               add / sqrt((double)q), 0);
    put_vector(j, block_name(name, i, "ffn_norm"), d, 1.0f, 0.1f);
    put_matrix(j, block_name(name, i, "ffn_gate"), p->type, ff, d, 1.5 * in, 0);
    put_matrix(j, block_name(name, i, "ffn_up"), p->type, ff, d, 1.5 * in, 0);
    put_matrix(j, block_name(name, i, "ffn_down"), p->type, d, ff, add / sqrt((double)ff),
               0);
    put_extras(j, i);
}

/* ---- keys ---- */

static void
put_str(struct gguf_writer *w, const char *key, const char *value)
{
    gguf_writer_str(w, key, value, strlen(value));
}

/* ARCH.suffix. */
static const char *
arch_key(char buf[96], const struct synth_params *p, const char *suffix)
{
    snprintf(buf, 96, "%s.%s", synth_arch_name((int)p->graph.arch), suffix);
    return buf;
}

static void
put_arch_u32(struct job *j, const char *suffix, int value)
{
    char key[96];

    gguf_writer_u32(j->w, arch_key(key, j->p, suffix), (uint32_t)value);
}

static void
put_arch_f32(struct job *j, const char *suffix, double value)
{
    char key[96];

    gguf_writer_f32(j->w, arch_key(key, j->p, suffix), (float)value);
}

static void
put_config(struct job *j)
{
    const struct synth_params *p = j->p;
    char key[96];

    put_str(j->w, "general.architecture", synth_arch_name((int)p->graph.arch));
    put_str(j->w, "general.name", "synthesised");
    put_arch_u32(j, "block_count", p->n_layers);
    put_arch_u32(j, "context_length", p->n_ctx);
    put_arch_u32(j, "embedding_length", p->d_model);
    put_arch_u32(j, "feed_forward_length", p->d_ff);
    put_arch_u32(j, "attention.head_count", p->n_heads);
    put_arch_u32(j, "attention.head_count_kv", p->n_kv_heads);
    put_arch_u32(j, "attention.key_length", p->head_dim);
    put_arch_u32(j, "attention.value_length", p->head_dim);
    put_arch_f32(j, "attention.layer_norm_rms_epsilon", 1e-5);
    put_arch_u32(j, "rope.dimension_count", n_rot_of(p));
    put_arch_f32(j, "rope.freq_base", p->graph.rope_base > 0 ? p->graph.rope_base : 1e4);
    if (p->graph.rope_scale > 0) {
        put_str(j->w, arch_key(key, p, "rope.scaling.type"), "linear");
        put_arch_f32(j, "rope.scaling.factor", p->graph.rope_scale);
    }
    put_arch_u32(j, "vocab_size", p->n_vocab);
}

/* ---- checks ---- */

static int
check_range(const char *what, int v, int least, int most, struct err *err)
{
    if (v >= least && v <= most)
        return 0;
    return err_set(err, CE_EINVAL, "%s: %d is not from %d to %d", what, v, least, most);
}

static int
check_params(const struct synth_params *p, struct err *err)
{
    int rc;

    if ((rc = check_range("n_layers", p->n_layers, 1, 1024, err)) != 0 ||
        (rc = check_range("d_model", p->d_model, 2, 65536, err)) != 0 ||
        (rc = check_range("n_heads", p->n_heads, 1, 1024, err)) != 0 ||
        (rc = check_range("n_kv_heads", p->n_kv_heads, 1, p->n_heads, err)) != 0 ||
        (rc = check_range("head_dim", p->head_dim, 2, 1024, err)) != 0 ||
        (rc = check_range("d_ff", p->d_ff, 1, 1 << 20, err)) != 0 ||
        (rc = check_range("n_ctx", p->n_ctx, 1, 1 << 24, err)) != 0 ||
        (rc = check_range("n_vocab", p->n_vocab, SYNTH_MIN_VOCAB, 1 << 20, err)) != 0)
        return rc;
    if (p->n_heads % p->n_kv_heads != 0)
        return err_set(err, CE_EINVAL, "n_heads: %d is not a multiple of n_kv_heads %d",
                       p->n_heads, p->n_kv_heads);
    if (p->head_dim % 2 != 0)
        return err_set(err, CE_EINVAL, "head_dim: %d is odd", p->head_dim);
    if (n_rot_of(p) % 2 != 0 || n_rot_of(p) > p->head_dim)
        return err_set(err, CE_EINVAL, "n_rot: %d is not an even part of head_dim %d",
                       p->graph.n_rot, p->head_dim);
    if (!quant_is_known(p->type))
        return err_set(err, CE_EUNSUPPORTED, "type: %s is not one of " QUANT_TYPES,
                       gguf_type_name(p->type));
    return 0;
}

/* ---- files ---- */

static int
job_finish(struct job *j, const char *path)
{
    size_t i;

    if (j->rc == 0)
        j->rc = gguf_writer_finish(j->w, path, j->err);
    gguf_writer_free(j->w);
    for (i = 0; i < j->n_owned; i++)
        free(j->owned[i]);
    free(j->owned);
    return j->rc;
}

void
synth_params_init(struct synth_params *p)
{
    *p = (struct synth_params){ .n_layers = 4,
                                .d_model = 64,
                                .n_heads = 4,
                                .n_kv_heads = 2,
                                .head_dim = 16,
                                .d_ff = 128,
                                .n_ctx = 512,
                                .n_vocab = SYNTH_MIN_VOCAB,
                                .tied = true,
                                .type = GGUF_F32,
                                .seed = 1 };
}

int
synth_model(const struct synth_params *p, const char *path, struct err *err)
{
    struct job j = { .p = p, .err = err };
    size_t d = (size_t)p->d_model, v = (size_t)p->n_vocab;
    int i;

    if ((j.rc = check_params(p, err)) != 0 || (j.rc = gguf_writer_new(&j.w, err)) != 0)
        return j.rc;
    put_config(&j);
    j.rc = synth_write_vocab(j.w, p->n_vocab, err);
    if (p->graph.rope_freqs)
        put_rope_freqs(&j);
    put_matrix(&j, "token_embd.weight", p->type, v, d, 4 / sqrt((double)d), 0);
    for (i = 0; i < p->n_layers; i++)
        put_block(&j, i);
    put_vector(&j, "output_norm.weight", d, 1.0f, 0.1f);
    if (!p->tied)
        put_matrix(&j, "output.weight", p->type, v, d, 4 / sqrt((double)d), 0);
    return job_finish(&j, path);
}

#define SCREEN_RANK 32

static void
put_adapter(struct job *j, int layer, size_t width)
{
    size_t d = (size_t)j->p->d_model;
    double in = 1 / sqrt((double)d);
    char name[64];

    snprintf(name, sizeof(name), "exit.%d.map.weight", layer);
    put_matrix(j, name, GGUF_F16, d, d, 0.1 * in, 1.0f);
    snprintf(name, sizeof(name), "exit.%d.map.bias", layer);
    put_vector(j, name, d, 0.0f, 0.1f);
    if (j->exit_kind == SYNTH_EXIT_TRUST) {
        snprintf(name, sizeof(name), "exit.%d.trust.weight", layer);
        put_matrix(j, name, GGUF_F32, 2, d, in, 0);
        snprintf(name, sizeof(name), "exit.%d.trust.bias", layer);
        put_vector(j, name, 2, 1.0f, 0.1f);
    }
    if (width == 0)
        return;
    snprintf(name, sizeof(name), "exit.%d.gate.weight", layer);
    put_matrix(j, name, GGUF_F16, width, d, in, 0);
    snprintf(name, sizeof(name), "exit.%d.up.weight", layer);
    put_matrix(j, name, GGUF_F16, width, d, in, 0);
    snprintf(name, sizeof(name), "exit.%d.down.weight", layer);
    put_matrix(j, name, GGUF_F16, d, width, 0.5 / sqrt((double)width), 0);
}

static void
put_own(struct job *j, int layer)
{
    size_t d = (size_t)j->p->d_model;
    char name[64];

    snprintf(name, sizeof(name), "exit.%d.norm.weight", layer);
    put_vector(j, name, d, 1.0f, 0.1f);
    snprintf(name, sizeof(name), "exit.%d.output.weight", layer);
    put_matrix(j, name, j->p->type, (size_t)j->p->n_vocab, d, 4 / sqrt((double)d), 0);
}

static void
put_exit(struct job *j, int layer, size_t width)
{
    size_t d = (size_t)j->p->d_model;
    double in = 1 / sqrt((double)d);
    char name[64];

    if (j->exit_kind == SYNTH_EXIT_MLP || j->exit_kind == SYNTH_EXIT_TRUST)
        put_adapter(j, layer, width);
    if (j->exit_kind == SYNTH_EXIT_OWN)
        put_own(j, layer);
    if (j->p->n_candidates == 0)
        return;
    snprintf(name, sizeof(name), "exit.%d.screen.down.weight", layer);
    put_matrix(j, name, d % 32 == 0 ? GGUF_Q8_0 : GGUF_F16, SCREEN_RANK, d, in, 0);
    snprintf(name, sizeof(name), "exit.%d.screen.up.weight", layer);
    /* no superblock has room in a row of the rank */
    put_matrix(j, name,
               SCREEN_RANK % gguf_block_elems(j->p->type) == 0 ? j->p->type : GGUF_Q8_0,
               (size_t)j->p->n_vocab, SCREEN_RANK, 0.5, 0);
}

static const struct gguf_str kind_names[] = { [SYNTH_EXIT_MLP] = { "mlp", 3 },
                                              [SYNTH_EXIT_TRUST] = { "mlp", 3 },
                                              [SYNTH_EXIT_SHARED] = { "shared", 6 },
                                              [SYNTH_EXIT_OWN] = { "own", 3 } };

static int
put_exit_keys(struct job *j, const char *model_path, const int *layers, int n)
{
    struct gguf_str kinds[64];
    float theta[64];
    int32_t at[64], candidates[64];
    uint8_t digest[SHA256_BYTES];
    char text[SHA256_TEXT];
    int i, rc;

    if ((rc = check_range("n_exits", n, 1, 64, j->err)) != 0 ||
        (rc = sha256_file(model_path, digest, j->err)) != 0)
        return rc;
    sha256_text(digest, text);
    for (i = 0; i < n; i++) {
        if ((rc = check_range("exit layer", layers[i], i > 0 ? layers[i - 1] + 1 : 1,
                              j->p->n_layers - 1, j->err)) != 0)
            return rc;
        at[i] = layers[i];
        kinds[i] = kind_names[j->exit_kind];
        theta[i] = 0.8f;
        candidates[i] = j->p->n_candidates;
    }
    put_str(j->w, "general.architecture", "cecollm-exits");
    put_str(j->w, "cecollm.exit.model_file_sha256", text);
    gguf_writer_u32(j->w, "cecollm.exit.version", 1);
    gguf_writer_i32_array(j->w, "cecollm.exit.layers", at, (size_t)n);
    gguf_writer_str_array(j->w, "cecollm.exit.kinds", kinds, (size_t)n);
    gguf_writer_f32_array(j->w, "cecollm.exit.theta", theta, (size_t)n);
    if (j->p->n_candidates > 0)
        gguf_writer_i32_array(j->w, "cecollm.exit.candidates", candidates, (size_t)n);
    return 0;
}

int
synth_exits_of(const struct synth_params *p, enum synth_exit_kind kind,
               const char *model_path, const int *layers, int n_exits, int width,
               const char *path, struct err *err)
{
    struct job j = { .p = p, .exit_kind = kind, .err = err };
    int i;

    if ((j.rc = check_params(p, err)) != 0 ||
        (j.rc = check_range("exit width", width, 0, 1 << 20, err)) != 0 ||
        (j.rc = check_range("candidates", p->n_candidates, 0,
                            kind == SYNTH_EXIT_OWN ? 0 : p->n_vocab, err)) != 0 ||
        (j.rc = gguf_writer_new(&j.w, err)) != 0)
        return j.rc;
    j.rc = put_exit_keys(&j, model_path, layers, n_exits);
    for (i = 0; i < n_exits && j.rc == 0; i++)
        put_exit(&j, layers[i], (size_t)width);
    return job_finish(&j, path);
}

int
synth_exits(const struct synth_params *p, const char *model_path, const int *layers,
            int n_exits, int width, const char *path, struct err *err)
{
    return synth_exits_of(p, SYNTH_EXIT_MLP, model_path, layers, n_exits, width, path,
                          err);
}
