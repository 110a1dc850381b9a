/* SPDX-License-Identifier: Apache-2.0
 * quantise_fit.c - see quantise_fit.h.
 *
 * The engine's encoders of Q4_0 and Q4_1 take scales from a block's extreme values,
 * which is fast and what synthesised models are known by. Here a grid of other scales is
 * tried, each is replaced by the least-squares fit to the codes that it gives, and the
 * least error *as stored* wins; the engine's own block is the first candidate. On
 * SmolLM2 that takes a quarter of the squared error away.
 *
 * Only correctly rounded operations in a fixed order: the same bytes everywhere.
 */
#include "tools/quantise_fit.h"

#include <math.h>
#include <string.h>

#include "common/half.h"
#include "engine/gguf.h"
#include "engine/quant.h"

#define CODES    16
#define STEPS_40 15 /* scales tried for each sign: the extreme at 5.5 to 9 */
#define STEPS_41 5  /* ends tried for each: up to a quarter code inside */
#define ROUNDS   1  /* of fitting */
#define LANES    8  /* partial sums, so that a compiler may use vectors */

/* Codes and what they stand for: x[i] = d * (n[i] + offset) + m. */
struct fit {
    float d, m; /* as stored */
    float n[QUANT_BLOCK];
    float error; /* sum of squares */
};

/* To integers, ties to even; |v| below 2^22. */
static float
round_even(float v)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23 */

    return (v + magic) - magic;
}

static float
sum_lanes(const float *lanes)
{
    return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) +
           ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

static void
assign(struct fit *f, const float *x, float least)
{
    float d = f->d, m = f->m, inverse = d != 0 ? 1 / d : 0, most = least + CODES - 1;
    float errors[LANES] = { 0 };

    for (int i = 0; i < QUANT_BLOCK; i += LANES) {
        for (int l = 0; l < LANES; l++) {
            float v = (x[i + l] - m) * inverse, e;

            v = v > least ? v : least;
            v = v < most ? v : most;
            v = round_even(v);
            f->n[i + l] = v;
            e = d * v + m - x[i + l];
            errors[l] += e * e;
        }
    }
    f->error = sum_lanes(errors);
}

/* Least squares of x over the codes; false when these decide nothing. */
static bool
regress(const struct fit *f, const float *x, bool with_m, float *d, float *m)
{
    float lx[LANES] = { 0 }, ln[LANES] = { 0 }, lxn[LANES] = { 0 }, lnn[LANES] = { 0 };
    float sx, sn, sxn, snn, det;

    for (int i = 0; i < QUANT_BLOCK; i += LANES) {
        for (int l = 0; l < LANES; l++) {
            lx[l] += x[i + l];
            ln[l] += f->n[i + l];
            lxn[l] += x[i + l] * f->n[i + l];
            lnn[l] += f->n[i + l] * f->n[i + l];
        }
    }
    sx = sum_lanes(lx);
    sn = sum_lanes(ln);
    sxn = sum_lanes(lxn);
    snn = sum_lanes(lnn);
    det = with_m ? QUANT_BLOCK * snn - sn * sn : snn;
    if (!(det > 0))
        return false;
    *d = with_m ? (QUANT_BLOCK * sxn - sx * sn) / det : sxn / snn;
    *m = with_m ? (snn * sx - sn * sxn) / det : 0;
    return true;
}

static float
through_half(float v)
{
    return half_to_float(half_from_float(v));
}

/* Try d and m, then the fits to the codes they give; keep the best. */
static void
try_scale(struct fit *best, const float *x, float d, float m, float least, bool with_m)
{
    struct fit f;

    for (int round = 0; round <= ROUNDS; round++) {
        f.d = through_half(d);
        f.m = through_half(m);
        if (!isfinite(f.d) || !isfinite(f.m) || f.d == 0)
            return;
        assign(&f, x, least);
        if (f.error < best->error)
            *best = f;
        if (!regress(&f, x, with_m, &d, &m))
            return;
    }
}

static void
fit_q4_0(const float *x, unsigned char *block)
{
    struct quant_q4_0 b;
    struct fit best = { 0 };
    float extreme = 0;

    for (int i = 0; i < QUANT_BLOCK; i++)
        extreme = fabsf(x[i]) > extreme ? fabsf(x[i]) : extreme;
    memcpy(&b, block, sizeof(b));
    best.d = half_to_float(b.d);
    assign(&best, x, -8);
    for (int step = 0; step < STEPS_40 && best.error > 0; step++) {
        float code = 5.5f + 0.25f * (float)step;

        try_scale(&best, x, extreme / code, 0, -8, false);
        try_scale(&best, x, extreme / -code, 0, -8, false);
    }
    b.d = half_from_float(best.d);
    for (int i = 0; i < QUANT_BLOCK / 2; i++)
        b.n[i] = (uint8_t)((int)best.n[i] + 8) |
                 (uint8_t)(((int)best.n[i + QUANT_BLOCK / 2] + 8) << 4);
    memcpy(block, &b, sizeof(b));
}

static void
fit_q4_1(const float *x, unsigned char *block)
{
    struct quant_q4_1 b;
    struct fit best = { 0 };
    float low = x[0], high = x[0], code;

    for (int i = 1; i < QUANT_BLOCK; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    code = (high - low) / (CODES - 1);
    memcpy(&b, block, sizeof(b));
    best.d = half_to_float(b.d);
    best.m = half_to_float(b.m);
    assign(&best, x, 0);
    for (int i = 0; i < STEPS_41; i++) {
        for (int j = 0; j < STEPS_41 && best.error > 0; j++) {
            float from = low + code * 0.25f * (float)i,
                  to = high - code * 0.25f * (float)j;

            try_scale(&best, x, (to - from) / (CODES - 1), from, 0, true);
        }
    }
    b.d = half_from_float(best.d);
    b.m = half_from_float(best.m);
    for (int i = 0; i < QUANT_BLOCK / 2; i++)
        b.n[i] = (uint8_t)best.n[i] | (uint8_t)((int)best.n[i + QUANT_BLOCK / 2] << 4);
    memcpy(block, &b, sizeof(b));
}

int
quantise_fit_row(uint32_t type, const float *src, void *dst, size_t n)
{
    unsigned char *block = dst;
    int rc = quant_quantise_row(type, src, dst, n);

    if (rc != 0 || (type != GGUF_Q4_0 && type != GGUF_Q4_1))
        return rc;
    for (size_t i = 0; i < n; i += QUANT_BLOCK) {
        if (type == GGUF_Q4_0)
            fit_q4_0(src + i, block);
        else
            fit_q4_1(src + i, block);
        block += gguf_block_bytes(type);
    }
    return 0;
}
