/* SPDX-License-Identifier: Apache-2.0
 * model_config.c - the architectures this build computes, and a model's configuration.
 *
 * The architectures differ in little: which neighbours rope turns together, in which
 * blocks it does, and which biases and norms a block has. One table says so; the rest of
 * the engine looks at the configuration, never at the name.
 *
 * Keys that ask for something else are refused by name rather than passed over: whoever
 * wrote them meant other numbers than this build would give. Among the keys of rope none
 * is passed over that is not listed here; among the others those are refused that are
 * known to change the result.
 *
 * Rope scaling: none, linear (one factor for all frequencies), and factors of their own
 * for each frequency (the tensor rope_freqs.weight of Llama 3.1 and later; model.c).
 */
#include "engine/model.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine/model_internal.h"

/* Sanity limits: far above any real model, far below an overflow. */
#define MAX_LAYERS 1024
#define MAX_DIM    (1 << 16)
#define MAX_FF     (1 << 18)
#define MAX_VOCAB  (1 << 22)
#define MAX_CTX    (1 << 24)
#define MAX_HEADS  1024

static const struct model_arch archs[] = {
    { .name = "llama", .optional = MODEL_PART_QKV_BIAS | MODEL_PART_OUTPUT_BIAS },
    { .name = "qwen2",
      .rope_halves = true,
      .required = MODEL_PART_QKV_BIAS,
      .optional = MODEL_PART_OUTPUT_BIAS },
    { .name = "qwen3",
      .rope_halves = true,
      .required = MODEL_PART_QK_NORM,
      .optional = MODEL_PART_QKV_BIAS | MODEL_PART_OUTPUT_BIAS },
    { .name = "smollm3",
      .rope_skip = 4,
      .optional = MODEL_PART_QKV_BIAS | MODEL_PART_OUTPUT_BIAS },
};
#define N_ARCHS (sizeof(archs) / sizeof(archs[0]))

/* Keys that change what a model computes, after "ARCH.", and the one value that
 * means "as this build does it". */
static const struct neutral_key {
    const char *suffix;
    double value;
} neutral_keys[] = {
    { "rope.scaling.attn_factor", 1 }, { "expert_count", 0 },
    { "attention.clamp_kqv", 0 },      { "attention.max_alibi_bias", 0 },
    { "attention.scale", 0 },          { "attn_logit_softcapping", 0 },
    { "final_logit_softcapping", 0 },  { "embedding_scale", 1 },
    { "residual_scale", 1 },           { "logit_scale", 1 },
};
#define N_NEUTRAL_KEYS (sizeof(neutral_keys) / sizeof(neutral_keys[0]))

/* All keys of rope that are understood, after "ARCH.rope.". The last two describe how
 * the model was trained and change nothing. */
static const char *const rope_keys[] = {
    "dimension_count",   "freq_base",
    "scale_linear",      "scaling.type",
    "scaling.factor",    "scaling.attn_factor",
    "scaling.finetuned", "scaling.original_context_length",
};

static bool
str_equal(const struct gguf_str *s, const char *text)
{
    return s->len == strlen(text) && memcmp(s->data, text, s->len) == 0;
}

/* ---- keys ---- */

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

/* ---- architecture ---- */

/* "llama, qwen2, ..." */
static void
list_archs(char *out, size_t size)
{
    size_t at = 0;

    for (size_t i = 0; i < N_ARCHS && at < size; i++)
        at += (size_t)snprintf(out + at, size - at, "%s%s", i == 0 ? "" : ", ",
                               archs[i].name);
}

static void
read_name(struct model_config *c, const struct gguf *g)
{
    struct gguf_str s;
    size_t n;

    if (gguf_get_str(g, "general.name", &s, NULL) != 0)
        return;
    n = s.len < sizeof(c->name) - 1 ? s.len : sizeof(c->name) - 1;
    for (size_t i = 0; i < n; i++)
        c->name[i] = s.data[i] >= 0x20 && s.data[i] < 0x7f ? s.data[i] : '?';
    c->name[n] = '\0';
}

static int
read_arch(struct model *m, struct err *err)
{
    struct model_config *c = &m->config;
    struct gguf_str s;
    char known[128];
    int rc = gguf_get_str(m->file, "general.architecture", &s, err);

    if (rc == CE_ENOTFOUND)
        return err_set(err, CE_EFORMAT, "%s: key general.architecture is missing",
                       gguf_path(m->file));
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < N_ARCHS && !m->arch; i++) {
        if (str_equal(&s, archs[i].name))
            m->arch = &archs[i];
    }
    if (!m->arch) {
        list_archs(known, sizeof(known));
        return err_set(err, CE_EUNSUPPORTED,
                       "%s: architecture \"%.*s\" is not supported (known: %s)",
                       gguf_path(m->file), (int)(s.len < 60 ? s.len : 60), s.data, known);
    }
    snprintf(c->arch, sizeof(c->arch), "%s", m->arch->name);
    c->rope_halves = m->arch->rope_halves;
    c->rope_skip = m->arch->rope_skip;
    read_name(c, m->file);
    return 0;
}

/* ---- what is refused ---- */

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

static int
check_neutral(const struct model *m, struct err *err)
{
    char key[96];
    double v;

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

/* Every position sees those before it, and itself. */
static int
check_causal(const struct model *m, struct err *err)
{
    char key[96];
    bool causal;
    int rc = gguf_get_bool(m->file, arch_key(m, "attention.causal", key), &causal, err);

    if (rc == CE_ENOTFOUND || (rc == 0 && causal))
        return 0;
    if (rc != 0)
        return rc;
    return err_set(err, CE_EUNSUPPORTED, "%s: key %s is false; only true is supported",
                   gguf_path(m->file), key);
}

/* A sliding window that is as long as the context is never felt; others are refused. */
static int
check_window(const struct model *m, struct err *err)
{
    char key[96];
    uint64_t v;
    int rc = gguf_get_u64(m->file, arch_key(m, "attention.sliding_window", key), &v, err);

    if (rc == CE_ENOTFOUND)
        return 0;
    if (rc == 0 && v != 0 && v < (uint64_t)m->config.n_ctx)
        return err_set(err, CE_EUNSUPPORTED,
                       "%s: key %s is %" PRIu64 ", less than the context of %d; sliding "
                       "windows are not supported",
                       gguf_path(m->file), key, v, m->config.n_ctx);
    return rc;
}

/* ---- rope scaling ---- */

static int
check_rope_keys(const struct model *m, struct err *err)
{
    char prefix[96];
    size_t len;

    arch_key(m, "rope.", prefix);
    len = strlen(prefix);
    for (int i = 0; i < gguf_n_keys(m->file); i++) {
        const char *name = gguf_key_name(m->file, i);
        bool known = strncmp(name, prefix, len) != 0;

        for (size_t k = 0; !known && k < sizeof(rope_keys) / sizeof(rope_keys[0]); k++)
            known = strcmp(name + len, rope_keys[k]) == 0;
        if (!known)
            return err_set(err, CE_EUNSUPPORTED, "%s: key %s is not supported",
                           gguf_path(m->file), name);
    }
    return 0;
}

/* The factor that all frequencies are divided by, under its name or the old one. */
static int
read_linear_factor(struct model *m, struct err *err)
{
    static const char *const names[] = { "rope.scaling.factor", "rope.scale_linear" };
    char key[96];
    double v;

    for (size_t i = 0; i < 2; i++) {
        int rc = any_number(m->file, arch_key(m, names[i], key), &v, err);

        if (rc == CE_ENOTFOUND)
            continue;
        if (rc != 0)
            return rc;
        if (v == 0) /* written for "none" */
            v = 1;
        if (!(v >= MODEL_MIN_ROPE_FACTOR && v <= MODEL_MAX_ROPE_FACTOR))
            return err_set(err, CE_EFORMAT, "%s: key %s is %g", gguf_path(m->file), key,
                           v);
        m->config.rope_factor = (float)v;
        return 0;
    }
    return 0;
}

static int
read_rope_scaling(struct model *m, struct err *err)
{
    char key[96];
    struct gguf_str s;
    int rc;

    m->config.rope_factor = 1;
    rc = gguf_get_str(m->file, arch_key(m, "rope.scaling.type", key), &s, err);
    if (rc != 0 && rc != CE_ENOTFOUND)
        return rc;
    if (rc == 0 && str_equal(&s, "none"))
        return check_rope_keys(m, err);
    if (rc == 0 && !str_equal(&s, "linear"))
        return err_set(err, CE_EUNSUPPORTED,
                       "%s: key %s: rope scaling \"%.*s\" is not supported (none and "
                       "linear are)",
                       gguf_path(m->file), key, (int)(s.len < 60 ? s.len : 60), s.data);
    if ((rc = check_rope_keys(m, err)))
        return rc;
    return read_linear_factor(m, err); /* also when no type is given */
}

/* ---- shape ---- */

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

int
model_read_config(struct model *m, struct err *err)
{
    struct model_config *c = &m->config;
    const struct gguf_tensor *t;
    int rc, rows;

    if ((rc = read_arch(m, err)) || (rc = check_neutral(m, err)) ||
        (rc = read_rope_scaling(m, err)) ||
        (rc = arch_int(m, "block_count", MAX_LAYERS, -1, &c->n_layers, err)) ||
        (rc = arch_int(m, "embedding_length", MAX_DIM, -1, &c->d_model, err)) ||
        (rc = arch_int(m, "feed_forward_length", MAX_FF, -1, &c->d_ff, err)) ||
        (rc = arch_int(m, "context_length", MAX_CTX, -1, &c->n_ctx, err)) ||
        (rc = arch_float(m, "rope.freq_base", 1, 1e12, 10000, &c->rope_base, err)) ||
        (rc = arch_float(m, "attention.layer_norm_rms_epsilon", 1e-12, 0.1, -1,
                         &c->norm_eps, err)) ||
        (rc = read_heads(m, err)) || (rc = check_causal(m, err)) ||
        (rc = check_window(m, err)))
        return rc;
    t = gguf_find_tensor(m->file, "output.weight");
    if (!t)
        t = gguf_find_tensor(m->file, "token_embd.weight");
    rows = t && t->ne[1] <= MAX_VOCAB ? (int)t->ne[1] : -1;
    return arch_int(m, "vocab_size", MAX_VOCAB, rows, &c->n_vocab, err);
}
