/* SPDX-License-Identifier: Apache-2.0
 * exit_prompts.h - prompts whose answers exits learn from: each once, in any number.
 *
 * Prompts are compared without regard to case and white space. What was excluded, or is
 * there already, is not added.
 *
 * Thread: one owner.
 */
#ifndef CE_TOOLS_EXIT_PROMPTS_H
#define CE_TOOLS_EXIT_PROMPTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define EXIT_PROMPTS_MIN_WORDS 4
#define EXIT_PROMPTS_MAX_WORDS 60 /* of one from a text file */

struct exit_prompts {
    char **list; /* [n], each owned, NUL-terminated, trimmed */
    size_t n, cap;
    uint64_t *seen; /* [seen_cap], 0: free; digests of what is excluded or there */
    size_t n_seen, seen_cap;
};

/* Zero-initialise a struct; free it in any case. */
void exit_prompts_free(struct exit_prompts *p);

/* Add text [len]. *added (may be NULL): it was new, and not empty. */
int exit_prompts_add(struct exit_prompts *p, const char *text, size_t len, bool *added,
                     struct err *err) CE_MUSTCHECK;

/* Never add the "prompt"s of a file with a JSON object a line. */
int exit_prompts_exclude(struct exit_prompts *p, const char *path,
                         struct err *err) CE_MUSTCHECK;

/* Add a file's prompts. NAME.jsonl: its "prompt"s. Any other name: a text. Of each
 * paragraph (paragraphs are separated by empty lines) the first line, and where it has
 * three lines or more the first two together; in a text without empty lines, each line.
 * Those of 4 to 60 words. CE_EINVAL: there is none. */
int exit_prompts_add_file(struct exit_prompts *p, const char *path,
                          struct err *err) CE_MUSTCHECK;

/* Add up to n requests to summarise passages of these texts: 60 to 300 words from the
 * beginning of a paragraph to the end of a sentence. */
int exit_prompts_add_summaries(struct exit_prompts *p, const char *const *paths,
                               int n_paths, size_t n, uint64_t seed,
                               struct err *err) CE_MUSTCHECK;

/* Words of a text, by white space. */
size_t exit_prompts_words(const char *text, size_t len);

/* Write all to `path`, as a file that exit_prompts_add_file reads (give it a name that
 * ends in .jsonl). */
int exit_prompts_save(const struct exit_prompts *p, const char *path,
                      struct err *err) CE_MUSTCHECK;

#endif
