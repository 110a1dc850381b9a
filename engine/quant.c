/* SPDX-License-Identifier: Apache-2.0
 * quant.c - reference decoding of quantised rows, and the table of formats.
 *
 * Plain and slow on purpose: this is what faster code is compared with. Blocks
 * are copied in and out with memcpy, so rows may start at any byte of a file.
 *
 * Used by: cecollm-model, embedding rows, tests. Thread: any, no state.
 */
#include "engine/quant.h"

#include <math.h>
#include <string.h>

#include "common/half.h"
#include "engine/gguf.h"
#include "engine/quant_internal.h"
#include "engine/quant_unpack.h"

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
decode_bf16(const unsigned char *src, float *dst)
{
    uint16_t h;
    uint32_t bits;

    memcpy(&h, src, sizeof(h));
    bits = (uint32_t)h << 16;
    memcpy(dst, &bits, sizeof(bits));
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

/* ---- formats ---- */

/* Q5 and K formats are taken apart into integers first; the rest has a decoder. */
struct format {
    uint32_t type;
    bool (*encode)(const float *src, unsigned char *dst);
    void (*decode)(const unsigned char *src, float *dst);
    void (*unpack)(struct quant_ints *out, const unsigned char *src);
    int sub;    /* elements of a sub-block with a scale of its own; 0: none */
    int offset; /* taken off a code */
    bool minimum;
};

static const struct format formats[] = {
    { GGUF_F32, quant_encode_f32, decode_f32, NULL, 0, 0, false },
    { GGUF_F16, quant_encode_f16, decode_f16, NULL, 0, 0, false },
    { GGUF_BF16, quant_encode_bf16, decode_bf16, NULL, 0, 0, false },
    { GGUF_Q8_0, quant_encode_q8_0, decode_q8_0, NULL, 0, 0, false },
    { GGUF_Q4_0, quant_encode_q4_0, decode_q4_0, NULL, 0, 0, false },
    { GGUF_Q4_1, quant_encode_q4_1, decode_q4_1, NULL, 0, 0, false },
    { GGUF_Q5_0, quant_encode_q5_0, NULL, quant_unpack_q5_0, 0, 16, false },
    { GGUF_Q5_1, quant_encode_q5_1, NULL, quant_unpack_q5_1, 0, 0, true },
    { GGUF_Q2_K, quant_encode_q2_k, NULL, quant_unpack_q2_k, 16, 0, true },
    { GGUF_Q3_K, quant_encode_q3_k, NULL, quant_unpack_q3_k, 16, 4, false },
    { GGUF_Q4_K, quant_encode_q4_k, NULL, quant_unpack_q4_k, 32, 0, true },
    { GGUF_Q5_K, quant_encode_q5_k, NULL, quant_unpack_q5_k, 32, 0, true },
    { GGUF_Q6_K, quant_encode_q6_k, NULL, quant_unpack_q6_k, 16, 32, false },
};

/* x = scale * (n - offset), and the minimum: added in blocks, taken off in superblocks.
 */
static void
decode_ints(const struct format *f, const unsigned char *src, float *dst)
{
    struct quant_ints b;
    float d, m;

    f->unpack(&b, src);
    d = half_to_float(b.d);
    m = half_to_float(b.m_or_dmin);
    for (int i = 0; i < (f->sub ? QUANT_SUPER : QUANT_BLOCK); i++) {
        int s = f->sub ? i / f->sub : 0;

        dst[i] = (f->sub ? d * (float)b.sc[s] : d) * (float)(b.n[i] - f->offset);
        if (f->minimum)
            dst[i] += f->sub ? -(m * (float)b.m[s]) : m;
    }
}

static const struct format *
format_of(uint32_t type)
{
    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++)
        if (formats[i].type == type)
            return &formats[i];
    return NULL;
}

bool
quant_is_known(uint32_t type)
{
    return format_of(type) != NULL;
}

size_t
quant_row_bytes(uint32_t type, size_t n)
{
    size_t block = gguf_block_elems(type), bytes;

    if (!quant_is_known(type) || n % block != 0 ||
        __builtin_mul_overflow(n / block, gguf_block_bytes(type), &bytes))
        return 0;
    return bytes;
}

/* CE_EUNSUPPORTED or CE_EINVAL for what quant_row_bytes cannot size; else 0. */
static int
check_row(uint32_t type, size_t n)
{
    if (!quant_is_known(type))
        return CE_EUNSUPPORTED;
    return n == 0 || quant_row_bytes(type, n) != 0 ? 0 : CE_EINVAL;
}

int
quant_dequantise_row(uint32_t type, const void *src, float *dst, size_t n)
{
    const struct format *f = format_of(type);
    size_t elems = gguf_block_elems(type), bytes = gguf_block_bytes(type), i;
    const unsigned char *p = src;
    int rc = check_row(type, n);

    if (rc != 0)
        return rc;
    for (i = 0; i < n; i += elems, p += bytes) {
        if (f->decode)
            f->decode(p, dst + i);
        else
            decode_ints(f, p, dst + i);
    }
    return 0;
}

int
quant_quantise_row(uint32_t type, const float *src, void *dst, size_t n)
{
    const struct format *f = format_of(type);
    size_t elems = gguf_block_elems(type), bytes = gguf_block_bytes(type), i;
    unsigned char *p = dst;
    int rc = check_row(type, n);

    if (rc != 0)
        return rc;
    for (i = 0; i < n; i++)
        if (!isfinite(src[i]))
            return CE_EINVAL;
    for (i = 0; i < n; i += elems, p += bytes)
        if (!f->encode(src + i, p))
            return CE_EINVAL;
    return 0;
}
