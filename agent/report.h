/* SPDX-License-Identifier: Apache-2.0
 * report.h - an answer as a JSON object, for machines.
 *
 * One object a line: what was said, by whom, how sure, how long it took. The keys
 * are listed in cecollm-agent(1).
 *
 * Thread: the main loop.
 */
#ifndef CE_AGENT_REPORT_H
#define CE_AGENT_REPORT_H

#include <stdio.h>

#include <jansson.h>

#include "agent/decode.h"
#include "agent/edge_model.h"
#include "common/error.h"

struct report {
    const struct edge_model *model;
    bool hash;
    json_t *ids, *tokens; /* of the current answer; owned */
    char *text;           /* open_memstream's */
    size_t text_len;
    FILE *text_file;
};

void report_init(struct report *r, const struct edge_model *model, bool hash);
void report_begin(struct report *r);
void report_token(struct report *r, const struct reply_token *t);

/* Print the object. err: NULL, or why there is no (whole) answer. id: borrowed, may
 * be NULL. */
void report_end(struct report *r, FILE *out, const json_t *id,
                const struct decode_result *result, const struct err *err);
void report_fini(struct report *r);

#endif
