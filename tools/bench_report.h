/* SPDX-License-Identifier: Apache-2.0
 * bench_report.h - what a run of `cecollm-model bench` found, as a table for people and
 * as JSON for programs.
 *
 * Thread: plain data of one owner.
 */
#ifndef CE_TOOLS_BENCH_REPORT_H
#define CE_TOOLS_BENCH_REPORT_H

#include <stddef.h>

#include <jansson.h>

#include "engine/backend.h"
#include "engine/model.h"
#include "tools/figures.h"
#include "tools/limit.h"
#include "tools/peer.h"

struct bench_report {
    const char *path; /* of the model; borrowed, as are the next two */
    const struct model *model;
    const struct backend_info *info;
    int n_threads, repeats;
    double load_seconds;
    size_t peak_bytes;
    char cpu_name[128];
    int n_cores;                 /* of the machine; n_threads may be fewer */
    struct limit limit;          /* with n_threads */
    struct figures all;          /* with n_threads, summed up */
    struct figures lone;         /* some of them with one thread; n is 0 without */
    struct peer peer, peer_q4_0; /* n_figures is 0 without */
};

void bench_report_table(const struct bench_report *r); /* on stdout */

/* A new reference; NULL when memory ends. */
json_t *bench_report_json(const struct bench_report *r);

#endif
