/* SPDX-License-Identifier: Apache-2.0
 * exit_prompts.c - see exit_prompts.h.
 */
#include "tools/exit_prompts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "common/memory.h"
#include "common/random.h"
#include "engine/tokenizer.h"
#include "tools/command.h"

static bool
is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static void
trim(const char **text, size_t *len)
{
    while (*len > 0 && is_space(**text)) {
        ++*text;
        --*len;
    }
    while (*len > 0 && is_space((*text)[*len - 1]))
        --*len;
}

size_t
exit_prompts_words(const char *text, size_t len)
{
    size_t n = 0;

    for (size_t i = 0; i < len; i++)
        n += !is_space(text[i]) && (i == 0 || is_space(text[i - 1]));
    return n;
}

/* ---- the set ---- */

/* FNV-1a of the words in lower case; never 0. */
static uint64_t
digest(const char *text, size_t len)
{
    uint64_t h = 0xcbf29ce484222325;
    bool gap = false;

    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];

        if (is_space(text[i])) {
            gap = true;
            continue;
        }
        if (gap)
            h = (h ^ ' ') * 0x100000001b3;
        gap = false;
        if (c >= 'A' && c <= 'Z')
            c = (unsigned char)(c + 'a' - 'A');
        h = (h ^ c) * 0x100000001b3;
    }
    return h ? h : 1;
}

/* Put h into the table; false when it is there. */
static bool
insert(uint64_t *seen, size_t cap, uint64_t h)
{
    size_t i = (size_t)(h ^ h >> 32) & (cap - 1);

    while (seen[i] != 0) {
        if (seen[i] == h)
            return false;
        i = (i + 1) & (cap - 1);
    }
    seen[i] = h;
    return true;
}

static int
see(struct exit_prompts *p, uint64_t h, bool *is_new, struct err *err)
{
    if (2 * p->n_seen >= p->seen_cap) {
        size_t cap = p->seen_cap ? 2 * p->seen_cap : 1024;
        uint64_t *seen = mem_array_alloc(cap, sizeof(*seen));

        if (!seen)
            return err_set(err, CE_ENOMEM, "no memory for %zu prompts", p->n_seen);
        for (size_t i = 0; i < p->seen_cap; i++) {
            if (p->seen[i] != 0)
                insert(seen, cap, p->seen[i]);
        }
        mem_free(p->seen);
        p->seen = seen;
        p->seen_cap = cap;
    }
    *is_new = insert(p->seen, p->seen_cap, h);
    p->n_seen += *is_new;
    return 0;
}

int
exit_prompts_add(struct exit_prompts *p, const char *text, size_t len, bool *added,
                 struct err *err)
{
    bool is_new = false;
    char *copy;
    int rc = 0;

    if (added)
        *added = false;
    trim(&text, &len);
    if (len == 0 || (rc = see(p, digest(text, len), &is_new, err)) || !is_new)
        return rc;
    if (p->n == p->cap) {
        size_t cap = p->cap ? 2 * p->cap : 256;
        char **list = mem_array_resize(p->list, cap, sizeof(*list));

        if (!list)
            return err_set(err, CE_ENOMEM, "no memory for %zu prompts", cap);
        p->list = list;
        p->cap = cap;
    }
    copy = mem_strndup(text, len);
    if (!copy)
        return err_set(err, CE_ENOMEM, "no memory for a prompt");
    p->list[p->n++] = copy;
    if (added)
        *added = true;
    return 0;
}

void
exit_prompts_free(struct exit_prompts *p)
{
    for (size_t i = 0; i < p->n; i++)
        mem_free(p->list[i]);
    mem_free(p->list);
    mem_free(p->seen);
    *p = (struct exit_prompts){ 0 };
}

/* ---- files ---- */

static int
take_json_line(struct exit_prompts *p, const char *path, const char *line, size_t len,
               size_t number, bool exclude, struct err *err)
{
    json_error_t why;
    json_t *object = json_loadb(line, len, 0, &why), *prompt;
    bool is_new;
    int rc;

    if (!object)
        return err_set(err, CE_EFORMAT, "%s:%zu: %s", path, number, why.text);
    prompt = json_object_get(object, "prompt");
    if (!json_is_string(prompt)) {
        rc = err_set(err, CE_EFORMAT, "%s:%zu: no text called \"prompt\"", path, number);
    } else {
        const char *text = json_string_value(prompt);
        size_t n = json_string_length(prompt);

        trim(&text, &n);
        rc = exclude ? see(p, digest(text, n), &is_new, err)
                     : exit_prompts_add(p, text, n, NULL, err);
    }
    json_decref(object);
    return rc;
}

static int
take_json(struct exit_prompts *p, const char *path, const char *text, bool exclude,
          struct err *err)
{
    int rc = 0;

    for (size_t number = 1; rc == 0 && *text; number++) {
        size_t len = strcspn(text, "\n");

        if (exit_prompts_words(text, len) > 0)
            rc = take_json_line(p, path, text, len, number, exclude, err);
        text += len + (text[len] != '\0');
    }
    return rc;
}

int
exit_prompts_exclude(struct exit_prompts *p, const char *path, struct err *err)
{
    char *text;
    size_t len;
    int rc = command_read_text(path, (size_t)64 << 20, &text, &len, err);

    if (rc == 0)
        rc = take_json(p, path, text, true, err);
    free(text);
    return rc;
}

static int
add_sized(struct exit_prompts *p, const char *text, size_t len, struct err *err)
{
    size_t words = exit_prompts_words(text, len);

    if (words < EXIT_PROMPTS_MIN_WORDS || words > EXIT_PROMPTS_MAX_WORDS)
        return 0;
    return exit_prompts_add(p, text, len, NULL, err);
}

static bool
has_empty_line(const char *text)
{
    for (; *text; text += *text != '\0') {
        size_t len = strcspn(text, "\n");

        if (exit_prompts_words(text, len) == 0 && text[len] != '\0')
            return true;
        text += len;
    }
    return false;
}

/* The beginnings of paragraphs. A paragraph's second line is taken when a third follows:
 * were it the last, it would be the answer. */
static int
take_text(struct exit_prompts *p, const char *text, struct err *err)
{
    bool paragraphs = has_empty_line(text);
    const char *first = text;
    size_t line = 0, two = 0; /* line in the paragraph; length of its first two */
    int rc = 0;

    while (rc == 0 && *text) {
        size_t len = strcspn(text, "\n");

        if (exit_prompts_words(text, len) == 0 || !paragraphs)
            line = 0;
        if (exit_prompts_words(text, len) > 0)
            line++;
        if (line == 1) {
            first = text;
            rc = add_sized(p, text, len, err);
        } else if (line == 2) {
            two = (size_t)(text - first) + len;
        } else if (line == 3) {
            rc = add_sized(p, first, two, err);
        }
        text += len + (text[len] != '\0');
    }
    return rc;
}

int
exit_prompts_add_file(struct exit_prompts *p, const char *path, struct err *err)
{
    size_t len, before = p->n_seen, n = strlen(path);
    char *text;
    int rc = command_read_text(path, (size_t)64 << 20, &text, &len, err);

    if (rc != 0)
        return rc;
    if (n > 6 && strcmp(path + n - 6, ".jsonl") == 0)
        rc = take_json(p, path, text, false, err);
    else
        rc = take_text(p, text, err);
    free(text);
    if (rc == 0 && p->n_seen == before)
        rc = err_set(err, CE_EINVAL, "%s: has no prompts of %d to %d words", path,
                     EXIT_PROMPTS_MIN_WORDS, EXIT_PROMPTS_MAX_WORDS);
    return rc;
}

int
exit_prompts_save(const struct exit_prompts *p, const char *path, struct err *err)
{
    FILE *f = fopen(path, "wbe");
    bool ok = f != NULL;

    for (size_t i = 0; ok && i < p->n; i++) {
        json_t *object = json_pack("{s:s}", "prompt", p->list[i]);

        /* A prompt that is not UTF-8 has no JSON text. */
        if (object)
            ok = json_dumpf(object, f, 0) == 0 && fputc('\n', f) != EOF;
        json_decref(object);
    }
    if (f && fclose(f) != 0)
        ok = false;
    return ok ? 0 : err_set(err, CE_EIO, "%s: %s", path, strerror(errno));
}

/* ---- passages ---- */

#define LEAST_WORDS 60
#define MOST_WORDS  300
#define PLAIN       "Summarize the following article in one sentence."

static const char *const requests[] = {
    PLAIN,
    PLAIN,
    PLAIN,
    "Summarize the following text in one sentence.",
    "Summarize this article in one sentence.",
    "Give a one-sentence summary of the following passage.",
    "Briefly summarize the following text.",
    "What is the main point of the following text?",
};
#define N_REQUESTS (sizeof(requests) / sizeof(requests[0]))

struct passages {
    char *texts[64];
    int n_texts;
    const char **starts; /* of paragraphs; [n] */
    size_t n, cap;
};

static int
add_starts(struct passages *s, const char *text, struct err *err)
{
    while (*text) {
        size_t len = strcspn(text, "\n");

        if (exit_prompts_words(text, len) >= 20) {
            if (s->n == s->cap) {
                size_t cap = s->cap ? 2 * s->cap : 1024;
                const char **starts = mem_array_resize(s->starts, cap, sizeof(*starts));

                if (!starts)
                    return err_set(err, CE_ENOMEM, "no memory for %zu passages", cap);
                s->starts = starts;
                s->cap = cap;
            }
            s->starts[s->n++] = text;
        }
        text += len + (text[len] != '\0');
    }
    return 0;
}

/* How long the passage at `text` is that ends with the last sentence within `words`
 * words. A heading, in lines like " = Name = ", ends it too. */
static size_t
passage_length(const char *text, size_t words)
{
    size_t n = 0, end = 0;

    for (size_t i = 0; text[i]; i++) {
        bool starts_word = !is_space(text[i]) && (i == 0 || is_space(text[i - 1]));

        if (starts_word && n++ == words)
            break;
        if (starts_word && text[i] == '=' && is_space(text[i + 1]))
            break;
        if (strchr(".!?", text[i]) && (is_space(text[i + 1]) || !text[i + 1]))
            end = i + 1;
    }
    return end;
}

/* Texts made for counting words have spaces around punctuation, and "@-@" for "-". */
static size_t
tidy(char *out, const char *text, size_t len)
{
    size_t n = 0;

    for (size_t i = 0; i < len; i++) {
        if (len - i >= 5 && text[i] == ' ' && text[i + 1] == '@' && text[i + 3] == '@' &&
            text[i + 4] == ' ') {
            out[n++] = text[i + 2];
            i += 4;
        } else if (!(text[i] == ' ' && i + 1 < len && strchr(",.;:!?)", text[i + 1]))) {
            out[n++] = text[i];
        }
    }
    return n;
}

static int
add_passage(struct exit_prompts *p, const char *start, uint64_t *random, bool *added,
            struct err *err)
{
    const char *request = requests[random_next(random) % N_REQUESTS];
    size_t words =
        LEAST_WORDS + (size_t)(random_next(random) % (MOST_WORDS - LEAST_WORDS + 1));
    size_t len = passage_length(start, words), n = strlen(request);
    char *text;
    int rc;

    *added = false;
    if (exit_prompts_words(start, len) < LEAST_WORDS)
        return 0;
    text = mem_array_alloc(n + 2 + len, 1);
    if (!text)
        return err_set(err, CE_ENOMEM, "no memory for a passage");
    memcpy(text, request, n);
    memcpy(text + n, "\n\n", 2);
    n += 2;
    while (len > 0 && is_space(*start)) {
        start++;
        len--;
    }
    n += tidy(text + n, start, len);
    rc = exit_prompts_add(p, text, n, added, err);
    mem_free(text);
    return rc;
}

int
exit_prompts_add_summaries(struct exit_prompts *p, const char *const *paths, int n_paths,
                           size_t n, uint64_t seed, struct err *err)
{
    struct passages s = { 0 };
    uint64_t random = seed ^ 0x73756d6d61727921;
    size_t len, done = 0;
    int rc = 0;

    for (int i = 0; rc == 0 && i < n_paths && i < 64; i++) {
        rc = command_read_text(paths[i], TOKENIZER_MAX_TEXT, &s.texts[i], &len, err);
        s.n_texts++;
        if (rc == 0)
            rc = add_starts(&s, s.texts[i], err);
    }
    /* A few turns: a start whose first passage was too short may have a longer one. */
    for (size_t i = 0; rc == 0 && s.n > 0 && done < n && i < 4 * s.n; i++) {
        size_t a = i % s.n, b = a + (size_t)(random_next(&random) % (s.n - a));
        const char *start = s.starts[b];
        bool added;

        s.starts[b] = s.starts[a];
        s.starts[a] = start;
        rc = add_passage(p, start, &random, &added, err);
        done += added;
    }
    for (int i = 0; i < s.n_texts; i++)
        free(s.texts[i]);
    mem_free(s.starts);
    return rc;
}
