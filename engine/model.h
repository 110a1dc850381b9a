/* SPDX-License-Identifier: Apache-2.0
 * model.h - what a GGUF file of the Llama family means: configuration, tensors by
 * role, exit heads, identity.
 *
 * Reads the keys and finds the tensors, checks every shape against the
 * configuration, and points into the mapped file; copying or packing weights is
 * the backend's affair. A file may hold the whole model, or only the blocks and
 * heads of an edge or cloud partition made by `cecollm-model split`.
 *
 * Thread: immutable after model_open; any thread may read.
 */
#ifndef CE_ENGINE_MODEL_H
#define CE_ENGINE_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "engine/gguf.h"

#define MODEL_MAX_EXITS      16
#define MODEL_MAX_CANDIDATES 1024 /* of a screen */

struct model_config {
    char arch[32];  /* "llama", "qwen2", ... (model_config.c) */
    char name[128]; /* printable; may be empty */
    int n_layers;   /* L of the whole model, also in a split file */
    int d_model;
    int n_heads;
    int n_kv_heads;
    int head_dim;
    int d_ff;
    int n_vocab;
    int n_ctx;        /* the model's own context length */
    int n_rot;        /* dimensions of a head that rope turns */
    bool rope_halves; /* it turns pairs (i, i + n_rot/2), not (2i, 2i + 1) */
    int rope_skip;    /* > 0: of so many blocks the last has no rope */
    float rope_base;
    float rope_factor; /* all frequencies are divided by it; 1: not scaled */
    float norm_eps;
    bool tied_output; /* the output matrix is the embedding matrix */
};

struct model_block {                     /* of blk.N; every pointer is into the file */
    const struct gguf_tensor *attn_norm; /* [d_model] F32 */
    const struct gguf_tensor *q;         /* [n_heads * head_dim, d_model] */
    const struct gguf_tensor *k, *v;     /* [n_kv_heads * head_dim, d_model] */
    const struct gguf_tensor *q_bias;    /* [n_heads * head_dim] F32; or NULL */
    const struct gguf_tensor *k_bias, *v_bias; /* [n_kv_heads * head_dim] F32; or NULL */
    const struct gguf_tensor *q_norm, *k_norm; /* [head_dim] F32; or NULL */
    const struct gguf_tensor *attn_output;     /* [d_model, n_heads * head_dim] */
    const struct gguf_tensor *output_bias;     /* [d_model] F32; or NULL */
    const struct gguf_tensor *ffn_norm;        /* [d_model] F32 */
    const struct gguf_tensor *gate, *up;       /* [d_ff, d_model] */
    const struct gguf_tensor *down;            /* [d_model, d_ff] */
};

enum model_exit_kind {
    MODEL_EXIT_SHARED, /* the model's own norm and output matrix */
    MODEL_EXIT_MLP,    /* adapter in front of them (doc/EXITS.md) */
    MODEL_EXIT_OWN,    /* a norm and an output matrix of its own */
};

struct model_exit {
    int layer; /* state after this many blocks */
    enum model_exit_kind kind;
    float theta;       /* suggested threshold; 0 when the file suggests none */
    int adapter_width; /* rows of gate and up; 0: affine, and these are NULL */
    const struct gguf_tensor *map, *map_bias;   /* [d_model, d_model], [d_model] F32 */
    const struct gguf_tensor *gate, *up, *down; /* [w, d_model] twice, [d_model, w] */
    const struct gguf_tensor *norm, *output;    /* [d_model] F32, [n_vocab, d_model]; kind
                                                   OWN, else NULL */
    const struct gguf_tensor *trust,
        *trust_bias;  /* [2, d_model], [2] F32; kind MLP, and
                         both NULL without a trust (trust.h) */
    int n_candidates; /* of the screen; 0: the exit has none, and the next two are NULL */
    const struct gguf_tensor *screen_down; /* [rank, d_model], rank a multiple of 32 */
    const struct gguf_tensor *screen_up;   /* [n_vocab, rank] */
};

#define MODEL_ROPE_FREQS "rope_freqs.weight"

struct model_arch; /* model_internal.h */

struct model {
    const struct model_arch *arch;
    struct model_config config;
    struct gguf *file;
    struct gguf *exits_file;              /* NULL when there is none */
    int layer_from, layer_to;             /* blocks present in the file */
    struct model_block *blocks;           /* [n_layers]; members NULL outside the range */
    const struct gguf_tensor *rope_freqs; /* [n_rot / 2] F32: each frequency of rope is
                                             divided by its own; NULL: not */
    const struct gguf_tensor *token_embd; /* [n_vocab, d_model]; NULL in a cloud file */
    const struct gguf_tensor *output_norm; /* [d_model]; NULL if absent */
    const struct gguf_tensor *output; /* [n_vocab, d_model]; = token_embd when tied */
    int n_exits;
    bool exits_chosen; /* by model_set_shared_exits, instead of a file's */
    struct model_exit exits[MODEL_MAX_EXITS]; /* ascending by layer */
    uint8_t fingerprint[32]; /* SHA-256 of the whole model's file; a split file
                                carries its source's */
};

/* Open a model. `exits_path`: the exit heads' side file; NULL or "" takes
 * MODEL's name with its quantisation suffix and .gguf replaced by .exits.gguf when
 * such a file lies beside it (case ignored); "none" loads no side file. Exits in the
 * model's own file are used when there is no side file. A side file made for another
 * model is an error that shows both fingerprints. */
int model_open(struct model **out, const char *path, const char *exits_path,
               struct err *err) CE_MUSTCHECK;
void model_close(struct model *m); /* accepts NULL */

/* Replace the exits by heads that share norm and output matrix, after `layers`
 * (ascending, within 1 .. n_layers-1 and within the blocks that the file holds). For
 * models that were trained for it, and for trials. CE_EINVAL changes nothing. */
int model_set_shared_exits(struct model *m, const int *layers, int n, struct err *err);

/* "shared", "mlp" or "own", as in a file of exits. */
const char *model_exit_kind_name(enum model_exit_kind kind);

/* SHA-256 that is equal only for models whose files hold the same bytes: the model's
 * file and, with `exits`, the exit heads' side file. Hashes what is not hashed yet, that
 * is a split file or a side file. */
int model_identity(const struct model *m, bool exits, uint8_t out[32],
                   struct err *err) CE_MUSTCHECK;

/* Hex text of the fingerprint; `out` has room for 65 bytes. */
void model_fingerprint_text(const struct model *m, char out[65]);

#endif
