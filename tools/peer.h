/* SPDX-License-Identifier: Apache-2.0
 * peer.h - llama.cpp's own benchmark programs on the same file, in the same run.
 *
 * Runs llama-bench and llama-batched-bench where the user has built them and reads
 * the figures that mean the same as ours; with llama-quantize also on the same weights
 * in the format that llama.cpp is fastest with. Thread: one owner.
 */
#ifndef CE_TOOLS_PEER_H
#define CE_TOOLS_PEER_H

#include <stdbool.h>

#include "common/error.h"

#define PEER_MAX_FIGURES 32

struct peer_figure {
    char name[32];            /* as ours: "prefill_512", "decode_8" */
    double tokens_per_second; /* median where the program gives samples */
};

struct peer {
    struct peer_figure figures[PEER_MAX_FIGURES];
    int n_figures;
    char build[64]; /* what the program says of itself; may be empty */
};

/* Are the two programs in the folder `dir`? CE_ENOTFOUND when one is not. */
int peer_check(const char *dir, struct err *err) CE_MUSTCHECK;

/* Is llama-quantize there too? */
bool peer_can_quantise(const char *dir);

/* Run both on the file `model`. CE_ENOTFOUND when a program is not there; CE_EFORMAT
 * when what it prints is not understood; CE_EIO when it fails. */
int peer_run(struct peer *out, const char *dir, const char *model, int n_threads,
             int repeats, struct err *err) CE_MUSTCHECK;

/* The same on a copy of `model` in Q4_0, which llama-quantize makes as a temporary file
 * in $TMPDIR; it has gone when this returns. */
int peer_run_q4_0(struct peer *out, const char *dir, const char *model, int n_threads,
                  int repeats, struct err *err) CE_MUSTCHECK;

/* Tokens per second of a figure; 0 when the peer has none of that name. */
double peer_find(const struct peer *p, const char *name);

/* Add the figures in the programs' output; pure. */
int peer_read_bench(struct peer *p, const char *text, struct err *err) CE_MUSTCHECK;
int peer_read_batched(struct peer *p, const char *text, struct err *err) CE_MUSTCHECK;

#endif
