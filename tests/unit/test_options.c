/* SPDX-License-Identifier: Apache-2.0
 * test_options.c - command lines by table: every way to write a value, and every way
 * to get it wrong.
 */
#include "tools/options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

struct values {
    bool json;
    int threads;
    uint64_t seed;
    const char *out;
    struct options_list exits;
    struct options_texts data;
    int n_operands;
    bool help;
    struct err err;
};

static int
parse(struct values *v, int argc, const char **argv)
{
    const struct option_spec specs[] = {
        { "json", 0, OPTIONS_FLAG, &v->json, NULL, "", 0, 0 },
        { "threads", 't', OPTIONS_INT, &v->threads, "N", "", 1, 256 },
        { "seed", 0, OPTIONS_U64, &v->seed, "N", "", 0, 0 },
        { "output", 'o', OPTIONS_TEXT, &v->out, "FILE", "", 0, 0 },
        { "exits", 0, OPTIONS_LIST, &v->exits, "L", "", 1, 30 },
        { "data", 'd', OPTIONS_TEXTS, &v->data, "FILE...", "", 0, 0 },
        { 0 }
    };
    const struct options_page page = { "test FILE [TEXT]", "", specs, 1, 2 };

    *v = (struct values){ .threads = 7 };
    return options_parse(&page, argc, (char **)argv, &v->n_operands, &v->help, &v->err);
}

#define PARSE(v, ...)                                                                    \
    parse(v, (int)(sizeof((const char *[]){ "test", __VA_ARGS__ }) / sizeof(char *)),    \
          (const char *[]){ "test", __VA_ARGS__ })

static void
test_values(void **state)
{
    struct values v = { 0 };
    const char *mixed[] = { "test", "--json", "a", "-o", "x", "b" };

    (void)state;
    assert_int_equal(PARSE(&v, "FILE"), 0);
    assert_int_equal(v.n_operands, 1);
    assert_int_equal(v.threads, 7);
    assert_false(v.json);
    assert_int_equal(PARSE(&v, "FILE", "--threads=3", "--seed", "18446744073709551615"),
                     0);
    assert_int_equal(v.threads, 3);
    assert_true(v.seed == UINT64_MAX);
    assert_int_equal(PARSE(&v, "-t", "256", "FILE", "--exits", "2,3,30"), 0);
    assert_int_equal(v.threads, 256);
    assert_int_equal(v.exits.n, 3);
    assert_int_equal(v.exits.v[2], 30);
    assert_int_equal(parse(&v, 6, mixed), 0);
    assert_true(v.json);
    assert_string_equal(v.out, "x");
    assert_int_equal(v.n_operands, 2);
    assert_string_equal(mixed[1], "a");
    assert_string_equal(mixed[2], "b");
}

static void
test_texts(void **state)
{
    struct values v = { 0 };
    const char *spread[] = { "test", "--data", "a",  "b", "-o",
                             "x",    "M",      "-d", "c", "--json" };
    const char *many[OPTIONS_MAX_TEXTS + 3] = { "test", "--data" };

    (void)state;
    assert_int_equal(parse(&v, 10, spread), 0);
    assert_int_equal(v.n_operands, 1);
    assert_string_equal(spread[1], "M");
    assert_int_equal(v.data.n, 3);
    assert_string_equal(v.data.v[0], "a"); /* though operands were moved */
    assert_string_equal(v.data.v[1], "b");
    assert_string_equal(v.data.v[2], "c");
    assert_int_equal(PARSE(&v, "M", "--data=a", "N", "--data", "b", "--", "X"),
                     CE_EINVAL); /* one operand too many */
    assert_int_equal(PARSE(&v, "M", "--data=a", "--data", "b", "--", "X"), 0);
    assert_int_equal(v.data.n, 2);
    assert_int_equal(PARSE(&v, "M", "--data"), CE_EINVAL);
    for (int i = 2; i < OPTIONS_MAX_TEXTS + 3; i++)
        many[i] = "f";
    assert_int_equal(parse(&v, OPTIONS_MAX_TEXTS + 3, many), CE_EINVAL);
    assert_non_null(strstr(v.err.text, "--data: more than 64"));
}

static void
test_ends_and_dashes(void **state)
{
    struct values v = { 0 };
    const char *ended[] = { "test", "--", "--json", "-t" };

    (void)state;
    assert_int_equal(parse(&v, 4, ended), 0);
    assert_false(v.json);
    assert_int_equal(v.n_operands, 2);
    assert_string_equal(ended[1], "--json");
    assert_int_equal(PARSE(&v, "FILE", "-"), 0); /* a lone dash is an operand */
    assert_int_equal(v.n_operands, 2);
}

static void
test_help_wins(void **state)
{
    struct values v = { 0 };

    (void)state;
    assert_int_equal(PARSE(&v, "--nonsense", "--help"), 0);
    assert_true(v.help);
    assert_int_equal(PARSE(&v, "-h"), 0);
    assert_true(v.help);
    assert_int_equal(PARSE(&v, "FILE", "--", "--help"), 0);
    assert_false(v.help);
}

static void
expect(struct values *v, int rc, const char *text)
{
    assert_int_equal(rc, CE_EINVAL);
    assert_non_null(strstr(v->err.text, text));
}

static void
test_mistakes(void **state)
{
    struct values v = { 0 };

    (void)state;
    expect(&v, PARSE(&v, "FILE", "--nonsense"), "unknown option --nonsense");
    expect(&v, PARSE(&v, "FILE", "-x"), "unknown option -x");
    expect(&v, PARSE(&v, "FILE", "--thread", "3"), "unknown option --thread");
    expect(&v, PARSE(&v, "FILE", "--threads"), "--threads needs a value");
    expect(&v, PARSE(&v, "FILE", "--threads", "0"), "from 1 to 256");
    expect(&v, PARSE(&v, "FILE", "--threads", "257"), "from 1 to 256");
    expect(&v, PARSE(&v, "FILE", "--threads", "2x"), "\"2x\" is not a number");
    expect(&v, PARSE(&v, "FILE", "--threads="), "is not a number");
    expect(&v, PARSE(&v, "FILE", "--threads", "99999999999999999999"), "not a number");
    expect(&v, PARSE(&v, "FILE", "--seed", "-1"), "--seed");
    expect(&v, PARSE(&v, "FILE", "--json=yes"), "--json takes no value");
    expect(&v, PARSE(&v, "FILE", "--exits", "1,,2"), "--exits");
    expect(&v, PARSE(&v, "FILE", "--exits", "31"), "from 1 to 30");
    expect(&v, PARSE(&v, "FILE", "--exits", "1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8"),
           "more than 16");
    expect(&v, PARSE(&v, "--json"), "something is missing");
    expect(&v, PARSE(&v, "a", "b", "c"), "\"c\" is one operand too many");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),          cmocka_unit_test(test_texts),
        cmocka_unit_test(test_ends_and_dashes), cmocka_unit_test(test_help_wins),
        cmocka_unit_test(test_mistakes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
