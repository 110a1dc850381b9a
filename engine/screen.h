/* SPDX-License-Identifier: Apache-2.0
 * screen.h - is an exit surely not confident? Without all of its logits.
 *
 * An exit's logits are a product with the whole output matrix, which on a small model
 * costs as much as a dozen blocks, and most tokens do not leave at the exit. A screen
 * has a low-rank image of the output matrix (doc/EXITS.md): approximate logits of all
 * ids, from which the likeliest few hundred candidates are taken, and exact logits of
 * those. The largest probability among the candidates is at least the exit's confidence
 * whenever its argmax is among them; so if it is below the threshold, the exit is. If the
 * argmax is not among them the screen may err, always to the same side: the token goes
 * deeper (doc/NUMERICS.md section 10).
 *
 * Thread: screen_new and screen_free by the owner; screen_run inside a region by all of
 * its threads, with the same arguments.
 */
#ifndef CE_ENGINE_SCREEN_H
#define CE_ENGINE_SCREEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "engine/linear.h"
#include "engine/logit_rows.h"
#include "engine/logits.h"
#include "engine/weights.h"

struct screen;

/* What the candidates of a row came to. */
struct screen_verdict {
    bool below;                      /* the exit is not as confident as the threshold */
    struct logit_summary candidates; /* with a trust, confidence is what it makes of it */
};

/* Room for max_rows rows of any exit of `w`; *out is NULL when none has a screen.
 * CE_ENOMEM. */
int screen_new(struct screen **out, const struct weights *w, size_t max_rows,
               int n_threads) CE_MUSTCHECK;
void screen_free(struct screen *s); /* accepts NULL */

/* Screen rows of `norm` (what the output matrix reads) at an exit with a screen; leans
 * [norm->n_rows] are what trust_lean says of them when the exit has a trust. `room` is
 * overwritten with approximate logits. Afterwards *verdicts is [norm->n_rows], owned
 * by the screen and valid until its next run. */
void screen_run(struct screen *s, const struct kernels *k, struct worker_id id,
                const struct exit_weights *e, const struct packed *output,
                const struct activations *norm, const float *leans,
                const struct logit_rows *room, float theta,
                const struct screen_verdict **verdicts);

#endif
