/* SPDX-License-Identifier: Apache-2.0
 * quantise.h - a model's weights in another format: which tensor gets which, and
 * writing the file.
 *
 * Matrices are encoded; vectors (norms, biases, frequencies) and what belongs to exit
 * heads are copied. The embedding and the output matrix may have a format of their own:
 * they decide about single tokens, and suffer most from few bits. Rows that are not
 * whole blocks of a format take the next one that fits.
 *
 * A source that already has few bits loses again. Where that gains next to nothing the
 * matrices that suffer most, those of attention and ffn_down, stay as they are: SmolLM2
 * 135M from Q4_1 to Q4_0 throughout gets 7 % smaller and 21 % more perplexity, with them
 * kept 3 % smaller and 3 %.
 *
 * Memory: one piece of a tensor (a few MiB) and two rows a thread, whatever the model's
 * size. The bytes are the same for any number of threads.
 *
 * Thread: one owner.
 */
#ifndef CE_TOOLS_QUANTISE_H
#define CE_TOOLS_QUANTISE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "engine/gguf.h"
#include "engine/threads.h"

struct quantise_item {
    const struct gguf_tensor *from; /* in the source file */
    uint32_t type;                  /* as written; that of `from` when copied */
    bool copied;
    bool kept;              /* copied although another format was asked for */
    bool fell_back;         /* the rows are not whole blocks of the format asked for */
    double error2, values2; /* sums of squares, after quantise_write: what encoding
                               changed, and what was there */
};

struct quantise_plan {
    const struct gguf *file; /* borrowed */
    uint32_t type, output_type;
    int n; /* tensors, in the file's order */
    struct quantise_item *items;
    bool all;   /* encode, whatever that gains */
    bool twice; /* some matrices come from fewer than 8 bits, and lose again */
};

/* The format of embedding and output matrix when nobody chose one: that of the other
 * matrices, but at least 8 bits. */
uint32_t quantise_output_type(uint32_t type);

/* Decide about every tensor; `all` keeps no matrix. CE_EUNSUPPORTED for a tensor that
 * cannot be decoded. */
int quantise_plan_make(struct quantise_plan *plan, const struct gguf *file, uint32_t type,
                       uint32_t output_type, bool all, struct err *err) CE_MUSTCHECK;
void quantise_plan_free(struct quantise_plan *plan); /* accepts an empty one */

/* Write PATH.tmp and rename it to `path`. CE_EINVAL names the tensor, row and column of
 * a value that is not finite or beyond the format; CE_EIO, also when there is not space
 * enough. Nothing stays behind then. */
int quantise_write(struct quantise_plan *plan, const char *path, struct threads *pool,
                   struct err *err) CE_MUSTCHECK;

#endif
