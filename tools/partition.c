/* SPDX-License-Identifier: Apache-2.0
 * partition.c - see partition.h.
 *
 * A part keeps all of its model's keys, the vocabulary too (about 2 MB of text):
 * then everything that reads a whole file reads a part, and prints the same names.
 * Blocks keep their numbers; model.c learns the range from the split's keys.
 */
#include "tools/partition.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool
starts_with(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

bool
partition_has_exit(const struct partition *p, const struct model_exit *e)
{
    return p->exit_heads && e->layer > p->layer_from && e->layer <= p->layer_to;
}

/* Norm and output matrix: for the final head, and for every exit head without its own. */
static bool
needs_output(const struct partition *p)
{
    const struct model *m = p->model;

    if (p->layer_to == m->config.n_layers)
        return true;
    for (int i = 0; i < m->n_exits; i++) {
        if (partition_has_exit(p, &m->exits[i]) && m->exits[i].kind != MODEL_EXIT_OWN)
            return true;
    }
    return false;
}

bool
partition_needs(const struct partition *p, const char *tensor)
{
    long block;

    if (strcmp(tensor, MODEL_ROPE_FREQS) == 0)
        return true;
    if (strcmp(tensor, "token_embd.weight") == 0)
        return p->layer_from == 0 || (p->model->config.tied_output && needs_output(p));
    if (strcmp(tensor, "output.weight") == 0 || strcmp(tensor, "output_norm.weight") == 0)
        return needs_output(p);
    if (!starts_with(tensor, "blk."))
        return false;
    block = strtol(tensor + 4, NULL, 10);
    return block >= p->layer_from && block < p->layer_to;
}

size_t
partition_exit_bytes(const struct model_exit *e)
{
    const struct gguf_tensor *parts[] = { e->map,    e->map_bias,    e->gate,
                                          e->up,     e->down,        e->norm,
                                          e->output, e->screen_down, e->screen_up,
                                          e->trust,  e->trust_bias };
    size_t sum = 0;

    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        sum += parts[i] ? parts[i]->size_bytes : 0;
    return sum;
}

size_t
partition_weight_bytes(const struct partition *p)
{
    const struct model *m = p->model;
    size_t sum = 0;

    for (int i = 0; i < gguf_n_tensors(m->file); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(m->file, i);

        if (partition_needs(p, t->name))
            sum += t->size_bytes;
    }
    for (int i = 0; i < m->n_exits; i++) {
        if (partition_has_exit(p, &m->exits[i]))
            sum += partition_exit_bytes(&m->exits[i]);
    }
    return sum;
}

size_t
partition_kv_bytes(const struct partition *p, size_t n_positions)
{
    const struct model_config *c = &p->model->config;
    size_t per_block = (size_t)c->n_kv_heads * (size_t)c->head_dim * 2 * sizeof(uint16_t);

    return per_block * (size_t)(p->layer_to - p->layer_from) * n_positions;
}

/* ---- writing ---- */

static void
add_tensor(struct gguf_writer *w, const struct gguf_tensor *t)
{
    if (t)
        gguf_writer_tensor(w, t->name, t->type, t->n_dims, t->ne, t->data);
}

static void
copy_exit_keys(struct gguf_writer *w, const struct gguf *from)
{
    for (int i = 0; i < gguf_n_keys(from); i++) {
        if (starts_with(gguf_key_name(from, i), "cecollm.exit."))
            gguf_writer_copy_key(w, from, i);
    }
}

/* For exits that the command line asked for, which no file describes. */
static void
add_chosen_keys(struct gguf_writer *w, const struct model *m)
{
    struct gguf_str kinds[MODEL_MAX_EXITS];
    int32_t layers[MODEL_MAX_EXITS];

    for (int i = 0; i < m->n_exits; i++) {
        kinds[i].data = model_exit_kind_name(m->exits[i].kind);
        kinds[i].len = strlen(kinds[i].data);
        layers[i] = m->exits[i].layer;
    }
    gguf_writer_u32(w, "cecollm.exit.version", 1);
    gguf_writer_i32_array(w, "cecollm.exit.layers", layers, (size_t)m->n_exits);
    gguf_writer_str_array(w, "cecollm.exit.kinds", kinds, (size_t)m->n_exits);
}

static void
add_keys(struct gguf_writer *w, const struct partition *p, bool with_exits)
{
    const struct model *m = p->model;
    char digest[65];

    for (int i = 0; i < gguf_n_keys(m->file); i++) {
        const char *name = gguf_key_name(m->file, i);

        if (!starts_with(name, "cecollm.split.") && !starts_with(name, "cecollm.exit."))
            gguf_writer_copy_key(w, m->file, i);
    }
    gguf_writer_u32(w, "cecollm.split.layer_from", (uint32_t)p->layer_from);
    gguf_writer_u32(w, "cecollm.split.layer_to", (uint32_t)p->layer_to);
    model_fingerprint_text(m, digest);
    gguf_writer_str(w, "cecollm.split.source_sha256", digest, strlen(digest));
    if (with_exits && m->exits_chosen)
        add_chosen_keys(w, m);
    else if (with_exits)
        copy_exit_keys(w, m->exits_file ? m->exits_file : m->file);
}

int
partition_write(const struct partition *p, const char *path, struct err *err)
{
    const struct model *m = p->model;
    struct gguf_writer *w = NULL;
    bool with_exits = false;
    int rc;

    if (m->layer_from != 0 || m->layer_to != m->config.n_layers)
        return err_set(err, CE_EINVAL,
                       "%s: already a part (blocks %d to %d); split the whole file",
                       gguf_path(m->file), m->layer_from, m->layer_to - 1);
    if ((rc = gguf_writer_new(&w, err)))
        return rc;
    for (int i = 0; i < m->n_exits; i++)
        with_exits = with_exits || partition_has_exit(p, &m->exits[i]);
    add_keys(w, p, with_exits);
    for (int i = 0; i < gguf_n_tensors(m->file); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(m->file, i);

        if (partition_needs(p, t->name))
            add_tensor(w, t);
    }
    for (int i = 0; i < m->n_exits; i++) {
        const struct model_exit *e = &m->exits[i];

        if (!partition_has_exit(p, e))
            continue;
        add_tensor(w, e->map);
        add_tensor(w, e->map_bias);
        add_tensor(w, e->gate);
        add_tensor(w, e->up);
        add_tensor(w, e->down);
        add_tensor(w, e->trust);
        add_tensor(w, e->trust_bias);
        add_tensor(w, e->norm);
        add_tensor(w, e->output);
        add_tensor(w, e->screen_down);
        add_tensor(w, e->screen_up);
    }
    rc = gguf_writer_finish(w, path, err);
    gguf_writer_free(w);
    return rc;
}
