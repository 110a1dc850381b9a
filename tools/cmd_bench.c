/* SPDX-License-Identifier: Apache-2.0
 * cmd_bench.c - cecollm-model bench: how fast this model runs here, and how fast it
 * could.
 *
 * Each figure is the median of several samples, printed beside the time that the
 * machine would need at least for the same bytes and multiply-adds; the machine's
 * limits are measured in the same run (limit.h). bench/METHODOLOGY.md has the
 * definitions.
 *
 * Half of the samples are taken before everything that they are compared with (limits,
 * llama.cpp) and half after it, so that a machine that gets slower or busier in between
 * does so for both sides. Samples with one thread belong to the same halves.
 */
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/clock.h"
#include "engine/threads.h"
#include "tools/bench_report.h"
#include "tools/cases.h"
#include "tools/command.h"
#include "tools/figures.h"
#include "tools/limit.h"
#include "tools/peer.h"
#include "tools/progress.h"

#define SCALING_BATCH 32 /* the batched decoding that one thread repeats by default */

/* As on the command line. */
struct wishes {
    const char *only;    /* NULL: all figures */
    const char *scaling; /* NULL: the usual ones */
    const char *peer;    /* NULL: none */
    struct engine_options engine;
    int repeats;
    bool json;
};

struct bench {
    struct loaded loaded;
    struct backend *lone; /* one thread on the same model; NULL when not needed */
    struct bench_report report;
};

/* Room for every figure. */
static const struct backend_options heads_and_seqs = { .final_head = true,
                                                       .exit_heads = true,
                                                       .max_seqs = CASES_MAX_BATCH };

/* ---- what to measure ---- */

/* Prefill and a large batch, where a second thread should nearly double the speed. */
static int
usual_scaling(struct bench_case out[CASES_MAX], const struct figures *all)
{
    int n = 0;

    for (int i = 0; i < all->n; i++) {
        const struct bench_case *c = &all->list[i].c;

        if (c->kind == CASES_PREFILL ||
            (c->kind == CASES_DECODE && c->n == SCALING_BATCH))
            out[n++] = *c;
    }
    return n;
}

static int
choose_scaling(struct bench_report *r, const char *scaling, struct err *err)
{
    struct bench_case cases[CASES_MAX];
    int n = 0, rc;

    if (r->n_threads == 1 || (scaling && strcmp(scaling, "none") == 0))
        return 0;
    if (!scaling)
        return figures_choose(&r->lone, cases, usual_scaling(cases, &r->all), NULL, err);
    for (; n < r->all.n; n++)
        cases[n] = r->all.list[n].c;
    rc = figures_choose(&r->lone, cases, n, strcmp(scaling, "all") == 0 ? NULL : scaling,
                        err);
    return rc == 0 ? 0 : err_prefix(err, "--scaling");
}

static int
choose(struct bench *b, const struct wishes *w, struct err *err)
{
    struct bench_case cases[CASES_MAX];
    int n = cases_list(cases, b->loaded.model, b->loaded.backend);

    if (figures_choose(&b->report.all, cases, n, w->only, err) != 0)
        return err_prefix(err, "--only");
    return choose_scaling(&b->report, w->scaling, err);
}

/* ---- measuring ---- */

static void
note_peak(struct bench_report *r)
{
    struct rusage usage;

    if (r->peak_bytes == 0 && getrusage(RUSAGE_SELF, &usage) == 0)
        r->peak_bytes = (size_t)usage.ru_maxrss * 1024;
}

/* One thread's backend beside the other one, which sleeps meanwhile. */
static int
open_lone(struct bench *b, const struct wishes *w, struct err *err)
{
    struct backend_options o = heads_and_seqs;

    if (b->lone)
        return 0;
    o.n_threads = 1;
    o.cpu = w->engine.cpu;
    return backend_cpu_open(&b->lone, b->loaded.model, &o, err);
}

/* n samples of everything. */
static int
measure_half(struct bench *b, const struct wishes *w, int n, struct err *err)
{
    struct bench_report *r = &b->report;
    int rc = figures_sample(&r->all, b->loaded.backend, n, "measuring", err);

    note_peak(r); /* before anything that a user of the model would not have */
    if (rc != 0 || r->lone.n == 0)
        return rc;
    if ((rc = open_lone(b, w, err)))
        return rc;
    return figures_sample(&r->lone, b->lone, n, "measuring with one thread", err);
}

static int
measure_peer(struct bench_report *r, const char *dir, struct err *err)
{
    struct progress_busy *busy;
    int rc;

    if (!dir)
        return 0;
    busy = progress_busy_start("llama.cpp");
    rc = peer_run(&r->peer, dir, r->path, r->n_threads, r->repeats, err);
    progress_busy_end(busy);
    if (rc != 0)
        return rc;
    if (!peer_can_quantise(dir)) {
        fprintf(stderr,
                "cecollm-model bench: no llama-quantize in %s, so no figures of "
                "llama.cpp with Q4_0\n",
                dir);
        return 0;
    }
    busy = progress_busy_start("llama.cpp with Q4_0");
    rc = peer_run_q4_0(&r->peer_q4_0, dir, r->path, r->n_threads, r->repeats, err);
    progress_busy_end(busy);
    return rc;
}

static int
measure(struct bench *b, const struct wishes *w, struct err *err)
{
    struct bench_report *r = &b->report;
    int half = (r->repeats + 1) / 2, rc;

    if ((rc = measure_half(b, w, half, err)) ||
        (rc = limit_measure(&r->limit, NULL, gguf_size_bytes(r->model->file),
                            r->n_threads, err)) ||
        (rc = measure_peer(r, w->peer, err)) ||
        (rc = measure_half(b, w, r->repeats - half, err)))
        return rc;
    figures_sum_up(&r->all);
    figures_sum_up(&r->lone);
    return 0;
}

/* ---- the command ---- */

static void
note_machine(struct bench_report *r)
{
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "re");
    long cores = sysconf(_SC_NPROCESSORS_ONLN);

    r->n_cores = cores > 0 ? (int)cores : 1;
    snprintf(r->cpu_name, sizeof(r->cpu_name), "unknown CPU");
    while (f && fgets(line, sizeof(line), f)) {
        const char *colon = strchr(line, ':');

        if (strncmp(line, "model name", 10) == 0 && colon) {
            snprintf(r->cpu_name, sizeof(r->cpu_name), "%.*s",
                     (int)strcspn(colon + 2, "\n"), colon + 2);
            break;
        }
    }
    if (f)
        fclose(f);
}

static int
load(struct bench *b, const struct wishes *w, struct err *err)
{
    struct bench_report *r = &b->report;
    int64_t start = clock_ns();
    int rc = command_load(&b->loaded, r->path, &w->engine, &heads_and_seqs, "bench", err);

    if (rc != 0)
        return rc;
    r->load_seconds = (double)(clock_ns() - start) * 1e-9;
    r->n_threads = w->engine.threads > 0 ? w->engine.threads : threads_default_count();
    r->repeats = w->repeats;
    r->model = b->loaded.model;
    r->info = &b->loaded.backend->info;
    note_machine(r);
    return 0;
}

static int
run(struct bench *b, const struct wishes *w, struct err *err)
{
    int rc = w->peer ? peer_check(w->peer, err) : 0; /* not after minutes of measuring */

    if (rc != 0 || (rc = load(b, w, err)) || (rc = choose(b, w, err)) ||
        (rc = measure(b, w, err)))
        return rc;
    if (w->json)
        return command_print_json(bench_report_json(&b->report), true, err);
    bench_report_table(&b->report);
    return 0;
}

int
cmd_bench(int argc, char **argv)
{
    struct bench b = { 0 };
    struct wishes w = { .repeats = 5 };
    struct err err = { 0 };
    int n, status, rc;
    const struct option_spec specs[] = {
        { "repeats", 'r', OPTIONS_INT, &w.repeats, "N", "samples per figure (default 5)",
          1, FIGURES_MAX_SAMPLES },
        { "only", 0, OPTIONS_TEXT, &w.only, "NAMES",
          "only these figures: prefill_512,decode_8,...", 0, 0 },
        { "scaling", 0, OPTIONS_TEXT, &w.scaling, "NAMES",
          "with one thread too: names, all, none (default prefill, decode_32)", 0, 0 },
        { "peer", 0, OPTIONS_TEXT, &w.peer, "DIR",
          "also run llama-bench, llama-batched-bench, llama-quantize of DIR", 0, 0 },
        COMMAND_EXITS_OPTION(&w.engine.exits),
        COMMAND_EXIT_LAYERS_OPTION(&w.engine.exit_layers),
        COMMAND_ENGINE_OPTIONS(&w.engine),
        { "json", 0, OPTIONS_FLAG, &w.json, NULL, "for programs", 0, 0 },
        { 0 }
    };
    const struct options_page page = {
        "bench FILE [--threads N] [--scaling NAMES] [--peer DIR] [--json]",
        "Measure loading, prefill, decode alone and in batches, catch-up and exit "
        "checks,\n"
        "each beside the machine's limit, with one thread too, and beside llama.cpp.",
        specs, 1, 1
    };

    if (!command_options(&page, argc, argv, &n, &status))
        return status;
    b.report.path = argv[1];
    rc = run(&b, &w, &err);
    backend_close(b.lone);
    command_unload(&b.loaded);
    return rc == 0 ? COMMAND_OK : command_failed("bench", &err);
}
