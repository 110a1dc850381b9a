/* SPDX-License-Identifier: Apache-2.0
 * inputs.h - what is to be answered, in order: one prompt, one list of ids, or a
 * file of JSON objects, one a line.
 *
 * An object has "prompt" (text) or "ids" (numbers), and may have "id" (any value, put
 * into the answer's object), "force_ids" (numbers) and "max_tokens".
 *
 * Thread: the main loop.
 */
#ifndef CE_AGENT_INPUTS_H
#define CE_AGENT_INPUTS_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "agent/agent_conf.h"
#include "common/error.h"

struct input {
    char *text; /* owned; NULL when ids are given */
    size_t text_len;
    int32_t *ids; /* owned, as force_ids */
    int n_ids;
    int32_t *force_ids;
    int n_force_ids;
    int max_tokens;
    json_t *id; /* owned reference; NULL when there is none */
};

struct inputs;

int inputs_open(struct inputs **out, const struct agent_conf *conf,
                struct err *err) CE_MUSTCHECK;
void inputs_close(struct inputs *s); /* accepts NULL */

/* The next one: 1, and *in is the caller's to input_fini; 0 at the end; an error
 * names file and line. */
int inputs_next(struct inputs *s, struct input *in, struct err *err) CE_MUSTCHECK;

void input_fini(struct input *in);

#endif
