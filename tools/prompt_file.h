/* SPDX-License-Identifier: Apache-2.0
 * prompt_file.h - prompts from a file of JSON lines, as the ids that a model reads.
 *
 * Each line is an object with "prompt", a text, put through the model's chat template as
 * one message of the user, as cecollm-agent does; a base model reads it as it is. Empty
 * lines are left out.
 *
 * Thread: any.
 */
#ifndef CE_TOOLS_PROMPT_FILE_H
#define CE_TOOLS_PROMPT_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "engine/gguf.h"
#include "engine/tokenizer.h"

struct prompt {
    int32_t *ids; /* [n] */
    int n;        /* >= 1 */
};

struct prompt_file {
    struct prompt *list; /* [n], owned */
    int n;
};

struct prompt_format {
    const struct gguf *model; /* whose chat template */
    const struct tokenizer *vocab;
    int max_ids; /* of a prompt; longer ones are an error */
};

/* The first `limit` prompts of the file at `path` ("-": standard input). Errors name file
 * and line: CE_EFORMAT, not JSON or no prompt in it; CE_ECONTEXT, a prompt is longer than
 * max_ids; CE_EINVAL, no prompt at all. */
int prompt_file_read(struct prompt_file *out, const char *path, int limit,
                     const struct prompt_format *format, struct err *err) CE_MUSTCHECK;
void prompt_file_free(struct prompt_file *f); /* accepts an empty one */

#endif
