/* SPDX-License-Identifier: Apache-2.0
 * exit_steps.h - steps of training all exits at once, and the judging of where they are:
 * rows are read, go through adapters and output matrix and back, shared out to threads.
 *
 * The bits of a step do not depend on the number of threads.
 *
 * Thread: one owner; it uses the threads of its pool.
 */
#ifndef CE_TOOLS_EXIT_STEPS_H
#define CE_TOOLS_EXIT_STEPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "engine/kernels.h"
#include "engine/model.h"
#include "engine/threads.h"
#include "tools/exit_loss.h"
#include "tools/exit_net.h"
#include "tools/exit_rows.h"

/* An exit that learns. */
struct exit_student {
    struct exit_net net;
    float *grad, *m, *v;        /* [net.n]; m, v: Adam's moments */
    struct exit_net_rows rows;  /* of the batch */
    struct exit_loss_row *said; /* [capacity] */
    double *squares;            /* [exit_net_n_tiles] of the gradient */
};

struct exit_mark {
    double loss, agreement; /* means over rows */
};

struct exit_steps {
    int n_exits;
    struct exit_student exits[MODEL_MAX_EXITS];
    double dropout; /* share of adapters' hidden numbers that a step drops, below 1 */
    double kept; /* share of the gradient that the last step's cut left, of all exits */
    /* The rest is private. */
    const struct exit_rows *source;
    const struct kernels *k;
    struct threads *pool;
    struct exit_loss *loss;
    struct exit_worker *workers; /* [threads] */
    size_t capacity;
    uint64_t seed;
    int n_top;
    int32_t *ids; /* [capacity, n_top] */
    float *logp;  /* [capacity, n_top] */
};

/* Adapters at their start (exit_start.h), for batches of at most `batch` rows. widths:
 * [n_exits]. *s is zeros, or freed by exit_steps_fini in any case. */
int exit_steps_init(struct exit_steps *s, const struct model *m,
                    const struct exit_rows *rows, const struct kernels *k,
                    struct threads *pool, const int *widths, size_t batch, uint64_t seed,
                    struct err *err) CE_MUSTCHECK;
void exit_steps_fini(struct exit_steps *s);

/* One step, the `step`th from 1, down the mean gradient of the training rows which [n],
 * n at most `batch`. rates: [n_exits]; an exit of rate 0 rests. marks: [n_exits], before
 * the step; NaN of those that rest. CE_EINTERNAL when a loss is not finite. */
int exit_steps_train(struct exit_steps *s, const uint32_t *which, size_t n, size_t step,
                     const float *rates, struct exit_mark *marks,
                     struct err *err) CE_MUSTCHECK;

/* Marks on `most` held-out rows at most, evenly spread. */
int exit_steps_judge(struct exit_steps *s, size_t most, struct exit_mark *marks,
                     struct err *err) CE_MUSTCHECK;

#endif
