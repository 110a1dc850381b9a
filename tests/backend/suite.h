/* SPDX-License-Identifier: Apache-2.0
 * suite.h - what every backend must do, written against backend.h only.
 *
 * A test program gives a model and a way to open a backend on it; suite_run runs all
 * checks and fails through cmocka's assertions. Whoever claims the canonical numerics
 * is also compared bit for bit with another configuration by suite_trace.
 */
#ifndef CE_TESTS_BACKEND_SUITE_H
#define CE_TESTS_BACKEND_SUITE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/backend.h"
#include "engine/model.h"

typedef int suite_open_fn(struct backend **out, const struct model *m,
                          const struct backend_options *opt, struct err *err);

struct suite {
    suite_open_fn *open;
    const struct model *model;
    struct backend_options options; /* heads are switched on by the suite */
    int n_tokens;                   /* of the sequences it computes; >= 40 */
};

/* All checks. The model must hold all of its blocks. */
void suite_run(const struct suite *s);

/* Everything that came out for n_tokens fixed tokens in one prefill: hidden states
 * after all blocks, and each row's result of every head. Allocated. */
struct suite_trace {
    size_t n_rows, n_floats;
    float *hidden;               /* [n_floats] */
    struct head_result *results; /* [n_heads * n_rows], final head first */
    size_t n_results;
};

void suite_trace_take(struct suite_trace *t, const struct suite *s);
void suite_trace_equal(const struct suite_trace *a, const struct suite_trace *b);
void suite_trace_free(struct suite_trace *t);

/* Token i of fixed sequence `which`. */
int32_t suite_token(const struct model *m, int which, int i);

#endif
