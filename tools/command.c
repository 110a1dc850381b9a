/* SPDX-License-Identifier: Apache-2.0
 * command.c - see command.h.
 */
#include "tools/command.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/memory.h"
#include "engine/quant.h"
#include "engine/utf8_stream.h"
#include "tools/progress.h"

int
command_print_json(json_t *json, bool indented, struct err *err)
{
    size_t flags = JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9);
    int rc = 0;

    if (!json)
        return err_set(err, CE_ENOMEM, "no memory for JSON");
    if (indented)
        flags |= JSON_INDENT(2);
    if (json_dumpf(json, stdout, flags) != 0)
        rc = err_set(err, CE_EIO, "stdout: %s", strerror(errno));
    putchar('\n');
    json_decref(json);
    return rc;
}

/* ---- a model ready to compute ---- */

static int
need_whole(const struct model *m, const char *what, struct err *err)
{
    if (!what || (m->layer_from == 0 && m->layer_to == m->config.n_layers))
        return 0;
    return err_set(
        err, CE_EUNSUPPORTED, "%s: holds blocks %d to %d of %d; %s needs the whole model",
        gguf_path(m->file), m->layer_from, m->layer_to - 1, m->config.n_layers, what);
}

static int
read_packing(struct backend_options *o, const struct engine_options *e, struct err *err)
{
    const char *packing = e->packing ? e->packing : "on";

    if (strcmp(packing, "on") != 0 && strcmp(packing, "off") != 0)
        return err_set(err, CE_EINVAL, "--packing: %s is neither on nor off", packing);
    o->packing_off = strcmp(packing, "off") == 0;
    o->packing_cache = e->packing_cache;
    return 0;
}

int
command_find_type(const char *option, const char *name, uint32_t *type, struct err *err)
{
    for (*type = 0; *type <= GGUF_BF16; ++*type)
        if (quant_is_known(*type) && strcasecmp(name, gguf_type_name(*type)) == 0)
            return 0;
    return err_set(err, CE_EINVAL, "%s: \"%s\" is none of " QUANT_TYPES, option, name);
}

int
command_open_model(struct model **out, const char *path, const char *exits,
                   const struct options_list *exit_layers, struct err *err)
{
    int rc = model_open(out, path, exits, err);

    if (rc == 0 && exit_layers->n > 0)
        rc = model_set_shared_exits(*out, exit_layers->v, exit_layers->n, err);
    if (rc != 0) {
        model_close(*out);
        *out = NULL;
    }
    return rc;
}

int
command_load(struct loaded *out, const char *path, const struct engine_options *e,
             const struct backend_options *opt, const char *whole, struct err *err)
{
    struct backend_options o = *opt;
    struct progress_busy *busy;
    char label[120];
    int rc;

    *out = (struct loaded){ 0 };
    if ((rc = read_packing(&o, e, err)))
        return rc;
    snprintf(label, sizeof(label), "loading %s", path);
    busy = progress_busy_start(label);
    rc = command_open_model(&out->model, path, e->exits, &e->exit_layers, err);
    if (rc == 0)
        rc = need_whole(out->model, whole, err);
    if (rc == 0) {
        o.n_threads = e->threads;
        o.cpu = e->cpu;
        o.layer_from = out->model->layer_from;
        o.layer_to = out->model->layer_to;
        rc = backend_cpu_open(&out->backend, out->model, &o, err);
    }
    progress_busy_end(busy);
    if (rc != 0)
        command_unload(out);
    return rc;
}

void
command_unload(struct loaded *l)
{
    backend_close(l->backend);
    model_close(l->model);
    *l = (struct loaded){ 0 };
}

/* ---- text ---- */

/* Length of the printable character at s; 0 when it must be escaped. */
static int
printable(const char *s, size_t len)
{
    int n = utf8_char(s, len);
    unsigned char a = (unsigned char)s[0];

    if (n == 1)
        return a >= 0x20 && a != 0x7f && a != '\\';
    if (n == 2 && a == 0xc2 && (unsigned char)s[1] < 0xa0)
        return 0; /* C1 controls */
    return n > 0 ? n : 0;
}

void
command_print_piece(const struct tokenizer *t, int32_t id)
{
    size_t len;
    const char *piece = tokenizer_piece(t, id, &len);

    for (size_t i = 0; i < len;) {
        int n = printable(piece + i, len - i);

        if (n > 0)
            fwrite(piece + i, 1, (size_t)n, stdout);
        else if (piece[i] == '\n')
            fputs("\\n", stdout);
        else
            printf("\\x%02x", (unsigned char)piece[i]);
        i += n > 0 ? (size_t)n : 1;
    }
}

static int
read_stream(FILE *f, const char *name, size_t max, char **text, size_t *len,
            struct err *err)
{
    size_t cap = 1 << 16, n = 0;
    char *buf = malloc(cap), *bigger;

    while (buf) {
        n += fread(buf + n, 1, cap - 1 - n, f);
        if (ferror(f)) {
            free(buf);
            return err_set(err, CE_EIO, "%s: %s", name, strerror(errno));
        }
        if (n > max) {
            free(buf);
            return err_set(err, CE_EQUOTA, "%s: longer than %zu bytes", name, max);
        }
        if (n < cap - 1) {
            buf[n] = '\0';
            *text = buf;
            *len = n;
            return 0;
        }
        cap *= 2;
        bigger = realloc(buf, cap);
        if (!bigger)
            free(buf);
        buf = bigger;
    }
    return err_set(err, CE_ENOMEM, "%s: no memory", name);
}

int
command_read_text(const char *path, size_t max, char **text, size_t *len, struct err *err)
{
    FILE *f;
    int rc;

    *text = NULL;
    *len = 0;
    if (strcmp(path, "-") == 0)
        return read_stream(stdin, "stdin", max, text, len, err);
    f = fopen(path, "rbe");
    if (!f)
        return err_set(err, CE_EIO, "%s: %s", path, strerror(errno));
    rc = read_stream(f, path, max, text, len, err);
    fclose(f);
    return rc;
}

int
command_check_output(const char *path, const char *model, struct err *err)
{
    const char *slash = strrchr(path, '/');
    struct stat a, b;
    char *dir;
    int rc = 0;

    if (stat(path, &b) == 0 && S_ISDIR(b.st_mode))
        return err_set(err, CE_EIO, "%s: %s", path, strerror(EISDIR));
    if (stat(model, &a) == 0 && stat(path, &b) == 0 && a.st_dev == b.st_dev &&
        a.st_ino == b.st_ino)
        return err_set(err, CE_EINVAL, "%s: the exits would replace the model", path);
    dir = slash ? mem_strndup(path, (size_t)(slash - path) + 1) : mem_strdup(".");
    if (!dir)
        return err_set(err, CE_ENOMEM, "no memory");
    if (access(dir, W_OK | X_OK) != 0)
        rc = err_set(err, CE_EIO, "%s: %s", path, strerror(errno));
    mem_free(dir);
    return rc;
}
