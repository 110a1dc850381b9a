/* SPDX-License-Identifier: Apache-2.0
 * cmd_bench.c - cecollm-model bench: how fast this model runs here, and how fast it
 * could.
 *
 * Each figure is the median of several samples, printed beside the time that the
 * machine would need at least for the same bytes and multiply-adds; the machine's
 * limits are measured in the same run (limit.h). bench/METHODOLOGY.md has the
 * definitions.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "common/clock.h"
#include "tools/cases.h"
#include "tools/command.h"
#include "tools/limit.h"
#include "tools/median.h"
#include "tools/peer.h"
#include "tools/progress.h"
#include "tools/units.h"

#include "engine/threads.h"

#define MAX_REPEATS 100

struct figure {
    struct bench_case c;
    double seconds;           /* median of a sample */
    double best, worst;       /* seconds */
    double tokens_per_second; /* of the median */
    double limit;             /* tokens per second the machine allows */
};

struct bench {
    struct loaded loaded;
    const char *path;
    int n_threads, repeats;
    double load_seconds;
    size_t peak_bytes; /* most resident memory, before the limits were measured */
    struct figure figures[CASES_MAX];
    int n_figures;
    struct limit limit;
    struct peer peer;
    bool has_peer;
    char cpu_name[128];
};

/* ---- measuring ---- */

static int
measure_case(struct bench *b, const struct bench_case *c, struct progress *progress,
             struct err *err)
{
    double seconds[MAX_REPEATS];
    struct figure *f = &b->figures[b->n_figures];
    struct cases_run *run;
    double warm;
    int rc = cases_prepare(&run, c, b->loaded.backend, err);

    if (rc == 0)
        rc = cases_sample(run, &warm, err); /* pages and caches; not counted */
    for (int i = 0; rc == 0 && i < b->repeats; i++) {
        rc = cases_sample(run, &seconds[i], err);
        progress_set(progress, progress->done + 1, c->name);
    }
    cases_finish(run);
    if (rc != 0)
        return err_prefix(err, "%s", c->name);
    f->c = *c;
    f->seconds = median(seconds, (size_t)b->repeats);
    f->best = seconds[0];
    f->worst = seconds[b->repeats - 1];
    f->tokens_per_second = (double)c->tokens / f->seconds;
    b->n_figures++;
    return 0;
}

/* Is `name` in the comma-separated list? All are when there is no list. */
static bool
is_wanted(const char *list, const char *name)
{
    size_t len = strlen(name);

    if (!list)
        return true;
    for (const char *p = list; *p != '\0';) {
        size_t n = strcspn(p, ",");

        if (n == len && strncmp(p, name, n) == 0)
            return true;
        p += n + (p[n] == ',');
    }
    return false;
}

static int
measure_cases(struct bench *b, const char *only, struct err *err)
{
    struct bench_case cases[CASES_MAX];
    struct progress progress;
    int n = cases_list(cases, b->loaded.model, b->loaded.backend), rc = 0, wanted = 0;

    for (int i = 0; i < n; i++)
        wanted += is_wanted(only, cases[i].name);
    if (wanted == 0)
        return err_set(err, CE_EINVAL, "--only %s: no figure has such a name", only);
    progress_start(&progress, "measuring", (size_t)wanted * (size_t)b->repeats);
    for (int i = 0; rc == 0 && i < n; i++) {
        if (is_wanted(only, cases[i].name))
            rc = measure_case(b, &cases[i], &progress, err);
    }
    progress_end(&progress);
    return rc;
}

static void
note_machine(struct bench *b)
{
    struct rusage usage;
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "re");

    if (getrusage(RUSAGE_SELF, &usage) == 0)
        b->peak_bytes = (size_t)usage.ru_maxrss * 1024;
    snprintf(b->cpu_name, sizeof(b->cpu_name), "unknown CPU");
    while (f && fgets(line, sizeof(line), f)) {
        const char *colon = strchr(line, ':');

        if (strncmp(line, "model name", 10) == 0 && colon) {
            snprintf(b->cpu_name, sizeof(b->cpu_name), "%.*s",
                     (int)strcspn(colon + 2, "\n"), colon + 2);
            break;
        }
    }
    if (f)
        fclose(f);
}

/* The machine's limits, and what they mean for each figure. */
static int
measure_limits(struct bench *b, struct err *err)
{
    int rc = limit_measure(&b->limit, NULL, gguf_size_bytes(b->loaded.model->file),
                           b->n_threads, err);

    for (int i = 0; rc == 0 && i < b->n_figures; i++) {
        struct figure *f = &b->figures[i];
        double reading = f->c.bytes / b->limit.bytes_per_second;
        double multiplying = f->c.macs / b->limit.macs_per_second;

        f->limit = (double)f->c.tokens / fmax(reading, multiplying);
    }
    return rc;
}

static int
measure_peer(struct bench *b, const char *dir, struct err *err)
{
    struct progress_busy *busy;
    int rc;

    if (!dir)
        return 0;
    busy = progress_busy_start("llama.cpp");
    rc = peer_run(&b->peer, dir, b->path, b->n_threads, b->repeats, err);
    progress_busy_end(busy);
    b->has_peer = rc == 0;
    return rc;
}

/* ---- reporting ---- */

static void
print_table(const struct bench *b)
{
    const struct backend_info *info = &b->loaded.backend->info;
    char a[UNITS_TEXT], c[UNITS_TEXT];

    printf("%s on %s, %d threads, %s\n", b->path, info->name, b->n_threads, b->cpu_name);
    printf("load %s, weights in memory %s, ", units_seconds(a, b->load_seconds),
           units_bytes(c, (double)info->weight_bytes));
    printf("peak memory %s\n", units_bytes(a, (double)b->peak_bytes));
    printf("machine: reads %s/s, %s: %smultiply-adds/s\n",
           units_bytes(a, b->limit.bytes_per_second), b->limit.instruction,
           units_amount(c, b->limit.macs_per_second));
    printf("\n%-14s %11s %19s %12s %6s", "", "tokens/s", "a sample took", "limit",
           "share");
    printf(b->has_peer ? " %10s %6s\n" : "\n", "llama.cpp", "ratio");
    for (int i = 0; i < b->n_figures; i++) {
        const struct figure *f = &b->figures[i];
        double theirs = peer_find(&b->peer, f->c.name);

        snprintf(c, sizeof(c), "%s +-%.0f%%", units_seconds(a, f->seconds),
                 50 * (f->worst - f->best) / f->seconds);
        printf("%-14s %11.1f %19s %12.1f %5.1f%%", f->c.name, f->tokens_per_second, c,
               f->limit, 100 * f->tokens_per_second / f->limit);
        if (theirs > 0)
            printf(" %10.1f %6.2f", theirs, f->tokens_per_second / theirs);
        putchar('\n');
    }
}

static json_t *
figure_json(const struct bench *b, const struct figure *f)
{
    double theirs = peer_find(&b->peer, f->c.name);
    json_t *o = json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "tokens_per_second",
                          f->tokens_per_second, "limit", f->limit, "share",
                          f->tokens_per_second / f->limit, "seconds", f->seconds,
                          "seconds_best", f->best, "seconds_worst", f->worst, "bytes",
                          f->c.bytes, "macs", f->c.macs);

    if (theirs > 0) {
        json_object_set_new(o, "peer_tokens_per_second", json_real(theirs));
        json_object_set_new(o, "ratio", json_real(f->tokens_per_second / theirs));
    }
    return o;
}

static json_t *
bench_json(const struct bench *b)
{
    const struct backend_info *info = &b->loaded.backend->info;
    const char *slash = strrchr(b->path, '/');
    char fingerprint[65];
    json_t *o;

    model_fingerprint_text(b->loaded.model, fingerprint);
    o = json_pack("{s:s, s:s, s:s, s:s, s:i, s:i, s:f, s:I, s:I, s:{s:s, s:s, s:f, s:f}}",
                  "model", slash ? slash + 1 : b->path, "fingerprint", fingerprint,
                  "backend", info->name, "numerics", info->numerics_id, "threads",
                  b->n_threads, "repeats", b->repeats, "load_seconds", b->load_seconds,
                  "weight_bytes", (json_int_t)info->weight_bytes, "peak_bytes",
                  (json_int_t)b->peak_bytes, "machine", "cpu", b->cpu_name, "instruction",
                  b->limit.instruction, "read_bytes_per_second",
                  b->limit.bytes_per_second, "macs_per_second", b->limit.macs_per_second);
    if (b->has_peer)
        json_object_set_new(o, "peer", json_string(b->peer.build));
    for (int i = 0; i < b->n_figures; i++)
        json_object_set_new(o, b->figures[i].c.name, figure_json(b, &b->figures[i]));
    return o;
}

/* ---- the command ---- */

static int
load(struct bench *b, struct engine_options *engine, struct err *err)
{
    struct backend_options opt = { .final_head = true,
                                   .exit_heads = true,
                                   .max_seqs = CASES_MAX_BATCH };
    int64_t start = clock_ns();
    int rc = command_load(&b->loaded, b->path, engine, &opt, "bench", err);

    b->load_seconds = (double)(clock_ns() - start) * 1e-9;
    b->n_threads = engine->threads > 0 ? engine->threads : threads_default_count();
    return rc;
}

int
cmd_bench(int argc, char **argv)
{
    struct bench b = { .repeats = 5 };
    struct engine_options engine = { 0 };
    const char *peer = NULL, *only = NULL;
    struct err err = { 0 };
    bool json = false;
    int n, status, rc;
    const struct option_spec specs[] = {
        { "repeats", 'r', OPTIONS_INT, &b.repeats, "N", "samples per figure (default 5)",
          1, MAX_REPEATS },
        { "only", 0, OPTIONS_TEXT, &only, "NAMES",
          "only these figures: prefill_512,decode_8,...", 0, 0 },
        { "peer", 0, OPTIONS_TEXT, &peer, "DIR",
          "also run llama-bench and llama-batched-bench found in DIR", 0, 0 },
        COMMAND_EXITS_OPTION(&engine.exits),
        COMMAND_ENGINE_OPTIONS(&engine),
        { "json", 0, OPTIONS_FLAG, &json, NULL, "for programs", 0, 0 },
        { 0 }
    };
    const struct options_page page = { "bench FILE [--threads N] [--peer DIR] [--json]",
                                       "Measure loading, prefill, decode alone and in "
                                       "batches, catch-up and exit checks,\n"
                                       "each beside the machine's limit.",
                                       specs, 1, 1 };

    if (!command_options(&page, argc, argv, &n, &status))
        return status;
    b.path = argv[1];
    rc = load(&b, &engine, &err);
    if (rc == 0)
        rc = measure_cases(&b, only, &err);
    note_machine(&b);
    if (rc == 0)
        rc = measure_limits(&b, &err);
    if (rc == 0)
        rc = measure_peer(&b, peer, &err);
    if (rc == 0 && json)
        rc = command_print_json(bench_json(&b), true, &err);
    else if (rc == 0)
        print_table(&b);
    command_unload(&b.loaded);
    return rc == 0 ? COMMAND_OK : command_failed("bench", &err);
}
