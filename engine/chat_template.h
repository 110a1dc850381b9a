/* SPDX-License-Identifier: Apache-2.0
 * chat_template.h - messages to the text that an instruct model was trained on.
 *
 * Files carry their template as a Jinja program. We do not run programs from
 * files: the known families are recognised by marks in that text and written here
 * in C, one row of a table each (chat_template_table.c). An unknown template is an
 * error that lists the names one can force.
 *
 * Thread: no state; a template is constant.
 */
#ifndef CE_ENGINE_CHAT_TEMPLATE_H
#define CE_ENGINE_CHAT_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "engine/gguf.h"
#include "engine/tokenizer.h"

struct chat_message {
    const char *role;    /* "system", "user" or "assistant" */
    const char *content; /* UTF-8, borrowed; may hold any bytes */
    size_t content_len;
};

struct chat_template;

/* The template of a file, or the one called `name` unless that is NULL or "" (then g
 * is not looked at).
 * CE_ENOTFOUND when the file has none (a base model); CE_EUNSUPPORTED when it is
 * unknown; both texts list the names known. */
int chat_template_find(const struct chat_template **out, const struct gguf *g,
                       const char *name, struct err *err) CE_MUSTCHECK;

const char *chat_template_name(const struct chat_template *t); /* "chatml-smollm" */

/* Names known, separated by ", ". */
const char *chat_template_names(void);

/* Render n messages; with `generate`, open the assistant's turn behind them.
 * *text: malloc'ed, NUL-terminated, the caller's. *literal (unless NULL): malloc'ed,
 * the caller's: where the messages' contents lie in it, [n] ranges, in order of
 * their place; *n_literal how many (a default system message adds none).
 * CE_EINVAL: n is not positive, a role is unknown, or the template wants users and
 * assistants to take turns and they do not. */
int chat_template_render(const struct chat_template *t, const struct chat_message *m,
                         int n, bool generate, char **text, size_t *len,
                         struct text_range **literal, size_t *n_literal,
                         struct err *err) CE_MUSTCHECK;

/* Render and encode: the template's own marks become special tokens, the same
 * characters inside a message do not. bos is put in front where the vocabulary asks
 * for it and the template does not bring it. ids, cap, *n and errors as tokenizer_encode.
 */
int chat_template_encode(const struct chat_template *t, const struct tokenizer *tok,
                         const struct chat_message *m, int n, bool generate, int32_t *ids,
                         size_t cap, size_t *n_ids, struct err *err) CE_MUSTCHECK;

#endif
