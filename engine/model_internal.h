/* SPDX-License-Identifier: Apache-2.0
 * model_internal.h - what model.c, model_config.c and model_exits.c share.
 *
 * Included by those and nobody else.
 */
#ifndef CE_ENGINE_MODEL_INTERNAL_H
#define CE_ENGINE_MODEL_INTERNAL_H

#include "engine/model.h"

/* Tensors of a block that not every architecture has. */
#define MODEL_PART_QKV_BIAS    1u /* attn_q.bias, attn_k.bias, attn_v.bias */
#define MODEL_PART_OUTPUT_BIAS 2u /* attn_output.bias */
#define MODEL_PART_QK_NORM     4u /* attn_q_norm.weight, attn_k_norm.weight */

struct model_arch {
    const char *name;            /* general.architecture */
    bool rope_halves;            /* see struct model_config */
    int rope_skip;               /* likewise */
    unsigned required, optional; /* MODEL_PART_* */
};

/* Bounds of what a frequency of rope may be divided by: with both kinds of scaling and
 * MAX_CTX positions an angle stays in mathfn_sincos's range. */
#define MODEL_MIN_ROPE_FACTOR 0.125
#define MODEL_MAX_ROPE_FACTOR 1e6

/* Architecture and configuration from the file's keys; what this build would compute
 * otherwise than they ask is refused by name. Sets m->arch and m->config, but for
 * tied_output. */
int model_read_config(struct model *m, struct err *err) CE_MUSTCHECK;

/* Find a tensor and check it. rows = 0 asks for a vector of `cols` float32 values
 * (norms, biases); otherwise for a [rows, cols] matrix in a format that the kernels
 * multiply. Errors name file and tensor. */
int model_tensor(const struct gguf *g, const char *name, size_t rows, size_t cols,
                 const struct gguf_tensor **out, struct err *err) CE_MUSTCHECK;

/* An integer key within lo..hi. An absent one gives *out = fallback, or an error
 * naming the key when fallback < 0. */
int model_key_int(const struct gguf *g, const char *name, int lo, int hi, int fallback,
                  int *out, struct err *err) CE_MUSTCHECK;

/* Read m->exits from the model's own file or from the side file (see model_open).
 * Needs configuration, layer range and fingerprint. */
int model_load_exits(struct model *m, const char *exits_path,
                     struct err *err) CE_MUSTCHECK;

#endif
