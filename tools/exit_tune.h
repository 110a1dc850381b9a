/* SPDX-License-Identifier: Apache-2.0
 * exit_tune.h - training adapters of exits (doc/EXITS.md): after each exit's blocks the
 * model's own final distribution is foretold as well as a small network can.
 *
 * Adapters begin as the least-squares map from the exit's state to the last one and go
 * down the Kullback-Leibler divergence of the exit's distribution from the final one,
 * by Adam with warm-up and a cosine; everything else of the model stays as it is. The
 * output matrix is read by the engine's own kernels, so adapters learn with the rounding
 * that they will meet. Held-out rows say when to stop and which state was the best.
 *
 * The final distribution is known by its n_top likeliest ids (exit_rows.h); all others
 * are one event: the loss is the divergence of these n_top + 1 events.
 *
 * Thread: one owner; it uses threads of its own.
 */
#ifndef CE_TOOLS_EXIT_TUNE_H
#define CE_TOOLS_EXIT_TUNE_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "engine/model.h"
#include "tools/exit_rows.h"

/* An adapter as it is stored: z = map x + bias + down (silu(gate h) * (up h)), h =
 * rms(x). Row-major [out, in]; owned. w = 0: affine alone, gate, up and down are NULL. */
struct exit_adapter {
    size_t d, w;
    float *map, *bias;       /* [d, d], [d] */
    float *gate, *up, *down; /* [w, d], [w, d], [d, w] */
    double loss, agreement;  /* on the held-out rows: mean divergence in nats, and how
                                often the exit's argmax is the final one */
};

struct exit_tune_params {
    int widths[MODEL_MAX_EXITS];   /* of each exit's hidden layer; 0: affine alone */
    size_t steps[MODEL_MAX_EXITS]; /* of each exit, at most; then it rests */
    double dropout; /* share of the hidden layer that a step drops, 0 to 0.9 */
    int batch;      /* rows of a step */
    double rate;    /* Adam's, after warm-up; e.g. 1e-3 */
    int patience;   /* held-out checks without a better loss before the end;
                       0: all steps */
    uint64_t seed;
    int threads; /* 0: all cores allowed */
    const char *cpu;
    const char *checkpoint; /* file for the state, written at times and on `stop` */
    bool resume;            /* go on from it; CE_EINVAL with the reason when it belongs to
                               other rows or parameters */
    const volatile sig_atomic_t *stop; /* not 0: save and end early; may be NULL */
};

/* 0, or CE_EUNSUPPORTED with the reason when this build cannot train; to be asked before
 * rows are made. */
int exit_tune_check(struct err *err) CE_MUSTCHECK;

/* Train all exits of `rows` on the model. out: [shape.n_exits] adapters, to be freed in
 * any case (zero-initialise them). Ends well when stopped early: then *steps_done is less
 * than steps. */
int exit_tune_run(struct exit_adapter *out, size_t *steps_done, const struct model *m,
                  const struct exit_rows *rows, const struct exit_tune_params *p,
                  struct err *err) CE_MUSTCHECK;

void exit_adapter_free(struct exit_adapter *a);

#endif
