/* SPDX-License-Identifier: Apache-2.0
 * test_states.c - the codecs: sizes, exactness, extremes, what is refused.
 */
#include "common/states.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/half.h"

#define D 67 /* not a multiple of anything */

static uint32_t seed = 7;

/* Between -1 and 1. */
static float
noise(void)
{
    seed = seed * 1664525 + 1013904223;
    return (float)((int32_t)seed / 2147483648.0);
}

static void
test_names_and_sizes(void **state)
{
    enum states_codec codec = STATES_F32;

    (void)state;
    assert_string_equal(states_codec_name(STATES_F32), "f32");
    assert_int_equal(states_codec_find("f16", 3, &codec), 0);
    assert_int_equal(codec, STATES_F16);
    assert_int_equal(states_codec_find("f1", 2, &codec), CE_EUNSUPPORTED);
    assert_int_equal(states_codec_find("f160", 4, &codec), CE_EUNSUPPORTED);
    assert_int_equal(states_codec_find("", 0, &codec), CE_EUNSUPPORTED);
    assert_int_equal(states_row_bytes(STATES_F32, 576), 2304);
    assert_int_equal(states_row_bytes(STATES_F16, 576), 1156);
}

static void
test_f32_is_exact(void **state)
{
    static float rows[3 * D], back[3 * D];
    static uint8_t wire[3 * 4 * D];

    (void)state;
    for (int i = 0; i < 3 * D; i++)
        rows[i] = ldexpf(noise(), i - 100);
    rows[5] = -0.0f;
    rows[6] = FLT_MAX;
    rows[7] = FLT_TRUE_MIN;
    states_encode(STATES_F32, rows, 3, D, wire);
    assert_int_equal(states_decode(STATES_F32, wire, 3, D, back), 0);
    assert_memory_equal(rows, back, sizeof(rows));
}

/* Bytes by hand: 3 and -1 scaled by 2^13, so that 3 becomes 24576. */
static void
test_f16_bytes(void **state)
{
    static const float row[4] = { 3, -1, 0, 1.0f / 3 };
    static const uint8_t want[12] = { 0xf3, 0xff, 0xff, 0xff, 0x00, 0x76,
                                      0x00, 0xf0, 0x00, 0x00, 0x55, 0x69 };
    uint8_t wire[12];

    (void)state;
    states_encode(STATES_F16, row, 1, 4, wire);
    assert_memory_equal(wire, want, 12);
}

/* At any scale the error is at most 2^-11 of the value, or 2^-40 of the largest
 * for values that fall among the subnormals. */
static void
test_f16_relative_error(void **state)
{
    (void)state;
    for (int scale = -148; scale <= 128; scale++) {
        float row[D], back[D], largest = 0;
        uint8_t wire[4 + 2 * D];
        int32_t e;

        for (int i = 0; i < D; i++) {
            row[i] = (float)ldexp(noise(), scale - i % 30);
            if (i == 3) /* the largest possible of this binade */
                row[i] = (float)ldexp(1 - 0x1p-24, scale);
            largest = fmaxf(largest, fabsf(row[i]));
        }
        states_encode(STATES_F16, row, 1, D, wire);
        memcpy(&e, wire, 4);
        assert_true(e >= -160 && e <= 160);
        if (e > -160)
            assert_true(ldexp(largest, -e) >= 0x1p14 && ldexp(largest, -e) < 0x1p15);
        assert_int_equal(states_decode(STATES_F16, wire, 1, D, back), 0);
        for (int i = 0; i < D; i++)
            assert_true(fabs((double)back[i] - row[i]) <=
                        fabs((double)row[i]) * 0x1p-11 + (double)largest * 0x1p-39);
    }
}

/* What was decoded encodes to the same bytes: a replay sends the same row. */
static void
test_f16_is_stable(void **state)
{
    float rows[2 * D] = { 0 }, back[2 * D];
    uint8_t wire[2 * (4 + 2 * D)], again[sizeof(wire)];

    (void)state;
    for (int turn = 0; turn < 200; turn++) {
        for (int i = 0; i < D; i++) /* the second row stays zero */
            rows[i] = noise() * 24900;
        states_encode(STATES_F16, rows, 2, D, wire);
        assert_int_equal(states_decode(STATES_F16, wire, 2, D, back), 0);
        for (int i = D; i < 2 * D; i++)
            assert_true(back[i] == 0);
        states_encode(STATES_F16, back, 2, D, again);
        /* a largest value that was rounded up to 2^15 moves the exponent */
        if (memcmp(wire, again, 4) == 0)
            assert_memory_equal(wire, again, sizeof(wire));
    }
}

static void
test_refused(void **state)
{
    static const struct {
        int32_t e;
        uint16_t h;
        int rc;
    } cases[] = {
        { 0, 0x7c00, CE_EFORMAT },    { 0, 0xfc00, CE_EFORMAT },
        { 0, 0x7c01, CE_EFORMAT },    { 0, 0x7e00, CE_EFORMAT },
        { 161, 0x0000, CE_EFORMAT },  { -161, 0x0000, CE_EFORMAT },
        { INT32_MAX, 0, CE_EFORMAT }, { INT32_MIN, 0, CE_EFORMAT },
        { 160, 0x7bff, CE_EFORMAT }, /* finite, but not times 2^160 */
        { 113, 0x7800, CE_EFORMAT }, /* 2^15 * 2^113 = 2^128 */
        { 112, 0x7bff, 0 },           { 160, 0x0000, 0 },
        { -160, 0x7bff, 0 },
    };
    float bad[3] = { NAN, INFINITY, -INFINITY }, out[2];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t wire[8] = { 0 };

        memcpy(wire, &cases[i].e, 4);
        memcpy(wire + 6, &cases[i].h, 2);
        assert_int_equal(states_decode(STATES_F16, wire, 1, 2, out), cases[i].rc);
    }
    for (int i = 0; i < 3; i++) {
        uint8_t wire[8] = { 0 };

        memcpy(wire + 4, &bad[i], 4);
        assert_int_equal(states_decode(STATES_F32, wire, 1, 2, out), CE_EFORMAT);
        assert_int_equal(states_decode(STATES_F32, wire, 2, 1, out), CE_EFORMAT);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_and_sizes), cmocka_unit_test(test_f32_is_exact),
        cmocka_unit_test(test_f16_bytes),       cmocka_unit_test(test_f16_relative_error),
        cmocka_unit_test(test_f16_is_stable),   cmocka_unit_test(test_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
