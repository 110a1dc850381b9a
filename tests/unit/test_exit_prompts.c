/* SPDX-License-Identifier: Apache-2.0
 * test_exit_prompts.c - which lines of a text are prompts, each once, and never an
 * excluded one; passages end with sentences.
 */
#include "tools/exit_prompts.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char text_path[64], json_path[64];

static int
setup(void **state)
{
    (void)state;
    snprintf(text_path, sizeof(text_path), "/tmp/test_exit_prompts.%ld.txt",
             (long)getpid());
    snprintf(json_path, sizeof(json_path), "/tmp/test_exit_prompts.%ld.jsonl",
             (long)getpid());
    return 0;
}

static int
teardown(void **state)
{
    (void)state;
    unlink(text_path);
    unlink(json_path);
    return 0;
}

static void
put(const char *path, const char *text)
{
    FILE *f = fopen(path, "we");

    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void
beginnings_of_paragraphs(void **state)
{
    struct exit_prompts p = { 0 };

    (void)state;
    put(text_path, "Name a big green animal.\nA crocodile is one of them.\n"
                   "\n"
                   "Sort these words by length.\nhouse, cat, tree\ncat, tree, house\n"
                   "  \n"
                   "Too short.\n"
                   "\n\n"
                   "name  a BIG green animal.\n");
    assert_int_equal(exit_prompts_add_file(&p, text_path, NULL), 0);
    assert_int_equal(p.n, 3);
    assert_string_equal(p.list[0], "Name a big green animal.");
    assert_string_equal(p.list[1], "Sort these words by length.");
    assert_string_equal(p.list[2], "Sort these words by length.\nhouse, cat, tree");
    exit_prompts_free(&p);
}

static void
a_prompt_a_line(void **state)
{
    struct exit_prompts p = { 0 };

    (void)state;
    put(text_path, "What is the tallest mountain?\nWhat is the longest river?");
    assert_int_equal(exit_prompts_add_file(&p, text_path, NULL), 0);
    assert_int_equal(p.n, 2);
    assert_string_equal(p.list[1], "What is the longest river?");
    exit_prompts_free(&p);
}

static void
excluded_prompts_stay_out(void **state)
{
    struct exit_prompts p = { 0 };
    struct err err = { 0 };
    bool added;

    (void)state;
    put(json_path, "{\"prompt\": \"What is the longest river?\"}\n\n"
                   "{\"prompt\": \"Two\\nlines\", \"id\": 7}\n");
    put(text_path, "What is the tallest mountain?\nWhat is  the longest RIVER?\n");
    assert_int_equal(exit_prompts_exclude(&p, json_path, NULL), 0);
    assert_int_equal(exit_prompts_add_file(&p, text_path, NULL), 0);
    assert_int_equal(p.n, 1);
    assert_int_equal(exit_prompts_add(&p, "two lines ", 10, &added, NULL), 0);
    assert_false(added);
    exit_prompts_free(&p);
    assert_int_equal(exit_prompts_add_file(&p, json_path, NULL), 0);
    assert_int_equal(p.n, 2);
    assert_int_equal(exit_prompts_save(&p, json_path, NULL), 0);
    exit_prompts_free(&p);
    assert_int_equal(exit_prompts_add_file(&p, json_path, NULL), 0);
    assert_string_equal(p.list[1], "Two\nlines");
    exit_prompts_free(&p);

    put(json_path, "{\"prompt\": \"fine\"}\n{\"prompt\": 3}\n");
    assert_int_equal(exit_prompts_exclude(&p, json_path, &err), CE_EFORMAT);
    assert_non_null(strstr(err.text, ":2: "));
    put(json_path, "{\"prompt\n");
    assert_int_equal(exit_prompts_exclude(&p, json_path, &err), CE_EFORMAT);
    put(text_path, "\n\nNo prompt.\n");
    assert_int_equal(exit_prompts_add_file(&p, text_path, &err), CE_EINVAL);
    exit_prompts_free(&p);
}

static void
many_prompts_once_each(void **state)
{
    struct exit_prompts p = { 0 };

    (void)state;
    for (int turn = 0; turn < 2; turn++) {
        for (int i = 0; i < 5000; i++) {
            char text[32];

            snprintf(text, sizeof(text), "prompt number %d", i);
            assert_int_equal(exit_prompts_add(&p, text, strlen(text), NULL, NULL), 0);
        }
        assert_int_equal(p.n, 5000);
    }
    exit_prompts_free(&p);
}

static void
passages_end_with_sentences(void **state)
{
    struct exit_prompts p = { 0 };
    FILE *f = fopen(text_path, "we");

    (void)state;
    assert_non_null(f);
    for (int i = 0; i < 30; i++) {
        fprintf(f, " = Heading %d = \n\n", i);
        for (int s = 0; s < 20; s++)
            fprintf(f,
                    "Sentence %d of text %d has three well @-@ known words , no more . ",
                    s, i);
        fputs("\n", f);
    }
    fclose(f);
    assert_int_equal(exit_prompts_add_summaries(&p, (const char *const[]){ text_path }, 1,
                                                10, 1, NULL),
                     0);
    assert_int_equal(p.n, 10);
    for (size_t i = 0; i < p.n; i++) {
        const char *passage = strstr(p.list[i], "\n\n");
        size_t len = strlen(p.list[i]);

        assert_non_null(passage);
        assert_true(strncmp(passage, "\n\nSentence 0 of text", 20) == 0);
        assert_true(strcmp(p.list[i] + len - 8, "no more.") == 0);
        assert_non_null(strstr(passage, "well-known words, no"));
        assert_null(strstr(passage, "Heading"));
        assert_in_range(exit_prompts_words(passage, strlen(passage)), 50, 300);
    }
    exit_prompts_free(&p);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(beginnings_of_paragraphs),
        cmocka_unit_test(a_prompt_a_line),
        cmocka_unit_test(excluded_prompts_stay_out),
        cmocka_unit_test(many_prompts_once_each),
        cmocka_unit_test(passages_end_with_sentences),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
