/* SPDX-License-Identifier: Apache-2.0
 * figures.c - see figures.h.
 */
#include "tools/figures.h"

#include <math.h>
#include <string.h>

#include "tools/median.h"
#include "tools/progress.h"

static void
add(struct figures *f, const struct bench_case *c)
{
    f->list[f->n] = (struct figure){ .c = *c };
    f->n++;
}

/* Is `name` in the comma-separated list? */
static bool
is_named(const char *list, const char *name)
{
    size_t len = strlen(name);

    for (const char *p = list; *p != '\0';) {
        size_t n = strcspn(p, ",");

        if (n == len && strncmp(p, name, n) == 0)
            return true;
        p += n + (p[n] == ',');
    }
    return false;
}

/* Every name of the list must be one of the cases'. */
static int
check_names(const char *list, const struct bench_case *cases, int n, struct err *err)
{
    const char *p = list;

    do {
        size_t len = strcspn(p, ",");
        int i = 0;

        while (i < n &&
               (strlen(cases[i].name) != len || strncmp(p, cases[i].name, len) != 0))
            i++;
        if (i == n)
            return err_set(err, CE_EINVAL, "no figure is called \"%.*s\"",
                           (int)(len < 64 ? len : 64), p);
        p += len;
    } while (*p++ == ',');
    return 0;
}

int
figures_choose(struct figures *out, const struct bench_case *cases, int n,
               const char *names, struct err *err)
{
    int rc = names ? check_names(names, cases, n, err) : 0;

    out->n = 0;
    for (int i = 0; rc == 0 && i < n; i++) {
        if (!names || is_named(names, cases[i].name))
            add(out, &cases[i]);
    }
    return rc;
}

static int
sample_one(struct figure *f, struct backend *b, int n, struct progress *progress,
           struct err *err)
{
    struct backend_times before, after;
    struct cases_run *run;
    double warm;
    int rc = cases_prepare(&run, &f->c, b, err);

    if (rc == 0)
        rc = cases_sample(run, &warm, err); /* pages and caches; not counted */
    before = backend_times(b);
    for (int i = 0; rc == 0 && i < n && f->n_samples < FIGURES_MAX_SAMPLES; i++) {
        rc = cases_sample(run, &f->samples[f->n_samples], err);
        f->n_samples += rc == 0;
        progress_set(progress, progress->done + 1, f->c.name);
    }
    after = backend_times(b);
    f->spent.run_seconds += after.run_seconds - before.run_seconds;
    f->spent.attention_seconds += after.attention_seconds - before.attention_seconds;
    cases_finish(run);
    return rc == 0 ? 0 : err_prefix(err, "%s", f->c.name);
}

int
figures_sample(struct figures *f, struct backend *b, int n, const char *label,
               struct err *err)
{
    struct progress progress;
    int rc = 0;

    if (f->n == 0 || n == 0)
        return 0;
    progress_start(&progress, label, (size_t)f->n * (size_t)n);
    for (int i = 0; rc == 0 && i < f->n; i++)
        rc = sample_one(&f->list[i], b, n, &progress, err);
    progress_end(&progress);
    return rc;
}

void
figures_sum_up(struct figures *f)
{
    for (int i = 0; i < f->n; i++) {
        struct figure *g = &f->list[i];

        g->seconds = median(g->samples, (size_t)g->n_samples);
        g->tokens_per_second = (double)g->c.tokens / g->seconds;
    }
}

/* Seconds of one token in the edge case of that kind, and the case; NAN: not there. */
static double
edge_seconds(const struct figures *f, enum cases_kind kind, const struct bench_case **c)
{
    for (int i = 0; i < f->n; i++) {
        *c = &f->list[i].c;
        if ((*c)->kind == kind)
            return f->list[i].seconds / (*c)->steps;
    }
    *c = NULL;
    return NAN;
}

struct check_cost
figures_check_cost(const struct figures *f)
{
    struct check_cost cost = { NAN, NAN, NAN };
    const struct bench_case *b, *c;
    double blocks = edge_seconds(f, CASES_EDGE_BLOCKS, &b), with;

    if (!b)
        return cost;
    cost.block_seconds = blocks / b->layer_to;
    with = edge_seconds(f, CASES_EDGE_CHECKS, &c);
    if (c)
        cost.check_blocks = (with - blocks) / c->n_checks / cost.block_seconds;
    with = edge_seconds(f, CASES_EDGE_SCREENED, &c);
    if (c)
        cost.screen_blocks = (with - blocks) / c->n_checks / cost.block_seconds;
    return cost;
}

const struct figure *
figures_find(const struct figures *f, const char *name)
{
    for (int i = 0; i < f->n; i++) {
        if (strcmp(f->list[i].c.name, name) == 0)
            return &f->list[i];
    }
    return NULL;
}
