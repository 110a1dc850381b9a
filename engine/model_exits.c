/* SPDX-License-Identifier: Apache-2.0
 * model_exits.c - exit heads: found in the model's file or in a side file.
 *
 * The format is doc/EXITS.md. A side file belongs to one model, by digest; one that
 * was made for another model is an error, never silently ignored, because its heads
 * would be confident and wrong. Heads after layers that a split file does not hold
 * are left out.
 */
#include "engine/model.h"

#include <ctype.h>
#include <math.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/sha256.h"
#include "engine/model_internal.h"

#define EXITS_VERSION   1
#define EXITS_SUFFIX    ".exits.gguf"
#define MAX_ADAPTER_DIM (1 << 18)

static const char *const kind_names[] = {
    [MODEL_EXIT_SHARED] = "shared", [MODEL_EXIT_MLP] = "mlp", [MODEL_EXIT_OWN] = "own"
};
#define N_KINDS (sizeof(kind_names) / sizeof(kind_names[0]))

const char *
model_exit_kind_name(enum model_exit_kind kind)
{
    return kind_names[kind];
}

/* ---- one file's heads ---- */

static int
read_kind(const struct gguf *g, size_t i, struct model_exit *e, struct err *err)
{
    struct gguf_str s;
    int rc = gguf_array_str(g, "cecollm.exit.kinds", i, &s);

    if (rc != 0)
        return err_set(err, CE_EFORMAT,
                       "%s: key cecollm.exit.kinds: not text for each layer",
                       gguf_path(g));
    for (size_t k = 0; k < N_KINDS; k++) {
        if (s.len == strlen(kind_names[k]) && memcmp(s.data, kind_names[k], s.len) == 0) {
            e->kind = (enum model_exit_kind)k;
            return 0;
        }
    }
    return err_set(err, CE_EUNSUPPORTED,
                   "%s: key cecollm.exit.kinds: exit head of kind \"%.*s\" is not "
                   "supported (mlp, own, shared are)",
                   gguf_path(g), (int)(s.len < 60 ? s.len : 60), s.data);
}

/* Does the file have any of the gated part of the adapter? Without it, it is affine. */
static bool
is_gated(const struct gguf *g, int layer)
{
    const char *const parts[] = { "gate", "up", "down" };
    bool found = false;
    char name[64];

    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        snprintf(name, sizeof(name), "exit.%d.%s.weight", layer, parts[i]);
        found = found || gguf_find_tensor(g, name);
    }
    return found;
}

static int
find_gated(const struct model *m, const struct gguf *g, struct model_exit *e,
           struct err *err)
{
    size_t d = (size_t)m->config.d_model, w;
    const struct gguf_tensor *gate;
    char name[64];
    int rc;

    snprintf(name, sizeof(name), "exit.%d.gate.weight", e->layer);
    gate = gguf_find_tensor(g, name);
    w = gate ? gate->ne[1] : 1;
    if (w > MAX_ADAPTER_DIM)
        return err_set(err, CE_EFORMAT, "%s: tensor %s has %zu rows", gguf_path(g), name,
                       w);
    e->adapter_width = (int)w;
    if ((rc = model_tensor(g, name, w, d, &e->gate, err)))
        return rc;
    snprintf(name, sizeof(name), "exit.%d.up.weight", e->layer);
    if ((rc = model_tensor(g, name, w, d, &e->up, err)))
        return rc;
    snprintf(name, sizeof(name), "exit.%d.down.weight", e->layer);
    return model_tensor(g, name, d, w, &e->down, err);
}

static int
find_adapter(const struct model *m, const struct gguf *g, struct model_exit *e,
             struct err *err)
{
    size_t d = (size_t)m->config.d_model;
    char name[64];
    int rc;

    if (is_gated(g, e->layer) && (rc = find_gated(m, g, e, err)))
        return rc;
    snprintf(name, sizeof(name), "exit.%d.map.weight", e->layer);
    if ((rc = model_tensor(g, name, d, d, &e->map, err)))
        return rc;
    snprintf(name, sizeof(name), "exit.%d.map.bias", e->layer);
    return model_tensor(g, name, 0, d, &e->map_bias, err);
}

/* What the exit's confidence is made of, if it is more than the largest probability. */
static int
find_trust(const struct model *m, const struct gguf *g, struct model_exit *e,
           struct err *err)
{
    size_t d = (size_t)m->config.d_model;
    const float *weight, *bias;
    char name[64];
    bool fine;
    int rc;

    snprintf(name, sizeof(name), "exit.%d.trust.weight", e->layer);
    if (!gguf_find_tensor(g, name))
        return 0;
    if ((rc = model_tensor(g, name, 2, d, &e->trust, err)))
        return rc;
    snprintf(name, sizeof(name), "exit.%d.trust.bias", e->layer);
    if ((rc = model_tensor(g, name, 0, 2, &e->trust_bias, err)))
        return rc;
    weight = e->trust->data;
    bias = e->trust_bias->data;
    fine = e->trust->type == GGUF_F32 && isfinite(bias[0]) && bias[0] >= 0 &&
           isfinite(bias[1]);
    for (size_t i = 0; fine && i < 2 * d; i++)
        fine = isfinite(weight[i]);
    if (fine)
        return 0;
    return err_set(err, CE_EFORMAT,
                   "%s: tensors exit.%d.trust: expected finite numbers in F32, the first "
                   "of the bias at least 0",
                   gguf_path(g), e->layer);
}

/* Norm and output matrix of an exit that has both itself. */
static int
find_own(const struct model *m, const struct gguf *g, struct model_exit *e,
         struct err *err)
{
    size_t d = (size_t)m->config.d_model;
    char name[64];
    int rc;

    snprintf(name, sizeof(name), "exit.%d.norm.weight", e->layer);
    if ((rc = model_tensor(g, name, 0, d, &e->norm, err)))
        return rc;
    snprintf(name, sizeof(name), "exit.%d.output.weight", e->layer);
    return model_tensor(g, name, (size_t)m->config.n_vocab, d, &e->output, err);
}

/* The screen of exit i of the file, if it has one. */
static int
find_screen(const struct model *m, const struct gguf *g, size_t i, struct model_exit *e,
            struct err *err)
{
    size_t d = (size_t)m->config.d_model, rank;
    const struct gguf_tensor *down;
    char name[64];
    int64_t n = 0;
    int rc;

    if (gguf_find_key(g, "cecollm.exit.candidates") < 0)
        return 0;
    rc = gguf_array_i64(g, "cecollm.exit.candidates", i, &n);
    if (rc == 0 && n == 0)
        return 0;
    if (rc != 0 || n < 1 || n > MODEL_MAX_CANDIDATES || n > m->config.n_vocab)
        return err_set(err, CE_EFORMAT,
                       "%s: key cecollm.exit.candidates: expected a number from 0 to %d "
                       "for each layer",
                       gguf_path(g), MODEL_MAX_CANDIDATES);
    if (e->kind == MODEL_EXIT_OWN)
        return err_set(err, CE_EUNSUPPORTED,
                       "%s: key cecollm.exit.candidates: the exit after block %d is of "
                       "kind own; screens are for kinds mlp and shared",
                       gguf_path(g), e->layer);
    snprintf(name, sizeof(name), "exit.%d.screen.down.weight", e->layer);
    down = gguf_find_tensor(g, name);
    rank = down ? down->ne[1] : 32;
    if (rank % 32 != 0 || rank == 0 || rank > d)
        return err_set(err, CE_EFORMAT,
                       "%s: tensor %s has %zu rows; expected a multiple of 32 up to %zu",
                       gguf_path(g), name, rank, d);
    if ((rc = model_tensor(g, name, rank, d, &e->screen_down, err)))
        return rc;
    snprintf(name, sizeof(name), "exit.%d.screen.up.weight", e->layer);
    rc = model_tensor(g, name, (size_t)m->config.n_vocab, rank, &e->screen_up, err);
    e->n_candidates = rc == 0 ? (int)n : 0;
    return rc;
}

/* Layer i of the file's list, checked against what came before it. */
static int
read_layer(const struct model *m, const struct gguf *g, size_t i, int64_t before,
           int64_t *layer, struct err *err)
{
    if (gguf_array_i64(g, "cecollm.exit.layers", i, layer) != 0 || *layer <= before ||
        *layer >= m->config.n_layers)
        return err_set(err, CE_EFORMAT,
                       "%s: key cecollm.exit.layers: expected ascending numbers from 1 "
                       "to %d",
                       gguf_path(g), m->config.n_layers - 1);
    return 0;
}

static int
read_heads(struct model *m, const struct gguf *g, struct err *err)
{
    uint32_t type;
    size_t n, n_kinds, n_theta = 0;
    int64_t layer = 0;
    int version, rc;

    rc = model_key_int(g, "cecollm.exit.version", 0, 1 << 30, -1, &version, err);
    if (rc != 0)
        return rc;
    if (version != EXITS_VERSION)
        return err_set(err, CE_EUNSUPPORTED,
                       "%s: exit heads of version %d; this build knows %d", gguf_path(g),
                       version, EXITS_VERSION);
    if (gguf_get_array(g, "cecollm.exit.layers", &type, &n, NULL) != 0 ||
        gguf_get_array(g, "cecollm.exit.kinds", &type, &n_kinds, NULL) != 0 ||
        n != n_kinds || n < 1 || n > MODEL_MAX_EXITS)
        return err_set(err, CE_EFORMAT,
                       "%s: cecollm.exit.layers and .kinds are not two lists of 1 to %d",
                       gguf_path(g), MODEL_MAX_EXITS);
    rc = gguf_get_array(g, "cecollm.exit.theta", &type, &n_theta, err);
    if (rc != 0 && rc != CE_ENOTFOUND)
        return rc;
    for (size_t i = 0; i < n; i++) {
        struct model_exit *e = &m->exits[m->n_exits];
        double theta = 0;

        if ((rc = read_layer(m, g, i, layer, &layer, err)))
            return rc;
        if (layer <= m->layer_from || layer > m->layer_to)
            continue;
        memset(e, 0, sizeof(*e));
        e->layer = (int)layer;
        if ((rc = read_kind(g, i, e, err)))
            return rc;
        if (i < n_theta && (gguf_array_f64(g, "cecollm.exit.theta", i, &theta) != 0 ||
                            !(theta >= 0 && theta <= 1)))
            return err_set(err, CE_EFORMAT,
                           "%s: key cecollm.exit.theta: expected numbers from 0 to 1",
                           gguf_path(g));
        e->theta = (float)theta;
        if (e->kind == MODEL_EXIT_MLP &&
            ((rc = find_adapter(m, g, e, err)) || (rc = find_trust(m, g, e, err))))
            return rc;
        if (e->kind == MODEL_EXIT_OWN && (rc = find_own(m, g, e, err)))
            return rc;
        if ((rc = find_screen(m, g, i, e, err)))
            return rc;
        m->n_exits++;
    }
    return 0;
}

/* ---- the side file ---- */

static int
check_owner(const struct model *m, const struct gguf *g, struct err *err)
{
    uint8_t digest[SHA256_BYTES];
    char theirs[SHA256_TEXT], ours[SHA256_TEXT];
    struct gguf_str s;
    int rc = gguf_get_str(g, "general.architecture", &s, err);

    if (rc != 0 && rc != CE_ENOTFOUND)
        return rc;
    if (rc == CE_ENOTFOUND || s.len != 13 || memcmp(s.data, "cecollm-exits", 13) != 0)
        return err_set(err, CE_EFORMAT, "%s: not a file of exit heads", gguf_path(g));
    rc = gguf_get_str(g, "cecollm.exit.model_file_sha256", &s, err);
    if (rc == CE_ENOTFOUND || (rc == 0 && sha256_parse(s.data, s.len, digest) != 0))
        return err_set(
            err, CE_EFORMAT,
            "%s: key cecollm.exit.model_file_sha256 is not 64 hexadecimal digits",
            gguf_path(g));
    if (rc != 0)
        return rc;
    if (memcmp(digest, m->fingerprint, sizeof(digest)) == 0)
        return 0;
    sha256_text(digest, theirs);
    sha256_text(m->fingerprint, ours);
    return err_set(err, CE_EMISMATCH, "%s: exit heads of model %s, but this one is %s",
                   gguf_path(g), theirs, ours);
}

/* "Q4_1", "q4_k_m", "F16", "bf16", "IQ3_XS": what people put before .gguf. */
static bool
is_quant_name(const char *s, size_t n)
{
    size_t i = 0;

    if (i < n &&
        (tolower((unsigned char)s[i]) == 'i' || tolower((unsigned char)s[i]) == 'b'))
        i++;
    if (i >= n ||
        (tolower((unsigned char)s[i]) != 'q' && tolower((unsigned char)s[i]) != 'f'))
        return false;
    if (++i >= n || !isdigit((unsigned char)s[i]))
        return false;
    for (; i < n; i++) {
        if (!isalnum((unsigned char)s[i]) && s[i] != '_')
            return false;
    }
    return true;
}

/* Length of a file name without .gguf, a partition's mark and the quantisation. */
static size_t
stem_length(const char *file)
{
    size_t n = strlen(file);

    if (n > 5 && strcasecmp(file + n - 5, ".gguf") == 0)
        n -= 5;
    for (;;) {
        size_t cut = n, part;

        while (cut > 0 && file[cut - 1] != '.' && file[cut - 1] != '-')
            cut--;
        part = n - cut;
        if (cut < 2 || (!is_quant_name(file + cut, part) &&
                        !(part == 4 && strncasecmp(file + cut, "edge", 4) == 0) &&
                        !(part == 5 && strncasecmp(file + cut, "cloud", 5) == 0)))
            return n;
        n = cut - 1;
    }
}

/* The side file's path beside `path`, allocated; NULL in *out when none lies there. */
static int
find_side_file(const char *path, char **out, struct err *err)
{
    const char *slash = strrchr(path, '/');
    const char *file = slash ? slash + 1 : path;
    size_t dir_len = slash ? (size_t)(slash - path) + 1 : 0, stem = stem_length(file);
    char *found = NULL, *dir;
    const struct dirent *entry;
    DIR *d;

    *out = NULL;
    dir = dir_len > 0 ? strndup(path, dir_len) : strdup("./");
    if (!dir)
        return err_set(err, CE_ENOMEM, "%s: no memory", path);
    d = opendir(dir);
    free(dir);
    if (!d)
        return 0; /* a directory that cannot be listed shows no side file */
    while ((entry = readdir(d)) != NULL) {
        const char *name = entry->d_name;
        size_t size;

        if (strlen(name) != stem + strlen(EXITS_SUFFIX) ||
            strncasecmp(name, file, stem) != 0 ||
            strcasecmp(name + stem, EXITS_SUFFIX) != 0)
            continue;
        size = dir_len + strlen(name) + 1;
        free(found);
        found = malloc(size);
        if (!found) {
            closedir(d);
            return err_set(err, CE_ENOMEM, "%s: no memory", path);
        }
        snprintf(found, size, "%.*s%s", (int)dir_len, path, name);
        if (strncmp(name, file, stem) == 0)
            break; /* equal in case too: no better one can follow */
    }
    closedir(d);
    *out = found;
    return 0;
}

static int
load_side_file(struct model *m, const char *path, struct err *err)
{
    int rc = gguf_open(&m->exits_file, path, err);

    if (rc == 0)
        rc = check_owner(m, m->exits_file, err);
    if (rc == 0)
        rc = read_heads(m, m->exits_file, err);
    return rc;
}

int
model_load_exits(struct model *m, const char *exits_path, struct err *err)
{
    char *found = NULL;
    int rc;

    if (exits_path && exits_path[0] != '\0' && strcmp(exits_path, "none") != 0)
        return load_side_file(m, exits_path, err);
    if (!exits_path || exits_path[0] == '\0') {
        rc = find_side_file(gguf_path(m->file), &found, err);
        if (rc != 0)
            return rc;
        if (found) {
            rc = load_side_file(m, found, err);
            free(found);
            return rc;
        }
    }
    if (gguf_find_key(m->file, "cecollm.exit.version") >= 0)
        return read_heads(m, m->file, err);
    return 0;
}

int
model_set_shared_exits(struct model *m, const int *layers, int n, struct err *err)
{
    int last = m->layer_to < m->config.n_layers ? m->layer_to : m->config.n_layers - 1;

    if (n < 0 || n > MODEL_MAX_EXITS)
        return err_set(err, CE_EINVAL, "%d exits asked for; 0 to %d are possible", n,
                       MODEL_MAX_EXITS);
    for (int i = 0; i < n; i++) {
        if (layers[i] <= m->layer_from || layers[i] > last ||
            (i > 0 && layers[i] <= layers[i - 1]))
            return err_set(err, CE_EINVAL,
                           "%s: exit layers must ascend within %d to %d; got %d",
                           gguf_path(m->file), m->layer_from + 1, last, layers[i]);
    }
    memset(m->exits, 0, sizeof(m->exits));
    m->n_exits = n;
    m->exits_chosen = true;
    for (int i = 0; i < n; i++) {
        m->exits[i].layer = layers[i];
        m->exits[i].kind = MODEL_EXIT_SHARED;
    }
    return 0;
}
