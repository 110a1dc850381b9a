/* SPDX-License-Identifier: Apache-2.0
 * exits_file.h - writing side files of exit heads (doc/EXITS.md): of adapters just
 * trained, or of a model's exits with new screens.
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
#include "tools/exit_trust.h"
#include "tools/exit_tune.h"

struct exits_screen { /* data borrowed */
    uint32_t down_type, up_type;
    const void *down; /* [rank, d_model] */
    const void *up;   /* [n_vocab, rank] */
};

struct exits_file {
    const struct model *model;          /* with all exits that its file of exits has */
    const struct exits_screen *screens; /* [model->n_exits]; NULL: no screens */
    size_t rank;
    int n_candidates;
    bool adapters_q8_0; /* adapters in F32 or F16 become Q8_0 where their rows allow it */
    const float *theta; /* [model->n_exits] suggested thresholds; NULL: as they were */
};

/* What was trained, and facts of how. */
struct exits_adapters {
    const struct model *model; /* that they are for */
    int n_exits;
    const int *layers;                   /* [n_exits] ascending */
    const struct exit_adapter *adapters; /* [n_exits] */
    const struct exit_trust *trusts;     /* [n_exits]; NULL: none */
    uint32_t type;                       /* of the matrices */
    size_t n_rows, n_steps;
    uint64_t seed;
};

/* Write them to `path` by way of PATH.tmp, without screens and thresholds. CE_EINVAL:
 * numbers that are not finite, or rows that `type` cannot hold. */
int exits_file_write_adapters(const struct exits_adapters *a, const char *path,
                              struct err *err) CE_MUSTCHECK;

/* CE_EUNSUPPORTED when the model, being a part, does not hold every exit of the file. */
int exits_file_check(const struct model *m, struct err *err) CE_MUSTCHECK;

/* Write it to `path` by way of PATH.tmp. `path` may be the file that the model's exits
 * came from: a mapped file lives on when its name goes to another. */
int exits_file_write(const struct exits_file *e, const char *path,
                     struct err *err) CE_MUSTCHECK;

#endif
