/* SPDX-License-Identifier: Apache-2.0
 * exits_record.c - see exits_record.h.
 */
#include "tools/exits_record.h"

#include <stdio.h>
#include <string.h>

#include "engine/gguf.h"
#include "tools/exits_file.h"

#define THETA     "cecollm.exit.theta"
#define EVAL      "cecollm.exit.eval."
#define REQUESTS  EVAL "request_rate"
#define ROUGE     EVAL "rouge_l"
#define IDENTICAL EVAL "identical"
#define AGREEMENT EVAL "agreement"
#define PROMPTS   EVAL "prompts"
#define TOKENS    EVAL "max_tokens"
#define SET       EVAL "set"

static void
put_keys(struct gguf_writer *w, const struct exits_record *r, const struct gguf *from,
         int n_exits)
{
    for (int i = 0; i < gguf_n_keys(from); i++) {
        const char *name = gguf_key_name(from, i);

        if (strcmp(name, THETA) != 0 && strncmp(name, EVAL, strlen(EVAL)) != 0)
            gguf_writer_copy_key(w, from, i);
    }
    gguf_writer_f32_array(w, THETA, r->theta, (size_t)n_exits);
    gguf_writer_str(w, SET, r->set, strlen(r->set));
    gguf_writer_u32(w, PROMPTS, (uint32_t)r->prompts);
    gguf_writer_u32(w, TOKENS, (uint32_t)r->max_tokens);
    gguf_writer_f32(w, REQUESTS, r->request_rate);
    gguf_writer_f32(w, ROUGE, r->rouge_l);
    gguf_writer_f32(w, IDENTICAL, r->identical);
    gguf_writer_f32_array(w, AGREEMENT, r->agreement, (size_t)n_exits);
}

int
exits_record_write(const struct exits_record *r, const struct model *m, struct err *err)
{
    const struct gguf *from = m->exits_file;
    struct gguf_writer *w = NULL;
    char path[4096];
    int rc;

    if (!from)
        return err_set(err, CE_EUNSUPPORTED,
                       "%s: its exits are in no file of their own, to be recorded in",
                       gguf_path(m->file));
    if ((rc = exits_file_check(m, err)))
        return rc;
    if (strlen(gguf_path(from)) >= sizeof(path))
        return err_set(err, CE_EINVAL, "%s: the name is too long", gguf_path(from));
    snprintf(path, sizeof(path), "%s", gguf_path(from));
    if ((rc = gguf_writer_new(&w, err)))
        return rc;
    put_keys(w, r, from, m->n_exits);
    for (int i = 0; i < gguf_n_tensors(from); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(from, i);

        gguf_writer_tensor(w, t->name, t->type, t->n_dims, t->ne, t->data);
    }
    rc = gguf_writer_finish(w, path, err);
    gguf_writer_free(w);
    return rc;
}

static bool
read_share(const struct gguf *g, const char *key, float *out)
{
    struct err err = { 0 };
    double v;

    if (gguf_get_f64(g, key, &v, &err) != 0 || !(v >= 0 && v <= 1))
        return false;
    *out = (float)v;
    return true;
}

static bool
read_count(const struct gguf *g, const char *key, int *out)
{
    struct err err = { 0 };
    uint64_t v;

    if (gguf_get_u64(g, key, &v, &err) != 0 || v > 1 << 30)
        return false;
    *out = (int)v;
    return true;
}

bool
exits_record_read(struct exits_record *out, const struct model *m)
{
    const struct gguf *g = m->exits_file ? m->exits_file : m->file;
    struct err err = { 0 };
    struct gguf_str set;
    uint32_t type;
    size_t n = 0;

    *out = (struct exits_record){ 0 };
    if (!read_share(g, REQUESTS, &out->request_rate) ||
        !read_share(g, ROUGE, &out->rouge_l) ||
        !read_share(g, IDENTICAL, &out->identical) ||
        !read_count(g, PROMPTS, &out->prompts) ||
        !read_count(g, TOKENS, &out->max_tokens) ||
        gguf_get_str(g, SET, &set, &err) != 0 ||
        gguf_get_array(g, AGREEMENT, &type, &n, &err) != 0 || n != (size_t)m->n_exits)
        return false;
    for (int k = 0; k < m->n_exits; k++) {
        double v;

        if (gguf_array_f64(g, AGREEMENT, (size_t)k, &v) != 0 || !(v >= 0 && v <= 1))
            return false;
        out->agreement[k] = (float)v;
        out->theta[k] = m->exits[k].theta;
    }
    for (size_t i = 0; i < set.len && i + 1 < sizeof(out->set); i++)
        out->set[i] = set.data[i] >= ' ' && set.data[i] < 0x7f ? set.data[i] : '?';
    return true;
}
