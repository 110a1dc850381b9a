/* SPDX-License-Identifier: Apache-2.0
 * tokenizer_split.c - cutting by the rules of tokenizer_rules.c, through PCRE2.
 *
 * A piece is matched as a subject of its own, so "(?!\S)" sees the end of the piece,
 * not the character behind it: "a  5" is cut before 5 first (smollm). The rules are
 * written so that the work is linear in the text; the match limit is a fuse, not a
 * policy.
 *
 * Used by: tokenizer_encode.c. Thread: immutable when compiled; match data per call.
 */
#include "engine/tokenizer_split.h"

#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "engine/tokenizer_rules.h"
#include "engine/utf8_stream.h"

#define MATCH_LIMIT 100000000

struct split {
    const struct split_rule *rule;
    const char *name; /* one of the rule's */
    pcre2_code *levels[SPLIT_MAX_LEVELS];
    int n_levels;
    pcre2_match_context *limits;
};

/* ---- opening ---- */

static int
unknown_rule(const char *name, size_t len, struct err *err)
{
    char known[300];

    split_rule_names(known, sizeof(known));
    return err_set(err, CE_EUNSUPPORTED,
                   "pre-tokeniser \"%.*s\" is not known (known: %s)",
                   len < 40 ? (int)len : 40, name, known);
}

static int
compile(struct split *s, const char *pattern, struct err *err)
{
    PCRE2_SIZE at;
    int code;
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                                   PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);

    if (re == NULL)
        return err_set(err, CE_EINTERNAL,
                       "PCRE2 error %d at %zu of a pre-tokeniser's expression", code,
                       (size_t)at);
    s->levels[s->n_levels++] = re;
    (void)pcre2_jit_compile(re, PCRE2_JIT_COMPLETE); /* without: the same, slower */
    return 0;
}

int
split_open(struct split **out, const char *name, size_t len, struct err *err)
{
    const char *as = NULL;
    const struct split_rule *rule = split_rule_find(name, len, &as);
    struct split *s;
    int i, rc = 0;

    *out = NULL;
    if (rule == NULL)
        return unknown_rule(name, len, err);
    s = calloc(1, sizeof(*s));
    if (s == NULL)
        return err_set(err, CE_ENOMEM, "no memory for the pre-tokeniser");
    s->rule = rule;
    s->name = as;
    s->limits = pcre2_match_context_create(NULL);
    if (s->limits == NULL)
        rc = err_set(err, CE_ENOMEM, "no memory for the pre-tokeniser");
    else
        pcre2_set_match_limit(s->limits, MATCH_LIMIT);
    for (i = 0; i < SPLIT_MAX_LEVELS && rule->levels[i] != NULL && rc == 0; i++)
        rc = compile(s, rule->levels[i], err);
    if (rc != 0)
        split_free(s);
    else
        *out = s;
    return rc;
}

void
split_free(struct split *s)
{
    int i;

    if (s == NULL)
        return;
    for (i = 0; i < s->n_levels; i++)
        pcre2_code_free(s->levels[i]);
    pcre2_match_context_free(s->limits);
    free(s);
}

const char *
split_name(const struct split *s)
{
    return s->name;
}

bool
split_whole_words(const struct split *s)
{
    return s->rule->whole_words;
}

bool
split_default_bos(const struct split *s)
{
    return s->rule->default_bos;
}

/* ---- cutting ---- */

/* One call of split_each. */
struct cut {
    const struct split *s;
    pcre2_match_data *match[SPLIT_MAX_LEVELS];
    split_word_fn *fn;
    void *ctx;
};

/* First match in text[at..len): > 0 found, 0 none, negative CE_E*. */
static int
next_match(const struct cut *c, int level, const char *text, size_t len, size_t at,
           size_t *from, size_t *to)
{
    const pcre2_code *re = c->s->levels[level];
    const PCRE2_SIZE *found = pcre2_get_ovector_pointer(c->match[level]);
    int rc = pcre2_match(re, (PCRE2_SPTR)text, len, at, PCRE2_NO_UTF_CHECK,
                         c->match[level], c->s->limits);

    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(re, (PCRE2_SPTR)text, len, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                         c->match[level], c->s->limits);
    if (rc == PCRE2_ERROR_NOMATCH)
        return 0;
    if (rc < 0)
        return rc == PCRE2_ERROR_NOMEMORY ? CE_ENOMEM : CE_EINTERNAL;
    *from = found[0];
    *to = found[1];
    return *to > *from ? 1 : 0;
}

/* Cut valid UTF-8 by the expressions from `level` on. */
static int
cut_piece(const struct cut *c, int level, const char *text, size_t len)
{
    size_t at = 0, from, to;
    int rc;

    if (level == c->s->n_levels)
        return c->fn(c->ctx, text, len);
    while (at < len) {
        rc = next_match(c, level, text, len, at, &from, &to);
        if (rc < 0)
            return rc;
        if (rc == 0)
            from = to = len;
        if (from > at && (rc = cut_piece(c, level + 1, text + at, from - at)) != 0)
            return rc;
        if (to > from && (rc = cut_piece(c, level + 1, text + from, to - from)) != 0)
            return rc;
        at = to;
    }
    return 0;
}

/* Length of the run of bytes at in[0] that are not whole characters. */
static size_t
invalid_run(const char *in, size_t len)
{
    size_t at = 0;

    while (at < len && utf8_char(in + at, len - at) <= 0)
        at++;
    return at;
}

static int
cut_text(const struct cut *c, const char *text, size_t len)
{
    size_t n;
    int rc = 0;

    while (len > 0 && rc == 0) {
        n = utf8_valid_prefix(text, len);
        if (n > 0) {
            rc = cut_piece(c, 0, text, n);
        } else {
            n = invalid_run(text, len);
            rc = c->fn(c->ctx, text, n);
        }
        text += n;
        len -= n;
    }
    return rc;
}

int
split_each(const struct split *s, const char *text, size_t len, split_word_fn *fn,
           void *ctx)
{
    struct cut c = { .s = s, .fn = fn, .ctx = ctx };
    int i, rc = 0;

    for (i = 0; i < s->n_levels; i++) {
        c.match[i] = pcre2_match_data_create(1, NULL);
        if (c.match[i] == NULL)
            rc = CE_ENOMEM;
    }
    if (rc == 0)
        rc = cut_text(&c, text, len);
    for (i = 0; i < s->n_levels; i++)
        pcre2_match_data_free(c.match[i]);
    return rc;
}
