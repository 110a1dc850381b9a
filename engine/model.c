/* SPDX-License-Identifier: Apache-2.0
 * model.c - the Llama family's keys and tensors, found and checked.
 *
 * Why:      what computes must be able to trust every shape, so all of them are
 *           compared here with the configuration, and whatever this build would
 *           compute differently from what the file means is refused by name:
 *           other architectures, rope scaling, experts, biases, unknown tensors.
 * Split:    a file with the key cecollm.split.layer_from holds blocks
 *           [layer_from, layer_to) of the model whose digest it carries; the
 *           embedding is required when the range starts at 0, norm and output
 *           matrix when it ends at the last block, and both may be there anyway
 *           (exit heads need the latter).
 * Tied:     without output.weight the output matrix is the embedding matrix.
 * Identity: SHA-256 of the file, or the digest of the source that a split carries.
 */
#include "engine/model.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/sha256.h"
#include "engine/model_internal.h"
#include "engine/quant.h"

/* Sanity limits: far above any real model, far below an overflow. */
#define MAX_LAYERS 1024
#define MAX_DIM    (1 << 16)
#define MAX_FF     (1 << 18)
#define MAX_VOCAB  (1 << 22)
#define MAX_CTX    (1 << 24)
#define MAX_HEADS  1024

enum dim { DIM_NONE, DIM_MODEL, DIM_Q, DIM_KV, DIM_FF };

/* What a block consists of; rows = DIM_NONE means a float32 vector. */
static const struct block_tensor {
    const char *suffix;
    size_t member; /* of struct model_block */
    enum dim rows, cols;
} block_tensors[] = {
    { "attn_norm.weight", offsetof(struct model_block, attn_norm), DIM_NONE, DIM_MODEL },
    { "attn_q.weight", offsetof(struct model_block, q), DIM_Q, DIM_MODEL },
    { "attn_k.weight", offsetof(struct model_block, k), DIM_KV, DIM_MODEL },
    { "attn_v.weight", offsetof(struct model_block, v), DIM_KV, DIM_MODEL },
    { "attn_output.weight", offsetof(struct model_block, attn_output), DIM_MODEL, DIM_Q },
    { "ffn_norm.weight", offsetof(struct model_block, ffn_norm), DIM_NONE, DIM_MODEL },
    { "ffn_gate.weight", offsetof(struct model_block, gate), DIM_FF, DIM_MODEL },
    { "ffn_up.weight", offsetof(struct model_block, up), DIM_FF, DIM_MODEL },
    { "ffn_down.weight", offsetof(struct model_block, down), DIM_MODEL, DIM_FF },
};
#define N_BLOCK_TENSORS (sizeof(block_tensors) / sizeof(block_tensors[0]))

/* Keys that change what a model computes, after "ARCH.", and the one value that
 * means "as this build does it". */
static const struct neutral_key {
    const char *suffix;
    double value;
} neutral_keys[] = {
    { "rope.scaling.factor", 1 },      { "rope.scale_linear", 1 },
    { "rope.scaling.attn_factor", 1 }, { "expert_count", 0 },
    { "attention.sliding_window", 0 }, { "attention.clamp_kqv", 0 },
    { "attention.max_alibi_bias", 0 }, { "attn_logit_softcapping", 0 },
    { "final_logit_softcapping", 0 },  { "embedding_scale", 1 },
    { "residual_scale", 1 },           { "logit_scale", 1 },
};
#define N_NEUTRAL_KEYS (sizeof(neutral_keys) / sizeof(neutral_keys[0]))

static bool
str_equal(const struct gguf_str *s, const char *text)
{
    return s->len == strlen(text) && memcmp(s->data, text, s->len) == 0;
}

/* ---- shared with model_exits.c ---- */

int
model_key_int(const struct gguf *g, const char *name, int lo, int hi, int fallback,
              int *out, struct err *err)
{
    uint64_t v;
    int rc = gguf_get_u64(g, name, &v, err);

    if (rc == CE_ENOTFOUND && fallback >= 0) {
        *out = fallback;
        return 0;
    }
    if (rc == CE_ENOTFOUND)
        return err_set(err, CE_EFORMAT, "%s: key %s is missing", gguf_path(g), name);
    if (rc != 0)
        return rc;
    if (v < (uint64_t)lo || v > (uint64_t)hi)
        return err_set(err, CE_EFORMAT, "%s: key %s is %" PRIu64 ", expected %d to %d",
                       gguf_path(g), name, v, lo, hi);
    *out = (int)v;
    return 0;
}

static bool
type_multiplies(uint32_t type)
{
    return type == GGUF_F32 || type == GGUF_F16 || type == GGUF_Q8_0 ||
           type == GGUF_Q4_0 || type == GGUF_Q4_1;
}

int
model_tensor(const struct gguf *g, const char *name, size_t rows, size_t cols,
             const struct gguf_tensor **out, struct err *err)
{
    const struct gguf_tensor *t = gguf_find_tensor(g, name);
    size_t want_rows = rows == 0 ? 1 : rows;

    *out = NULL;
    if (!t)
        return err_set(err, CE_EFORMAT, "%s: tensor %s is missing", gguf_path(g), name);
    if (t->ne[0] != cols || t->ne[1] != want_rows || t->ne[2] != 1 || t->ne[3] != 1)
        return err_set(
            err, CE_EFORMAT,
            "%s: tensor %s has shape [%zu, %zu, %zu, %zu], expected [%zu, %zu]",
            gguf_path(g), name, t->ne[0], t->ne[1], t->ne[2], t->ne[3], cols, want_rows);
    if (rows == 0 && t->type != GGUF_F32)
        return err_set(err, CE_EUNSUPPORTED, "%s: tensor %s is %s, expected F32",
                       gguf_path(g), name, gguf_type_name(t->type));
    if (!type_multiplies(t->type))
        return err_set(err, CE_EUNSUPPORTED,
                       "%s: tensor %s is %s; this build computes F32, F16, Q8_0, Q4_0 "
                       "and Q4_1",
                       gguf_path(g), name, gguf_type_name(t->type));
    *out = t;
    return 0;
}

/* ---- configuration ---- */

/* The full name of key ARCH.suffix; `buf` has room for every suffix used here. */
static const char *
arch_key(const struct model *m, const char *suffix, char buf[96])
{
    snprintf(buf, 96, "%s.%s", m->config.arch, suffix);
    return buf;
}

static int
arch_int(const struct model *m, const char *suffix, int hi, int fallback, int *out,
         struct err *err)
{
    char key[96];

    return model_key_int(m->file, arch_key(m, suffix, key), 1, hi, fallback, out, err);
}

static int
arch_float(const struct model *m, const char *suffix, double lo, double hi,
           double fallback, float *out, struct err *err)
{
    char key[96];
    double v;
    int rc = gguf_get_f64(m->file, arch_key(m, suffix, key), &v, err);

    if (rc == CE_ENOTFOUND && fallback >= 0) {
        *out = (float)fallback;
        return 0;
    }
    if (rc == CE_ENOTFOUND)
        return err_set(err, CE_EFORMAT, "%s: key %s is missing", gguf_path(m->file), key);
    if (rc != 0)
        return rc;
    if (!(v >= lo && v <= hi))
        return err_set(err, CE_EFORMAT, "%s: key %s is %g, expected %g to %g",
                       gguf_path(m->file), key, v, lo, hi);
    *out = (float)v;
    return 0;
}

static int
read_arch(struct model *m, struct err *err)
{
    struct model_config *c = &m->config;
    struct gguf_str s;
    int rc = gguf_get_str(m->file, "general.architecture", &s, err);

    if (rc == CE_ENOTFOUND)
        return err_set(err, CE_EFORMAT, "%s: key general.architecture is missing",
                       gguf_path(m->file));
    if (rc != 0)
        return rc;
    if (!str_equal(&s, "llama"))
        return err_set(err, CE_EUNSUPPORTED,
                       "%s: architecture \"%.*s\" is not supported (llama is)",
                       gguf_path(m->file), (int)(s.len < 60 ? s.len : 60), s.data);
    snprintf(c->arch, sizeof(c->arch), "llama");
    if (gguf_get_str(m->file, "general.name", &s, NULL) == 0) {
        size_t n = s.len < sizeof(c->name) - 1 ? s.len : sizeof(c->name) - 1;

        for (size_t i = 0; i < n; i++)
            c->name[i] = s.data[i] >= 0x20 && s.data[i] < 0x7f ? s.data[i] : '?';
        c->name[n] = '\0';
    }
    return 0;
}

/* A key that is a number of either kind. */
static int
any_number(const struct gguf *g, const char *key, double *out, struct err *err)
{
    uint64_t u;
    int rc = gguf_get_f64(g, key, out, NULL);

    if (rc != CE_EFORMAT)
        return rc;
    rc = gguf_get_u64(g, key, &u, err);
    if (rc == 0)
        *out = (double)u;
    return rc;
}

/* Refuse what would be computed differently from what the file asks for. */
static int
check_variants(const struct model *m, struct err *err)
{
    char key[96];
    struct gguf_str s;
    double v;

    if (gguf_get_str(m->file, arch_key(m, "rope.scaling.type", key), &s, NULL) == 0 &&
        !str_equal(&s, "none"))
        return err_set(err, CE_EUNSUPPORTED, "%s: rope scaling \"%.*s\" is not supported",
                       gguf_path(m->file), (int)(s.len < 60 ? s.len : 60), s.data);
    for (size_t i = 0; i < N_NEUTRAL_KEYS; i++) {
        int rc = any_number(m->file, arch_key(m, neutral_keys[i].suffix, key), &v, err);

        if (rc == CE_ENOTFOUND)
            continue;
        if (rc != 0)
            return rc;
        if (v != neutral_keys[i].value)
            return err_set(err, CE_EUNSUPPORTED, "%s: key %s is %g; only %g is supported",
                           gguf_path(m->file), key, v, neutral_keys[i].value);
    }
    return 0;
}

/* Heads and their dimensions; d_model is known. */
static int
read_heads(struct model *m, struct err *err)
{
    struct model_config *c = &m->config;
    int rc, value_dim, even_share;

    if ((rc = arch_int(m, "attention.head_count", MAX_HEADS, -1, &c->n_heads, err)) ||
        (rc = arch_int(m, "attention.head_count_kv", MAX_HEADS, c->n_heads,
                       &c->n_kv_heads, err)))
        return rc;
    even_share = c->d_model % c->n_heads == 0 ? c->d_model / c->n_heads : -1;
    if ((rc = arch_int(m, "attention.key_length", 1024, even_share, &c->head_dim, err)) ||
        (rc =
             arch_int(m, "attention.value_length", 1024, c->head_dim, &value_dim, err)) ||
        (rc = arch_int(m, "rope.dimension_count", 1024, c->head_dim, &c->n_rot, err)))
        return rc;
    if (c->n_heads % c->n_kv_heads != 0)
        return err_set(err, CE_EFORMAT, "%s: %d heads cannot share %d key-value heads",
                       gguf_path(m->file), c->n_heads, c->n_kv_heads);
    if (value_dim != c->head_dim)
        return err_set(err, CE_EUNSUPPORTED,
                       "%s: keys of %d and values of %d dimensions in a head",
                       gguf_path(m->file), c->head_dim, value_dim);
    if (c->head_dim % 2 != 0 || c->head_dim > 1024)
        return err_set(err, CE_EUNSUPPORTED, "%s: heads of %d dimensions",
                       gguf_path(m->file), c->head_dim);
    if (c->n_rot % 2 != 0 || c->n_rot > c->head_dim)
        return err_set(err, CE_EFORMAT, "%s: rope turns %d of a head's %d dimensions",
                       gguf_path(m->file), c->n_rot, c->head_dim);
    if (c->n_heads * c->head_dim > MAX_DIM)
        return err_set(err, CE_EUNSUPPORTED, "%s: %d heads of %d dimensions",
                       gguf_path(m->file), c->n_heads, c->head_dim);
    return 0;
}

static int
read_config(struct model *m, struct err *err)
{
    struct model_config *c = &m->config;
    const struct gguf_tensor *t;
    int rc, rows;

    if ((rc = read_arch(m, err)) || (rc = check_variants(m, err)) ||
        (rc = arch_int(m, "block_count", MAX_LAYERS, -1, &c->n_layers, err)) ||
        (rc = arch_int(m, "embedding_length", MAX_DIM, -1, &c->d_model, err)) ||
        (rc = arch_int(m, "feed_forward_length", MAX_FF, -1, &c->d_ff, err)) ||
        (rc = arch_int(m, "context_length", MAX_CTX, -1, &c->n_ctx, err)) ||
        (rc = arch_float(m, "rope.freq_base", 1, 1e9, 10000, &c->rope_base, err)) ||
        (rc = arch_float(m, "attention.layer_norm_rms_epsilon", 1e-12, 0.1, -1,
                         &c->norm_eps, err)) ||
        (rc = read_heads(m, err)))
        return rc;
    t = gguf_find_tensor(m->file, "output.weight");
    if (!t)
        t = gguf_find_tensor(m->file, "token_embd.weight");
    rows = t && t->ne[1] <= MAX_VOCAB ? (int)t->ne[1] : -1;
    return arch_int(m, "vocab_size", MAX_VOCAB, rows, &c->n_vocab, err);
}

static int
read_range(struct model *m, struct err *err)
{
    int n = m->config.n_layers, rc;

    m->layer_from = 0;
    m->layer_to = n;
    if (gguf_find_key(m->file, "cecollm.split.layer_from") < 0 &&
        gguf_find_key(m->file, "cecollm.split.layer_to") < 0)
        return 0;
    if ((rc = model_key_int(m->file, "cecollm.split.layer_from", 0, n - 1, -1,
                            &m->layer_from, err)))
        return rc;
    return model_key_int(m->file, "cecollm.split.layer_to", m->layer_from + 1, n, -1,
                         &m->layer_to, err);
}

/* Is the fingerprint that of the file itself? */
static bool
is_whole(const struct model *m)
{
    return m->layer_from == 0 && m->layer_to == m->config.n_layers &&
           gguf_find_key(m->file, "cecollm.split.source_sha256") < 0;
}

static int
read_fingerprint(struct model *m, struct err *err)
{
    struct gguf_str s;
    int rc;

    if (is_whole(m))
        return sha256_bytes(gguf_bytes(m->file), gguf_size_bytes(m->file), m->fingerprint,
                            err);
    rc = gguf_get_str(m->file, "cecollm.split.source_sha256", &s, err);
    if (rc == CE_ENOTFOUND || (rc == 0 && sha256_parse(s.data, s.len, m->fingerprint)))
        return err_set(err, CE_EFORMAT,
                       "%s: key cecollm.split.source_sha256 is not 64 hexadecimal digits",
                       gguf_path(m->file));
    return rc;
}

/* ---- tensors ---- */

static size_t
dim_size(const struct model_config *c, enum dim d)
{
    switch (d) {
    case DIM_MODEL:
        return (size_t)c->d_model;
    case DIM_Q:
        return (size_t)c->n_heads * (size_t)c->head_dim;
    case DIM_KV:
        return (size_t)c->n_kv_heads * (size_t)c->head_dim;
    case DIM_FF:
        return (size_t)c->d_ff;
    case DIM_NONE:
        break;
    }
    return 0;
}

static int
find_blocks(struct model *m, struct err *err)
{
    const struct model_config *c = &m->config;
    char name[64];
    int rc;

    m->blocks = calloc((size_t)c->n_layers, sizeof(*m->blocks));
    if (!m->blocks)
        return err_set(err, CE_ENOMEM, "%s: no memory for %d blocks", gguf_path(m->file),
                       c->n_layers);
    for (int i = m->layer_from; i < m->layer_to; i++) {
        for (size_t j = 0; j < N_BLOCK_TENSORS; j++) {
            const struct block_tensor *bt = &block_tensors[j];
            const struct gguf_tensor *t;

            snprintf(name, sizeof(name), "blk.%d.%s", i, bt->suffix);
            rc = model_tensor(m->file, name, dim_size(c, bt->rows), dim_size(c, bt->cols),
                              &t, err);
            if (rc != 0)
                return rc;
            memcpy((char *)&m->blocks[i] + bt->member, &t, sizeof(void *));
        }
    }
    return 0;
}

/* Embedding, norm and output matrix: whichever the range needs or the file has. */
static int
find_ends(struct model *m, struct err *err)
{
    struct model_config *c = &m->config;
    size_t d = (size_t)c->d_model, n = (size_t)c->n_vocab;
    bool last = m->layer_to == c->n_layers;
    bool has_output = gguf_find_tensor(m->file, "output.weight") != NULL;
    int rc;

    if (m->layer_from == 0 || gguf_find_tensor(m->file, "token_embd.weight")) {
        rc = model_tensor(m->file, "token_embd.weight", n, d, &m->token_embd, err);
        if (rc != 0)
            return rc;
    }
    if (last || gguf_find_tensor(m->file, "output_norm.weight")) {
        rc = model_tensor(m->file, "output_norm.weight", 0, d, &m->output_norm, err);
        if (rc != 0)
            return rc;
    }
    if (has_output) {
        rc = model_tensor(m->file, "output.weight", n, d, &m->output, err);
        if (rc != 0)
            return rc;
    } else if (m->output_norm) {
        c->tied_output = true;
        m->output = m->token_embd;
    }
    if (last && !m->output)
        return err_set(err, CE_EFORMAT,
                       "%s: neither output.weight nor token_embd.weight is there",
                       gguf_path(m->file));
    return 0;
}

/* Is this tensor one that find_blocks, find_ends or model_exits.c knows? */
static bool
is_known(const struct model *m, const char *name)
{
    char *end;
    long block;

    if (strcmp(name, "token_embd.weight") == 0 ||
        strcmp(name, "output_norm.weight") == 0 || strcmp(name, "output.weight") == 0 ||
        strncmp(name, "exit.", 5) == 0)
        return true;
    if (strncmp(name, "blk.", 4) != 0 || name[4] < '0' || name[4] > '9')
        return false;
    block = strtol(name + 4, &end, 10);
    if (*end != '.' || block < m->layer_from || block >= m->layer_to)
        return false;
    for (size_t j = 0; j < N_BLOCK_TENSORS; j++) {
        if (strcmp(end + 1, block_tensors[j].suffix) == 0)
            return true;
    }
    return false;
}

static int
check_strangers(const struct model *m, struct err *err)
{
    for (int i = 0; i < gguf_n_tensors(m->file); i++) {
        const char *name = gguf_tensor_at(m->file, i)->name;

        if (!is_known(m, name))
            return err_set(err, CE_EUNSUPPORTED,
                           "%s: tensor %s has no place in a llama model of blocks %d to "
                           "%d as this build computes it",
                           gguf_path(m->file), name, m->layer_from, m->layer_to - 1);
    }
    return 0;
}

/* ---- open and close ---- */

int
model_open(struct model **out, const char *path, const char *exits_path, struct err *err)
{
    struct model *m = calloc(1, sizeof(*m));
    int rc;

    *out = NULL;
    if (!m)
        return err_set(err, CE_ENOMEM, "%s: no memory", path);
    if ((rc = gguf_open(&m->file, path, err)) || (rc = read_config(m, err)) ||
        (rc = read_range(m, err)) || (rc = check_strangers(m, err)) ||
        (rc = find_blocks(m, err)) || (rc = find_ends(m, err)) ||
        (rc = read_fingerprint(m, err)) || (rc = model_load_exits(m, exits_path, err))) {
        model_close(m);
        return rc;
    }
    *out = m;
    return 0;
}

void
model_close(struct model *m)
{
    if (!m)
        return;
    gguf_close(m->exits_file);
    gguf_close(m->file);
    free(m->blocks);
    free(m);
}

int
model_identity(const struct model *m, bool exits, uint8_t out[32], struct err *err)
{
    uint8_t sums[2][32] = { 0 }; /* of the files; zeros for none */
    int rc = 0;

    if (is_whole(m))
        memcpy(sums[0], m->fingerprint, sizeof(sums[0]));
    else
        rc = sha256_bytes(gguf_bytes(m->file), gguf_size_bytes(m->file), sums[0], err);
    if (rc == 0 && exits && m->exits_file)
        rc = sha256_bytes(gguf_bytes(m->exits_file), gguf_size_bytes(m->exits_file),
                          sums[1], err);
    return rc == 0 ? sha256_bytes(sums, sizeof(sums), out, err) : rc;
}

void
model_fingerprint_text(const struct model *m, char out[65])
{
    sha256_text(m->fingerprint, out);
}
