/* SPDX-License-Identifier: Apache-2.0
 * exits_file.c - see exits_file.h.
 *
 * Keys are copied whole, so that what other programs noted in a file of exits (how it
 * was trained, say) stays. From a model's own file only the keys of exits come.
 */
#include "tools/exits_file.h"

#include <stdio.h>
#include <string.h>

#include "common/memory.h"
#include "engine/gguf.h"
#include "engine/quant.h"

#define CANDIDATES    "cecollm.exit.candidates"
#define DIGEST        "cecollm.exit.model_file_sha256"
#define THETA         "cecollm.exit.theta"
#define PARTS_OF_EXIT 4 /* matrices of an adapter */

/* What must live until the writer has finished. */
struct job {
    const struct exits_file *e;
    struct gguf_writer *w;
    void *owned[MODEL_MAX_EXITS * PARTS_OF_EXIT];
    int n_owned;
};

static const struct gguf *
source(const struct model *m)
{
    return m->exits_file ? m->exits_file : m->file;
}

int
exits_file_check(const struct model *m, struct err *err)
{
    const struct gguf *from = source(m);
    uint32_t type;
    size_t n = 0;
    int rc = gguf_get_array(from, "cecollm.exit.layers", &type, &n, err);

    if (rc == 0 && n != (size_t)m->n_exits)
        return err_set(err, CE_EUNSUPPORTED,
                       "%s: of the %zu exits in %s this part of a model has %d; give the "
                       "whole model",
                       gguf_path(m->file), n, gguf_path(from), m->n_exits);
    return rc;
}

static void
add_keys(const struct job *j)
{
    const struct model *m = j->e->model;
    const struct gguf *from = source(m);
    int32_t candidates[MODEL_MAX_EXITS];
    bool whole = m->exits_file != NULL;
    char digest[65];

    if (!whole) {
        model_fingerprint_text(m, digest);
        gguf_writer_str(j->w, "general.architecture", "cecollm-exits", 13);
        gguf_writer_str(j->w, DIGEST, digest, strlen(digest));
    }
    for (int i = 0; i < gguf_n_keys(from); i++) {
        const char *name = gguf_key_name(from, i);

        if (strcmp(name, CANDIDATES) == 0 || (j->e->theta && strcmp(name, THETA) == 0))
            continue;
        if (whole ||
            (strncmp(name, "cecollm.exit.", 13) == 0 && strcmp(name, DIGEST) != 0))
            gguf_writer_copy_key(j->w, from, i);
    }
    if (j->e->theta)
        gguf_writer_f32_array(j->w, THETA, j->e->theta, (size_t)m->n_exits);
    if (!j->e->screens)
        return;
    for (int i = 0; i < m->n_exits; i++)
        candidates[i] = j->e->n_candidates;
    gguf_writer_i32_array(j->w, CANDIDATES, candidates, (size_t)m->n_exits);
}

/* A matrix of an adapter, in Q8_0 if it is asked for and possible. */
static int
add_matrix(struct job *j, const struct gguf_tensor *t, struct err *err)
{
    size_t rows = t->ne[1], cols = t->ne[0], from, to = quant_row_bytes(GGUF_Q8_0, cols);
    bool wide = t->type == GGUF_F32 || t->type == GGUF_F16;
    unsigned char *data;
    float *row;
    int rc = 0;

    if (!j->e->adapters_q8_0 || !wide || to == 0) {
        gguf_writer_tensor(j->w, t->name, t->type, t->n_dims, t->ne, t->data);
        return 0;
    }
    from = quant_row_bytes(t->type, cols);
    data = mem_array_alloc(rows, to);
    j->owned[j->n_owned++] = data;
    row = mem_array_alloc(cols, sizeof(*row));
    if (!data || !row)
        rc = err_set(err, CE_ENOMEM, "no memory for %s", t->name);
    for (size_t i = 0; rc == 0 && i < rows; i++) {
        rc = quant_dequantise_row(t->type, (const unsigned char *)t->data + i * from, row,
                                  cols);
        if (rc == 0)
            rc = quant_quantise_row(GGUF_Q8_0, row, data + i * to, cols);
        if (rc != 0)
            err_set(err, rc, "%s: tensor %s cannot be stored as Q8_0",
                    gguf_path(source(j->e->model)), t->name);
    }
    mem_free(row);
    if (rc == 0)
        gguf_writer_tensor(j->w, t->name, GGUF_Q8_0, t->n_dims, t->ne, data);
    return rc;
}

static int
add_exit(struct job *j, int i, struct err *err)
{
    const struct model *m = j->e->model;
    const struct model_exit *x = &m->exits[i];
    const struct exits_screen *s = j->e->screens ? &j->e->screens[i] : NULL;
    const struct gguf_tensor *matrices[PARTS_OF_EXIT] = { x->map, x->gate, x->up,
                                                          x->down };
    char name[64];
    int rc;

    for (int k = 0; x->kind == MODEL_EXIT_MLP && k < PARTS_OF_EXIT; k++) {
        if (matrices[k] && (rc = add_matrix(j, matrices[k], err)))
            return rc;
    }
    if (x->kind == MODEL_EXIT_MLP)
        gguf_writer_tensor(j->w, x->map_bias->name, x->map_bias->type,
                           x->map_bias->n_dims, x->map_bias->ne, x->map_bias->data);
    if (x->trust) {
        gguf_writer_tensor(j->w, x->trust->name, GGUF_F32, x->trust->n_dims, x->trust->ne,
                           x->trust->data);
        gguf_writer_tensor(j->w, x->trust_bias->name, GGUF_F32, x->trust_bias->n_dims,
                           x->trust_bias->ne, x->trust_bias->data);
    }
    if (!s)
        return 0;
    snprintf(name, sizeof(name), "exit.%d.screen.down.weight", x->layer);
    gguf_writer_tensor(j->w, name, s->down_type, 2,
                       (size_t[]){ (size_t)m->config.d_model, j->e->rank }, s->down);
    snprintf(name, sizeof(name), "exit.%d.screen.up.weight", x->layer);
    gguf_writer_tensor(j->w, name, s->up_type, 2,
                       (size_t[]){ j->e->rank, (size_t)m->config.n_vocab }, s->up);
    return 0;
}

int
exits_file_write(const struct exits_file *e, const char *path, struct err *err)
{
    struct job j = { .e = e };
    int rc = gguf_writer_new(&j.w, err);

    if (rc != 0)
        return rc;
    add_keys(&j);
    for (int i = 0; rc == 0 && i < e->model->n_exits; i++)
        rc = add_exit(&j, i, err);
    if (rc == 0)
        rc = gguf_writer_finish(j.w, path, err);
    gguf_writer_free(j.w);
    for (int i = 0; i < j.n_owned; i++)
        mem_free(j.owned[i]);
    return rc;
}

/* ---- adapters just trained ---- */

#define PARTS_OF_ADAPTER 5
#define PARTS_TRAINED    (PARTS_OF_ADAPTER + 2) /* and the trust's */

static void
add_trained_keys(struct gguf_writer *w, const struct exits_adapters *a)
{
    struct gguf_str kinds[MODEL_MAX_EXITS];
    size_t n = (size_t)a->n_exits;
    float loss[MODEL_MAX_EXITS], agreement[MODEL_MAX_EXITS];
    int32_t layers[MODEL_MAX_EXITS];
    char digest[65], seed[24];

    for (size_t i = 0; i < n; i++) {
        kinds[i] = (struct gguf_str){ "mlp", 3 };
        layers[i] = a->layers[i];
        loss[i] = (float)a->adapters[i].loss;
        agreement[i] = (float)a->adapters[i].agreement;
    }
    model_fingerprint_text(a->model, digest);
    snprintf(seed, sizeof(seed), "%llu", (unsigned long long)a->seed);
    gguf_writer_str(w, "general.architecture", "cecollm-exits", 13);
    gguf_writer_u32(w, "cecollm.exit.version", 1);
    gguf_writer_str(w, DIGEST, digest, strlen(digest));
    gguf_writer_i32_array(w, "cecollm.exit.layers", layers, n);
    gguf_writer_str_array(w, "cecollm.exit.kinds", kinds, n);
    gguf_writer_u32(w, "cecollm.exit.trained.tokens", (uint32_t)a->n_rows);
    gguf_writer_u32(w, "cecollm.exit.trained.steps", (uint32_t)a->n_steps);
    gguf_writer_str(w, "cecollm.exit.trained.seed", seed, strlen(seed));
    gguf_writer_f32_array(w, "cecollm.exit.trained.loss", loss, n);
    gguf_writer_f32_array(w, "cecollm.exit.trained.agreement", agreement, n);
}

/* One of an adapter's tensors; *data is what the writer borrows, to be freed. */
static int
add_trained(struct gguf_writer *w, int layer, const char *part, uint32_t type,
            const float *x, size_t rows, size_t cols, int n_dims, void **data,
            struct err *err)
{
    size_t bytes = quant_row_bytes(type, cols);
    char name[64];

    snprintf(name, sizeof(name), "exit.%d.%s", layer, part);
    if (bytes == 0)
        return err_set(err, CE_EINVAL, "%s: rows of %zu numbers cannot be stored as %s",
                       name, cols, gguf_type_name(type));
    *data = mem_array_alloc(rows, bytes);
    if (!*data)
        return err_set(err, CE_ENOMEM, "no memory for %s", name);
    for (size_t i = 0; i < rows; i++) {
        if (quant_quantise_row(type, x + i * cols, (unsigned char *)*data + i * bytes,
                               cols) != 0)
            return err_set(err, CE_EINVAL, "%s: numbers that %s cannot hold", name,
                           gguf_type_name(type));
    }
    gguf_writer_tensor(w, name, type, n_dims, (size_t[]){ cols, rows }, *data);
    return 0;
}

static int
add_trust(struct gguf_writer *w, const struct exits_adapters *a, int i, void **data,
          struct err *err)
{
    const struct exit_trust *t = a->trusts ? &a->trusts[i] : NULL;
    int l = a->layers[i], rc;

    if (!t || !t->weight)
        return 0;
    rc = add_trained(w, l, "trust.weight", GGUF_F32, t->weight, 2, a->adapters[i].d, 2,
                     &data[0], err);
    return rc != 0 ? rc
                   : add_trained(w, l, "trust.bias", GGUF_F32, t->bias, 1, 2, 1, &data[1],
                                 err);
}

static int
add_adapter(struct gguf_writer *w, const struct exits_adapters *a, int i, void **data,
            struct err *err)
{
    const struct exit_adapter *x = &a->adapters[i];
    int l = a->layers[i], rc;

    if ((rc = add_trained(w, l, "map.weight", a->type, x->map, x->d, x->d, 2, &data[0],
                          err)) ||
        (rc = add_trained(w, l, "map.bias", GGUF_F32, x->bias, 1, x->d, 1, &data[1],
                          err)) ||
        x->w == 0)
        return rc;
    if ((rc = add_trained(w, l, "gate.weight", a->type, x->gate, x->w, x->d, 2, &data[2],
                          err)) ||
        (rc = add_trained(w, l, "up.weight", a->type, x->up, x->w, x->d, 2, &data[3],
                          err)))
        return rc;
    return add_trained(w, l, "down.weight", a->type, x->down, x->d, x->w, 2, &data[4],
                       err);
}

int
exits_file_write_adapters(const struct exits_adapters *a, const char *path,
                          struct err *err)
{
    void *data[MODEL_MAX_EXITS][PARTS_TRAINED] = { { NULL } };
    struct gguf_writer *w;
    int rc = gguf_writer_new(&w, err);

    if (rc != 0)
        return rc;
    add_trained_keys(w, a);
    for (int i = 0; rc == 0 && i < a->n_exits; i++)
        rc = add_adapter(w, a, i, data[i], err);
    for (int i = 0; rc == 0 && i < a->n_exits; i++)
        rc = add_trust(w, a, i, data[i] + PARTS_OF_ADAPTER, err);
    if (rc == 0)
        rc = gguf_writer_finish(w, path, err);
    gguf_writer_free(w);
    for (int i = 0; i < a->n_exits; i++) {
        for (int k = 0; k < PARTS_TRAINED; k++)
            mem_free(data[i][k]);
    }
    return rc;
}
