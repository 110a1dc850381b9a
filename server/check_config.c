/* SPDX-License-Identifier: Apache-2.0
 * check_config.c - see check_config.h.
 *
 * Settings first, then each file that they name, whatever was wrong before: who
 * repairs a configuration wants one list. Values that did not parse keep their
 * defaults meanwhile. Nothing is bound and no weight is packed; the model's header,
 * directory of tensors and tokenizer are read.
 */
#include "server/check_config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/tls.h"
#include "engine/kernels.h"
#include "engine/model.h"
#include "engine/tokenizer.h"
#include "server/address.h"
#include "server/cloudd.h"
#include "server/metrics_http.h"
#include "server/privileges.h"
#include "server/tenants.h"

#define MAX_KEYS 128

struct check {
    const struct server_conf_source *source;
    struct server_conf conf;
    int lines[MAX_KEYS];         /* where the file sets the key; 0: it does not */
    bool from_command[MAX_KEYS]; /* over that */
    FILE *problems;
    int n;
    char certificate[40], model[80]; /* for the good line */
};

static int
index_of(const char *key, size_t len)
{
    const struct conffile_section *s = &server_conf_schema.sections[0];
    int i;

    for (i = 0; i < s->n_keys && i < MAX_KEYS; i++)
        if (strlen(s->keys[i].name) == len && memcmp(s->keys[i].name, key, len) == 0)
            return i;
    return -1;
}

/* key: whose place goes before the text; NULL: none. */
static void
problem(struct check *k, const char *key, const char *text)
{
    int i = key ? index_of(key, strlen(key)) : -1;

    k->n++;
    if (i >= 0 && k->from_command[i])
        fprintf(k->problems, "command line: ");
    else if (i >= 0 && k->lines[i] > 0)
        fprintf(k->problems, "%s:%d: ", k->source->path, k->lines[i]);
    fprintf(k->problems, "%s\n", text);
}

/* ---- settings ---- */

static void
on_problem(void *arg, const char *text)
{
    problem(arg, NULL, text);
}

static void
on_set(void *arg, const struct conffile_key *key, int line)
{
    struct check *k = arg;
    int i = index_of(key->name, strlen(key->name));

    if (i >= 0)
        k->lines[i] = line;
}

static void
load_settings(struct check *k)
{
    const struct conffile_watch watch = { k, on_problem, on_set };
    const struct server_conf_source *s = k->source;
    struct err err;
    int i;

    if (conffile_defaults(&server_conf_schema, &k->conf, &err) < 0)
        problem(k, NULL, err.text);
    if (s->path &&
        conffile_load_watched(&server_conf_schema, &k->conf, s->path, &watch, NULL) < 0) {
        /* the watch has said all of it */
    }
    for (i = 0; i < s->n_set; i++) {
        int at = index_of(s->set[i], strcspn(s->set[i], "="));

        if (conffile_set(&server_conf_schema, &k->conf, s->set[i], &err) < 0)
            problem(k, NULL, err.text);
        else if (at >= 0)
            k->from_command[at] = true;
    }
}

/* Do they fit each other? The text begins with the key at fault. */
static void
check_settings(struct check *k)
{
    char text[100], key[64];
    bool complete = true;
    struct err err;
    size_t i;

    for (i = 0; server_conf_required[i]; i++) {
        const char *name = server_conf_required[i];

        if (server_conf_text(&k->conf, name)[0])
            continue;
        complete = false;
        snprintf(text, sizeof(text), "%s is not set, and there is no default", name);
        problem(k, name, text);
    }
    if (complete && server_conf_check(&k->conf, &err) < 0) {
        snprintf(key, sizeof(key), "%.*s", (int)strcspn(err.text, " :="), err.text);
        problem(k, key, err.text);
    }
}

/* ---- files and names ---- */

static void
on_tls_problem(void *arg, enum tls_file which, const struct err *err)
{
    static const char *const keys[TLS_N_FILES] = { "ca", "cert", "key", "crl" };
    struct check *k = arg;
    char text[sizeof(err->text) + 16];

    if (!server_conf_text(&k->conf, keys[which])[0])
        return; /* said already */
    snprintf(text, sizeof(text), "%s = %s", keys[which], err->text);
    problem(k, keys[which], text);
}

static void
check_certificates(struct check *k)
{
    const struct tls_files files = { k->conf.ca, k->conf.cert, k->conf.key, k->conf.crl };
    struct err err;
    SSL_CTX *ctx;

    if (tls_files_check(&files, on_tls_problem, k) < 0)
        return;
    if (tls_server_new(&ctx, &files, &err) < 0) {
        problem(k, "cert", err.text);
        return;
    }
    tls_expiry(ctx, k->certificate);
    SSL_CTX_free(ctx);
}

static int
check_listen(struct check *k, struct err *err)
{
    struct addrinfo *list = NULL;
    int rc = 0;

    if (k->conf.listen[0])
        rc = address_resolve("listen", k->conf.listen, &list, err);
    if (list)
        freeaddrinfo(list);
    return rc;
}

static int
check_metrics_listen(struct check *k, struct err *err)
{
    struct addrinfo *list = NULL;
    int rc = 0;

    if (k->conf.metrics_listen[0] && strcmp(k->conf.metrics_listen, "off") != 0)
        rc = address_resolve("metrics_listen", k->conf.metrics_listen, &list, err);
    if (list)
        freeaddrinfo(list);
    return rc;
}

static int
check_metrics_token(struct check *k, struct err *err)
{
    uint8_t digest[32];

    return k->conf.metrics_token[0]
               ? metrics_http_token(k->conf.metrics_token, digest, err)
               : 0;
}

static int
check_tenants(struct check *k, struct err *err)
{
    struct tenants *t = NULL;
    int rc = k->conf.tenants[0] ? tenants_load(&t, k->conf.tenants, err) : 0;

    tenants_free(t);
    return rc;
}

static int
check_user(struct check *k, struct err *err)
{
    return privileges_check(k->conf.user, k->conf.group, err);
}

static int
check_port_file(struct check *k, struct err *err)
{
    const char *path = k->conf.port_file, *slash = strrchr(path, '/');
    char folder[4096] = ".";

    if (!path[0])
        return 0;
    if (slash)
        snprintf(folder, sizeof(folder), "%.*s", (int)(slash - path) + 1, path);
    return access(folder, W_OK) == 0
               ? 0
               : err_set(err, CE_EIO, "port_file = %s: %s", path, strerror(errno));
}

static int
check_cpu(struct check *k, struct err *err)
{
    const struct kernels *kernels;

    return kernels_choose(&kernels, k->conf.cpu, err);
}

static int
check_model(struct check *k, struct err *err)
{
    struct tokenizer *t = NULL;
    struct model *m = NULL;
    int rc, from = 0;

    if (!k->conf.model[0])
        return 0;
    rc = model_open(&m, k->conf.model, k->conf.exits, err);
    if (rc == 0)
        rc = cloudd_layer_from(&k->conf, m, &from, err);
    if (rc == 0 && k->conf.whole_model)
        rc = tokenizer_open(&t, m->file, err);
    if (rc == 0)
        snprintf(k->model, sizeof(k->model), "blocks %d to %d of %d", from,
                 m->config.n_layers - 1, m->config.n_layers);
    tokenizer_free(t);
    model_close(m);
    return rc;
}

/* One line each; what a new key names is checked by a new line here. */
static const struct {
    const char *key;
    int (*run)(struct check *k, struct err *err);
} checks[] = {
    { "listen", check_listen },
    { "metrics_listen", check_metrics_listen },
    { "metrics_token", check_metrics_token },
    { "tenants", check_tenants },
    { "port_file", check_port_file },
    { "user", check_user },
    { "cpu", check_cpu },
    { "model", check_model },
};

int
check_config(const struct server_conf_source *source, FILE *problems, FILE *good)
{
    struct check k = { .source = source, .problems = problems };
    struct err err;
    size_t i;

    load_settings(&k);
    check_settings(&k);
    check_certificates(&k);
    for (i = 0; i < sizeof(checks) / sizeof(checks[0]); i++)
        if (checks[i].run(&k, &err) < 0)
            problem(&k, checks[i].key, err.text);
    if (k.n == 0)
        fprintf(good, "ok: %s, certificate until %s, model %s: %s\n",
                source->path ? source->path : "settings", k.certificate, k.conf.model,
                k.model);
    server_conf_free(&k.conf);
    return k.n;
}
