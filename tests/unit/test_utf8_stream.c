/* SPDX-License-Identifier: Apache-2.0
 * test_utf8_stream.c - however bytes are cut, what comes out is valid UTF-8, and the
 * same as when they come in one piece.
 */
#include "engine/utf8_stream.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define FFFD "\357\277\275"

/* All of in[0..len) in pieces of `step` bytes, ended. */
static size_t
pass(const char *in, size_t len, size_t step, char *out)
{
    struct utf8_stream s = { .n_held = 0 };
    size_t at, n = 0, part;

    for (at = 0; at < len; at += part) {
        part = len - at < step ? len - at : step;
        n += utf8_stream_push(&s, in + at, part, out + n);
    }
    return n + utf8_stream_end(&s, out + n);
}

static void
gives(const char *in, const char *want)
{
    char out[256];
    size_t step, n;

    for (step = 1; step <= 5; step++) {
        n = pass(in, strlen(in), step, out);
        if (n != strlen(want) || memcmp(out, want, n) != 0)
            fail_msg("\"%s\" in steps of %zu gives \"%.*s\"", in, step, (int)n, out);
    }
}

static void
test_known(void **state)
{
    (void)state;
    gives("", "");
    gives("plain", "plain");
    gives("\303\251t\303\251 \360\237\230\200!", "\303\251t\303\251 \360\237\230\200!");
    gives("\355\237\277\356\200\200\364\217\277\277",
          "\355\237\277\356\200\200\364\217\277\277");
    gives("\377a", FFFD "a");
    gives("\303a", FFFD "a");
    gives("\303", FFFD);
    gives("\360\237\230", FFFD); /* one beginning, one mark */
    gives("\360\237\230\303\251", FFFD "\303\251");
    gives("\300\257", FFFD FFFD);                   /* overlong */
    gives("\355\240\200", FFFD FFFD FFFD);          /* surrogate */
    gives("\364\220\200\200", FFFD FFFD FFFD FFFD); /* past U+10FFFF */
    gives("\341\200\342\202\254", FFFD "\342\202\254");
}

static void
test_holds_back(void **state)
{
    struct utf8_stream s = { .n_held = 0 };
    char out[UTF8_STREAM_ROOM(2)];

    (void)state;
    assert_int_equal(utf8_stream_push(&s, "a\342", 2, out), 1);
    assert_int_equal(utf8_stream_push(&s, "\202", 1, out), 0);
    assert_int_equal(utf8_stream_push(&s, "\254b", 2, out), 4);
    assert_memory_equal(out, "\342\202\254b", 4);
    assert_int_equal(utf8_stream_end(&s, out), 0);
}

static void
test_any_bytes_any_cut(void **state)
{
    static const unsigned char pool[] = {
        'a',  0x80, 0xbf, 0xc3, 0xa9, 0xe2, 0x82, 0xac,
        0xf0, 0x9f, 0x98, 0xed, 0xa0, 0xf4, 0x90, 0xff
    };
    uint32_t seed = 11;
    char in[64], whole[UTF8_STREAM_ROOM(64) + 3], cut[UTF8_STREAM_ROOM(64) * 2];
    size_t i, n, step;
    int round;

    (void)state;
    for (round = 0; round < 2000; round++) {
        for (i = 0; i < sizeof(in); i++) {
            seed = seed * 1664525u + 1013904223u;
            in[i] = (char)pool[seed >> 28];
        }
        n = pass(in, sizeof(in), sizeof(in), whole);
        assert_int_equal(utf8_valid_prefix(whole, n), n);
        for (step = 1; step < 7; step += 2) {
            assert_int_equal(pass(in, sizeof(in), step, cut), n);
            assert_memory_equal(cut, whole, n);
        }
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known),
        cmocka_unit_test(test_holds_back),
        cmocka_unit_test(test_any_bytes_any_cut),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
