/* SPDX-License-Identifier: Apache-2.0
 * bench_report.c - see bench_report.h.
 */
#include "tools/bench_report.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tools/revision.h"
#include "tools/units.h"

/* A figure and what it is compared with; 0 where that was not measured. */
struct row {
    const struct figure *f;
    double limit, attention; /* tokens per second; share of the time in steps */
    double lone, peer, peer_q4_0;
};

static struct row
row_of(const struct bench_report *r, const struct figure *f)
{
    double reading = f->c.bytes / r->limit.bytes_per_second;
    double multiplying = f->c.macs / r->limit.macs_per_second;
    const struct figure *lone = figures_find(&r->lone, f->c.name);
    struct row row = { .f = f,
                       .limit = (double)f->c.tokens / fmax(reading, multiplying),
                       .lone = lone ? lone->tokens_per_second : 0,
                       .peer = peer_find(&r->peer, f->c.name),
                       .peer_q4_0 = peer_find(&r->peer_q4_0, f->c.name) };

    if (f->spent.run_seconds > 0)
        row.attention = f->spent.attention_seconds / f->spent.run_seconds;
    return row;
}

/* "avx2" of "cpu/avx2". */
static const char *
kernels_name(const struct backend_info *info)
{
    const char *slash = strchr(info->name, '/');

    return slash ? slash + 1 : info->name;
}

/* ---- for people ---- */

static void
print_machine(const struct bench_report *r)
{
    char a[UNITS_TEXT], b[UNITS_TEXT];

    printf("%s on %s, %d threads\n", r->path, r->info->name, r->n_threads);
    printf("load %s, weights in memory %s, ", units_seconds(a, r->load_seconds),
           units_bytes(b, (double)r->info->weight_bytes));
    printf("peak memory %s\n", units_bytes(a, (double)r->peak_bytes));
    printf("machine: %s, %d cores; reads %s/s, %s: %smultiply-adds/s\n", r->cpu_name,
           r->n_cores, units_bytes(a, r->limit.bytes_per_second), r->limit.instruction,
           units_amount(b, r->limit.macs_per_second));
}

static void
print_heading(const struct bench_report *r)
{
    printf("\n%-16s %9s %5s %10s %6s %9s", "", "tokens/s", "", "limit", "share",
           "attention");
    if (r->lone.n > 0)
        printf(" %9s %7s", "1 thread", "speedup");
    if (r->peer.n_figures > 0)
        printf(" %9s %6s", "llama.cpp", "ratio");
    if (r->peer_q4_0.n_figures > 0)
        printf(" %9s %6s", "its Q4_0", "ratio");
    putchar('\n');
}

/* Another speed, and ours divided by it. */
static void
print_other(double ours, double other, int width)
{
    if (other > 0)
        printf(" %9.1f %*.2f", other, width, ours / other);
    else
        printf(" %9s %*s", "-", width, "-");
}

static void
print_row(const struct bench_report *r, const struct row *row)
{
    const struct figure *f = row->f;
    char spread[16];

    snprintf(spread, sizeof(spread), "+-%.0f%%",
             50 * (f->samples[f->n_samples - 1] - f->samples[0]) / f->seconds);
    printf("%-16s %9.1f %5s %10.1f %5.1f%% %8.1f%%", f->c.name, f->tokens_per_second,
           spread, row->limit, 100 * f->tokens_per_second / row->limit,
           100 * row->attention);
    if (r->lone.n > 0)
        print_other(f->tokens_per_second, row->lone, 7);
    if (r->peer.n_figures > 0)
        print_other(f->tokens_per_second, row->peer, 6);
    if (r->peer_q4_0.n_figures > 0)
        print_other(f->tokens_per_second, row->peer_q4_0, 6);
    putchar('\n');
}

static void
print_check_cost(const struct figures *f)
{
    struct check_cost cost = figures_check_cost(f);
    char a[UNITS_TEXT];

    if (isnan(cost.block_seconds))
        return;
    printf("\na block takes %s", units_seconds(a, cost.block_seconds));
    if (!isnan(cost.check_blocks))
        printf("; an exit check costs %.1f blocks", cost.check_blocks);
    if (!isnan(cost.screen_blocks))
        printf("; turned away by a screen: %.1f blocks", cost.screen_blocks);
    putchar('\n');
}

void
bench_report_table(const struct bench_report *r)
{
    print_machine(r);
    print_heading(r);
    for (int i = 0; i < r->all.n; i++) {
        struct row row = row_of(r, &r->all.list[i]);

        print_row(r, &row);
    }
    print_check_cost(&r->all);
}

/* ---- for programs ---- */

static void
add_other(json_t *o, const char *speed_key, const char *ratio_key, double ours,
          double other)
{
    if (other <= 0)
        return;
    json_object_set_new(o, speed_key, json_real(other));
    json_object_set_new(o, ratio_key, json_real(ours / other));
}

static json_t *
row_json(const struct row *row)
{
    const struct figure *f = row->f;
    double speed = f->tokens_per_second;
    json_t *o =
        json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "tokens_per_second",
                  speed, "limit", row->limit, "share", speed / row->limit,
                  "attention_share", row->attention, "seconds", f->seconds,
                  "seconds_best", f->samples[0], "seconds_worst",
                  f->samples[f->n_samples - 1], "bytes", f->c.bytes, "macs", f->c.macs);

    add_other(o, "one_thread_tokens_per_second", "speedup", speed, row->lone);
    add_other(o, "peer_tokens_per_second", "ratio", speed, row->peer);
    add_other(o, "peer_q4_0_tokens_per_second", "ratio_q4_0", speed, row->peer_q4_0);
    return o;
}

static json_t *
machine_json(const struct bench_report *r)
{
    return json_pack("{s:s, s:i, s:s, s:f, s:f}", "cpu", r->cpu_name, "cores", r->n_cores,
                     "instruction", r->limit.instruction, "read_bytes_per_second",
                     r->limit.bytes_per_second, "macs_per_second",
                     r->limit.macs_per_second);
}

static void
add_check_cost(json_t *o, const struct figures *f)
{
    struct check_cost cost = figures_check_cost(f);

    if (!isnan(cost.block_seconds))
        json_object_set_new(o, "block_seconds", json_real(cost.block_seconds));
    if (!isnan(cost.check_blocks))
        json_object_set_new(o, "exit_check_blocks", json_real(cost.check_blocks));
    if (!isnan(cost.screen_blocks))
        json_object_set_new(o, "exit_screen_blocks", json_real(cost.screen_blocks));
}

json_t *
bench_report_json(const struct bench_report *r)
{
    const char *slash = strrchr(r->path, '/');
    char fingerprint[65];
    json_t *o;

    model_fingerprint_text(r->model, fingerprint);
    o = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:i, s:f, s:I, s:I, s:o}",
                  "commit", revision, "model", slash ? slash + 1 : r->path, "fingerprint",
                  fingerprint, "backend", r->info->name, "kernels", kernels_name(r->info),
                  "numerics", r->info->numerics_id, "threads", r->n_threads, "repeats",
                  r->repeats, "load_seconds", r->load_seconds, "weight_bytes",
                  (json_int_t)r->info->weight_bytes, "peak_bytes",
                  (json_int_t)r->peak_bytes, "machine", machine_json(r));
    if (r->peer.n_figures > 0)
        json_object_set_new(o, "peer", json_string(r->peer.build));
    for (int i = 0; i < r->all.n; i++) {
        struct row row = row_of(r, &r->all.list[i]);

        json_object_set_new(o, row.f->c.name, row_json(&row));
    }
    add_check_cost(o, &r->all);
    return o;
}
