/* SPDX-License-Identifier: Apache-2.0
 * test_rouge.c - ROUGE-L against values worked out by hand.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tools/rouge.h"

static double
score(const char *a, const char *b)
{
    struct rouge_text x = { 0 }, y = { 0 };
    struct err err = { 0 };
    double there, back;

    assert_int_equal(rouge_cut(&x, a, strlen(a), &err), 0);
    assert_int_equal(rouge_cut(&y, b, strlen(b), &err), 0);
    assert_int_equal(rouge_l(&there, &x, &y, &err), 0);
    assert_int_equal(rouge_l(&back, &y, &x, &err), 0);
    assert_true(there == back);
    rouge_free(&x);
    rouge_free(&y);
    return there;
}

#define is(a, b) assert_true(fabs((a) - (b)) < 1e-12)

static void
test_by_hand(void **state)
{
    (void)state;
    is(score("police killed the gunman", "police kill the gunman"), 0.75);
    is(score("police killed the gunman", "the gunman kill police"), 0.5);
    /* "the cat on mat": 4 of 6 and 4 of 5 words */
    is(score("the cat sat on the mat", "the cat lay on mat"), 2.0 * 4 / 11);
    is(score("a b c d", "d c b a"), 0.25);
    is(score("a b", "c d"), 0);
    is(score("one", "one two three four five six seven"), 2.0 / 8);
}

static void
test_words(void **state)
{
    (void)state;
    is(score("It's 3.14, isn't it?", "it s 3 14 isn t it"), 1);
    is(score("\"Hello\" - WORLD!\n", "hello world"), 1);
    is(score("caf\xc3\xa9 \xc3\x89t\xc3\xa9", "CAF\xc3\x89 \xc3\xa9t\xc3\xa9"), 1);
    is(score("a\xff"
             "b c",
             "a b c"),
       1);
    is(score("ab c", "a bc"), 0);
}

static void
test_nothing_to_compare(void **state)
{
    (void)state;
    is(score("", ""), 1);
    is(score("...", "..."), 1);
    is(score("...", "!!!"), 0);
    is(score("", "word"), 0);
    is(score("?", "word"), 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_by_hand),
                                        cmocka_unit_test(test_words),
                                        cmocka_unit_test(test_nothing_to_compare) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
