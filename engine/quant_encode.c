/* SPDX-License-Identifier: Apache-2.0
 * quant_encode.c - encoding of plain numbers and of blocks of 32, and the search for
 * scales that the Q5 and K formats share.
 *
 * The same floats give the same bytes on every machine: only correctly rounded
 * operations, in a fixed order. Q8_0, Q4_0 and Q4_1 take their scales from the extreme
 * values of a block; models that tests synthesise in them are known by their hashes.
 *
 * Used by: quant.c, quant_encode_k.c. Thread: any, no state.
 */
#include "engine/quant_internal.h"

#include <math.h>
#include <string.h>

#include "common/half.h"

bool
quant_store_half(float v, uint16_t *h, float *back)
{
    *h = half_from_float(v);
    *back = half_to_float(*h);
    return isfinite(*back);
}

int
quant_nearest(float v, int least, int most)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23: an addition rounds to integers */

    if (!(v > (float)least)) /* also NaN */
        return least;
    return v < (float)most ? (int)((v + magic) - magic) : most;
}

void
quant_round_codes(int *n, const float *x, int count, float scale, float minimum,
                  int least, int most, int zero)
{
    for (int i = 0; i < count; i++)
        n[i] = scale != 0 ? quant_nearest((x[i] + minimum) / scale, least, most) : zero;
}

/* ---- the search for scales ---- */

#define TINY 1e-30f /* values below it are zero to every format */

/* The value furthest from 0. */
static float
extreme_of(const float *x, int count)
{
    float extreme = 0;

    for (int i = 0; i < count; i++)
        if (fabsf(x[i]) > fabsf(extreme))
            extreme = x[i];
    return extreme;
}

/* For codes rounded at any scale, the best scale is sum(x n) / sum(n n), and leaves
 * sum(x x) - sum(x n)^2 / sum(n n). So the largest quotient is sought. */
float
quant_fit_scale(const float *x, int count, int least, int most)
{
    float extreme = extreme_of(x, count), best = 0, scale;

    if (fabsf(extreme) < TINY)
        return 0;
    scale = extreme / (float)least;
    for (int step = -9; step <= 9; step++) {
        float inverse = ((float)least + 0.1f * (float)step) / extreme, xn = 0;
        int nn = 0;

        for (int i = 0; i < count; i++) {
            int n = quant_nearest(x[i] * inverse, least, most);

            xn += x[i] * (float)n;
            nn += n * n;
        }
        if (nn > 0 && xn * xn > best * (float)nn) {
            best = xn * xn / (float)nn;
            scale = xn / (float)nn;
        }
    }
    return scale;
}

/* Sum of squared errors of x = scale * n - minimum. */
static float
squared_error(const float *x, const int *n, int count, float scale, float minimum)
{
    float sum = 0;

    for (int i = 0; i < count; i++) {
        float e = scale * (float)n[i] - minimum - x[i];

        sum += e * e;
    }
    return sum;
}

/* Least squares of x over codes n; false when they are all the same. */
static bool
regress(const float *x, const int *n, int count, bool any_minimum, float *scale,
        float *minimum)
{
    float sum_x = 0, sum_xn = 0;
    int sum_n = 0, sum_nn = 0, det;

    for (int i = 0; i < count; i++) {
        sum_x += x[i];
        sum_xn += x[i] * (float)n[i];
        sum_n += n[i];
        sum_nn += n[i] * n[i];
    }
    det = count * sum_nn - sum_n * sum_n;
    if (det <= 0)
        return false;
    *scale = ((float)count * sum_xn - sum_x * (float)sum_n) / (float)det;
    *minimum = ((float)sum_n * sum_xn - (float)sum_nn * sum_x) / (float)det;
    if (!any_minimum && !(*minimum > 0)) {
        *minimum = 0;
        *scale = sum_xn / (float)sum_nn;
    }
    return *scale > 0;
}

void
quant_fit_affine(const float *x, int count, int most, bool any_minimum, float *scale,
                 float *minimum)
{
    float low = x[0], high = x[0], best;
    int n[QUANT_BLOCK];

    for (int i = 1; i < count; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    if (!any_minimum && low > 0)
        low = 0;
    *minimum = -low;
    *scale = (high - low) / (float)most;
    if (high - low < TINY) {
        *scale = 0;
        return;
    }
    quant_round_codes(n, x, count, *scale, *minimum, 0, most, 0);
    best = squared_error(x, n, count, *scale, *minimum);
    for (int step = -10; step <= 10; step++) {
        float s = (high - low) / ((float)most + 0.1f * (float)step), m, error;

        quant_round_codes(n, x, count, s, -low, 0, most, 0);
        if (!regress(x, n, count, any_minimum, &s, &m))
            continue;
        error = squared_error(x, n, count, s, m);
        if (error < best) {
            best = error;
            *scale = s;
            *minimum = m;
        }
    }
}

/* ---- plain numbers ---- */

bool
quant_encode_f32(const float *src, unsigned char *dst)
{
    memcpy(dst, src, sizeof(*src));
    return isfinite(*src);
}

bool
quant_encode_f16(const float *src, unsigned char *dst)
{
    uint16_t h;
    float back;
    bool ok = quant_store_half(*src, &h, &back);

    memcpy(dst, &h, sizeof(h));
    return ok;
}

/* The upper half of a float's bits, rounded to nearest, ties to even. */
bool
quant_encode_bf16(const float *src, unsigned char *dst)
{
    uint32_t bits;
    uint16_t h;

    memcpy(&bits, src, sizeof(bits));
    h = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    memcpy(dst, &h, sizeof(h));
    return (h & 0x7f80) != 0x7f80;
}

/* ---- blocks of 32 ---- */

bool
quant_encode_q8_0(const float *src, unsigned char *dst)
{
    struct quant_q8_0 b = { 0 };
    float d;
    int i;

    if (!quant_store_half(fabsf(extreme_of(src, QUANT_BLOCK)) / 127.0f, &b.d, &d))
        return false;
    for (i = 0; i < QUANT_BLOCK; i++)
        b.q[i] = d != 0 ? (int8_t)quant_nearest(src[i] / d, -127, 127) : 0;
    memcpy(dst, &b, sizeof(b));
    return true;
}

static void
store_nibbles(uint8_t out[QUANT_BLOCK / 2], const int *n)
{
    for (int i = 0; i < QUANT_BLOCK / 2; i++)
        out[i] = (uint8_t)((n[i] & 15) | (n[i + QUANT_BLOCK / 2] & 15) << 4);
}

static void
store_fifth(uint8_t out[QUANT_BLOCK / 8], const int *n)
{
    memset(out, 0, QUANT_BLOCK / 8);
    for (int i = 0; i < QUANT_BLOCK; i++)
        out[i / 8] = (uint8_t)(out[i / 8] | (n[i] >> 4 & 1) << i % 8);
}

bool
quant_encode_q4_0(const float *src, unsigned char *dst)
{
    struct quant_q4_0 b = { 0 };
    float d;
    int n[QUANT_BLOCK];

    /* the largest value sits at -8: 16 codes */
    if (!quant_store_half(extreme_of(src, QUANT_BLOCK) / -8.0f, &b.d, &d))
        return false;
    quant_round_codes(n, src, QUANT_BLOCK, d, 0, -8, 7, 0);
    for (int i = 0; i < QUANT_BLOCK; i++)
        n[i] += 8;
    store_nibbles(b.n, n);
    memcpy(dst, &b, sizeof(b));
    return true;
}

bool
quant_encode_q4_1(const float *src, unsigned char *dst)
{
    struct quant_q4_1 b = { 0 };
    float least = src[0], most = src[0], d, m;
    int n[QUANT_BLOCK];

    for (int i = 1; i < QUANT_BLOCK; i++) {
        if (src[i] < least)
            least = src[i];
        if (src[i] > most)
            most = src[i];
    }
    if (!quant_store_half(least, &b.m, &m) ||
        !quant_store_half((most - m) / 15.0f, &b.d, &d))
        return false;
    quant_round_codes(n, src, QUANT_BLOCK, d, -m, 0, 15, 0);
    store_nibbles(b.n, n);
    memcpy(dst, &b, sizeof(b));
    return true;
}

bool
quant_encode_q5_0(const float *src, unsigned char *dst)
{
    struct quant_q5_0 b = { 0 };
    float d;
    int n[QUANT_BLOCK];

    if (!quant_store_half(quant_fit_scale(src, QUANT_BLOCK, -16, 15), &b.d, &d))
        return false;
    quant_round_codes(n, src, QUANT_BLOCK, d, 0, -16, 15, 0);
    for (int i = 0; i < QUANT_BLOCK; i++)
        n[i] += 16;
    store_nibbles(b.n, n);
    store_fifth(b.fifth, n);
    memcpy(dst, &b, sizeof(b));
    return true;
}

bool
quant_encode_q5_1(const float *src, unsigned char *dst)
{
    struct quant_q5_1 b = { 0 };
    float d, m;
    int n[QUANT_BLOCK];

    quant_fit_affine(src, QUANT_BLOCK, 31, true, &d, &m);
    if (!quant_store_half(d, &b.d, &d) || !quant_store_half(-m, &b.m, &m))
        return false;
    quant_round_codes(n, src, QUANT_BLOCK, d, -m, 0, 31, 0);
    store_nibbles(b.n, n);
    store_fifth(b.fifth, n);
    memcpy(dst, &b, sizeof(b));
    return true;
}
