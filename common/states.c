/* SPDX-License-Identifier: Apache-2.0
 * states.c - hidden states as bytes.
 *
 * f16 differs from the paper's plain half precision by one number per row: a
 * power of two that brings the row's largest magnitude just below 2^15. Hidden
 * states of real models reach past 24,900 (and would overflow a little later),
 * while others are tiny; with the scale every row has the same relative
 * rounding. Products with the scale are made in double, where they are exact,
 * so no factor such as 2^160 has to fit a float.
 */
#include "common/states.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "common/half.h"

#define EXPONENT_MAX 160
#define EXPONENT_TOP 113    /* of rows that reach float's last binade */
#define HALF_2_15    0x7800 /* 2^15 as a half */

static const char *const names[STATES_N_CODECS] = { "f32", "f16" };

const char *
states_codec_name(enum states_codec codec)
{
    return names[codec];
}

int
states_codec_find(const char *name, size_t len, enum states_codec *out)
{
    for (int i = 0; i < STATES_N_CODECS; i++) {
        if (strlen(names[i]) == len && memcmp(names[i], name, len) == 0) {
            *out = (enum states_codec)i;
            return CE_OK;
        }
    }
    return CE_EUNSUPPORTED;
}

size_t
states_row_bytes(enum states_codec codec, size_t d)
{
    return codec == STATES_F32 ? 4 * d : 4 + 2 * d;
}

/* The exponent e for which the largest magnitude times 2^-e is in [2^14, 2^15).
 * Below 2^-146 it would pass the protocol's bound; there the bound serves: the
 * values have so few bits left that nothing is lost. */
static int32_t
row_exponent(const float *row, size_t d)
{
    float largest = 0;
    int e;

    for (size_t i = 0; i < d; i++)
        largest = fmaxf(largest, fabsf(row[i]));
    if (largest == 0)
        return 0;
    frexpf(largest, &e); /* largest is in [2^(e-1), 2^e) */
    return e - 15 < -EXPONENT_MAX ? -EXPONENT_MAX : e - 15;
}

static void
encode_f16(const float *row, size_t d, uint8_t *out)
{
    int32_t e = row_exponent(row, d);
    double scale = ldexp(1, -e);

    memcpy(out, &e, 4);
    out += 4;
    for (size_t i = 0; i < d; i++, out += 2) {
        /* exact, unless it is so small that it rounds to zero either way */
        uint16_t h = half_from_float((float)((double)row[i] * scale));

        if (e == EXPONENT_TOP && (h & 0x7fff) == HALF_2_15)
            h--; /* rounded up it would be 2^128, which is no float */
        memcpy(out, &h, 2);
    }
}

void
states_encode(enum states_codec codec, const float *rows, size_t n, size_t d,
              uint8_t *out)
{
    if (codec == STATES_F32) {
        memcpy(out, rows, n * d * sizeof(float)); /* the machine is little-endian */
        return;
    }
    assert(codec == STATES_F16);
    for (size_t r = 0; r < n; r++)
        encode_f16(rows + r * d, d, out + r * states_row_bytes(codec, d));
}

static bool
all_finite(const float *values, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(values[i]))
            return false;
    return true;
}

static int
decode_f16(const uint8_t *in, size_t d, float *row)
{
    int32_t e;
    double scale;

    memcpy(&e, in, 4);
    if (e < -EXPONENT_MAX || e > EXPONENT_MAX)
        return CE_EFORMAT;
    scale = ldexp(1, e);
    in += 4;
    for (size_t i = 0; i < d; i++, in += 2) {
        uint16_t h;

        memcpy(&h, in, 2);
        row[i] = (float)((double)half_to_float(h) * scale);
    }
    return all_finite(row, d) ? CE_OK : CE_EFORMAT;
}

int
states_decode(enum states_codec codec, const uint8_t *in, size_t n, size_t d, float *rows)
{
    if (codec == STATES_F32) {
        memcpy(rows, in, n * d * sizeof(float));
        return all_finite(rows, n * d) ? CE_OK : CE_EFORMAT;
    }
    assert(codec == STATES_F16);
    for (size_t r = 0; r < n; r++) {
        int rc = decode_f16(in + r * states_row_bytes(codec, d), d, rows + r * d);

        if (rc != CE_OK)
            return rc;
    }
    return CE_OK;
}
