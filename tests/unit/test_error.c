/* SPDX-License-Identifier: Apache-2.0
 * test_error.c - error texts are one printable line whatever goes into them.
 */
#include "common/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void
test_set_and_prefix(void **state)
{
    struct err err = { 0 };

    (void)state;
    assert_int_equal(err_set(&err, CE_EFORMAT, "offset %d: bad magic", 4), CE_EFORMAT);
    assert_int_equal(err.code, CE_EFORMAT);
    assert_string_equal(err.text, "offset 4: bad magic");
    assert_int_equal(err_prefix(&err, "%s", "model.gguf"), CE_EFORMAT);
    assert_string_equal(err.text, "model.gguf: offset 4: bad magic");

    assert_int_equal(err_set(NULL, CE_EIO, "nobody reads this"), CE_EIO);
    assert_int_equal(err_prefix(NULL, "nor this"), CE_OK);
}

static void
test_long_text_is_cut(void **state)
{
    char big[1000];
    struct err err;

    (void)state;
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    err_set(&err, CE_EINVAL, "%s", big);
    assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
    assert_string_equal(err.text + strlen(err.text) - 4, "x...");
    err_prefix(&err, "%s", big);
    assert_string_equal(err.text + strlen(err.text) - 4, "x...");

    /* the cut never splits a character */
    for (size_t pad = 0; pad < 4; pad++) {
        memset(big, 'x', pad);
        for (size_t i = pad; i + 4 < sizeof(big); i += 3)
            memcpy(big + i, "\xe2\x82\xac", 4);
        err_set(&err, CE_EINVAL, "%s", big);
        assert_null(strchr(err.text, '?'));
        assert_true(strlen(err.text) < sizeof(err.text));
        assert_string_equal(err.text + strlen(err.text) - 6, "\xe2\x82\xac...");
    }
}

static void
test_untrusted_bytes(void **state)
{
    static const struct {
        const char *in, *out;
    } cases[] = {
        { "a\nb\tc\x7f", "a?b?c?" },
        { "\x1b[31mred", "?[31mred" },
        { "\xc3\xa9t\xc3\xa9", "\xc3\xa9t\xc3\xa9" },
        { "\xc0\xaf", "??" },           /* overlong */
        { "\xc2\x9b", "??" },           /* C1 control: CSI in one byte */
        { "\xed\xa0\x80", "???" },      /* surrogate */
        { "\xf4\x90\x80\x80", "????" }, /* past the last code point */
        { "\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80" },
        { "x\xe2\x82", "x??" }, /* ends inside a character */
    };
    struct err err;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        err_set(&err, CE_EINVAL, "%s", cases[i].in);
        assert_string_equal(err.text, cases[i].out);
    }
}

static void
test_names(void **state)
{
    (void)state;
    for (int code = 0; code >= CE_EINTERNAL; code--)
        for (int other = code - 1; other >= CE_EINTERNAL - 1; other--)
            assert_string_not_equal(err_name(code), err_name(other));
    assert_string_equal(err_name(12345), "unknown error");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_set_and_prefix),
        cmocka_unit_test(test_long_text_is_cut),
        cmocka_unit_test(test_untrusted_bytes),
        cmocka_unit_test(test_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
