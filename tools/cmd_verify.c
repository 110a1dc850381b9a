/* SPDX-License-Identifier: Apache-2.0
 * cmd_verify.c - cecollm-model verify: is this file whole, and will it work?
 *
 * Every check that the engine makes when it opens a model, then two that it has no time
 * for: the hash, and whether every weight is finite. A check that failed does not end
 * the others; those that need what it looked at are left out.
 *
 * Exit heads in a file of their own are checked alone: whether they fit a model shows
 * when that model is verified beside them.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/sha256.h"
#include "tools/command.h"
#include "tools/finite.h"
#include "tools/progress.h"
#include "tools/units.h"

#define MAX_FILES 64
#define MAX_LIST  ((size_t)1 << 20) /* bytes of a list of hashes */

struct verify_args {
    const char *exits, *sha256, *list;
    struct threads *pool;
    int threads;
};

/* One file's page. */
struct verify {
    const struct verify_args *args;
    const char *path;
    int n_failed;
};

/* ---- lines ---- */

static void
line(struct verify *v, const char *check, const struct err *err, const char *text)
{
    bool failed = err && err->code != 0;

    v->n_failed += failed;
    printf("  %-10s  %-6s  %s\n", check, failed ? "FAILED" : "OK",
           failed ? err->text : text);
}

/* ---- the hash ---- */

static const char *
base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

/* The hash that a line of sha256sum gives for `name`: "HEX  name" or "HEX *name", or a
 * hash alone. */
static bool
read_line(const char *text, size_t len, const char *name, uint8_t out[SHA256_BYTES])
{
    size_t n = strlen(name), at = SHA256_TEXT - 1;
    const char *base;

    while (len > 0 && (text[len - 1] == '\r' || text[len - 1] == ' '))
        len--;
    if (len < at || sha256_parse(text, at, out) != 0)
        return false;
    if (len == at)
        return true;
    if (len < at + 2 + n || text[at] != ' ' ||
        (text[at + 1] != ' ' && text[at + 1] != '*'))
        return false;
    base = text + len - n;
    return memcmp(base, name, n) == 0 && (base == text + at + 2 || base[-1] == '/');
}

static int
find_in_list(const char *list, const char *path, uint8_t out[SHA256_BYTES],
             struct err *err)
{
    const char *name = base_name(path);
    char *text;
    size_t len;
    int rc = command_read_text(list, MAX_LIST, &text, &len, err);

    if (rc != 0)
        return rc;
    for (const char *p = text, *end; p < text + len; p = end + 1) {
        end = memchr(p, '\n', len - (size_t)(p - text));
        if (!end)
            end = text + len;
        if (read_line(p, (size_t)(end - p), name, out)) {
            free(text);
            return 0;
        }
    }
    free(text);
    return err_set(err, CE_ENOTFOUND, "%s: has no SHA-256 of %s", list, name);
}

/* What the file's hash should be. *source: where that was said; "" when nowhere. */
static int
expected_hash(const struct verify *v, uint8_t out[SHA256_BYTES], char *source, size_t cap,
              struct err *err)
{
    FILE *f;

    source[0] = '\0';
    if (v->args->sha256) {
        snprintf(source, cap, "--sha256");
        return sha256_parse(v->args->sha256, strlen(v->args->sha256), out);
    }
    if (v->args->list) {
        snprintf(source, cap, "%s", v->args->list);
        return find_in_list(v->args->list, v->path, out, err);
    }
    snprintf(source, cap, "%s.sha256", v->path);
    f = fopen(source, "rbe");
    if (!f && errno == ENOENT) {
        source[0] = '\0';
        return 0;
    }
    if (!f)
        return err_set(err, CE_EIO, "%s: %s", source, strerror(errno));
    fclose(f);
    return find_in_list(source, v->path, out, err);
}

static void
check_hash(struct verify *v)
{
    uint8_t found[SHA256_BYTES], wanted[SHA256_BYTES];
    char hex[SHA256_TEXT], want[SHA256_TEXT], source[4200], text[4400];
    struct progress_busy *busy = progress_busy_start("hashing");
    struct err err = { 0 };
    int rc = sha256_file(v->path, found, &err);

    progress_busy_end(busy);
    if (rc != 0) {
        line(v, "sha256", &err, NULL);
        return;
    }
    sha256_text(found, hex);
    if (expected_hash(v, wanted, source, sizeof(source), &err) == 0 &&
        source[0] != '\0') {
        sha256_text(wanted, want);
        if (memcmp(found, wanted, SHA256_BYTES) != 0)
            err_set(&err, CE_EMISMATCH, "%s, but %s says %s", hex, source, want);
    }
    snprintf(text, sizeof(text), "%s%s%s", hex, source[0] ? ", as in " : "", source);
    line(v, "sha256", &err, text);
}

/* ---- what the engine checks ---- */

static bool
is_exits_file(const struct gguf *g)
{
    static const char arch[] = "cecollm-exits";
    struct gguf_str s;

    return gguf_get_str(g, "general.architecture", &s, NULL) == 0 &&
           s.len == sizeof(arch) - 1 && memcmp(s.data, arch, s.len) == 0;
}

static struct gguf *
check_container(struct verify *v)
{
    char bytes[UNITS_TEXT], text[120];
    struct err err = { 0 };
    struct gguf *g = NULL;

    text[0] = '\0';
    if (gguf_open(&g, v->path, &err) == 0)
        snprintf(text, sizeof(text), "GGUF, %s, %d keys, %d tensors",
                 units_bytes(bytes, (double)gguf_size_bytes(g)), gguf_n_keys(g),
                 gguf_n_tensors(g));
    line(v, "container", &err, text);
    return g;
}

static void
print_model(struct verify *v, const struct model *m)
{
    char digest[65], text[200];
    int n = snprintf(text, sizeof(text), "%s, %d blocks, d_model %d", m->config.arch,
                     m->config.n_layers, m->config.d_model);

    if (m->layer_from != 0 || m->layer_to != m->config.n_layers)
        snprintf(text + n, sizeof(text) - (size_t)n, "; a part: blocks %d to %d",
                 m->layer_from, m->layer_to - 1);
    line(v, "model", NULL, text);
    model_fingerprint_text(m, digest);
    printf("  %-10s  %-6s  %s\n", "fingerprint", "", digest);
}

static void
print_exits(struct verify *v, const struct model *m, const struct err *err)
{
    char text[600];

    if (m->n_exits == 0)
        snprintf(text, sizeof(text), "none");
    else
        snprintf(text, sizeof(text), "%d in %s", m->n_exits,
                 gguf_path(m->exits_file ? m->exits_file : m->file));
    line(v, "exits", err, text);
}

/* The model, and its exits: when these are wrong, the model without them. */
static void
check_model(struct verify *v)
{
    struct progress_busy *busy = progress_busy_start("reading");
    struct err with = { 0 }, without = { 0 };
    struct model *m = NULL;
    int rc = model_open(&m, v->path, v->args->exits, &with);

    if (rc != 0)
        rc = model_open(&m, v->path, "none", &without);
    progress_busy_end(busy);
    if (rc != 0) {
        line(v, "model", &without, NULL);
        return;
    }
    print_model(v, m);
    print_exits(v, m, &with);
    model_close(m);
}

static void
check_tokenizer(struct verify *v, const struct gguf *g)
{
    char count[UNITS_TEXT], text[200];
    struct tokenizer *t = NULL;
    struct err err = { 0 };

    text[0] = '\0';
    if (tokenizer_open(&t, g, &err) == 0)
        snprintf(text, sizeof(text), "%s, %s tokens", tokenizer_pre(t),
                 units_count(count, (uint64_t)tokenizer_n_vocab(t)));
    line(v, "tokenizer", &err, text);
    tokenizer_free(t);
}

static void
check_weights(struct verify *v, const struct gguf *g)
{
    char count[UNITS_TEXT], text[80];
    struct err err = { 0 };
    uint64_t n = 0;

    text[0] = '\0';
    if (finite_check(g, v->args->pool, &n, &err) == 0)
        snprintf(text, sizeof(text), "%s values, all finite", units_count(count, n));
    line(v, "weights", &err, text);
}

/* ---- the command ---- */

static int
verify_file(const struct verify_args *args, const char *path)
{
    struct verify v = { .args = args, .path = path };
    struct gguf *g;

    printf("%s\n", path);
    g = check_container(&v);
    if (g && is_exits_file(g)) {
        line(&v, "model", NULL, "exit heads alone; verify the model beside them too");
    } else if (g) {
        check_model(&v);
        check_tokenizer(&v, g);
    }
    if (g)
        check_weights(&v, g);
    gguf_close(g);
    check_hash(&v);
    return v.n_failed;
}

static int
check_args(const struct verify_args *a, int n_files, struct err *err)
{
    uint8_t digest[SHA256_BYTES];

    if (a->sha256 && n_files > 1)
        return err_set(err, CE_EINVAL, "--sha256 is for one file; --check has a list");
    if (a->sha256 && a->list)
        return err_set(err, CE_EINVAL, "--sha256 and --check exclude each other");
    if (a->sha256 && sha256_parse(a->sha256, strlen(a->sha256), digest) != 0)
        return err_set(err, CE_EINVAL, "--sha256: \"%.80s\" is not 64 hexadecimal digits",
                       a->sha256);
    return 0;
}

int
cmd_verify(int argc, char **argv)
{
    struct verify_args a = { 0 };
    struct err err = { 0 };
    int n, status, n_bad = 0;
    const struct option_spec specs[] = {
        { "sha256", 0, OPTIONS_TEXT, &a.sha256, "HEX", "what FILE's hash should be", 0,
          0 },
        { "check", 'c', OPTIONS_TEXT, &a.list, "LIST",
          "take hashes from LIST, as sha256sum writes it (default: FILE.sha256)", 0, 0 },
        COMMAND_EXITS_OPTION(&a.exits),
        COMMAND_THREADS_OPTION(&a.threads),
        { 0 }
    };
    const struct options_page page = {
        "verify FILE... [--sha256 HEX | --check LIST]",
        "Check model files: the container, the model, its tokenizer and exits as the\n"
        "engine does when it opens them; that every weight is finite; and the SHA-256,\n"
        "against FILE.sha256 where that is there. Ends with 1 when a check failed.",
        specs, 1, MAX_FILES
    };

    if (!command_options(&page, argc, argv, &n, &status))
        return status;
    if (check_args(&a, n, &err) != 0)
        return command_usage("verify", &err);
    if (threads_new(&a.pool, a.threads, &err) != 0)
        return command_failed("verify", &err);
    for (int i = 1; i <= n; i++)
        n_bad += verify_file(&a, argv[i]) > 0;
    threads_free(a.pool);
    if (n_bad == 0)
        return COMMAND_OK;
    fflush(stdout);
    if (n == 1)
        fprintf(stderr, "cecollm-model verify: %s: FAILED\n", argv[1]);
    else
        fprintf(stderr, "cecollm-model verify: %d of %d files FAILED\n", n_bad, n);
    return COMMAND_FAILED;
}
