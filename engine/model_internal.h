/* SPDX-License-Identifier: Apache-2.0
 * model_internal.h - what model.c and model_exits.c share.
 *
 * Included by those two and nobody else.
 */
#ifndef CE_ENGINE_MODEL_INTERNAL_H
#define CE_ENGINE_MODEL_INTERNAL_H

#include "engine/model.h"

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
