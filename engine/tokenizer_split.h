/* SPDX-License-Identifier: Apache-2.0
 * tokenizer_split.h - cutting text into the words that BPE merges within.
 *
 * Merges never cross a word's edge, so two tokenizers agree only when they cut
 * alike. A rule is a list of regular expressions: the first cuts the text, the
 * next cuts each piece of that, and so on; what lies between matches is a piece too.
 *
 * Thread: a compiled split is immutable; any thread may use it.
 */
#ifndef CE_ENGINE_TOKENIZER_SPLIT_H
#define CE_ENGINE_TOKENIZER_SPLIT_H

#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"

struct split;

/* Compile the rule that tokenizer.ggml.pre calls `name`. CE_EUNSUPPORTED with a
 * text that lists the names known. */
int split_open(struct split **out, const char *name, size_t len,
               struct err *err) CE_MUSTCHECK;
void split_free(struct split *s); /* accepts NULL */

/* The name it was opened by; whether a word that is a token as a whole skips the
 * merges; whether prompts start with bos when the file does not say. */
const char *split_name(const struct split *s);
bool split_whole_words(const struct split *s);
bool split_default_bos(const struct split *s);

/* Called for each word in order; anything but 0 stops. */
typedef int split_word_fn(void *ctx, const char *word, size_t len);

/* Cut text[0..len). Bytes that are not UTF-8 make words of their own, a run of
 * them one word. The words, put together, are the text. Returns 0, what `fn`
 * returned, CE_ENOMEM or CE_EINTERNAL (a match limit was hit). */
int split_each(const struct split *s, const char *text, size_t len, split_word_fn *fn,
               void *ctx) CE_MUSTCHECK;

#endif
