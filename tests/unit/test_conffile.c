/* SPDX-License-Identifier: Apache-2.0
 * test_conffile.c - every type at its edges, errors with file and line, families
 * of sections, the command line, and the printed settings file.
 */
#include "common/conffile.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/memory.h"

struct tenant {
    char label[20];
    int64_t weight;
    char *token;
};

struct settings {
    int64_t threads, cache, timeout_us;
    bool eager;
    char *name, *ca;
    double theta;
    int level;
    int64_t port;
    struct tenant tenants[2];
    int n_tenants;
};

#define AT(field) offsetof(struct settings, field)
static const char *const levels[] = { "error", "warn", "info", NULL };
static const struct conffile_key top_keys[] = {
    { "threads", CONFFILE_INT, AT(threads), "2", .min = 1, .max = 64,
      .help = "Threads." },
    { "cache", CONFFILE_SIZE, AT(cache), "64M", .min = 1024, .max = 1099511627776.0,
      .help = "Memory for keys and values. A longer text that has to be wrapped because "
              "it does not fit a line." },
    { "timeout", CONFFILE_DURATION, AT(timeout_us), "250ms", .help = "Longest wait." },
    { "eager", CONFFILE_BOOL, AT(eager), "no", .help = "Catch up early." },
    { "name", CONFFILE_STRING, AT(name), NULL, .help = "Name." },
    { "ca", CONFFILE_PATH, AT(ca), "/etc/ca.crt", .help = "Authorities." },
    { "theta", CONFFILE_DOUBLE, AT(theta), "0.8", .min = 0, .max = 1,
      .help = "Threshold." },
    { "log-level", CONFFILE_ENUM, AT(level), "info", .choices = levels, .help = "Logs." },
};
static const struct conffile_key net_keys[] = {
    { "port", CONFFILE_INT, AT(port), "7070", .min = 1, .max = 65535, .help = "Port." },
};
static const struct conffile_key tenant_keys[] = {
    { "weight", CONFFILE_INT, offsetof(struct tenant, weight), "1", .min = 1, .max = 100,
      .help = "Share." },
    { "token", CONFFILE_STRING, offsetof(struct tenant, token), NULL, .help = "Secret." },
};

static void *
open_tenant(void *arg, const char *label, struct err *err)
{
    struct settings *s = arg;

    if (s->n_tenants == 2) {
        err_set(err, CE_EQUOTA, "too many tenants");
        return NULL;
    }
    snprintf(s->tenants[s->n_tenants].label, 20, "%s", label);
    return &s->tenants[s->n_tenants++];
}

static const struct conffile_section sections[] = {
    { "", top_keys, 8, "Settings of the test.", NULL, NULL },
    { "net", net_keys, 1, NULL, NULL, NULL },
    { "tenant", tenant_keys, 2, "One for each tenant.", open_tenant, NULL },
};
static const struct conffile_schema schema = { sections, 3 };

static void
settings_free(struct settings *s)
{
    conffile_free(&schema, s);
    for (int i = 0; i < s->n_tenants; i++)
        conffile_section_free(&sections[2], &s->tenants[i]);
}

/* Load `text` (len bytes) as the file "T" into s. */
static int
load_bytes(struct settings *s, const char *text, size_t len, struct err *err)
{
    char path[] = "test_conffile.XXXXXX";
    int fd = mkstemp(path), rc;

    memset(s, 0, sizeof(*s));
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, len), len);
    close(fd);
    assert_int_equal(conffile_defaults(&schema, s, err), 0);
    rc = conffile_load(&schema, s, path, err);
    unlink(path);
    if (rc != 0) { /* the name is random: compare from the colon on */
        assert_memory_equal(err->text, path, strlen(path));
        memmove(err->text, err->text + strlen(path),
                strlen(err->text + strlen(path)) + 1);
    }
    return rc;
}

static int
load(struct settings *s, const char *text, struct err *err)
{
    return load_bytes(s, text, strlen(text), err);
}

static void
test_defaults(void **state)
{
    struct settings s;
    struct err err;

    (void)state;
    assert_int_equal(load(&s, "", &err), 0);
    assert_int_equal(s.threads, 2);
    assert_int_equal(s.cache, 64 << 20);
    assert_int_equal(s.timeout_us, 250000);
    assert_false(s.eager);
    assert_null(s.name);
    assert_string_equal(s.ca, "/etc/ca.crt");
    assert_true(s.theta == 0.8);
    assert_int_equal(s.level, 2);
    assert_int_equal(s.port, 7070);
    settings_free(&s);
    assert_null(s.ca);
    assert_int_equal(mem_used_bytes(), 0);
}

static void
test_a_file(void **state)
{
    static const char text[] =
        "# comment\n; another\n\nthreads = 64\n  cache=2g ; inline\n\ttimeout = 5min\n"
        "eager = On\nname = a = b # not a comment\nca=x.pem\r\ntheta=1\nlog-level = "
        "warn\n"
        "[net]\nport: 1\n[tenant acme-1]\nweight = 7\ntoken =\n[tenant b]";
    struct settings s;
    struct err err;

    (void)state;
    assert_int_equal(load(&s, text, &err), 0);
    assert_int_equal(s.threads, 64);
    assert_int_equal(s.cache, (int64_t)2 << 30);
    assert_int_equal(s.timeout_us, 300000000);
    assert_true(s.eager);
    assert_string_equal(s.name, "a = b # not a comment");
    assert_string_equal(s.ca, "x.pem");
    assert_true(s.theta == 1.0);
    assert_int_equal(s.level, 1);
    assert_int_equal(s.port, 1);
    assert_int_equal(s.n_tenants, 2);
    assert_string_equal(s.tenants[0].label, "acme-1");
    assert_int_equal(s.tenants[0].weight, 7);
    assert_string_equal(s.tenants[0].token, "");
    assert_string_equal(s.tenants[1].label, "b"); /* an empty section counts */
    assert_int_equal(s.tenants[1].weight, 1);
    settings_free(&s);
    assert_int_equal(mem_used_bytes(), 0);
}

static void
test_errors_name_the_line(void **state)
{
    static const struct {
        const char *text, *error;
    } cases[] = {
        { "threads = 1\nthread = 2\n", ":2: thread: unknown key" },
        { "threads = 2\n\nthreads = 2\n", ":3: threads: already set in line 1" },
        { "threads = 0", ":1: threads: out of range: 1 to 64." },
        { "threads = 65", ":1: threads: out of range: 1 to 64." },
        { "threads = 2x", ":1: threads: \"2x\" is not a whole number" },
        { "threads = 0x10", ":1: threads: \"0x10\" is not a whole number" },
        { "threads =", ":1: threads: \"\" is not a whole number" },
        { "threads = -", ":1: threads: \"-\" is not a whole number" },
        { "threads = 99999999999999999999999",
          ":1: threads: \"99999999999999999999999\" is not a whole number" },
        { "cache = 1", ":1: cache: out of range: 1K to 1T." },
        { "cache = -1K", ":1: cache: must not be negative" },
        { "cache = 9007199254740992K",
          ":1: cache: \"9007199254740992K\" is not a size such as 512K, 64M or 2G" },
        { "timeout = 30",
          ":1: timeout: \"30\" is not a duration such as 250ms, 10s or 5min" },
        { "timeout = -1s", ":1: timeout: must not be negative" },
        { "eager = 1", ":1: eager: \"1\" is not yes or no" },
        { "ca =", ":1: ca: must not be empty" },
        { "theta = 1.01", ":1: theta: out of range: 0 to 1." },
        { "theta = nan", ":1: theta: \"nan\" is not a number" },
        { "theta = 0x1p-1", ":1: theta: \"0x1p-1\" is not a number" },
        { "theta = 1e999", ":1: theta: \"1e999\" is not a number" },
        { "log-level = loud",
          ":1: log-level: \"loud\" is not known. One of: error, warn, info." },
        { "\n\nthreads 5\n", ":3: expected key = value or [section]" },
        { "x\nnope = 1\n", ":1: expected key = value or [section]" },
        { "nope = 1\nx\n", ":1: nope: unknown key" },
        { "[net\nport=1", ":1: expected key = value or [section]" },
        { "[net]\nthreads = 1", ":2: threads: unknown key" },
        { "[nets]\n", ":1: nets: unknown section" },
        { "[]\n", ":1: unknown section" },
        { "[net x]\n", ":1: net x: this section takes no name" },
        { "[tenant]\n", ":1: tenant: this section needs a name" },
        { "[tenant a]\n[tenant a]\n", ":2: tenant a: this section is already there" },
        { "[tenant a]\n[tenant b]\n[tenant c]", ":3: tenant c: too many tenants" },
        { "[net]\nport=1\n[net]\nport=2", ":4: port: already set in line 2" },
    };
    struct settings s;
    struct err err;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(load(&s, cases[i].text, &err), i == 31 ? CE_EQUOTA : CE_EINVAL);
        assert_string_equal(err.text, cases[i].error);
        settings_free(&s);
    }
    assert_int_equal(mem_used_bytes(), 0);
}

static void
test_odd_files(void **state)
{
    char text[1000];
    struct settings s;
    struct err err;

    (void)state;
    memset(text, 'x', sizeof(text));
    memcpy(text, "ca = ", 5);
    assert_int_equal(load_bytes(&s, text, sizeof(text), &err), CE_EINVAL);
    assert_string_equal(err.text, ":1: this line is too long, or holds a NUL byte");
    settings_free(&s);

    assert_int_equal(load_bytes(&s, "ca = a\0b\n", 9, &err), CE_EINVAL);
    assert_string_equal(err.text, ":1: this line is too long, or holds a NUL byte");
    settings_free(&s);

    memset(&s, 0, sizeof(s));
    assert_int_equal(conffile_load(&schema, &s, "no/such.conf", &err), CE_EIO);
    assert_string_equal(err.text, "no/such.conf: No such file or directory");
    assert_int_equal(conffile_load(&schema, &s, ".", &err), CE_EIO);
    assert_string_equal(err.text, ".: Is a directory");

    for (int i = 1; i < 8; i++) { /* each allocation fails once */
        int rc;

        memset(&s, 0, sizeof(s));
        mem_test_fail_from(i);
        rc = conffile_defaults(&schema, &s, &err);
        mem_test_fail_from(0);
        assert_true(rc == CE_ENOMEM || i > 1);
        settings_free(&s);
        assert_int_equal(mem_used_bytes(), 0);
    }
}

static void
test_command_line(void **state)
{
    struct settings s = { 0 };
    struct err err;

    (void)state;
    assert_int_equal(conffile_defaults(&schema, &s, &err), 0);
    assert_int_equal(conffile_set(&schema, &s, "threads=3", &err), 0);
    assert_int_equal(conffile_set(&schema, &s, "threads=4", &err), 0); /* may repeat */
    assert_int_equal(conffile_set(&schema, &s, "net.port=99", &err), 0);
    assert_int_equal(conffile_set(&schema, &s, "name=a=b", &err), 0);
    assert_int_equal(conffile_set(&schema, &s, "timeout=0", &err), 0);
    assert_int_equal(s.threads, 4);
    assert_int_equal(s.port, 99);
    assert_string_equal(s.name, "a=b");
    assert_int_equal(s.timeout_us, 0);
    assert_int_equal(conffile_set(&schema, &s, "threads", &err), CE_EINVAL);
    assert_string_equal(err.text, "threads: expected key=value");
    assert_int_equal(conffile_set(&schema, &s, "nope.port=1", &err), CE_EINVAL);
    assert_string_equal(err.text, "command line: nope.port: unknown section");
    assert_int_equal(conffile_set(&schema, &s, "port=1", &err), CE_EINVAL);
    assert_string_equal(err.text, "command line: port: unknown key");
    assert_int_equal(conffile_set(&schema, &s, "tenant.weight=1", &err), CE_EINVAL);
    assert_int_equal(conffile_set(&schema, &s, "threads=99", &err), CE_EINVAL);
    assert_string_equal(err.text, "command line: threads: out of range: 1 to 64.");
    assert_int_equal(s.threads, 4);
    settings_free(&s);
}

/* What is printed loads again, comments removed, to the same settings. */
static void
test_print(void **state)
{
    static const char start[] =
        "# Settings of the test.\n\n# Threads.\n# 1 to 64.\n#threads = 2\n\n"
        "# Memory for keys and values. A longer text that has to be wrapped because it\n"
        "# does not fit a line.\n# 1K to 1T.\n#cache = 64M\n\n";
    static const char end[] = "\n# One for each tenant.\n#[tenant NAME]\n\n# Share.\n"
                              "# 1 to 100.\n#weight = 1\n\n# Secret.\n#token =\n";
    char *text = NULL, *bare, *out;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    struct settings s;
    struct err err;

    (void)state;
    assert_non_null(f);
    conffile_print(&schema, f);
    fclose(f);
    assert_memory_equal(text, start, strlen(start));
    assert_true(size > strlen(end));
    assert_string_equal(text + size - strlen(end), end);

    bare = strdup(text);
    assert_non_null(bare);
    out = bare;
    for (const char *in = text; *in != '\0'; in++) /* "#key" is a key, "# x" is not */
        if (!(*in == '#' && in[1] != ' ' && (in == text || in[-1] == '\n')))
            *out++ = *in;
    *out = '\0';
    assert_int_equal(load(&s, bare, &err), 0);
    assert_int_equal(s.cache, 64 << 20);
    assert_string_equal(s.tenants[0].label, "NAME");
    settings_free(&s);
    free(bare);
    free(text);
}

struct seen {
    char problems[600];
    char set[200];
};

static void
on_problem(void *arg, const char *text)
{
    struct seen *s = arg;
    const char *colon = strchr(text, ':');

    assert_non_null(colon);
    snprintf(s->problems + strlen(s->problems), sizeof(s->problems) - strlen(s->problems),
             "%s\n", colon + 1);
}

static void
on_set(void *arg, const struct conffile_key *key, int line)
{
    struct seen *s = arg;

    snprintf(s->set + strlen(s->set), sizeof(s->set) - strlen(s->set), "%s=%d ",
             key->name, line);
}

static void
test_watch(void **state)
{
    static const char text[] = "threads = 99\nname = a\nnonsense = 1\n[net]\nport = 8\n"
                               "[what]\nport = 9\n[tenant x]\nweight = 2\n";
    char path[] = "test_conffile.XXXXXX";
    int fd = mkstemp(path);
    struct settings s = { 0 };
    struct seen seen = { 0 };
    const struct conffile_watch watch = { &seen, on_problem, on_set };
    struct err err;

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, sizeof(text) - 1), sizeof(text) - 1);
    close(fd);
    assert_int_equal(conffile_defaults(&schema, &s, &err), 0);
    assert_int_equal(conffile_load_watched(&schema, &s, path, &watch, &err), CE_EINVAL);
    assert_non_null(strstr(err.text, ":1: threads: "));
    assert_string_equal(seen.problems, "1: threads: out of range: 1 to 64.\n"
                                       "3: nonsense: unknown key\n"
                                       "6: what: unknown section\n");
    assert_string_equal(seen.set, "name=2 port=5 ");
    assert_int_equal(s.port, 8);
    assert_int_equal(s.tenants[0].weight, 2);
    unlink(path);
    settings_free(&s);
    memset(&seen, 0, sizeof(seen));
    assert_int_equal(conffile_load_watched(&schema, &s, path, &watch, NULL), CE_EIO);
    assert_string_equal(seen.problems, " No such file or directory\n");
}

static void
test_same_and_swap(void **state)
{
    struct settings a = { 0 }, b = { 0 };
    struct err err;

    (void)state;
    assert_int_equal(conffile_defaults(&schema, &a, &err), 0);
    assert_int_equal(conffile_defaults(&schema, &b, &err), 0);
    for (int i = 0; i < sections[0].n_keys; i++)
        assert_true(conffile_same(&top_keys[i], &a, &b));
    assert_int_equal(conffile_set(&schema, &b, "name=", &err), 0);
    assert_true(conffile_same(&top_keys[4], &a, &b)); /* NULL and "" */
    assert_int_equal(conffile_set(&schema, &b, "name=x", &err), 0);
    assert_int_equal(conffile_set(&schema, &b, "eager=yes", &err), 0);
    assert_int_equal(conffile_set(&schema, &b, "theta=0.25", &err), 0);
    assert_int_equal(conffile_set(&schema, &b, "log-level=error", &err), 0);
    assert_int_equal(conffile_set(&schema, &b, "cache=1K", &err), 0);
    for (int i = 0; i < sections[0].n_keys; i++) {
        int same = conffile_same(&top_keys[i], &a, &b);

        assert_int_equal(same, i == 0 || i == 2 || i == 5);
        conffile_swap(&top_keys[i], &a, &b);
        assert_int_equal(conffile_same(&top_keys[i], &a, &b), same);
    }
    assert_string_equal(a.name, "x");
    assert_true(a.eager && !b.eager && a.theta == 0.25 && b.theta == 0.8);
    assert_true(a.level == 0 && a.cache == 1024 && b.cache == 64 << 20);
    assert_null(b.name);
    settings_free(&a);
    settings_free(&b);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_a_file),
        cmocka_unit_test(test_errors_name_the_line),
        cmocka_unit_test(test_odd_files),
        cmocka_unit_test(test_command_line),
        cmocka_unit_test(test_print),
        cmocka_unit_test(test_watch),
        cmocka_unit_test(test_same_and_swap),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
