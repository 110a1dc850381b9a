/* SPDX-License-Identifier: Apache-2.0
 * chat_template.c - known chat templates, one table row each.
 *
 * A row says what stands around a message, what a conversation without a system
 * message gets in its place, and by which marks the template is recognised in a
 * file: all of `marks` must occur in its text. Rows are tried in order, so the more
 * particular one comes first.
 *
 * Used by: agent (chat, HTTP API), cecollm-model tokenize. Thread: any.
 */
#include "engine/chat_template.h"

#include <stdlib.h>
#include <string.h>

#define MAX_MARKS    3
#define MAX_MESSAGES 4096

struct chat_template {
    const char *name;
    const char *marks[MAX_MARKS];
    const char *before_role, *after_role, *after_content;
    const char *default_system; /* NULL: none */
    const char *open_answer;
};

static const struct chat_template templates[] = {
    { .name = "chatml-smollm",
      .marks = { "<|im_start|>", "<|im_end|>",
                 "You are a helpful AI assistant named SmolLM, trained by Hugging Face" },
      .before_role = "<|im_start|>",
      .after_role = "\n",
      .after_content = "<|im_end|>\n",
      .default_system =
          "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
      .open_answer = "<|im_start|>assistant\n" },
    { .name = "chatml-qwen2",
      .marks = { "<|im_start|>", "<|im_end|>",
                 "system\nYou are a helpful assistant<|im_end|>" },
      .before_role = "<|im_start|>",
      .after_role = "\n",
      .after_content = "<|im_end|>\n",
      .default_system = "You are a helpful assistant",
      .open_answer = "<|im_start|>assistant\n" },
    { .name = "chatml",
      .marks = { "<|im_start|>", "<|im_end|>" },
      .before_role = "<|im_start|>",
      .after_role = "\n",
      .after_content = "<|im_end|>\n",
      .open_answer = "<|im_start|>assistant\n" },
};

#define N_TEMPLATES (sizeof(templates) / sizeof(templates[0]))

static const char names[] = "chatml-smollm, chatml-qwen2, chatml";

/* ---- finding ---- */

static bool
contains(const struct gguf_str *s, const char *mark)
{
    return memmem(s->data, s->len, mark, strlen(mark)) != NULL;
}

static bool
matches(const struct chat_template *t, const struct gguf_str *s)
{
    int i;

    for (i = 0; i < MAX_MARKS && t->marks[i] != NULL; i++)
        if (!contains(s, t->marks[i]))
            return false;
    /* A template that brings a default of its own is not plain ChatML. */
    return t->default_system != NULL || !contains(s, "!= 'system'");
}

int
chat_template_find(const struct chat_template **out, const struct gguf *g,
                   const char *name, struct err *err)
{
    struct gguf_str s;
    size_t i;
    int rc;

    *out = NULL;
    if (name != NULL && name[0] != '\0') {
        for (i = 0; i < N_TEMPLATES; i++)
            if (strcmp(templates[i].name, name) == 0) {
                *out = &templates[i];
                return 0;
            }
        return err_set(err, CE_EUNSUPPORTED,
                       "chat template \"%s\" is not known (known: %s)", name, names);
    }
    rc = gguf_get_str(g, "tokenizer.chat_template", &s, err);
    if (rc == CE_ENOTFOUND)
        return err_set(err, rc,
                       "%s: the model has no chat template; choose one with "
                       "--chat-template (known: %s)",
                       gguf_path(g), names);
    if (rc != 0)
        return rc;
    for (i = 0; i < N_TEMPLATES; i++)
        if (matches(&templates[i], &s)) {
            *out = &templates[i];
            return 0;
        }
    return err_set(err, CE_EUNSUPPORTED,
                   "%s: its chat template is not known; choose one with --chat-template "
                   "(known: %s)",
                   gguf_path(g), names);
}

const char *
chat_template_name(const struct chat_template *t)
{
    return t->name;
}

const char *
chat_template_names(void)
{
    return names;
}

/* ---- rendering ---- */

/* Text under construction. With `data` NULL only the length is counted. */
struct text {
    char *data;
    size_t len;
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
    put_bytes(t, s, strlen(s));
}

/* Everything into `out`, and where contents lie into `literal` unless NULL. */
static void
render(const struct chat_template *t, const struct chat_message *m, int n, bool generate,
       struct text *out, struct text_range *literal)
{
    int i;

    if (t->default_system != NULL && strcmp(m[0].role, "system") != 0) {
        put(out, t->before_role);
        put(out, "system");
        put(out, t->after_role);
        put(out, t->default_system);
        put(out, t->after_content);
    }
    for (i = 0; i < n; i++) {
        put(out, t->before_role);
        put(out, m[i].role);
        put(out, t->after_role);
        if (literal != NULL)
            literal[i] = (struct text_range){ out->len, out->len + m[i].content_len };
        put_bytes(out, m[i].content, m[i].content_len);
        put(out, t->after_content);
    }
    if (generate)
        put(out, t->open_answer);
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
    struct text counted = { NULL, 0 }, out = { NULL, 0 };
    struct text_range *ranges = NULL;
    int rc;

    *text = NULL;
    *len = 0;
    if (literal != NULL) {
        *literal = NULL;
        *n_literal = 0;
    }
    if ((rc = check_messages(m, n, err)) != 0)
        return rc;
    render(t, m, n, generate, &counted, NULL);
    out.data = malloc(counted.len + 1);
    if (literal != NULL)
        ranges = calloc((size_t)n, sizeof(*ranges));
    if (out.data == NULL || (literal != NULL && ranges == NULL)) {
        free(out.data);
        free(ranges);
        return err_set(err, CE_ENOMEM, "no memory for a conversation of %zu bytes",
                       counted.len);
    }
    render(t, m, n, generate, &out, ranges);
    out.data[out.len] = '\0';
    *text = out.data;
    *len = out.len;
    if (literal != NULL) {
        *literal = ranges;
        *n_literal = (size_t)n;
    }
    return 0;
}

int
chat_template_encode(const struct chat_template *t, const struct tokenizer *tok,
                     const struct chat_message *m, int n, bool generate, int32_t *ids,
                     size_t cap, size_t *n_ids, struct err *err)
{
    size_t front = tokenizer_add_bos(tok) ? 1 : 0, len, n_literal,
           k = front < cap ? front : cap;
    struct text_range *literal;
    char *text;
    int rc;

    *n_ids = 0;
    rc = chat_template_render(t, m, n, generate, &text, &len, &literal, &n_literal, err);
    if (rc != 0)
        return rc;
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
