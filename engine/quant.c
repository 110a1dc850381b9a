/* SPDX-License-Identifier: Apache-2.0
 * quant.c - reference decoding and encoding of quantised rows.
 *
 * Plain and slow on purpose: this is what faster code is compared with. Blocks
 * are copied in and out with memcpy, so rows may start at any byte of a file.
 * Encoding uses only correctly rounded operations; the same floats give the
 * same bytes on every machine.
 *
 * Used by: cecollm-model synth, tests. Thread: any, no state.
 */
#include "engine/quant.h"

#include <math.h>
#include <string.h>

#include "common/half.h"
#include "engine/gguf.h"

size_t
quant_row_bytes(uint32_t type, size_t n)
{
    size_t block = gguf_block_elems(type), bytes;

    switch (type) {
    case GGUF_F32:
    case GGUF_F16:
    case GGUF_Q8_0:
    case GGUF_Q4_0:
    case GGUF_Q4_1:
        break;
    default:
        return 0;
    }
    if (n % block != 0 ||
        __builtin_mul_overflow(n / block, gguf_block_bytes(type), &bytes))
        return 0;
    return bytes;
}

/* CE_EUNSUPPORTED or CE_EINVAL for what quant_row_bytes cannot size; else 0. */
static int
check_row(uint32_t type, size_t n)
{
    if (n == 0 || quant_row_bytes(type, n) != 0)
        return quant_row_bytes(type, QUANT_BLOCK) != 0 ? 0 : CE_EUNSUPPORTED;
    return quant_row_bytes(type, QUANT_BLOCK) != 0 ? CE_EINVAL : CE_EUNSUPPORTED;
}

/* ---- decoding, one block each ---- */

static void
decode_f32(const unsigned char *src, float *dst)
{
    memcpy(dst, src, sizeof(*dst));
}

static void
decode_f16(const unsigned char *src, float *dst)
{
    uint16_t h;

    memcpy(&h, src, sizeof(h));
    *dst = half_to_float(h);
}

static void
decode_q8_0(const unsigned char *src, float *dst)
{
    struct quant_q8_0 b;
    float d;
    int i;

    memcpy(&b, src, sizeof(b));
    d = half_to_float(b.d);
    for (i = 0; i < QUANT_BLOCK; i++)
        dst[i] = d * (float)b.q[i];
}

static void
decode_q4_0(const unsigned char *src, float *dst)
{
    struct quant_q4_0 b;
    float d;
    int i;

    memcpy(&b, src, sizeof(b));
    d = half_to_float(b.d);
    for (i = 0; i < QUANT_BLOCK / 2; i++) {
        dst[i] = d * (float)((b.n[i] & 15) - 8);
        dst[i + QUANT_BLOCK / 2] = d * (float)((b.n[i] >> 4) - 8);
    }
}

static void
decode_q4_1(const unsigned char *src, float *dst)
{
    struct quant_q4_1 b;
    float d, m;
    int i;

    memcpy(&b, src, sizeof(b));
    d = half_to_float(b.d);
    m = half_to_float(b.m);
    for (i = 0; i < QUANT_BLOCK / 2; i++) {
        dst[i] = d * (float)(b.n[i] & 15) + m;
        dst[i + QUANT_BLOCK / 2] = d * (float)(b.n[i] >> 4) + m;
    }
}

/* ---- encoding, one block each; false when it cannot be represented ---- */

/* A scale as stored, and as it will be read back. */
static bool
store_half(float v, uint16_t *h, float *back)
{
    *h = half_from_float(v);
    *back = half_to_float(*h);
    return isfinite(*back);
}

static int
nearest(float v, int least, int most)
{
    float r = rintf(v);

    if (!(r > (float)least)) /* also NaN, from 0 / 0 */
        return least;
    return r < (float)most ? (int)r : most;
}

static bool
encode_f32(const float *src, unsigned char *dst)
{
    memcpy(dst, src, sizeof(*src));
    return isfinite(*src);
}

static bool
encode_f16(const float *src, unsigned char *dst)
{
    uint16_t h;
    float back;
    bool ok = store_half(*src, &h, &back);

    memcpy(dst, &h, sizeof(h));
    return ok;
}

static bool
encode_q8_0(const float *src, unsigned char *dst)
{
    struct quant_q8_0 b = { 0 };
    float most = 0, d;
    int i;

    for (i = 0; i < QUANT_BLOCK; i++)
        if (fabsf(src[i]) > most)
            most = fabsf(src[i]);
    if (!store_half(most / 127.0f, &b.d, &d))
        return false;
    for (i = 0; i < QUANT_BLOCK; i++)
        b.q[i] = d != 0 ? (int8_t)nearest(src[i] / d, -127, 127) : 0;
    memcpy(dst, &b, sizeof(b));
    return true;
}

static bool
encode_q4_0(const float *src, unsigned char *dst)
{
    struct quant_q4_0 b = { 0 };
    float extreme = 0, d;
    int i, lo, hi;

    for (i = 0; i < QUANT_BLOCK; i++) /* the largest value sits at -8: 16 codes */
        if (fabsf(src[i]) > fabsf(extreme))
            extreme = src[i];
    if (!store_half(extreme / -8.0f, &b.d, &d))
        return false;
    for (i = 0; i < QUANT_BLOCK / 2; i++) {
        lo = d != 0 ? nearest(src[i] / d, -8, 7) : 0;
        hi = d != 0 ? nearest(src[i + QUANT_BLOCK / 2] / d, -8, 7) : 0;
        b.n[i] = (uint8_t)((lo + 8) | (hi + 8) << 4);
    }
    memcpy(dst, &b, sizeof(b));
    return true;
}

static bool
encode_q4_1(const float *src, unsigned char *dst)
{
    struct quant_q4_1 b = { 0 };
    float least = src[0], most = src[0], d, m;
    int i, lo, hi;

    for (i = 1; i < QUANT_BLOCK; i++) {
        if (src[i] < least)
            least = src[i];
        if (src[i] > most)
            most = src[i];
    }
    if (!store_half(least, &b.m, &m) || !store_half((most - m) / 15.0f, &b.d, &d))
        return false;
    for (i = 0; i < QUANT_BLOCK / 2; i++) {
        lo = d != 0 ? nearest((src[i] - m) / d, 0, 15) : 0;
        hi = d != 0 ? nearest((src[i + QUANT_BLOCK / 2] - m) / d, 0, 15) : 0;
        b.n[i] = (uint8_t)(lo | hi << 4);
    }
    memcpy(dst, &b, sizeof(b));
    return true;
}

/* ---- rows ---- */

int
quant_dequantise_row(uint32_t type, const void *src, float *dst, size_t n)
{
    void (*decode)(const unsigned char *, float *) = NULL;
    size_t elems = gguf_block_elems(type), bytes = gguf_block_bytes(type), i;
    const unsigned char *p = src;
    int rc = check_row(type, n);

    if (rc != 0)
        return rc;
    decode = type == GGUF_F32    ? decode_f32
             : type == GGUF_F16  ? decode_f16
             : type == GGUF_Q8_0 ? decode_q8_0
             : type == GGUF_Q4_0 ? decode_q4_0
                                 : decode_q4_1;
    for (i = 0; i < n; i += elems, p += bytes)
        decode(p, dst + i);
    return 0;
}

int
quant_quantise_row(uint32_t type, const float *src, void *dst, size_t n)
{
    bool (*encode)(const float *, unsigned char *) = NULL;
    size_t elems = gguf_block_elems(type), bytes = gguf_block_bytes(type), i;
    unsigned char *p = dst;
    int rc = check_row(type, n);

    if (rc != 0)
        return rc;
    for (i = 0; i < n; i++)
        if (!isfinite(src[i]))
            return CE_EINVAL;
    encode = type == GGUF_F32    ? encode_f32
             : type == GGUF_F16  ? encode_f16
             : type == GGUF_Q8_0 ? encode_q8_0
             : type == GGUF_Q4_0 ? encode_q4_0
                                 : encode_q4_1;
    for (i = 0; i < n; i += elems, p += bytes)
        if (!encode(src + i, p))
            return CE_EINVAL;
    return 0;
}
