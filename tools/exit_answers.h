/* SPDX-License-Identifier: Apache-2.0
 * exit_answers.h - what edge and cloud together would answer, for any thresholds of the
 * exits, and what each token of it took.
 *
 * A token is that of the first exit whose confidence reaches its threshold, else the
 * final head's, for which the edge asks the cloud. First the full model answers every
 * prompt; that pass also tells what each exit would have said at every place. Thresholds
 * under which all exits taken along this answer say the same tokens give the same answer,
 * and nothing need be run again. Otherwise the answer is the same up to the first token
 * that differs; from there on it is written once, and whatever other thresholds lead to
 * the same place goes on from there: an answer is a path through a tree of what has been
 * written so far. Many thresholds together cost little more than the dearest of them.
 *
 * Screens are left out: what a screen turns away wrongly goes to the cloud, which can
 * only bring the text nearer to the full model's.
 *
 * Thread: the backend's owner.
 */
#ifndef CE_TOOLS_EXIT_ANSWERS_H
#define CE_TOOLS_EXIT_ANSWERS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "engine/tokenizer.h"
#include "tools/prompt_file.h"
#include "tools/staged.h"

/* What one head said of the token that comes next. */
struct heard {
    int32_t argmax;
    float confidence;
    float mass; /* the final head's probability of that token; in the full model's answers
                   only, and 0 when it is not among its likeliest EXIT_ANSWERS_TOP */
};

#define EXIT_ANSWERS_TOP 64

/* Text that has been written, and what the heads said before each of its tokens. */
struct written {
    int start;       /* tokens of the answer before it */
    int32_t *tokens; /* [n] */
    int n;
    struct heard *heard; /* [n, n_heads]: exits, then the final head */
    /* How it branched off: after `at` tokens of the parent came `first` (which is token
     * start - 1) instead of the parent's. NULL: the full model's answer. */
    struct written *parent;
    int at;
    int32_t first;
    struct written *children, *next; /* next: another of the parent's */
    bool pending;                    /* about to be written */
};

/* Thresholds of all exits; 1 and more: the exit lets nothing out. */
struct exit_setting {
    double theta[MODEL_MAX_EXITS];
};

/* What an answer, or many, took. */
struct exit_tally {
    size_t n_tokens;
    size_t left[MODEL_MAX_EXITS]; /* tokens that exit k decided */
    size_t n_requests;            /* tokens that none did */
};

struct exit_answers {
    struct staged *staged; /* with all exits and the final head as stops; borrowed */
    const struct tokenizer *vocab;     /* borrowed */
    const struct prompt_file *prompts; /* borrowed */
    int width;                         /* answers written side by side */
    int max_tokens;    /* of an answer; fits the context with each prompt */
    const char *label; /* for progress lines */
    int n_exits;
    struct written *full; /* [prompts->n] the full model's answers, roots of the trees */
    size_t n_rows;        /* rows that were run in all: of prompts and answers */
};

/* Set the members above n_exits, zero the rest. Writes the full model's answers. Errors
 * of backend_run; CE_ENOMEM. */
int exit_answers_begin(struct exit_answers *a, struct err *err) CE_MUSTCHECK;

/* Write what is missing for these settings: [n]. */
int exit_answers_complete(struct exit_answers *a, const struct exit_setting *settings,
                          int n, struct err *err) CE_MUSTCHECK;

/* The answer to prompt i under a setting that was completed, and what it took (added to
 * *tally unless that is NULL). tokens: [max_tokens]. Returns how many. */
int exit_answers_read(const struct exit_answers *a, int i, const struct exit_setting *s,
                      int32_t *tokens, struct exit_tally *tally);

void exit_answers_free(struct exit_answers *a);

#endif
