/* SPDX-License-Identifier: Apache-2.0
 * test_split_rules.c - every rule by name cuts as its tokenizer does (by hand from the
 * definitions), loses nothing, and takes linear time on hostile texts.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "engine/tokenizer_rules.h"
#include "engine/tokenizer_split.h"
#include "megabyte.h"

static const struct {
    const char *name, *text, *want;
} cases[] = {
    { "smollm", "a  12 b", "a|  |1|2| b|" },
    { "starcoder", "x=1.5", "x|=|1|.|5|" },
    { "gpt-2", "a  12 's\n\nb", "a| | 12| '|s|\n|\n|b|" },
    { "mpt", "don't", "don|'t|" },
    { "llama-bpe", "I'M 12345\n\n x!\n", "I|'M| |123|45|\n\n| x|!\n|" },
    { "falcon3", "1234", "123|4|" },
    { "qwen2", "12 \n$x", "1|2| \n|$x|" },
    { "stablelm2", "it'S", "it|'S|" },
    { "dbrx", "1234", "123|4|" },
    { "qwen35", "e\314\201 x", "e\314\201| x|" },
    { "tekken", "HelloWorld ABCdef 12", "Hello|World| ABCdef| |1|2|" },
    { "gpt-4o", "HelloWorld's 1234 a/", "Hello|World's| |123|4| a|/|" },
    { "falcon", "Hello, I'm 12345!", "Hello|,| I|'|m| |123|45|!|" },
    { "deepseek-llm", "Hi there 123\n\nx  \n", "Hi| there| |123|\n|\n|x|  |\n|" },
    { "deepseek-coder", "x = 12;", "x| = |1|2|;|" },
    { "deepseek-v3", "a1234 (b) c.foo", "a|123|4| (|b|)| c|.foo|" },
    { "deepseek-v3", "\344\275\240\345\245\275a", "\344\275\240\345\245\275|a|" },
    { "poro-chat", "Hi, you. ok", "Hi|,| you|.| ok|" },
    { "viking", " a12", " a|1|2|" },
    { "exaone-moe", "ab cd 12", "ab cd| |1|2|" },
    { "seed-coder", "x;\n\n", "x|;|\n\n|" },
    { "bailingmoe", "a\n\n b", "a|\n\n| b|" },
    { "minicpm5", "a12345", "a|123|45|" },
    { "default", "a=12345 b", "a|=|123|45| b|" },
};

struct cut {
    char text[256];
    size_t len, total;
};

static int
add(void *ctx, const char *word, size_t len)
{
    struct cut *c = ctx;

    assert_true(len > 0 && c->len + len + 1 < sizeof(c->text));
    memcpy(c->text + c->len, word, len);
    c->len += len;
    c->text[c->len++] = '|';
    c->text[c->len] = '\0';
    return 0;
}

static void
test_cuts(void **state)
{
    struct split *s;
    struct err err;
    size_t i;

    (void)state;
    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct cut c = { .len = 0 };

        if (split_open(&s, cases[i].name, strlen(cases[i].name), &err) != 0)
            fail_msg("%s", err.text);
        assert_string_equal(split_name(s), cases[i].name);
        assert_int_equal(split_each(s, cases[i].text, strlen(cases[i].text), add, &c), 0);
        if (strcmp(c.text, cases[i].want) != 0)
            fail_msg("%s: \"%s\", not \"%s\"", cases[i].name, c.text, cases[i].want);
        split_free(s);
    }
}

static int
count(void *ctx, const char *word, size_t len)
{
    struct cut *c = ctx;

    (void)word;
    c->total += len;
    return 0;
}

/* One MiB of each pattern, then something else: what a run is followed by decides
 * whether an expression has to give it back. Generous; quadratic work takes hours. */
static void
hostile(const struct split *s, const char *name, char *text, size_t len)
{
    static const char *const patterns[] = { "a",  " ",   "\n",        "A",           "1",
                                            "!",  " \n", "\303\251",  "\314\201",    "'",
                                            " a", "aA",  "\304\205 ", "\343\200\200" };
    struct cut c;
    size_t k;
    clock_t start;
    double seconds;

    for (k = 0; k < sizeof(patterns) / sizeof(patterns[0]); k++) {
        repeat_pattern(text, len, patterns[k]);
        text[len - 1] = '\001';
        start = clock();
        c.total = 0;
        if (split_each(s, text, len, count, &c) != 0)
            fail_msg("%s, pattern %zu: cannot be cut", name, k);
        seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
        assert_int_equal(c.total, len);
        if (seconds > 10)
            fail_msg("%s, pattern %zu: %.1f s", name, k, seconds);
    }
}

static void
test_all_rules_are_linear(void **state)
{
    char names[2000], *name, *rest;
    char *text = malloc(MEGABYTE);
    const char *as;
    const struct split_rule *rule, *before = NULL;
    struct split *s;
    struct err err;
    clock_t start = clock();
    int n = 0;

    (void)state;
    assert_non_null(text);
    split_rule_names(names, sizeof(names));
    assert_null(strstr(names, "..."));
    for (name = strtok_r(names, ", ", &rest); name != NULL;
         name = strtok_r(NULL, ", ", &rest), n++) {
        rule = split_rule_find(name, strlen(name), &as);
        assert_non_null(rule);
        assert_string_equal(as, name);
        if (rule == before)
            continue;
        before = rule;
        if (split_open(&s, name, strlen(name), &err) != 0)
            fail_msg("%s", err.text);
        hostile(s, name, text, MEGABYTE);
        split_free(s);
    }
    print_message("%d names, %.1f s\n", n, (double)(clock() - start) / CLOCKS_PER_SEC);
    free(text);
}

static void
test_names(void **state)
{
    char few[40];
    struct split *s;
    struct err err;

    (void)state;
    split_rule_names(few, sizeof(few));
    assert_string_equal(few + strlen(few) - 3, "...");
    assert_int_equal(split_open(&s, "smoll", 5, &err), CE_EUNSUPPORTED);
    assert_null(s);
    assert_non_null(strstr(err.text, "\"smoll\""));
    assert_non_null(strstr(err.text, "known: smollm, "));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cuts),
        cmocka_unit_test(test_all_rules_are_linear),
        cmocka_unit_test(test_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
