/* SPDX-License-Identifier: Apache-2.0
 * exit_checkpoint.c - see exit_checkpoint.h.
 */
#include "tools/exit_checkpoint.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/sha256.h"
#include "engine/gguf.h"

#define KEY_ARCH     "general.architecture"
#define ARCH         "cecollm-exit-training"
#define KEY_IDENTITY "cecollm.training.identity"
#define KEY_STEP     "cecollm.training.step"
#define KEY_STALE    "cecollm.training.stale"
#define KEY_LOSS     "cecollm.training.best_loss.%d"

/* The vectors of an exit, and what they are called. */
#define PARTS 4
static const char *const part_names[PARTS] = { "numbers", "mean", "square", "best" };

static float *
part_of(const struct exit_checkpoint *c, int e, int part)
{
    float *const parts[PARTS] = { c->exits[e].p, c->exits[e].m, c->exits[e].v,
                                  c->exits[e].best };

    return parts[part];
}

static void
name_part(char *out, size_t cap, int e, int part)
{
    snprintf(out, cap, "exit.%d.%s", e, part_names[part]);
}

int
exit_checkpoint_save(const struct exit_checkpoint *c, const char *path, struct err *err)
{
    struct gguf_writer *w;
    char text[SHA256_TEXT], name[64];
    int rc = gguf_writer_new(&w, err);

    if (rc != 0)
        return rc;
    sha256_text(c->identity, text);
    gguf_writer_str(w, KEY_ARCH, ARCH, strlen(ARCH));
    gguf_writer_str(w, KEY_IDENTITY, text, strlen(text));
    gguf_writer_u32(w, KEY_STEP, c->step);
    gguf_writer_u32(w, KEY_STALE, c->stale);
    for (int e = 0; e < c->n_exits; e++) {
        snprintf(name, sizeof(name), KEY_LOSS, e);
        gguf_writer_f32(w, name, c->exits[e].best_loss);
        for (int p = 0; p < PARTS; p++) {
            name_part(name, sizeof(name), e, p);
            gguf_writer_tensor(w, name, GGUF_F32, 1, &c->exits[e].n, part_of(c, e, p));
        }
    }
    rc = gguf_writer_finish(w, path, err);
    gguf_writer_free(w);
    return rc;
}

static int
check_identity(const struct exit_checkpoint *c, const struct gguf *g, struct err *err)
{
    struct gguf_str text;
    uint8_t identity[SHA256_BYTES];
    int rc = gguf_get_str(g, KEY_ARCH, &text, err);

    if (rc != 0 || text.len != strlen(ARCH) || memcmp(text.data, ARCH, text.len) != 0)
        return err_set(err, CE_EFORMAT, "%s: no state of a training run", gguf_path(g));
    rc = gguf_get_str(g, KEY_IDENTITY, &text, err);
    if (rc != 0 || sha256_parse(text.data, text.len, identity) != 0)
        return err_set(err, CE_EFORMAT, "%s: key %s is missing or no digest",
                       gguf_path(g), KEY_IDENTITY);
    if (memcmp(identity, c->identity, sizeof(identity)) != 0)
        return err_set(err, CE_EINVAL,
                       "%s: the state of a run with another model, other rows or other "
                       "parameters",
                       gguf_path(g));
    return 0;
}

static int
load_part(const struct exit_checkpoint *c, const struct gguf *g, int e, int part,
          struct err *err)
{
    const struct gguf_tensor *t;
    float *to = part_of(c, e, part);
    char name[64];

    name_part(name, sizeof(name), e, part);
    t = gguf_find_tensor(g, name);
    if (!t || t->type != GGUF_F32 || t->n_dims != 1 || t->ne[0] != c->exits[e].n)
        return err_set(err, CE_EFORMAT, "%s: tensor %s is missing or has another shape",
                       gguf_path(g), name);
    memcpy(to, t->data, t->size_bytes);
    for (size_t i = 0; i < t->ne[0]; i++) {
        if (!isfinite(to[i]))
            return err_set(err, CE_EFORMAT, "%s: tensor %s: number %zu is not finite",
                           gguf_path(g), name, i);
    }
    return 0;
}

static int
load_number(const struct gguf *g, const char *key, uint32_t *out, struct err *err)
{
    uint64_t v;
    int rc = gguf_get_u64(g, key, &v, err);

    if (rc != 0 || v > UINT32_MAX)
        return err_set(err, CE_EFORMAT, "%s: key %s is missing or no number",
                       gguf_path(g), key);
    *out = (uint32_t)v;
    return 0;
}

static int
load_exit(struct exit_checkpoint *c, const struct gguf *g, int e, struct err *err)
{
    char name[64];
    double loss;
    int rc;

    snprintf(name, sizeof(name), KEY_LOSS, e);
    rc = gguf_get_f64(g, name, &loss, err);
    if (rc != 0 || !isfinite(loss))
        return err_set(err, CE_EFORMAT, "%s: key %s is missing or no number",
                       gguf_path(g), name);
    c->exits[e].best_loss = (float)loss;
    for (int p = 0; rc == 0 && p < PARTS; p++)
        rc = load_part(c, g, e, p, err);
    return rc;
}

int
exit_checkpoint_load(struct exit_checkpoint *c, const char *path, struct err *err)
{
    struct gguf *g;
    int rc = gguf_open(&g, path, err);

    if (rc != 0)
        return rc;
    if ((rc = check_identity(c, g, err)) == 0 &&
        (rc = load_number(g, KEY_STEP, &c->step, err)) == 0)
        rc = load_number(g, KEY_STALE, &c->stale, err);
    for (int e = 0; rc == 0 && e < c->n_exits; e++)
        rc = load_exit(c, g, e, err);
    gguf_close(g);
    return rc;
}
