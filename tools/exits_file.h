/* SPDX-License-Identifier: Apache-2.0
 * exits_file.h - writing a side file of exit heads (doc/EXITS.md) from a model's exits
 * and new screens for them.
 *
 * Thread: any.
 */
#ifndef CE_TOOLS_EXITS_FILE_H
#define CE_TOOLS_EXITS_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "engine/model.h"

struct exits_screen { /* data borrowed */
    uint32_t down_type, up_type;
    const void *down; /* [rank, d_model] */
    const void *up;   /* [n_vocab, rank] */
};

struct exits_file {
    const struct model *model;          /* with all exits that its file of exits has */
    const struct exits_screen *screens; /* [model->n_exits] */
    size_t rank;
    int n_candidates;
    bool adapters_q8_0; /* adapters in F32 or F16 become Q8_0 where their rows allow it */
};

/* CE_EUNSUPPORTED when the model, being a part, does not hold every exit of the file. */
int exits_file_check(const struct model *m, struct err *err) CE_MUSTCHECK;

/* Write it to `path` by way of PATH.tmp. `path` may be the file that the model's exits
 * came from: a mapped file lives on when its name goes to another. */
int exits_file_write(const struct exits_file *e, const char *path,
                     struct err *err) CE_MUSTCHECK;

#endif
