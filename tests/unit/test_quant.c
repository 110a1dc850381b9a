/* SPDX-License-Identifier: Apache-2.0
 * test_quant.c - block formats: decoding of blocks written out by hand, and
 * encoding held to the definition by trying every code.
 */
#include "engine/quant.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "engine/gguf.h"

#define N 96

/* A small generator of its own: values in [-1, 1). */
static float
draw(uint32_t *s)
{
    *s = *s * 1664525u + 1013904223u;
    return (float)(int32_t)*s / 2147483648.0f;
}

static void
test_decode_by_hand(void **state)
{
    /* 0x3800 = 0.5, 0xc200 = -3, 0x2e66 = 0.0999755859375 */
    unsigned char q8[34] = { 0x00, 0x38 }, q40[18] = { 0x66, 0x2e },
                  q41[20] = { 0x00, 0x38, 0x00, 0xc2 };
    float y[32];
    int i;

    (void)state;
    for (i = 0; i < 32; i++)
        q8[2 + i] = (unsigned char)(i * 8 - 128);
    for (i = 0; i < 16; i++) {
        q40[2 + i] = (unsigned char)(i | (15 - i) << 4);
        q41[4 + i] = q40[2 + i];
    }
    assert_int_equal(quant_dequantise_row(GGUF_Q8_0, q8, y, 32), 0);
    for (i = 0; i < 32; i++)
        assert_true(y[i] == 0.5f * (float)(i * 8 - 128));
    assert_int_equal(quant_dequantise_row(GGUF_Q4_0, q40, y, 32), 0);
    for (i = 0; i < 16; i++) {
        assert_true((double)y[i] == 0.0999755859375 * (i - 8));
        assert_true((double)y[i + 16] == 0.0999755859375 * (7 - i));
    }
    assert_int_equal(quant_dequantise_row(GGUF_Q4_1, q41, y, 32), 0);
    for (i = 0; i < 16; i++) {
        assert_true((double)y[i] == 0.5 * i - 3);
        assert_true((double)y[i + 16] == 0.5 * (15 - i) - 3);
    }
}

/* Decode what was encoded, and check that no other code would have been nearer:
 * codes run from `least` to `most` in steps of the decoded scale. */
static void
check_nearest(uint32_t type, const float *x, const unsigned char *row)
{
    float y[N];
    size_t b, i;

    assert_int_equal(quant_dequantise_row(type, row, y, N), 0);
    for (b = 0; b < N / 32; b++) {
        unsigned char one[34];
        size_t bytes = quant_row_bytes(type, 32);
        int code, least = type == GGUF_Q8_0 ? -127 : 0;
        int most = type == GGUF_Q8_0 ? 127 : 15;

        memcpy(one, row + b * bytes, bytes);
        for (code = least; code <= most; code++) {
            float z[32];

            if (type == GGUF_Q8_0)
                memset(one + 2, code & 0xff, 32);
            else
                memset(one + bytes - 16, code | code << 4, 16);
            assert_int_equal(quant_dequantise_row(type, one, z, 32), 0);
            for (i = 0; i < 32; i++) {
                double mine = fabs((double)x[b * 32 + i] - (double)y[b * 32 + i]);
                double other = fabs((double)x[b * 32 + i] - (double)z[0]);

                assert_true(mine <= other * (1 + 1e-5));
            }
        }
    }
}

static void
test_encode_is_nearest(void **state)
{
    static const uint32_t types[] = { GGUF_Q8_0, GGUF_Q4_0, GGUF_Q4_1 };
    float x[N];
    unsigned char row[N / 32 * 34];
    uint32_t seed = 7;
    int round, t, i;

    (void)state;
    for (round = 0; round < 20; round++) {
        for (i = 0; i < N; i++)
            x[i] = draw(&seed) * (round < 10 ? 1.0f : 300.0f) + (float)(round % 3);
        for (t = 0; t < 3; t++) {
            assert_int_equal(quant_quantise_row(types[t], x, row, N), 0);
            check_nearest(types[t], x, row);
        }
    }
}

static void
test_f32_and_f16(void **state)
{
    float x[3] = { 1.5f, -65504.0f, 0.333251953125f }, y[3];
    unsigned char row[12];

    (void)state;
    assert_int_equal(quant_quantise_row(GGUF_F32, x, row, 3), 0);
    assert_memory_equal(row, x, sizeof(x));
    assert_int_equal(quant_dequantise_row(GGUF_F32, row, y, 3), 0);
    assert_memory_equal(y, x, sizeof(x));
    assert_int_equal(quant_quantise_row(GGUF_F16, x, row, 3), 0);
    assert_int_equal(row[0] | row[1] << 8, 0x3e00);
    assert_int_equal(quant_dequantise_row(GGUF_F16, row, y, 3), 0);
    assert_memory_equal(y, x, sizeof(x));
    x[1] = 65520.0f;
    assert_int_equal(quant_quantise_row(GGUF_F16, x, row, 3), CE_EINVAL);
}

static void
test_bf16(void **state)
{
    /* halfway cases go to the even neighbour */
    const uint32_t bits[4] = { 0x3f808000, 0x3f818000, 0xbf808001, 0x00018000 };
    const uint16_t want[4] = { 0x3f80, 0x3f82, 0xbf81, 0x0002 };
    uint16_t row[4];
    float x[4], y[4];

    (void)state;
    memcpy(x, bits, sizeof(x));
    assert_int_equal(quant_quantise_row(GGUF_BF16, x, row, 4), 0);
    assert_memory_equal(row, want, sizeof(row));
    assert_int_equal(quant_dequantise_row(GGUF_BF16, row, y, 4), 0);
    assert_true(y[0] == 1.0f && y[1] == 1.015625f && y[2] == -1.0078125f);
    x[0] = 3.4e38f;
    assert_int_equal(quant_quantise_row(GGUF_BF16, x, row, 1), CE_EINVAL);
}

/* Error of a row of N_SUPER values, as a share of their size (root mean square). */
#define N_SUPER 2048

static double
relative_error(uint32_t type, const float *x)
{
    static unsigned char row[N_SUPER * 4];
    static float y[N_SUPER];
    double error = 0, size = 0;

    assert_int_equal(quant_quantise_row(type, x, row, N_SUPER), 0);
    assert_int_equal(quant_dequantise_row(type, row, y, N_SUPER), 0);
    for (int i = 0; i < N_SUPER; i++) {
        error += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
        size += (double)x[i] * (double)x[i];
    }
    return sqrt(error / size);
}

/* Values like weights: sums of three draws, of another size every 128, off centre or
 * not. */
static void
fill_weights(float *x, uint32_t *seed, float centre)
{
    for (int i = 0; i < N_SUPER; i++) {
        float scale = 0.02f * (float)(1 + i / 128 % 4);

        x[i] = (draw(seed) + draw(seed) + draw(seed) + centre) * scale;
    }
}

static void
test_errors(void **state)
{
    /* of rows around 0, and of rows off centre for formats with a minimum */
    static const struct {
        uint32_t type;
        double bound, off_centre;
    } cases[] = {
        { GGUF_BF16, 0.0019, 0.0019 }, { GGUF_Q8_0, 0.0055, 0.0045 },
        { GGUF_Q6_K, 0.0180, 0.0145 }, { GGUF_Q5_0, 0.0420, 0.0320 },
        { GGUF_Q5_1, 0.0360, 0.0160 }, { GGUF_Q5_K, 0.0360, 0.0170 },
        { GGUF_Q4_0, 0.0870, 0.0700 }, { GGUF_Q4_1, 0.0810, 0.0360 },
        { GGUF_Q4_K, 0.0710, 0.0340 }, { GGUF_Q3_K, 0.1500, 0.1150 },
        { GGUF_Q2_K, 0.2800, 0.1250 },
    };
    static float x[N_SUPER];
    uint32_t seed = 11;

    (void)state;
    for (size_t t = 0; t < sizeof(cases) / sizeof(cases[0]); t++) {
        double centred, off;

        fill_weights(x, &seed, 0.0f);
        centred = relative_error(cases[t].type, x);
        fill_weights(x, &seed, -2.0f);
        off = relative_error(cases[t].type, x);
        print_message("%s: %.4f, off centre %.4f\n", gguf_type_name(cases[t].type),
                      centred, off);
        assert_true(centred < cases[t].bound);
        assert_true(off < cases[t].off_centre);
    }
}

/* Rows that leave a scale or a minimum nothing to do, or too much. */
static void
test_degenerate_rows(void **state)
{
    static const uint32_t types[] = { GGUF_Q5_0, GGUF_Q5_1, GGUF_Q2_K, GGUF_Q3_K,
                                      GGUF_Q4_K, GGUF_Q5_K, GGUF_Q6_K };
    static const float values[] = { 0.0f, 1e-38f, 0.75f, -0.75f };
    static float x[N_SUPER], y[N_SUPER];
    static unsigned char row[N_SUPER * 2];

    (void)state;
    for (size_t t = 0; t < sizeof(types) / sizeof(types[0]); t++) {
        for (size_t v = 0; v < sizeof(values) / sizeof(values[0]); v++) {
            for (int i = 0; i < N_SUPER; i++)
                x[i] = values[v];
            assert_int_equal(quant_quantise_row(types[t], x, row, N_SUPER), 0);
            assert_int_equal(quant_dequantise_row(types[t], row, y, N_SUPER), 0);
            for (int i = 0; i < N_SUPER; i++)
                assert_true(fabsf(x[i] - y[i]) < 0.002f);
        }
        x[77] = -1e30f;
        assert_int_equal(quant_quantise_row(types[t], x, row, N_SUPER), CE_EINVAL);
        x[77] = INFINITY;
        assert_int_equal(quant_quantise_row(types[t], x, row, N_SUPER), CE_EINVAL);
    }
}

static void
test_edges(void **state)
{
    float x[32] = { 0 }, y[32];
    unsigned char row[34];

    (void)state;
    assert_int_equal(quant_quantise_row(GGUF_Q8_0, x, row, 32), 0);
    assert_int_equal(quant_dequantise_row(GGUF_Q8_0, row, y, 32), 0);
    assert_memory_equal(x, y, sizeof(x));
    assert_int_equal(quant_quantise_row(GGUF_Q4_1, x, row, 32), 0);
    assert_int_equal(quant_dequantise_row(GGUF_Q4_1, row, y, 32), 0);
    assert_memory_equal(x, y, sizeof(x));
    x[3] = 1e30f;
    assert_int_equal(quant_quantise_row(GGUF_Q8_0, x, row, 32), CE_EINVAL);
    x[3] = NAN;
    assert_int_equal(quant_quantise_row(GGUF_Q4_0, x, row, 32), CE_EINVAL);
    assert_int_equal(quant_quantise_row(GGUF_Q4_0, x, row, 31), CE_EINVAL);
    assert_int_equal(quant_dequantise_row(GGUF_Q6_K, row, y, 32), CE_EINVAL);
    assert_int_equal(quant_dequantise_row(GGUF_I32, row, y, 32), CE_EUNSUPPORTED);
    assert_int_equal(quant_row_bytes(GGUF_Q6_K, 768), 630);
    assert_int_equal(quant_row_bytes(GGUF_Q6_K, 576), 0);
    assert_int_equal(quant_row_bytes(GGUF_Q4_1, 576), 360);
    assert_int_equal(quant_row_bytes(GGUF_Q4_1, 577), 0);
    assert_int_equal(quant_row_bytes(GGUF_F32, SIZE_MAX / 2), 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode_by_hand), cmocka_unit_test(test_encode_is_nearest),
        cmocka_unit_test(test_f32_and_f16),    cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_errors),         cmocka_unit_test(test_degenerate_rows),
        cmocka_unit_test(test_edges),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
