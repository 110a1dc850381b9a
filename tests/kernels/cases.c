/* SPDX-License-Identifier: Apache-2.0
 * cases.c - makes the inputs; a counter-based generator, so runs repeat. */
#include "cases.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/half.h"
#include "engine/gguf.h"
#include "engine/quant.h"

const uint32_t cases_types[PACKED_N_FORMATS] = {
    [PACKED_Q4_0] = GGUF_Q4_0, [PACKED_Q4_1] = GGUF_Q4_1, [PACKED_Q5_0] = GGUF_Q5_0,
    [PACKED_Q5_1] = GGUF_Q5_1, [PACKED_Q2_K] = GGUF_Q2_K, [PACKED_Q3_K] = GGUF_Q3_K,
    [PACKED_Q4_K] = GGUF_Q4_K, [PACKED_Q5_K] = GGUF_Q5_K, [PACKED_Q6_K] = GGUF_Q6_K,
    [PACKED_Q8_0] = GGUF_Q8_0, [PACKED_F16] = GGUF_F16,   [PACKED_BF16] = GGUF_BF16,
    [PACKED_F32] = GGUF_F32,
};

static uint64_t counter;

void
cases_seed(uint64_t seed)
{
    counter = seed << 32;
}

uint32_t
cases_u32(void)
{
    uint64_t z = (counter += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)(z >> 32);
}

float
cases_uniform(float from, float to)
{
    return from + (to - from) * ((float)(cases_u32() >> 8) * 0x1p-24f);
}

static float
value_of(enum case_kind kind)
{
    float sign = cases_u32() & 1 ? 1.0f : -1.0f;
    float x = 0.0f;

    switch (kind) {
    case CASE_ZERO:
        return sign * 0.0f;
    case CASE_TINY:
        return sign * ldexpf(cases_uniform(0.5f, 1.0f), -100 - (int)(cases_u32() % 48));
    case CASE_BORDER:
        return sign * cases_uniform(0.9f, 1.0001f) * 0x1p-100f;
    case CASE_LARGE:
        return sign * cases_uniform(0.0f, 3e4f);
    case CASE_SATURATED:
        return sign * 1.7f;
    default:
        for (int i = 0; i < 6; i++)
            x += cases_uniform(-1.0f, 1.0f);
        return cases_u32() % 97 == 0 ? x * 20.0f : x;
    }
}

void
cases_fill(float *x, size_t n, enum case_kind kind)
{
    enum case_kind now = kind;

    for (size_t i = 0; i < n; i++) {
        if (kind == CASE_MIXED && i % 32 == 0)
            now = (enum case_kind)(cases_u32() % CASE_MIXED);
        x[i] = value_of(now);
    }
}

void *
cases_alloc(size_t n, size_t size)
{
    void *p = calloc(n + 1, size);

    assert_non_null(p);
    return p;
}

/* Where the half floats of a block stand; returns how many. */
static size_t
halves_of(uint32_t type, size_t at[2])
{
    at[0] = type == GGUF_Q2_K   ? offsetof(struct quant_q2_k, d)
            : type == GGUF_Q3_K ? offsetof(struct quant_q3_k, d)
            : type == GGUF_Q6_K ? offsetof(struct quant_q6_k, d)
                                : 0;
    at[1] = at[0] + 2;
    return type == GGUF_Q4_1 || type == GGUF_Q5_1 || type == GGUF_Q2_K ||
                   type == GGUF_Q4_K || type == GGUF_Q5_K
               ? 2
               : 1;
}

/* Codes and sub-scales at their extremes, or anything, and halves at theirs. */
static void
make_extreme(uint32_t type, uint8_t *row, size_t n_in)
{
    static const uint8_t codes[4] = { 0x00, 0xff, 0x80, 0x7f };
    static const uint16_t halves[6] = { 0x0000, 0x8000, 0x0001, 0x83ff, 0x7bff, 0x3c01 };
    size_t bytes = gguf_block_bytes(type), at[2], n_halves = halves_of(type, at);

    for (size_t b = 0; b < n_in / gguf_block_elems(type); b++, row += bytes) {
        uint32_t kind = cases_u32() % 3;

        if (kind == 1)
            memset(row, codes[cases_u32() % 4], bytes);
        for (size_t i = 0; kind == 2 && i < bytes; i++)
            row[i] = (uint8_t)cases_u32();
        for (size_t i = 0; i < n_halves; i++) {
            uint16_t h = halves[cases_u32() % 6];

            memcpy(row + at[i], &h, sizeof(h));
        }
    }
}

uint8_t *
cases_matrix(uint32_t type, size_t n_out, size_t n_in, int extreme)
{
    size_t stride = quant_row_bytes(type, n_in);
    uint8_t *rows = cases_alloc(n_out, stride);
    float *x = cases_alloc(n_in, sizeof(*x));

    for (size_t o = 0; o < n_out; o++) {
        cases_fill(x, n_in, CASE_NORMAL);
        assert_int_equal(quant_quantise_row(type, x, rows + o * stride, n_in), 0);
        if (extreme && gguf_block_elems(type) > 1 && o % 2 == 0)
            make_extreme(type, rows + o * stride, n_in);
    }
    free(x);
    return rows;
}

struct packed
cases_packed(uint32_t type, size_t n_out, size_t n_in, const uint8_t *rows)
{
    struct packed w;
    struct err err;

    assert_int_equal(packed_init(&w, type, n_out, n_in, &err), 0);
    packed_fill(&w, rows, 0, w.n_tiles / 2); /* in two pieces, as threads do */
    packed_fill(&w, rows, w.n_tiles / 2, w.n_tiles);
    return w;
}
