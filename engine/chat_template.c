/* SPDX-License-Identifier: Apache-2.0
 * chat_template.c - from messages to text and ids.
 *
 * What a template says is a row of chat_template_table.c; here it is found in a
 * file's Jinja text, rendered and encoded.
 *
 * Used by: agent (chat, HTTP API), cecollm-model tokenize. Thread: any.
 */
#include "engine/chat_template.h"

#include <stdlib.h>
#include <string.h>

#include "engine/chat_template_table.h"

#define MAX_MESSAGES 4096

/* ---- finding ---- */

static const char *
find(const struct gguf_str *s, size_t from, const char *mark)
{
    return memmem(s->data + from, s->len - from, mark, strlen(mark));
}

/* Does the text open a system turn with words of its own, "<|im_start|>system\nYou
 * are ..."? After the line break (as itself or as \n) the string ends otherwise. */
static bool
has_own_system(const struct chat_template *t, const struct gguf_str *s)
{
    size_t len = strcspn(t->system.before, "\n"), at;
    char open[64];
    const char *p;

    if (len == 0 || len >= sizeof(open))
        return false;
    memcpy(open, t->system.before, len);
    open[len] = '\0';
    for (at = 0; (p = find(s, at, open)) != NULL;) {
        at = (size_t)(p - s->data) + len;
        while (at < s->len && s->data[at] == '\n')
            at++;
        while (s->len - at >= 2 && memcmp(s->data + at, "\\n", 2) == 0)
            at += 2;
        if (at < s->len && strchr("'\"<{", s->data[at]) == NULL)
            return true;
    }
    return false;
}

static bool
matches(const struct chat_template *t, const struct gguf_str *s)
{
    int i;

    for (i = 0; i < TEMPLATE_MAX_MARKS && t->marks[i] != NULL; i++)
        if (find(s, 0, t->marks[i]) == NULL)
            return false;
    for (i = 0; i < TEMPLATE_MAX_MARKS && t->lacks[i] != NULL; i++)
        if (find(s, 0, t->lacks[i]) != NULL)
            return false;
    return t->default_system != NULL || t->system.before == NULL || !has_own_system(t, s);
}

int
chat_template_find(const struct chat_template **out, const struct gguf *g,
                   const char *name, struct err *err)
{
    const struct chat_template *t;
    struct gguf_str s;
    int rc;

    *out = NULL;
    if (name != NULL && name[0] != '\0') {
        for (t = chat_template_table; t->name != NULL; t++)
            if (strcmp(t->name, name) == 0) {
                *out = t;
                return 0;
            }
        return err_set(err, CE_EUNSUPPORTED,
                       "chat template \"%.40s\" is not known (known: %s)", name,
                       chat_template_names());
    }
    rc = gguf_get_str(g, "tokenizer.chat_template", &s, err);
    if (rc == CE_ENOTFOUND)
        return err_set(err, rc,
                       "%s: the model has no chat template; choose one with "
                       "--chat-template (known: %s)",
                       gguf_path(g), chat_template_names());
    if (rc != 0)
        return rc;
    for (t = chat_template_table; t->name != NULL; t++)
        if (matches(t, &s)) {
            *out = t;
            return 0;
        }
    return err_set(err, CE_EUNSUPPORTED,
                   "%s: its chat template is not known; choose one with --chat-template "
                   "(known: %s)",
                   gguf_path(g), chat_template_names());
}

const char *
chat_template_name(const struct chat_template *t)
{
    return t->name;
}

/* ---- rendering ---- */

/* Text under construction. With `data` NULL only the length is counted. */
struct text {
    char *data;
    size_t len;
    struct text_range *literal; /* NULL: not asked for */
    int n_literal;
};

static void
put_bytes(struct text *t, const char *s, size_t len)
{
    if (t->data != NULL && len > 0)
        memcpy(t->data + t->len, s, len);
    t->len += len;
}

static void
put(struct text *t, const char *s)
{
    if (s != NULL)
        put_bytes(t, s, strlen(s));
}

/* What a message says, which must not become special tokens. */
static void
put_content(struct text *t, const char *s, size_t len)
{
    if (t->literal != NULL)
        t->literal[t->n_literal] = (struct text_range){ t->len, t->len + len };
    t->n_literal++;
    put_bytes(t, s, len);
}

static bool
is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static void
trim(const char **s, size_t *len, bool front)
{
    while (*len > 0 && is_space((*s)[*len - 1]))
        (*len)--;
    while (front && *len > 0 && is_space(**s)) {
        (*s)++;
        (*len)--;
    }
}

/* Go behind the last "</think>", and behind line breaks there. */
static void
drop_thoughts(const char **s, size_t *len, bool lines)
{
    static const char end[] = "</think>";
    const char *p;
    bool any = false;

    while ((p = memmem(*s, *len, end, sizeof(end) - 1)) != NULL) {
        p += sizeof(end) - 1;
        *len -= (size_t)(p - *s);
        *s = p;
        any = true;
    }
    while (any && lines && *len > 0 && **s == '\n') {
        (*s)++;
        (*len)--;
    }
}

static bool
is_role(const struct chat_message *m, const char *role)
{
    return strcmp(m->role, role) == 0;
}

/* One message; `system`: the system message that goes into this user's turn. */
static void
put_message(struct text *out, const struct chat_template *t, const struct chat_message *m,
            const struct chat_message *system)
{
    const struct role_marks *marks = is_role(m, "system") ? &t->system
                                     : is_role(m, "user") ? &t->user
                                                          : &t->assistant;
    const char *s = m->content;
    size_t len = m->content_len;

    if (marks == &t->assistant && t->drops_thoughts)
        drop_thoughts(&s, &len, t->drops_lines);
    if (marks == &t->assistant ? t->trims_answers : t->trims)
        trim(&s, &len, system == NULL);
    put(out, marks->before);
    if (system != NULL) {
        put(out, t->system.before);
        put_content(out, system->content, system->content_len);
        put(out, t->system.after);
    }
    put_content(out, s, len);
    put(out, marks->after);
}

/* The user's message that takes the system message along; -1: none does. */
static int
host_of_system(const struct chat_template *t, const struct chat_message *m, int n)
{
    int i, host = -1;

    if (t->system_goes == SYSTEM_OWN || n == 0 || !is_role(&m[0], "system"))
        return -1;
    for (i = 1; i < n && (host < 0 || t->system_goes == SYSTEM_LAST_USER); i++)
        if (is_role(&m[i], "user"))
            host = i;
    return host;
}

static void
render(const struct chat_template *t, const struct chat_message *m, int n, bool generate,
       struct text *out)
{
    int i, host = host_of_system(t, m, n);

    put(out, t->bos);
    if (t->default_system != NULL && !is_role(&m[0], "system")) {
        put(out, t->system.before);
        put(out, t->default_system);
        put(out, t->system.after);
    }
    for (i = host > 0 ? 1 : 0; i < n; i++)
        put_message(out, t, &m[i], i == host ? &m[0] : NULL);
    if (generate)
        put(out, t->open_answer);
}

/* Templates without a system turn of their own have users and assistants speak by
 * turns, after at most one system message. */
static int
check_turns(const struct chat_template *t, const struct chat_message *m, int n,
            struct err *err)
{
    int first = is_role(&m[0], "system") ? 1 : 0, i;

    if (t->system_goes == SYSTEM_OWN)
        return 0;
    if (first == n)
        return err_set(err, CE_EINVAL,
                       "chat template %s: a system message needs a user's message",
                       t->name);
    for (i = first; i < n; i++)
        if (!is_role(&m[i], (i - first) % 2 == 0 ? "user" : "assistant"))
            return err_set(err, CE_EINVAL,
                           "chat template %s: message %d is the %s's, but users and "
                           "assistants take turns",
                           t->name, i, m[i].role);
    return 0;
}

static int
check_messages(const struct chat_message *m, int n, struct err *err)
{
    size_t total = 0;
    int i;

    if (n < 1 || n > MAX_MESSAGES)
        return err_set(err, CE_EINVAL, "%d messages (1 to %d are allowed)", n,
                       MAX_MESSAGES);
    for (i = 0; i < n; i++) {
        if (strcmp(m[i].role, "system") != 0 && strcmp(m[i].role, "user") != 0 &&
            strcmp(m[i].role, "assistant") != 0)
            return err_set(err, CE_EINVAL,
                           "message %d: role \"%.32s\" is not system, user or assistant",
                           i, m[i].role);
        if (__builtin_add_overflow(total, m[i].content_len, &total) ||
            total > TOKENIZER_MAX_TEXT)
            return err_set(err, CE_EQUOTA, "the conversation is longer than %zu bytes",
                           TOKENIZER_MAX_TEXT);
    }
    return 0;
}

int
chat_template_render(const struct chat_template *t, const struct chat_message *m, int n,
                     bool generate, char **text, size_t *len, struct text_range **literal,
                     size_t *n_literal, struct err *err)
{
    struct text counted = { .data = NULL }, out = { .data = NULL };
    struct text_range *ranges = NULL;
    int rc;

    *text = NULL;
    *len = 0;
    if (literal != NULL) {
        *literal = NULL;
        *n_literal = 0;
    }
    if ((rc = check_messages(m, n, err)) != 0 || (rc = check_turns(t, m, n, err)) != 0)
        return rc;
    render(t, m, n, generate, &counted);
    out.data = malloc(counted.len + 1);
    if (literal != NULL)
        ranges = calloc((size_t)n, sizeof(*ranges));
    if (out.data == NULL || (literal != NULL && ranges == NULL)) {
        free(out.data);
        free(ranges);
        return err_set(err, CE_ENOMEM, "no memory for a conversation of %zu bytes",
                       counted.len);
    }
    out.literal = ranges;
    render(t, m, n, generate, &out);
    out.data[out.len] = '\0';
    *text = out.data;
    *len = out.len;
    if (literal != NULL) {
        *literal = ranges;
        *n_literal = (size_t)out.n_literal;
    }
    return 0;
}

/* Does the template itself begin with bos? What a message says does not count. */
static bool
brings_bos(const struct tokenizer *tok, const char *text, size_t len, size_t content)
{
    size_t n;
    const char *bos = tokenizer_piece(tok, tokenizer_bos(tok), &n);

    return n > 0 && n <= content && n <= len && memcmp(text, bos, n) == 0;
}

int
chat_template_encode(const struct chat_template *t, const struct tokenizer *tok,
                     const struct chat_message *m, int n, bool generate, int32_t *ids,
                     size_t cap, size_t *n_ids, struct err *err)
{
    size_t front, len, n_literal, k;
    struct text_range *literal;
    char *text;
    int rc;

    *n_ids = 0;
    rc = chat_template_render(t, m, n, generate, &text, &len, &literal, &n_literal, err);
    if (rc != 0)
        return rc;
    front = tokenizer_add_bos(tok) && !brings_bos(tok, text, len, literal[0].from);
    k = front < cap ? front : cap;
    if (k > 0)
        ids[0] = tokenizer_bos(tok);
    rc = tokenizer_encode_ranges(tok, text, len, literal, n_literal,
                                 cap > k ? ids + k : NULL, cap - k, n_ids, err);
    if (rc == 0 || rc == CE_ECONTEXT)
        *n_ids += front;
    if (rc == 0 && *n_ids > cap)
        rc = err_set(err, CE_ECONTEXT, "the conversation has %zu tokens, %zu are allowed",
                     *n_ids, cap);
    free(text);
    free(literal);
    return rc;
}
