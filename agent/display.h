/* SPDX-License-Identifier: Apache-2.0
 * display.h - what a person sees: tokens coloured by origin, the legend, progress of
 * a long prompt, the trace table, the summary.
 *
 * Answers go to one stream (standard output), everything about them to another
 * (standard error). Control characters in tokens are shown, never obeyed.
 *
 * Thread: the main loop.
 */
#ifndef CE_AGENT_DISPLAY_H
#define CE_AGENT_DISPLAY_H

#include <stdbool.h>
#include <stdio.h>

#include "agent/decode.h"
#include "agent/edge_model.h"
#include "agent/reply.h"

struct display {
    FILE *out, *info;
    const struct edge_model *model;
    bool color, quiet, trace;
    bool progress; /* info is a terminal */
    bool legend_shown;
    /* of the current answer */
    int current_color; /* SGR number, 0: none */
    int64_t start_us;
    bool progress_shown;
    int n_tokens;
    bool ends_line; /* the last character shown was a line break */
};

void display_init(struct display *d, const struct agent_conf *conf,
                  const struct edge_model *model, FILE *out, FILE *info);

void display_begin(struct display *d); /* an answer */
void display_prefill(struct display *d, int32_t done, int32_t total);
void display_token(struct display *d, const struct reply_token *t);
void display_end(struct display *d); /* of the text: reset colours, end the line */

/* A line about the cloud, on a line of its own, unless quiet. */
void display_notice(struct display *d, const char *text);

/* The summary, unless quiet. */
void display_summary(const struct display *d, const struct decode_result *r);

#endif
