/* SPDX-License-Identifier: Apache-2.0
 * test_agent_conf.c - the agent's settings: options in all their spellings, the table
 * against etc/cecollm-agent.conf and both manual pages.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/agent_conf.h"
#include "common/memory.h"

static struct agent_conf conf;
static struct err err;

static int
read_args(const char *const *args, int n)
{
    char *argv[16] = { (char *)"cecollm-agent" };

    for (int i = 0; i < n; i++)
        argv[i + 1] = (char *)args[i];
    agent_conf_free(&conf);
    memset(&err, 0, sizeof(err));
    return agent_conf_read(&conf, n + 1, argv, &err);
}
#define READ(...)                                                                        \
    read_args((const char *const[]){ __VA_ARGS__ },                                      \
              (int)(sizeof((const char *const[]){ __VA_ARGS__ }) / sizeof(char *)))

static void
spellings(void **state)
{
    (void)state;
    assert_int_equal(READ("-m", "x.gguf", "--max-tokens", "7"), 0);
    assert_string_equal(conf.model, "x.gguf");
    assert_int_equal(conf.max_tokens, 7);
    assert_int_equal(READ("--model=x", "--max-tokens=8", "--json", "--no-quiet"), 0);
    assert_int_equal(conf.max_tokens, 8);
    assert_true(conf.json);
    assert_false(conf.quiet);
    assert_int_equal(READ("--model=x", "--max_tokens=9", "--json=no"), 0);
    assert_int_equal(conf.max_tokens, 9);
    assert_false(conf.json);
    assert_int_equal(READ("-m", "x", "-p", "--json"), 0); /* a value, whatever it is */
    assert_string_equal(conf.prompt, "--json");
    assert_false(conf.json);
    assert_int_equal(READ("-m", "x", "--mode", "edge-full", "--codec=f32", "--naive-kv",
                          "drop", "--on-cloud-loss", "edge", "--no-exits"),
                     0);
    assert_int_equal(conf.mode, POLICY_EDGE_FULL);
    assert_int_equal(conf.codec, 0);
    assert_int_equal(conf.naive_kv, 1);
    assert_int_equal(conf.on_cloud_loss, POLICY_LOSS_EDGE);
    assert_true(conf.no_exits);
    assert_int_equal(READ("-m", "x", "--deadline", "1500ms", "--retain-limit", "1M"), 0);
    assert_int_equal(conf.deadline_us, 1500000);
    assert_int_equal(conf.retain_bytes, 1 << 20);
    assert_int_equal(READ("-m", "x"), 0);
    assert_true(conf.packing);
    assert_null(conf.packing_cache);
    assert_int_equal(READ("-m", "x", "--packing=off", "--packing-cache", "/d"), 0);
    assert_false(conf.packing);
    assert_string_equal(conf.packing_cache, "/d");
    assert_int_equal(READ("-m", "x", "--no-packing"), 0);
    assert_false(conf.packing);
    assert_true(conf.screens);
    assert_int_equal(READ("-m", "x", "--screens=off"), 0);
    assert_false(conf.screens);
    assert_int_equal(READ("-m", "x", "--no-screens"), 0);
    assert_false(conf.screens);
    assert_int_equal(READ("--help"), 0);
    assert_true(conf.want_help);
}

static void
mistakes(void **state)
{
    (void)state;
    assert_int_equal(READ("-p", "x"), CE_EINVAL);
    assert_non_null(strstr(err.text, "no model"));
    assert_int_equal(READ("-m"), CE_EINVAL);
    assert_string_equal(err.text, "-m needs a value");
    assert_int_equal(READ("-m", "x", "--max-tokens"), CE_EINVAL);
    assert_int_equal(READ("-m", "x", "--max-tokens", "none"), CE_EINVAL);
    assert_int_equal(READ("-m", "x", "--nonsense=1"), CE_EINVAL);
    assert_string_equal(err.text, "unknown option --nonsense (--help lists them)");
    assert_int_equal(READ("-m", "x", "--no-max-tokens"), CE_EINVAL);
    assert_int_equal(READ("-m", "x", "--help=yes"), CE_EINVAL);
    assert_int_equal(READ("-m", "x", "stray"), CE_EINVAL);
    assert_int_equal(READ("-m", "x", "-"), CE_EINVAL);
    assert_int_equal(READ("-m", "x", "--json=perhaps"), CE_EINVAL);
    assert_int_equal(READ("-m", "x", "--packing=partly"), CE_EINVAL);
    assert_int_equal(READ("-m", "x", "--top-p", "0"), CE_EINVAL);
    assert_int_equal(READ("-m", "x", "-c"), CE_EINVAL);
    assert_int_equal(READ("-m", "x", "--no-exits", "--exit-layers", "3"), CE_EINVAL);
}

static void
stop_strings(void **state)
{
    (void)state;
    assert_int_equal(READ("-m", "x", "--stop", "END|\\n\\n|a\\|b\\\\|c\\td"), 0);
    assert_int_equal(conf.n_stops, 4);
    assert_string_equal(conf.stops[0], "END");
    assert_string_equal(conf.stops[1], "\n\n");
    assert_string_equal(conf.stops[2], "a|b\\");
    assert_string_equal(conf.stops[3], "c\td");
    assert_int_equal(READ("-m", "x", "--stop", "a||b"), CE_EINVAL);
    assert_int_equal(READ("-m", "x", "--stop", "|"), CE_EINVAL);
    assert_int_equal(READ("-m", "x", "--stop", "1|2|3|4|5|6|7|8|9|a|b|c|d|e|f|g|h"),
                     CE_EINVAL);
}

static void
ids(void **state)
{
    int32_t *v;
    int n;

    (void)state;
    assert_int_equal(agent_conf_parse_ids("1,20,300", &v, &n, &err), 0);
    assert_int_equal(n, 3);
    assert_int_equal(v[2], 300);
    mem_free(v);
    static const char *const bad[] = { "",   "a",   "1,",          ",1",        "1,,2",
                                       "-1", "1 2", "99999999999", "2147483648" };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(agent_conf_parse_ids(bad[i], &v, &n, &err), CE_EINVAL);
}

/* A whole file of the source tree; the caller frees. NULL when it is not there. */
static char *
slurp(const char *name)
{
    const char *dir = getenv("CECOLLM_SRCDIR");
    char path[4096];
    char *text = NULL;
    size_t size = 0, n;
    char part[4096];

    snprintf(path, sizeof(path), "%s/%s", dir != NULL ? dir : ".", name);
    FILE *f = fopen(path, "r"), *out;
    if (f == NULL)
        return NULL;
    out = open_memstream(&text, &size);
    while ((n = fread(part, 1, sizeof(part), f)) > 0)
        fwrite(part, 1, n, out);
    fclose(f);
    fclose(out);
    return text;
}

static void
settings_file_is_what_the_table_says(void **state)
{
    char *printed = NULL, *shipped = slurp("etc/cecollm-agent.conf");
    size_t size = 0;
    FILE *out = open_memstream(&printed, &size);

    (void)state;
    agent_conf_print(out);
    fclose(out);
    assert_non_null(shipped);
    assert_string_equal(shipped, printed);
    free(shipped);
    free(printed);
}

/* The key as mdoc writes an item: ".It Cm key" or ".It Fl -option". */
static void
manuals_name_every_key(void **state)
{
    const struct conffile_section *s = &agent_conf_schema()->sections[0];
    char *conf5 = slurp("man/cecollm-agent.conf.5"), item[128];
    int found = 0;

    (void)state;
    assert_non_null(conf5);
    for (int i = 0; i < s->n_keys; i++) {
        snprintf(item, sizeof(item), "\n.It Cm %s\n", s->keys[i].name);
        if (strstr(conf5, item) == NULL) {
            snprintf(item, sizeof(item), "\n.It Cm %s ", s->keys[i].name);
            if (strstr(conf5, item) == NULL)
                print_error("man/cecollm-agent.conf.5 lacks %s\n", s->keys[i].name);
        }
        assert_non_null(strstr(conf5, item));
    }
    for (const char *p = conf5; (p = strstr(p, "\n.It Cm ")) != NULL; p++)
        found++;
    assert_int_equal(found, s->n_keys); /* and no others */
    free(conf5);
}

static int
clean_up(void **state)
{
    (void)state;
    agent_conf_free(&conf);
    return 0;
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spellings),
        cmocka_unit_test(mistakes),
        cmocka_unit_test(stop_strings),
        cmocka_unit_test(ids),
        cmocka_unit_test(settings_file_is_what_the_table_says),
        cmocka_unit_test(manuals_name_every_key),
    };
    return cmocka_run_group_tests(tests, NULL, clean_up);
}
