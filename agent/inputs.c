/* SPDX-License-Identifier: Apache-2.0
 * inputs.c - see inputs.h.
 */
#include "agent/inputs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytebuf.h"
#include "common/memory.h"

#define INPUT_MAX_TEXT ((size_t)16 << 20)

struct inputs {
    const struct agent_conf *conf;
    FILE *file; /* of --prompts; "-" is standard input */
    char *line; /* getline's */
    size_t line_cap;
    int line_no;
    bool done; /* the only one was given */
};

int
inputs_open(struct inputs **out, const struct agent_conf *conf, struct err *err)
{
    struct inputs *s = mem_array_alloc(1, sizeof(*s));

    *out = NULL;
    if (s == NULL)
        return err_set(err, CE_ENOMEM, "out of memory");
    s->conf = conf;
    if (conf->prompts_file != NULL) {
        s->file = strcmp(conf->prompts_file, "-") == 0 ? stdin
                                                       : fopen(conf->prompts_file, "re");
        if (s->file == NULL) {
            mem_free(s);
            return err_set(err, CE_EIO, "%s: %s", conf->prompts_file, strerror(errno));
        }
    }
    *out = s;
    return 0;
}

void
inputs_close(struct inputs *s)
{
    if (s == NULL)
        return;
    if (s->file != NULL && s->file != stdin)
        fclose(s->file);
    free(s->line);
    mem_free(s);
}

void
input_fini(struct input *in)
{
    mem_free(in->text);
    mem_free(in->ids);
    mem_free(in->force_ids);
    json_decref(in->id);
    memset(in, 0, sizeof(*in));
}

/* ---- a JSON object ---- */

static int
read_ids(const json_t *array, int32_t **ids, int *n, const char *key, struct err *err)
{
    size_t count = json_array_size(array);

    *ids = mem_array_alloc(count, sizeof(int32_t));
    if (*ids == NULL)
        return err_set(err, CE_ENOMEM, "no memory for %zu ids", count);
    for (size_t i = 0; i < count; i++) {
        const json_t *v = json_array_get(array, i);
        json_int_t id = json_integer_value(v);
        if (!json_is_integer(v) || id < 0 || id > INT32_MAX)
            return err_set(err, CE_EINVAL, "\"%s\" holds something that is no id", key);
        (*ids)[i] = (int32_t)id;
    }
    *n = (int)count;
    return 0;
}

static int
read_object(const json_t *o, struct input *in, struct err *err)
{
    const json_t *prompt = json_object_get(o, "prompt");
    const json_t *ids = json_object_get(o, "ids");
    const json_t *force = json_object_get(o, "force_ids");
    const json_t *max = json_object_get(o, "max_tokens");
    int rc = 0;

    if (json_is_string(prompt) == json_is_array(ids))
        return err_set(err, CE_EINVAL, "neither \"prompt\" nor \"ids\", or both");
    if (json_is_string(prompt)) {
        in->text_len = json_string_length(prompt);
        in->text = mem_strndup(json_string_value(prompt), in->text_len);
        if (in->text == NULL)
            return err_set(err, CE_ENOMEM, "out of memory");
    } else {
        rc = read_ids(ids, &in->ids, &in->n_ids, "ids", err);
    }
    if (rc == 0 && force != NULL)
        rc = json_is_array(force)
                 ? read_ids(force, &in->force_ids, &in->n_force_ids, "force_ids", err)
                 : err_set(err, CE_EINVAL, "\"force_ids\" is not an array");
    if (rc == 0 && max != NULL) {
        json_int_t v = json_integer_value(max);
        if (v < 1 || v > 1048576)
            return err_set(err, CE_EINVAL, "\"max_tokens\" is not from 1 to 1048576");
        in->max_tokens = (int)v;
    }
    in->id = json_incref(json_object_get(o, "id"));
    return rc;
}

/* The next line that is not empty. */
static int
next_line(struct inputs *s, struct input *in, struct err *err)
{
    for (;;) {
        json_error_t e;
        ssize_t n = getline(&s->line, &s->line_cap, s->file);
        if (n < 0)
            return 0;
        s->line_no++;
        if (strspn(s->line, " \t\r\n") == (size_t)n)
            continue;
        json_t *o = json_loadb(s->line, (size_t)n, JSON_ALLOW_NUL, &e);
        int rc = o != NULL && json_is_object(o)
                     ? read_object(o, in, err)
                     : err_set(err, CE_EFORMAT, "%s",
                               o != NULL ? "not a JSON object" : e.text);
        json_decref(o);
        if (rc < 0) {
            input_fini(in);
            return err_prefix(err, "%s:%d", s->conf->prompts_file, s->line_no);
        }
        return 1;
    }
}

/* ---- the one of the command line ---- */

static int
read_stdin(struct input *in, struct err *err)
{
    struct bytebuf b;
    char part[4096];
    size_t n;

    bytebuf_init(&b, INPUT_MAX_TEXT);
    while ((n = fread(part, 1, sizeof(part), stdin)) > 0)
        bytebuf_put_bytes(&b, part, n);
    if (bytebuf_status(&b) == 0)
        in->text = mem_strndup((const char *)bytebuf_data(&b), bytebuf_len(&b));
    in->text_len = bytebuf_len(&b);
    bytebuf_fini(&b);
    if (in->text == NULL)
        return err_set(err, CE_EQUOTA, "standard input: more than %zu bytes",
                       INPUT_MAX_TEXT);
    return 0;
}

static int
only_one(struct inputs *s, struct input *in, struct err *err)
{
    const struct agent_conf *c = s->conf;
    int rc = 0;

    if (s->done)
        return 0;
    s->done = true;
    if (c->ids != NULL) {
        rc = agent_conf_parse_ids(c->ids, &in->ids, &in->n_ids, err);
    } else if (strcmp(c->prompt, "-") == 0) {
        rc = read_stdin(in, err);
    } else {
        in->text_len = strlen(c->prompt);
        in->text = mem_strdup(c->prompt);
        if (in->text == NULL)
            rc = err_set(err, CE_ENOMEM, "out of memory");
    }
    return rc < 0 ? rc : 1;
}

int
inputs_next(struct inputs *s, struct input *in, struct err *err)
{
    memset(in, 0, sizeof(*in));
    in->max_tokens = (int)s->conf->max_tokens;
    int rc = s->file != NULL ? next_line(s, in, err) : only_one(s, in, err);
    if (rc == 1 && s->conf->force_ids != NULL && in->force_ids == NULL) {
        int e = agent_conf_parse_ids(s->conf->force_ids, &in->force_ids, &in->n_force_ids,
                                     err);
        rc = e < 0 ? e : 1;
    }
    if (rc < 0)
        input_fini(in);
    return rc;
}
