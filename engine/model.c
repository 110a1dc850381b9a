/* SPDX-License-Identifier: Apache-2.0
 * model.c - the Llama family's tensors, found and checked.
 *
 * Why:      what computes must be able to trust every shape, so all of them are
 *           compared here with the configuration (model_config.c), and a tensor that
 *           the architecture does not use is refused by name.
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
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/sha256.h"
#include "engine/model_internal.h"
#include "engine/quant.h"

enum dim { DIM_NONE, DIM_MODEL, DIM_Q, DIM_KV, DIM_FF, DIM_HEAD };

/* What a block consists of; rows = DIM_NONE means a float32 vector. A tensor that not
 * every architecture has belongs to a part (model_internal.h). */
static const struct block_tensor {
    const char *suffix;
    size_t member; /* of struct model_block */
    enum dim rows, cols;
    unsigned part; /* 0: every block has it */
} block_tensors[] = {
    { "attn_norm.weight", offsetof(struct model_block, attn_norm), DIM_NONE, DIM_MODEL,
      0 },
    { "attn_q.weight", offsetof(struct model_block, q), DIM_Q, DIM_MODEL, 0 },
    { "attn_k.weight", offsetof(struct model_block, k), DIM_KV, DIM_MODEL, 0 },
    { "attn_v.weight", offsetof(struct model_block, v), DIM_KV, DIM_MODEL, 0 },
    { "attn_q.bias", offsetof(struct model_block, q_bias), DIM_NONE, DIM_Q,
      MODEL_PART_QKV_BIAS },
    { "attn_k.bias", offsetof(struct model_block, k_bias), DIM_NONE, DIM_KV,
      MODEL_PART_QKV_BIAS },
    { "attn_v.bias", offsetof(struct model_block, v_bias), DIM_NONE, DIM_KV,
      MODEL_PART_QKV_BIAS },
    { "attn_q_norm.weight", offsetof(struct model_block, q_norm), DIM_NONE, DIM_HEAD,
      MODEL_PART_QK_NORM },
    { "attn_k_norm.weight", offsetof(struct model_block, k_norm), DIM_NONE, DIM_HEAD,
      MODEL_PART_QK_NORM },
    { "attn_output.weight", offsetof(struct model_block, attn_output), DIM_MODEL, DIM_Q,
      0 },
    { "attn_output.bias", offsetof(struct model_block, output_bias), DIM_NONE, DIM_MODEL,
      MODEL_PART_OUTPUT_BIAS },
    { "ffn_norm.weight", offsetof(struct model_block, ffn_norm), DIM_NONE, DIM_MODEL, 0 },
    { "ffn_gate.weight", offsetof(struct model_block, gate), DIM_FF, DIM_MODEL, 0 },
    { "ffn_up.weight", offsetof(struct model_block, up), DIM_FF, DIM_MODEL, 0 },
    { "ffn_down.weight", offsetof(struct model_block, down), DIM_MODEL, DIM_FF, 0 },
};
#define N_BLOCK_TENSORS (sizeof(block_tensors) / sizeof(block_tensors[0]))

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
    if (!quant_is_known(t->type))
        return err_set(err, CE_EUNSUPPORTED,
                       "%s: tensor %s is %s; this build computes " QUANT_TYPES,
                       gguf_path(g), name, gguf_type_name(t->type));
    *out = t;
    return 0;
}

/* ---- range and identity ---- */

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
    case DIM_HEAD:
        return (size_t)c->head_dim;
    case DIM_NONE:
        break;
    }
    return 0;
}

/* Find one tensor of block i. An optional one that is not there stays NULL. */
static int
find_block_tensor(struct model *m, int i, const struct block_tensor *bt, struct err *err)
{
    const struct model_config *c = &m->config;
    const struct gguf_tensor *t;
    char name[64];
    int rc;

    snprintf(name, sizeof(name), "blk.%d.%s", i, bt->suffix);
    if (bt->part != 0 && (m->arch->required & bt->part) == 0 &&
        ((m->arch->optional & bt->part) == 0 || !gguf_find_tensor(m->file, name)))
        return 0;
    rc = model_tensor(m->file, name, dim_size(c, bt->rows), dim_size(c, bt->cols), &t,
                      err);
    if (rc == 0)
        memcpy((char *)&m->blocks[i] + bt->member, &t, sizeof(void *));
    return rc;
}

static int
find_blocks(struct model *m, struct err *err)
{
    int n = m->config.n_layers, rc;

    m->blocks = calloc((size_t)n, sizeof(*m->blocks));
    if (!m->blocks)
        return err_set(err, CE_ENOMEM, "%s: no memory for %d blocks", gguf_path(m->file),
                       n);
    for (int i = m->layer_from; i < m->layer_to; i++) {
        for (size_t j = 0; j < N_BLOCK_TENSORS; j++) {
            rc = find_block_tensor(m, i, &block_tensors[j], err);
            if (rc != 0)
                return rc;
        }
    }
    return 0;
}

/* What rope's frequencies are divided by, where the file says so. */
static int
find_rope_freqs(struct model *m, struct err *err)
{
    size_t n = (size_t)m->config.n_rot / 2;
    const float *v;
    int rc;

    if (!gguf_find_tensor(m->file, MODEL_ROPE_FREQS))
        return 0;
    if ((rc = model_tensor(m->file, MODEL_ROPE_FREQS, 0, n, &m->rope_freqs, err)))
        return rc;
    v = m->rope_freqs->data;
    for (size_t i = 0; i < n; i++) {
        if (!((double)v[i] >= MODEL_MIN_ROPE_FACTOR &&
              (double)v[i] <= MODEL_MAX_ROPE_FACTOR))
            return err_set(err, CE_EFORMAT, "%s: tensor %s: element %zu is %g",
                           gguf_path(m->file), MODEL_ROPE_FREQS, i, (double)v[i]);
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
        strcmp(name, MODEL_ROPE_FREQS) == 0 || strncmp(name, "exit.", 5) == 0)
        return true;
    if (strncmp(name, "blk.", 4) != 0 || name[4] < '0' || name[4] > '9')
        return false;
    block = strtol(name + 4, &end, 10);
    if (*end != '.' || block < m->layer_from || block >= m->layer_to)
        return false;
    for (size_t j = 0; j < N_BLOCK_TENSORS; j++) {
        unsigned part = block_tensors[j].part;

        if (strcmp(end + 1, block_tensors[j].suffix) == 0)
            return part == 0 || ((m->arch->required | m->arch->optional) & part) != 0;
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
                           "%s: tensor %s has no place in a %s model of blocks %d to %d "
                           "as this build computes it",
                           gguf_path(m->file), name, m->config.arch, m->layer_from,
                           m->layer_to - 1);
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
    if ((rc = gguf_open(&m->file, path, err)) || (rc = model_read_config(m, err)) ||
        (rc = read_range(m, err)) || (rc = check_strangers(m, err)) ||
        (rc = find_blocks(m, err)) || (rc = find_rope_freqs(m, err)) ||
        (rc = find_ends(m, err)) || (rc = read_fingerprint(m, err)) ||
        (rc = model_load_exits(m, exits_path, err))) {
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
    if (rc == 0 && exits && m->exits_file && !m->exits_chosen)
        rc = sha256_bytes(gguf_bytes(m->exits_file), gguf_size_bytes(m->exits_file),
                          sums[1], err);
    return rc == 0 ? sha256_bytes(sums, sizeof(sums), out, err) : rc;
}

void
model_fingerprint_text(const struct model *m, char out[65])
{
    sha256_text(m->fingerprint, out);
}
