/* SPDX-License-Identifier: Apache-2.0
 * cases.h - the pieces of work that `cecollm-model bench` times.
 *
 * A case is prepared once (sequences opened, prompts run), sampled several times,
 * and finished. What a sample does and what it would cost at least, in bytes and
 * multiply-adds, is defined here and in bench/METHODOLOGY.md.
 *
 * Thread: the backend's owner.
 */
#ifndef CE_TOOLS_CASES_H
#define CE_TOOLS_CASES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "engine/backend.h"
#include "engine/model.h"

#define CASES_MAX_BATCH 64
#define CASES_MAX       (MODEL_MAX_EXITS + 16)

enum cases_kind {
    CASES_PREFILL,  /* n tokens of one sequence in one step, head on the last */
    CASES_DECODE,   /* n sequences, one token each, step after step */
    CASES_CATCH_UP, /* n rows of one sequence through blocks from..L, head on the last */
    CASES_EXIT,     /* the exit head alone, on one row */
    /* One sequence, token after token from exit to exit as at the edge: */
    CASES_EDGE_BLOCKS,   /* no head at all */
    CASES_EDGE_CHECKS,   /* every exit's whole check */
    CASES_EDGE_SCREENED, /* the exits that have a screen, which turns every row away */
};

struct bench_case {
    enum cases_kind kind;
    char name[32];
    int n;
    int layer_from; /* CASES_CATCH_UP: first block; CASES_EXIT: the exit's layer */
    int layer_to;   /* CASES_EDGE_*: the last exit's layer */
    int head;       /* HEAD_*; not of CASES_EDGE_* */
    int n_checks;   /* CASES_EDGE_*: exits checked for each token */
    /* Of one sample: */
    int steps;     /* backend steps */
    size_t tokens; /* what tokens_per_second counts */
    double bytes;  /* of weights that have to be read */
    double macs;   /* integer multiply-adds that have to be done */
};

/* The cases that fit this model, in the order of the report. Returns how many. */
int cases_list(struct bench_case out[CASES_MAX], const struct model *m,
               const struct backend *b);

struct cases_run; /* one case being timed */

int cases_prepare(struct cases_run **out, const struct bench_case *c, struct backend *b,
                  struct err *err) CE_MUSTCHECK;
/* Do the work once; *seconds is what it took. */
int cases_sample(struct cases_run *r, double *seconds, struct err *err) CE_MUSTCHECK;
void cases_finish(struct cases_run *r); /* accepts NULL */

#endif
