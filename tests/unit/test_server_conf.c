/* SPDX-License-Identifier: Apache-2.0
 * test_server_conf.c - the key table, and that etc/cecollm.conf and the manual
 * page say the same.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/memory.h"
#include "server/content.h"
#include "server/server_conf.h"

/* The whole file under the source root; freed by the caller. NULL when absent. */
static char *
read_file(const char *name)
{
    const char *root = getenv("CECOLLM_SRCDIR");
    char path[4096], *text = NULL;
    long size;
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", root ? root : ".", name);
    f = fopen(path, "r");
    if (!f)
        return NULL;
    if (fseek(f, 0, SEEK_END) == 0 && (size = ftell(f)) >= 0 &&
        (text = calloc(1, (size_t)size + 1)) != NULL) {
        rewind(f);
        if (fread(text, 1, (size_t)size, f) != (size_t)size) {
            free(text);
            text = NULL;
        }
    }
    fclose(f);
    return text;
}

static int
load(struct server_conf *conf, const char *assignment, struct err *err)
{
    char *set[1] = { (char *)(uintptr_t)assignment };

    return server_conf_load(conf, NULL, set, assignment ? 1 : 0, err);
}

static void
test_defaults(void **state)
{
    struct server_conf conf;
    struct err err;

    (void)state;
    assert_int_equal(load(&conf, NULL, &err), 0);
    assert_string_equal(conf.listen, "127.0.0.1:7443");
    assert_int_equal(conf.window, 1024);
    assert_int_equal(conf.step_rows, 512);
    assert_int_equal(conf.step_budget_ms, 50);
    assert_int_equal(conf.eager, CONTENT_EAGER_PROMPT);
    assert_int_equal(conf.handshake_timeout_us, 10000000);
    assert_int_equal(conf.kv_budget, (int64_t)4 << 30);
    assert_false(conf.whole_model);
    assert_true(conf.packing);
    assert_string_equal(conf.packing_cache, "");
    assert_int_equal(server_conf_check(&conf, &err), CE_EINVAL);
    assert_non_null(strstr(err.text, "model"));
    server_conf_free(&conf);
    server_conf_free(&conf);
}

static void
test_bad_values(void **state)
{
    static const char *const bad[] = {
        "window=3",     "step_rows=0", "nonsense=1",       "log_level=loud",
        "kv_budget=-1", "threads=x",   "whole_model=si",   "idle_timeout=1",
        "packing=some", "eager=yes",   "step_budget_ms=-1"
    };
    struct server_conf conf;
    struct err err;
    size_t i;

    (void)state;
    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        err.text[0] = '\0';
        assert_int_equal(load(&conf, bad[i], &err), CE_EINVAL);
        assert_true(err.text[0] != '\0');
        assert_null(conf.listen); /* empty again */
    }
}

/* What agents are told to dial is theirs to understand. */
static void
test_node(void **state)
{
    static const struct {
        const char *node;
        bool right;
    } cases[] = { { "cloud-1.example.net", true }, { "cloud-1:7443", true },
                  { "[::1]:7443", true },          { "::1", false },
                  { "cloud-1:", false },           { ":7443", false },
                  { "cloud-1:70000", false },      { "cloud-1:0", false },
                  { "https://cloud-1", false },    { "a b", false } };
    char *set[] = { (char *)(uintptr_t) "model=m", (char *)(uintptr_t) "ca=a",
                    (char *)(uintptr_t) "cert=c", (char *)(uintptr_t) "key=k", NULL };
    char text[64];

    (void)state;
    set[4] = text;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct server_conf conf;
        snprintf(text, sizeof(text), "node=%s", cases[i].node);
        assert_int_equal(server_conf_load(&conf, NULL, set, 5, NULL), 0);
        assert_int_equal(server_conf_check(&conf, NULL), cases[i].right ? 0 : CE_EINVAL);
        server_conf_free(&conf);
    }
}

static void
test_check(void **state)
{
    char *set[] = { (char *)(uintptr_t) "model=m", (char *)(uintptr_t) "ca=a",
                    (char *)(uintptr_t) "cert=c", (char *)(uintptr_t) "key=k",
                    (char *)(uintptr_t) "max_seqs=4" };
    struct server_conf conf;
    struct err err;

    (void)state;
    assert_int_equal(server_conf_load(&conf, NULL, set, 4, &err), 0);
    assert_int_equal(server_conf_check(&conf, &err), 0);
    server_conf_free(&conf);
    assert_int_equal(server_conf_load(&conf, NULL, set, 5, &err), 0);
    assert_int_equal(server_conf_check(&conf, &err), CE_EINVAL);
    server_conf_free(&conf);
}

static void
test_settings_file_is_the_table(void **state)
{
    char *file = read_file("etc/cecollm.conf"), *printed = NULL;
    size_t size;
    FILE *out;

    (void)state;
    if (!file)
        skip();
    out = open_memstream(&printed, &size);
    conffile_print(&server_conf_schema, out);
    fclose(out);
    assert_string_equal(file, printed); /* else: cecollm-cloudd --print-config */
    free(file);
    free(printed);
}

static void
test_manual_names_every_key(void **state)
{
    char *page = read_file("man/cecollm.conf.5");
    const struct conffile_section *section = &server_conf_schema.sections[0];
    int i, named = 0;
    const char *at;

    (void)state;
    if (!page)
        skip();
    for (i = 0; i < section->n_keys; i++) {
        const struct conffile_key *key = &section->keys[i];
        char want[256];

        snprintf(want, sizeof(want), "\n.It Cm %s No = ", key->name);
        at = strstr(page, want);
        if (!at)
            fail_msg("cecollm.conf(5) lacks %s", key->name);
        if (key->def && key->def[0]) {
            const char *end = strstr(at + 1, "\n.It ");

            snprintf(want, sizeof(want), "The default is\n.Cm %s .\n", key->def);
            at = strstr(at, want);
            if (!at || (end && at > end))
                fail_msg("cecollm.conf(5): %s: the default is %s", key->name, key->def);
        }
    }
    for (at = page; (at = strstr(at, "\n.It Cm ")) != NULL; at++)
        named++;
    assert_int_equal(named, section->n_keys); /* and no other */
    free(page);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_bad_values),
        cmocka_unit_test(test_check),
        cmocka_unit_test(test_node),
        cmocka_unit_test(test_settings_file_is_the_table),
        cmocka_unit_test(test_manual_names_every_key),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
