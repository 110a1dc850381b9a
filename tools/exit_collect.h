/* SPDX-License-Identifier: Apache-2.0
 * exit_collect.h - making the rows that exits are trained on (exit_rows.h), by running
 * the model.
 *
 * There are two kinds. Texts are read in windows of EXIT_COLLECT_WINDOW tokens, every
 * position but a window's first gives a row. Prompts are answered by the model itself,
 * put through its chat template as the agent does, and each position that a token of the
 * answer follows gives a row: the first answer to a prompt is greedy, others, when there
 * are not prompts enough, are sampled. So exits see what they will see in use.
 *
 * Thread: the backend's owner.
 */
#ifndef CE_TOOLS_EXIT_COLLECT_H
#define CE_TOOLS_EXIT_COLLECT_H

#include <signal.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "engine/backend.h"
#include "engine/model.h"
#include "tools/exit_rows.h"
#include "tools/options.h"

#define EXIT_COLLECT_WINDOW 512
#define EXIT_COLLECT_STEP   512  /* rows at most */
#define EXIT_COLLECT_CTX    2048 /* a prompt and its answer are no longer */
#define EXIT_COLLECT_WIDTH  64   /* answers together; the backend has as many sequences */

struct exit_collect {
    const struct model *model;
    struct backend
        *backend; /* of the whole model with its final head; exits not needed */
    int n_exits, layers[MODEL_MAX_EXITS];
    const struct options_texts *data;    /* texts */
    const struct options_texts *self;    /* files of prompts (exit_prompts.h) */
    const struct options_texts *exclude; /* prompts never taken */
    size_t n_invent, n_summaries;        /* further prompts (exit_invent.h) */
    size_t n_answer_rows;                /* rows of answers wanted */
    int max_answer;                      /* tokens of an answer, less than the context */
    int n_top;
    uint64_t seed;
    const char *save_prompts;          /* where to write all prompts, or NULL */
    const volatile sig_atomic_t *stop; /* not 0: end early; the rows so far are kept */
};

/* What the rows depend on, as a digest: for struct exit_rows_shape. Reads all files. */
int exit_collect_recipe(const struct exit_collect *c, uint8_t out[32],
                        struct err *err) CE_MUSTCHECK;

/* Make the rows in a file at `path`, open for reading. CE_EINVAL: the texts and answers
 * wanted are too few to train on. */
int exit_collect_run(const struct exit_collect *c, const uint8_t recipe[32],
                     const char *path, struct exit_rows **out,
                     struct err *err) CE_MUSTCHECK;

#endif
