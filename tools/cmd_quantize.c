/* SPDX-License-Identifier: Apache-2.0
 * cmd_quantize.c - cecollm-model quantize: a model in another format.
 *
 * The result is another model: edge and cloud must both have it, and exit heads fitted
 * to the source are not its own. That is said, not hidden: a side file lies beside the
 * result under a name that model_open would find, and refuse.
 *
 * An interrupted run leaves nothing behind: the signal handler removes the temporary
 * file and lets the signal end the process.
 */
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/quant.h"
#include "tools/command.h"
#include "tools/progress.h"
#include "tools/quantise.h"
#include "tools/units.h"

#define MAX_FORMATS 32

struct quantize_args {
    const char *file, *output, *type, *output_type;
    int threads;
    bool force, all;
};

/* ---- signals ---- */

static char *unfinished; /* path of the temporary file; set while handlers are */

static void
on_signal(int sig)
{
    unlink(unfinished);
    signal(sig, SIG_DFL);
    raise(sig);
}

static int
guard_temporary(const char *output, struct err *err)
{
    size_t len = strlen(output) + sizeof(".tmp");

    unfinished = malloc(len);
    if (!unfinished)
        return err_set(err, CE_ENOMEM, "%s: no memory", output);
    snprintf(unfinished, len, "%s.tmp", output);
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    signal(SIGHUP, on_signal);
    return 0;
}

static void
unguard_temporary(void)
{
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
    free(unfinished);
    unfinished = NULL;
}

/* ---- checks ---- */

static int
check_output(const struct quantize_args *a, struct err *err)
{
    struct stat in, out;

    if (stat(a->file, &in) != 0)
        return err_set(err, CE_EIO, "%s: %s", a->file, strerror(errno));
    if (stat(a->output, &out) != 0)
        return 0; /* not there, or the writer will say why not */
    if (in.st_dev == out.st_dev && in.st_ino == out.st_ino)
        return err_set(err, CE_EINVAL, "%s: the result would replace the model",
                       a->output);
    if (!S_ISREG(out.st_mode))
        return err_set(err, CE_EINVAL, "%s: is not a regular file", a->output);
    if (!a->force)
        return err_set(err, CE_EINVAL, "%s: exists (--force replaces it)", a->output);
    return 0;
}

static int
check_whole(const struct model *m, struct err *err)
{
    if (m->layer_from == 0 && m->layer_to == m->config.n_layers &&
        gguf_find_key(m->file, "cecollm.split.source_sha256") < 0)
        return 0;
    return err_set(err, CE_EINVAL,
                   "%s: is a part (blocks %d to %d) with its model's fingerprint; "
                   "quantize the whole model and split the result",
                   gguf_path(m->file), m->layer_from, m->layer_to - 1);
}

/* ---- the summary ---- */

struct sum {
    uint32_t type;
    int n_tensors, n_copied;
    double weights, bytes, error2, values2;
};

static double
n_weights(const struct gguf_tensor *t)
{
    return (double)t->ne[0] * (double)t->ne[1] * (double)t->ne[2] * (double)t->ne[3];
}

static void
add_sum(struct sum *s, const struct quantise_item *it)
{
    double n = n_weights(it->from);

    s->n_tensors++;
    s->n_copied += it->copied;
    s->weights += n;
    s->bytes +=
        n / (double)gguf_block_elems(it->type) * (double)gguf_block_bytes(it->type);
    s->error2 += it->error2;
    s->values2 += it->values2;
}

/* "0.0712": root of the mean squared change over that of the values. */
static void
print_error(const struct sum *s)
{
    if (s->values2 > 0)
        printf("%10.6f", sqrt(s->error2 / s->values2));
    else
        printf("%10s", "copied");
    printf("\n");
}

static void
print_formats(const struct quantise_plan *plan)
{
    struct sum sums[MAX_FORMATS], all = { 0 };
    char a[UNITS_TEXT], b[UNITS_TEXT];
    int n = 0;

    for (int i = 0; i < plan->n; i++) {
        int f = 0;

        while (f < n && sums[f].type != plan->items[i].type)
            f++;
        if (f == MAX_FORMATS)
            continue; /* the plan knows half as many */
        if (f == n)
            sums[n++] = (struct sum){ .type = plan->items[i].type };
        add_sum(&sums[f], &plan->items[i]);
        add_sum(&all, &plan->items[i]);
    }
    printf("  %-7s %8s %9s %10s %10s\n", "format", "tensors", "weights", "bytes",
           "RMS error");
    for (int f = 0; f < n; f++) {
        printf("  %-7s %8d %9s %10s ", gguf_type_name(sums[f].type), sums[f].n_tensors,
               units_amount(a, sums[f].weights), units_bytes(b, sums[f].bytes));
        print_error(&sums[f]);
    }
    printf("  %-7s %8d %9s %10s ", "all", all.n_tensors, units_amount(a, all.weights),
           units_bytes(b, all.bytes));
    print_error(&all);
}

/* Which formats stand in for which, and for how many tensors. */
static void
print_fallbacks(const struct quantise_plan *plan)
{
    for (int i = 0; i < plan->n; i++) {
        const struct quantise_item *it = &plan->items[i];
        int n = 0;
        bool told = false;

        if (!it->fell_back)
            continue;
        for (int j = 0; j < plan->n; j++) {
            const struct quantise_item *o = &plan->items[j];
            bool same =
                o->fell_back && o->type == it->type && o->from->ne[0] == it->from->ne[0];

            told = told || (same && j < i);
            n += same;
        }
        if (!told)
            printf("  %d tensors with rows of %zu, not whole blocks of %s: stored as %s "
                   "(%s%s)\n",
                   n, it->from->ne[0], gguf_type_name(plan->type),
                   gguf_type_name(it->type), it->from->name, n > 1 ? ", ..." : "");
    }
}

static void
print_kept(const struct quantise_plan *plan)
{
    int n = 0, first = 0;

    for (int i = plan->n - 1; i >= 0; i--) {
        if (!plan->items[i].kept)
            continue;
        first = i;
        n++;
    }
    if (n > 0)
        printf("  %d matrices with about as few bits already are kept (%s, ...); --all "
               "encodes them too\n",
               n, plan->items[first].from->name);
}

static void
print_size(const char *what, const char *path, double bytes, double weights)
{
    char a[UNITS_TEXT];

    printf("  %-5s %10s, %5.2f bits per weight  %s\n", what, units_bytes(a, bytes),
           8 * bytes / weights, path);
}

static void
print_summary(const struct model *from, const struct model *to,
              const struct quantise_plan *plan)
{
    double weights = 0;
    char digest[65];

    for (int i = 0; i < plan->n; i++)
        weights += n_weights(plan->items[i].from);
    print_size("from", gguf_path(from->file), (double)gguf_size_bytes(from->file),
               weights);
    print_size("to", gguf_path(to->file), (double)gguf_size_bytes(to->file), weights);
    print_formats(plan);
    print_fallbacks(plan);
    print_kept(plan);
    model_fingerprint_text(to, digest);
    printf("  fingerprint  %s\n", digest);
}

/* ---- the command ---- */

/* What was written must load. A side file of exit heads that the result would find by
 * its name was made for another model. */
static int
open_result(struct model **m, const char *path, struct err *err)
{
    struct progress_busy *busy = progress_busy_start("checking");
    struct err with_exits = { 0 };
    int rc = model_open(m, path, NULL, &with_exits);

    if (rc != 0) {
        rc = model_open(m, path, "none", err);
        if (rc == 0)
            fprintf(stderr,
                    "cecollm-model quantize: note: the exit heads beside it are another "
                    "model's: use --exits none, or another folder\n");
        else
            unlink(path);
    }
    progress_busy_end(busy);
    return rc;
}

static int
choose_types(const struct quantize_args *a, uint32_t *type, uint32_t *output_type,
             struct err *err)
{
    int rc = command_find_type("--type", a->type, type, err);

    if (rc != 0)
        return rc;
    *output_type = quantise_output_type(*type);
    if (!a->output_type)
        return 0;
    return command_find_type("--output-type", a->output_type, output_type, err);
}

static int
open_source(struct model **m, const struct quantize_args *a, struct err *err)
{
    struct progress_busy *busy = progress_busy_start("reading");
    int rc = model_open(m, a->file, "none", err);

    progress_busy_end(busy);
    return rc != 0 ? rc : check_whole(*m, err);
}

static int
write_guarded(struct quantise_plan *plan, const struct quantize_args *a, struct err *err)
{
    struct threads *pool = NULL;
    int rc = threads_new(&pool, a->threads, err);

    if (rc == 0)
        rc = guard_temporary(a->output, err);
    if (rc == 0)
        rc = quantise_write(plan, a->output, pool, err);
    unguard_temporary();
    threads_free(pool);
    return rc;
}

static int
quantize(const struct quantize_args *a, uint32_t type, uint32_t output_type,
         struct err *err)
{
    struct model *from = NULL, *to = NULL;
    struct quantise_plan plan = { 0 };
    int rc;

    if ((rc = check_output(a, err)) || (rc = open_source(&from, a, err)) ||
        (rc = quantise_plan_make(&plan, from->file, type, output_type, a->all, err)))
        goto out;
    if (plan.twice)
        fprintf(stderr,
                "cecollm-model quantize: warning: %s has fewer than 8 bits already, so "
                "quality is lost twice\n",
                a->file);
    if ((rc = write_guarded(&plan, a, err)) || (rc = open_result(&to, a->output, err)))
        goto out;
    print_summary(from, to, &plan);
out:
    quantise_plan_free(&plan);
    model_close(to);
    model_close(from);
    return rc;
}

int
cmd_quantize(int argc, char **argv)
{
    struct quantize_args a = { 0 };
    struct err err = { 0 };
    uint32_t type, output_type;
    int n, status;
    const struct option_spec specs[] = {
        { "output", 'o', OPTIONS_TEXT, &a.output, "FILE", "the model file to write", 0,
          0 },
        { "type", 0, OPTIONS_TEXT, &a.type, "NAME", QUANT_TYPES, 0, 0 },
        { "output-type", 0, OPTIONS_TEXT, &a.output_type, "NAME",
          "of embedding and output matrix (default: NAME of --type, at least Q8_0)", 0,
          0 },
        { "all", 0, OPTIONS_FLAG, &a.all, NULL,
          "keep no matrix that has about as few bits already", 0, 0 },
        { "force", 'f', OPTIONS_FLAG, &a.force, NULL, "replace FILE if it exists", 0, 0 },
        COMMAND_THREADS_OPTION(&a.threads),
        { 0 }
    };
    const struct options_page page = {
        "quantize MODEL -o FILE --type NAME [--output-type NAME] [--all] [--force]",
        "Write a model in another format. Matrices are encoded, everything else is\n"
        "kept. Rows that are not whole blocks of a K format take the next format that\n"
        "fits. Attention and ffn_down matrices that already have about as few bits are\n"
        "kept unless --all is given: they lose more than is gained. RMS errors are\n"
        "relative to MODEL's weights. The same bytes come out with any number of "
        "threads.",
        specs, 1, 1
    };

    if (!command_options(&page, argc, argv, &n, &status))
        return status;
    a.file = argv[1];
    if (!a.output || !a.type) {
        err_set(&err, CE_EINVAL, "%s is missing", !a.output ? "--output" : "--type");
        return command_usage("quantize", &err);
    }
    if (choose_types(&a, &type, &output_type, &err) != 0)
        return command_usage("quantize", &err);
    if (quantize(&a, type, output_type, &err) != 0)
        return command_failed("quantize", &err);
    return COMMAND_OK;
}
