/* SPDX-License-Identifier: Apache-2.0
 * tokenizer_rules.h - the pre-tokenisers known, by the names that files give them.
 *
 * Thread: constant data.
 */
#ifndef CE_ENGINE_TOKENIZER_RULES_H
#define CE_ENGINE_TOKENIZER_RULES_H

#include <stdbool.h>
#include <stddef.h>

#define SPLIT_MAX_LEVELS 6
#define SPLIT_MAX_NAMES  12

struct split_rule {
    const char *names[SPLIT_MAX_NAMES];   /* values of tokenizer.ggml.pre; NULL ends */
    const char *levels[SPLIT_MAX_LEVELS]; /* PCRE2 (UTF, UCP), in order; NULL ends */
    bool whole_words; /* a word that is a token is not merged from its bytes */
    bool default_bos; /* prompts start with bos when the file does not say */
};

/* The rule called name[0..len), or NULL; *as: that name in the table. */
const struct split_rule *split_rule_find(const char *name, size_t len, const char **as);

/* All names, separated by ", ", into out: [cap]; "..." at the end when there is no
 * room for more. */
void split_rule_names(char *out, size_t cap);

#endif
