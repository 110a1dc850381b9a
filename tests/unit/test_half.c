/* SPDX-License-Identifier: Apache-2.0
 * test_half.c - binary16 conversions against arithmetic in double; SHA-256
 * against the standard's examples.
 */
#include "common/half.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/sha256.h"

/* The value of a finite half by the standard's formula. */
static double
half_value(uint16_t h)
{
    int exponent = h >> 10 & 31, mantissa = h & 1023;
    double v =
        exponent == 0 ? ldexp(mantissa, -24) : ldexp(1024 + mantissa, exponent - 25);

    return h & 0x8000 ? -v : v;
}

static void
test_every_half_widens_and_returns(void **state)
{
    uint32_t h;

    (void)state;
    for (h = 0; h < 0x10000; h++) {
        if ((h & 0x7c00) == 0x7c00)
            continue;
        assert_true((double)half_to_float((uint16_t)h) == half_value((uint16_t)h));
        assert_int_equal(half_from_float(half_to_float((uint16_t)h)), h);
    }
    assert_true(isinf(half_to_float(0x7c00)) && half_to_float(0x7c00) > 0);
    assert_true(isinf(half_to_float(0xfc00)) && half_to_float(0xfc00) < 0);
    assert_true(isnan(half_to_float(0x7c01)) && isnan(half_to_float(0xfe00)));
    assert_int_equal(half_from_float(NAN) & 0x7e00, 0x7e00);
    assert_int_equal(half_from_float(-INFINITY), 0xfc00);
}

/* Between any two neighbours: the midpoint goes to the even one, and its own
 * neighbours in float to the nearer one. */
static void
test_every_midpoint_rounds_to_even(void **state)
{
    uint32_t h;

    (void)state;
    for (h = 0; h < 0x7bff; h++) {
        float mid =
            (float)((half_value((uint16_t)h) + half_value((uint16_t)(h + 1))) / 2);
        uint16_t even = (uint16_t)(h & 1 ? h + 1 : h);

        assert_int_equal(half_from_float(mid), even);
        assert_int_equal(half_from_float(-mid), even | 0x8000);
        assert_int_equal(half_from_float(nextafterf(mid, 0)), h);
        assert_int_equal(half_from_float(nextafterf(mid, INFINITY)), h + 1);
    }
    assert_int_equal(half_from_float(65504.0f), 0x7bff);
    assert_int_equal(half_from_float(nextafterf(65520.0f, 0)), 0x7bff);
    assert_int_equal(half_from_float(65520.0f), 0x7c00);
    assert_int_equal(half_from_float(1e-40f), 0);
}

static void
test_sha256(void **state)
{
    static const char abc[] =
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    char path[] = "test_half.XXXXXX", text[SHA256_TEXT];
    uint8_t digest[SHA256_BYTES], parsed[SHA256_BYTES];
    struct err err;
    int fd;

    (void)state;
    assert_int_equal(sha256_bytes("abc", 3, digest, &err), 0);
    sha256_text(digest, text);
    assert_string_equal(text, abc);
    assert_int_equal(sha256_parse(text, 64, parsed), 0);
    assert_memory_equal(parsed, digest, SHA256_BYTES);
    assert_int_equal(sha256_parse(text, 63, parsed), CE_EFORMAT);
    text[63] = 'g';
    assert_int_equal(sha256_parse(text, 64, parsed), CE_EFORMAT);

    fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "abc", 3), 3);
    close(fd);
    assert_int_equal(sha256_file(path, parsed, &err), 0);
    assert_memory_equal(parsed, digest, SHA256_BYTES);
    unlink(path);
    assert_int_equal(sha256_file(path, parsed, &err), CE_EIO);
    assert_non_null(strstr(err.text, path));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_half_widens_and_returns),
        cmocka_unit_test(test_every_midpoint_rounds_to_even),
        cmocka_unit_test(test_sha256),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
