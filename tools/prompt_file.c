/* SPDX-License-Identifier: Apache-2.0
 * prompt_file.c - see prompt_file.h.
 */
#include "tools/prompt_file.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "common/memory.h"
#include "engine/chat_template.h"
#include "tools/command.h"

#define MAX_FILE ((size_t)256 << 20)

struct reading {
    const struct prompt_format *format;
    const struct chat_template *chat; /* NULL: a base model's */
    int32_t *ids;                     /* [format->max_ids] */
};

/* The ids of a text; *n also when that is more than there is room for. */
static int
encode(const struct reading *r, const char *text, size_t len, size_t *n, struct err *err)
{
    const struct tokenizer *t = r->format->vocab;
    struct chat_message message = { "user", text, len };
    size_t cap = (size_t)r->format->max_ids, bos = tokenizer_add_bos(t) ? 1 : 0;
    int rc;

    if (r->chat)
        return chat_template_encode(r->chat, t, &message, 1, true, r->ids, cap, n, err);
    if (bos > 0)
        r->ids[0] = tokenizer_bos(t);
    rc = tokenizer_encode(t, text, len, true, r->ids + bos, cap - bos, n, err);
    *n += bos;
    return rc;
}

static int
add(struct prompt_file *f, const struct reading *r, const json_t *text, struct err *err)
{
    struct prompt *p = &f->list[f->n];
    size_t n = 0;
    int rc = encode(r, json_string_value(text), json_string_length(text), &n, err);

    if (rc == CE_ECONTEXT)
        return err_set(err, CE_ECONTEXT,
                       "a prompt of %zu tokens; with the answer the context has room for "
                       "%d",
                       n, r->format->max_ids);
    if (rc == 0 && n == 0)
        return err_set(err, CE_EINVAL, "the prompt is empty");
    if (rc != 0)
        return rc;
    p->ids = mem_array_alloc(n, sizeof(*p->ids));
    if (!p->ids)
        return err_set(err, CE_ENOMEM, "no memory for %zu ids", n);
    memcpy(p->ids, r->ids, n * sizeof(*p->ids));
    p->n = (int)n;
    f->n++;
    return 0;
}

static int
read_line(struct prompt_file *f, const struct reading *r, const char *line, size_t len,
          struct err *err)
{
    json_error_t at;
    json_t *o = json_loadb(line, len, JSON_ALLOW_NUL, &at);
    const json_t *prompt = json_object_get(o, "prompt");
    int rc;

    if (!o)
        rc = err_set(err, CE_EFORMAT, "not JSON: column %d: %s", at.column, at.text);
    else if (!json_is_string(prompt))
        rc = err_set(err, CE_EFORMAT, "no object with a text \"prompt\"");
    else
        rc = add(f, r, prompt, err);
    json_decref(o);
    return rc;
}

static int
read_lines(struct prompt_file *f, const struct reading *r, const char *path, int limit,
           const char *text, size_t len, struct err *err)
{
    size_t line = 0;
    int rc = 0;

    for (size_t at = 0; rc == 0 && at < len && f->n < limit;) {
        const char *end = memchr(text + at, '\n', len - at);
        size_t n = end ? (size_t)(end - text) - at : len - at;

        line++;
        if (strspn(text + at, " \t\r") < n)
            rc = read_line(f, r, text + at, n, err);
        at += n + 1;
    }
    if (rc != 0)
        return err_prefix(err, "%s: line %zu", path, line);
    return f->n > 0 ? 0 : err_set(err, CE_EINVAL, "%s: holds no prompt", path);
}

int
prompt_file_read(struct prompt_file *out, const char *path, int limit,
                 const struct prompt_format *format, struct err *err)
{
    struct reading r = { .format = format };
    char *text = NULL;
    size_t len;
    int rc = chat_template_find(&r.chat, format->model, NULL, err);

    *out = (struct prompt_file){ 0 };
    if (rc == CE_ENOTFOUND)
        rc = 0; /* a base model: prompts go in as they are */
    if (rc == 0)
        rc = command_read_text(path, MAX_FILE, &text, &len, err);
    if (rc != 0)
        return rc;
    out->list = mem_array_alloc((size_t)limit, sizeof(*out->list));
    r.ids = mem_array_alloc((size_t)format->max_ids, sizeof(*r.ids));
    if (out->list && r.ids)
        rc = read_lines(out, &r, path, limit, text, len, err);
    else
        rc = err_set(err, CE_ENOMEM, "%s: no memory for %d prompts", path, limit);
    mem_free(r.ids);
    free(text);
    return rc;
}

void
prompt_file_free(struct prompt_file *f)
{
    for (int i = 0; i < f->n; i++)
        mem_free(f->list[i].ids);
    mem_free(f->list);
    *f = (struct prompt_file){ 0 };
}
