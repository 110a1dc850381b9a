/* SPDX-License-Identifier: Apache-2.0
 * screen_check.c - see screen_check.h.
 */
#include "tools/screen_check.h"

#include "common/memory.h"
#include "tools/progress.h"

#define ROWS 256 /* of a step */

static const float thetas[SCREEN_CHECK_THETAS] = { 0.6f, 0.7f, 0.8f, 0.9f, 0.95f, 0.98f };

struct check {
    struct backend *b;
    const struct screen_rows *rows;
    struct head_result *results; /* [ROWS] */
    float *confidence;           /* [n_check] of the exit at hand, in full */
    struct progress progress;
    size_t done; /* rows, for the progress */
};

/* Rows from .. from+n-1 through exit i. */
static int
run_head(struct check *c, int i, float theta, size_t from, size_t n, struct err *err)
{
    struct batch_item item = { .n_rows = (int)n,
                               .hidden = c->rows->states[i] + from * c->rows->d,
                               .head_rows = (int)n,
                               .results = c->results };
    struct batch batch = { .layer_from = c->b->info.exit_layers[i],
                           .layer_to = c->b->info.exit_layers[i],
                           .head = HEAD_EXIT(i),
                           .screen_theta = theta,
                           .n_items = 1,
                           .items = &item };
    int rc = backend_run(c->b, &batch, err);

    c->done += n;
    progress_set(&c->progress, c->done, NULL);
    return rc;
}

static void
count(struct screen_check *out, const struct check *c, size_t from, size_t n)
{
    for (size_t r = 0; r < n; r++) {
        bool below = c->results[r].below;

        if (c->confidence[from + r] >= out->theta) {
            out->n_above++;
            out->n_kept += !below;
        } else {
            out->n_below++;
            out->n_turned += below;
        }
    }
}

static int
check_exit(struct screen_check *out, struct check *c, int i, struct err *err)
{
    size_t n_check = c->rows->n_check;
    int rc = 0;

    /* Turn -1 is the one without a screen. */
    for (int t = -1; rc == 0 && t < SCREEN_CHECK_THETAS; t++) {
        float theta = t < 0 ? 0 : thetas[t];

        if (t >= 0)
            out[t] = (struct screen_check){ .layer = c->b->info.exit_layers[i],
                                            .theta = theta };
        for (size_t from = 0; rc == 0 && from < n_check; from += ROWS) {
            size_t n = n_check - from < ROWS ? n_check - from : ROWS;

            rc = run_head(c, i, theta, from, n, err);
            for (size_t r = 0; t < 0 && r < n; r++)
                c->confidence[from + r] = c->results[r].confidence;
            if (rc == 0 && t >= 0)
                count(&out[t], c, from, n);
        }
    }
    return rc;
}

int
screen_check_run(struct screen_check *out, struct backend *b,
                 const struct screen_rows *rows, struct err *err)
{
    struct check c = { .b = b, .rows = rows };
    size_t turns = (size_t)rows->n_exits * (1 + SCREEN_CHECK_THETAS);
    int rc = 0;

    c.results = mem_array_alloc(ROWS, sizeof(*c.results));
    c.confidence = mem_array_alloc(rows->n_check, sizeof(*c.confidence));
    if (!c.results || !c.confidence)
        rc = err_set(err, CE_ENOMEM, "no memory to check %zu rows", rows->n_check);
    progress_start(&c.progress, "checking", turns * rows->n_check);
    for (int i = 0; rc == 0 && i < rows->n_exits; i++)
        rc = check_exit(out + (size_t)i * SCREEN_CHECK_THETAS, &c, i, err);
    progress_end(&c.progress);
    mem_free(c.results);
    mem_free(c.confidence);
    return rc;
}
