/* SPDX-License-Identifier: Apache-2.0
 * edge_model.c - see edge_model.h.
 */
#include "agent/edge_model.h"

#include <stdlib.h>
#include <string.h>

#include "common/memory.h"

#define DEFAULT_THETA 0.9

/* "18,24" to layers; returns how many. */
static int
parse_layers(const char *text, int *layers, struct err *err)
{
    int n = 0;

    for (const char *s = text;;) {
        char *end;
        long v = strtol(s, &end, 10);
        if (end == s || v < 1 || v > 100000 || (*end != ',' && *end != '\0'))
            return err_set(err, CE_EINVAL, "exit_layers: \"%s\" is not a list of layers",
                           text);
        if (n == MODEL_MAX_EXITS)
            return err_set(err, CE_EINVAL, "exit_layers: more than %d layers",
                           MODEL_MAX_EXITS);
        layers[n++] = (int)v;
        if (*end == '\0')
            return n;
        s = end + 1;
    }
}

/* Exits, thresholds and the cut. */
static int
plan(struct edge_model *m, const struct agent_conf *conf, struct err *err)
{
    struct model *model = m->model;
    struct policy *p = &m->policy;
    int layers[MODEL_MAX_EXITS], rc = 0;

    if (conf->exit_layers != NULL && conf->exit_layers[0] != '\0') {
        rc = parse_layers(conf->exit_layers, layers, err);
        if (rc > 0)
            rc = model_set_shared_exits(model, layers, rc, err);
        if (rc < 0)
            return rc;
    }
    p->mode = (enum policy_mode)conf->mode;
    p->on_loss = (enum policy_loss)conf->on_cloud_loss;
    p->screens = conf->screens;
    p->n_exits = conf->no_exits ? 0 : model->n_exits;
    for (int k = 0; k < p->n_exits; k++) {
        double theta = (double)model->exits[k].theta;
        m->exit_layers[k] = model->exits[k].layer;
        p->theta[k] = theta > 0 ? theta : DEFAULT_THETA;
    }
    m->cut_layer =
        model->n_exits > 0 ? model->exits[0].layer : model->config.n_layers / 2;
    if (p->n_exits == 0 && conf->cut_layer > 0)
        m->cut_layer = (int)conf->cut_layer;
    if (m->cut_layer < 1 || m->cut_layer >= model->config.n_layers)
        return err_set(err, CE_EINVAL, "cut_layer: %d is not one of layers 1 to %d",
                       m->cut_layer, model->config.n_layers - 1);
    rc = policy_parse_upload(p, conf->upload, err);
    if (rc == 0 && conf->theta != NULL && conf->theta[0] != '\0')
        rc = policy_parse_theta(p, m->exit_layers, conf->theta, err);
    if (rc == 0 && p->mode == POLICY_STANDALONE && p->n_exits == 0)
        rc = err_set(err, CE_EINVAL,
                     "mode standalone needs exits: an .exits.gguf file beside the "
                     "model, or exit_layers");
    return rc;
}

static int
open_backend(struct edge_model *m, const struct agent_conf *conf, struct err *err)
{
    bool full = m->policy.mode == POLICY_EDGE_FULL;
    int n = m->policy.n_exits;
    struct backend_options opt = {
        .n_threads = (int)conf->threads,
        .cpu = conf->cpu,
        .packing_off = !conf->packing,
        .packing_cache = conf->packing_cache,
        .layer_to = full    ? m->model->config.n_layers
                    : n > 0 ? m->exit_layers[n - 1]
                            : m->cut_layer,
        .final_head = full,
        .exit_heads = n > 0 && m->policy.mode != POLICY_NAIVE && (!full || conf->trace),
        .n_ctx = (int)conf->context,
        .max_seqs = 1,
    };

    if (m->policy.mode == POLICY_CLOUD) {
        m->n_ctx = m->model->config.n_ctx;
        if (conf->context > 0 && conf->context < m->n_ctx)
            m->n_ctx = (int)conf->context;
        return 0;
    }
    int rc = backend_cpu_open(&m->backend, m->model, &opt, err);
    if (rc == 0)
        m->n_ctx = m->backend->info.n_ctx;
    return rc;
}

int
edge_model_open(struct edge_model *m, const struct agent_conf *conf, struct err *err)
{
    memset(m, 0, sizeof(*m));
    int rc = model_open(&m->model, conf->model, conf->exits, err);
    if (rc == 0)
        rc = tokenizer_open(&m->tokenizer, m->model->file, err);
    if (rc == 0 && !conf->raw) {
        rc = chat_template_find(&m->chat, m->model->file, conf->template_name, err);
        if (rc == CE_ENOTFOUND && conf->template_name == NULL)
            rc = 0; /* a base model: prompts go in as they are */
    }
    if (rc == 0)
        rc = plan(m, conf, err);
    if (rc == 0)
        rc = open_backend(m, conf, err);
    if (rc < 0)
        edge_model_close(m);
    return rc;
}

void
edge_model_close(struct edge_model *m)
{
    backend_close(m->backend);
    tokenizer_free(m->tokenizer);
    model_close(m->model);
    memset(m, 0, sizeof(*m));
}

/* ---- text and ids ---- */

static const char *
piece(const void *ctx, int32_t id, size_t *len)
{
    if (tokenizer_is_special(ctx, id)) {
        *len = 0;
        return "";
    }
    return tokenizer_piece(ctx, id, len);
}

static bool
ends(const void *ctx, int32_t id)
{
    return tokenizer_is_end_of_generation(ctx, id);
}

struct reply_vocab
edge_model_vocab(const struct edge_model *m)
{
    struct reply_vocab v = { piece, ends, m->tokenizer };

    return v;
}

/* bos where the vocabulary asks for it, then the text. */
static int
encode_raw(const struct edge_model *m, const struct chat_message *text, int32_t *ids,
           size_t cap, size_t *n, struct err *err)
{
    size_t bos = tokenizer_add_bos(m->tokenizer) ? 1 : 0;

    if (bos > 0 && cap > 0)
        ids[0] = tokenizer_bos(m->tokenizer);
    int rc =
        tokenizer_encode(m->tokenizer, text->content, text->content_len, true,
                         cap > bos ? ids + bos : NULL, cap > bos ? cap - bos : 0, n, err);
    *n += bos;
    return rc;
}

int
edge_model_encode(const struct edge_model *m, const struct chat_message *messages, int n,
                  int32_t **ids, size_t *n_ids, struct err *err)
{
    size_t cap = 512;
    int rc;

    for (;;) {
        *ids = mem_array_alloc(cap, sizeof(int32_t));
        if (*ids == NULL)
            return err_set(err, CE_ENOMEM, "no memory for %zu ids", cap);
        if (m->chat != NULL)
            rc = chat_template_encode(m->chat, m->tokenizer, messages, n, true, *ids, cap,
                                      n_ids, err);
        else
            rc = encode_raw(m, &messages[n - 1], *ids, cap, n_ids, err);
        if (rc == 0)
            return 0;
        mem_free(*ids);
        *ids = NULL;
        if (rc != CE_ECONTEXT || *n_ids <= cap)
            return rc;
        cap = *n_ids;
    }
}
