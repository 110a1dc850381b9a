/* SPDX-License-Identifier: Apache-2.0
 * answer_batch.h - many answers written side by side, by one model in one process.
 *
 * Prompts come from a callback, as many as run together; each step adds a token to every
 * answer. Who chooses the token sees what every stop of the model said (staged.h): so the
 * full model's answers, sampled ones, and those that leave at exits are all written here.
 * Every position goes through all blocks whatever was chosen, as the cloud's cache has it
 * in the end; the text is what edge and cloud would make of it together. Results do not
 * depend on how many run together.
 *
 * Thread: the backend's owner.
 */
#ifndef CE_TOOLS_ANSWER_BATCH_H
#define CE_TOOLS_ANSWER_BATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "engine/tokenizer.h"
#include "tools/staged.h"

/* One answer; all memory is the callbacks'. */
struct answer {
    const int32_t *prompt; /* [n_prompt] */
    int n_prompt;          /* >= 1 */
    int32_t *output;       /* [max_output] */
    int max_output;        /* >= 1; prompt and output fit the context */
    int n_output;          /* so far; starts at 0 */
    void *user;
};

struct answer_batch {
    struct staged *staged;         /* with room for `width` items and at least as many
                                      rows; borrowed */
    const struct tokenizer *vocab; /* an end of generation, kept as the output's last
                                      token, ends an answer */
    int width;                     /* most answers together, >= 1 */
    int n_top;                     /* logits of each row's result */
    /* Fill the next answer; false when there are no more. */
    bool (*next)(void *ctx, struct answer *a);
    /* The next token of `a`, from s->results[stop][row], and s->states[stop] at
     * state_row: of the row that the token follows. `row` counts results. A negative
     * one ends the answer without it. */
    int32_t (*choose)(void *ctx, struct answer *a, const struct staged *s, int row,
                      int state_row);
    /* `a` has ended. An error ends the batch. */
    int (*done)(void *ctx, struct answer *a, struct err *err);
    void *ctx;
};

/* Run until `next` has no more and all answers have ended. Errors of backend_run and
 * `done`. */
int answer_batch_run(const struct answer_batch *batch, struct err *err) CE_MUSTCHECK;

#endif
