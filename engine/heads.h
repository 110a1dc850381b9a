/* SPDX-License-Identifier: Apache-2.0
 * heads.h - from hidden states to logits and what they come to (doc/NUMERICS.md, 9
 * and 10): the final head, and exit heads with or without an adapter and a screen, or
 * with a norm and an output matrix of their own.
 *
 * Thread: heads_new and heads_free by the owner; heads_run inside a region by all of
 * its threads, with the same arguments.
 */
#ifndef CE_ENGINE_HEADS_H
#define CE_ENGINE_HEADS_H

#include <stdbool.h>

#include "common/error.h"
#include "engine/backend.h"
#include "engine/kernels.h"
#include "engine/linear.h"
#include "engine/model.h"
#include "engine/threads.h"
#include "engine/weights.h"

struct heads;

struct heads_config { /* all borrowed until heads_free */
    const struct kernels *kernels;
    const struct model *model;
    const struct weights *weights; /* with an output matrix */
    struct threads *pool;
    int max_rows; /* most rows of a job, >= 1 */
};

/* One row's way through a head. */
struct head_row {
    const float *x;             /* [d_model] state */
    struct head_result *result; /* filled; argmax is -1 when the logits are not finite */
    float *logits;              /* [n_vocab], or NULL */
    float *head_in;             /* [d_model] what the output matrix reads, or NULL */
};

struct head_job {
    int head; /* HEAD_FINAL or HEAD_EXIT(i), loaded */
    int n_top;
    bool want_hash;
    float screen_theta;          /* as in struct batch */
    const struct head_row *rows; /* [n_rows] */
    int n_rows;
};

int heads_new(struct heads **out, const struct heads_config *config,
              struct err *err) CE_MUSTCHECK;
void heads_free(struct heads *h); /* accepts NULL */

/* When it returns, all rows are read. */
void heads_run(struct heads *h, struct worker_id id, const struct head_job *job);

#endif
