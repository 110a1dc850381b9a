/* SPDX-License-Identifier: Apache-2.0
 * text_windows.h - text files as windows of tokens, for tools that run a model over text.
 *
 * A window is what one sequence starts with an empty cache: at most `length` tokens of
 * one file, the first of them bos where the vocabulary asks for it. One window in ten is
 * set apart, to check on what was not learnt from.
 *
 * Thread: one owner.
 */
#ifndef CE_TOOLS_TEXT_WINDOWS_H
#define CE_TOOLS_TEXT_WINDOWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "engine/tokenizer.h"

struct text_window {
    size_t at; /* in ids */
    int n;     /* tokens, 1 to length */
};

struct text_windows {
    int length;   /* most tokens of a window; set it, zero the rest */
    int32_t *ids; /* of all files in a row; owned */
    size_t n_ids;
    struct text_window *list; /* [n], in the files' order; owned */
    size_t n;
};

/* Add a file's tokens. The text may be any bytes that the vocabulary has. */
int text_windows_add(struct text_windows *w, const struct tokenizer *t, const char *path,
                     struct err *err) CE_MUSTCHECK;
void text_windows_free(struct text_windows *w);

/* Keep as many windows as surely have at most `rows` tokens, at least two, evenly spread
 * over all files. */
void text_windows_thin(struct text_windows *w, size_t rows);

/* Is window i of n set apart? True of n / 10 of them, at least one, evenly spread. */
bool text_windows_apart(size_t i, size_t n);

/* Tokens of the windows that are, or are not, set apart. */
size_t text_windows_count(const struct text_windows *w, bool apart);

#endif
