/* SPDX-License-Identifier: Apache-2.0
 * bench_kernels.c - speed of each kernel, as a share of what this machine can do.
 *
 * Two limits are measured in the same run, on one thread: how fast weights can be
 * read from memory, and how many int8 multiply-adds registers can do when nothing
 * else happens (vpmaddubsw, or vpdpbusd). Products of one row are held against the
 * first, products of many rows against the second. Each figure is the best of a few
 * runs of a fraction of a second.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/memory.h"
#include "engine/gguf.h"
#include "engine/kernels.h"
#include "engine/quant.h"
#include "tools/limit.h"

#define READ_BYTES ((size_t)256 << 20) /* far more than caches hold */

static double
now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint32_t
next_random(void)
{
    static uint64_t state = 88172645463325252u;

    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32);
}

static void *
need(void *p)
{
    if (p == NULL) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return p;
}

static float *
random_floats(size_t n)
{
    float *x = need(mem_aligned_alloc(n, sizeof(*x)));

    for (size_t i = 0; i < n; i++)
        x[i] = (float)(int32_t)next_random() * 0x1p-31f;
    return x;
}

/* A packed matrix with random weights. */
static struct packed
random_matrix(uint32_t type, size_t n_out, size_t n_in)
{
    size_t stride = quant_row_bytes(type, n_in);
    uint8_t *rows = need(mem_aligned_alloc(n_out, stride));
    float *x = random_floats(n_in);
    struct packed w;
    struct err err;

    if (packed_init(&w, type, n_out, n_in, &err) != 0) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    quant_quantise_row(type, x, rows, n_in);
    for (size_t o = 1; o < n_out; o++)
        memcpy(rows + o * stride, rows, stride);
    packed_fill(&w, rows, 0, w.n_tiles);
    mem_free(rows);
    mem_free(x);
    return w;
}

/* One product of n_rows rows with each of n matrices in turn; best seconds of one
 * round over all of them. */
static double
time_products(const struct kernels *k, const struct packed *w, int n, size_t n_rows)
{
    size_t n_in = w->n_in;
    float *x = random_floats(n_rows * n_in);
    float *y = random_floats(n_rows * w->n_out);
    struct act_group *g = need(mem_aligned_alloc(n_rows * n_in / ACT_GROUP, sizeof(*g)));
    struct activations a = { g, x, n_rows };
    double best = 1e9, start = now();

    k->quantise(g, x, n_rows * n_in);
    do {
        double from = now(), took;

        for (int i = 0; i < n; i++)
            k->matmul[w[i].format](y, w[i].n_out, &w[i], 0, w[i].n_tiles, &a);
        took = now() - from;
        best = took < best ? took : best;
    } while (now() - start < 0.3);
    mem_free(x);
    mem_free(y);
    mem_free(g);
    return best;
}

static void
bench_products(const struct kernels *k, double read_limit, double int_limit)
{
    static const uint32_t types[] = { GGUF_Q4_0, GGUF_Q4_1, GGUF_Q8_0, GGUF_F16,
                                      GGUF_F32 };
    static const size_t many[] = { 4, 8, 32, 128 };

    for (size_t f = 0; f < sizeof(types) / sizeof(types[0]); f++) {
        struct packed w[24];
        double s, macs;

        for (int i = 0; i < 24; i++) /* far more than the caches hold */
            w[i] = random_matrix(types[f], 1536, 1536);
        s = time_products(k, w, 24, 1);
        printf("%-7s %-5s   1 row   %6.1f GB/s  %3.0f %% of reading", k->name,
               gguf_type_name(types[f]), 24.0 * (double)packed_bytes(w) / s * 1e-9,
               2400.0 * (double)packed_bytes(w) / s * 1e-9 / read_limit);
        printf("  %6.1f GMAC/s\n", 24.0 * 1536 * 1536 / s * 1e-9);
        for (size_t m = 0; m < sizeof(many) / sizeof(many[0]); m++) {
            macs = 1536.0 * 1536 * (double)many[m];
            s = time_products(k, w, 1, many[m]);
            printf("%-7s %-5s %3zu rows  %6.1f GMAC/s  %3.0f %% of int8\n", k->name,
                   gguf_type_name(types[f]), many[m], macs / s * 1e-9,
                   100 * macs / s * 1e-9 / int_limit);
        }
        for (int i = 0; i < 24; i++)
            packed_free(&w[i]);
    }
}

/* Attention over n positions by n_rows rows of 3 heads of 64. */
static void
bench_attention(const struct kernels *k, int n, int n_rows)
{
    enum { H = 64, G = 3 };
    int n_pages = (n + KV_PAGE - 1) / KV_PAGE;
    const uint16_t **pages = need(mem_array_alloc((size_t)n_pages, sizeof(*pages)));
    float *q = random_floats((size_t)n_rows * G * H);
    float *out = random_floats((size_t)n_rows * G * H);
    struct attention_job job = {
        q, G * H, out, G * H, n_rows, G, H, n - n_rows, pages, 0
    };
    double best = 1e9, start = now(), macs = 0;

    for (int p = 0; p < n_pages; p++) {
        uint16_t *page = need(mem_aligned_alloc(kv_part_len(H), sizeof(*page)));

        for (int j = 0; j < KV_PAGE; j++)
            k->kv_append(page, j, q, out, H);
        pages[p] = page;
    }
    for (int r = 0; r < n_rows; r++)
        macs += 2.0 * H * G * (n - n_rows + r + 1);
    do {
        double from = now(), took;

        k->attention(&job);
        took = now() - from;
        best = took < best ? took : best;
    } while (now() - start < 0.2);
    printf("%-7s attention, %4d positions, %3d rows  %6.1f GMAC/s  %8.2f us a row\n",
           k->name, n, n_rows, macs / best * 1e-9, best * 1e6 / n_rows);
    for (int p = 0; p < n_pages; p++)
        mem_free((void *)(uintptr_t)pages[p]);
    mem_free(pages);
    mem_free(q);
    mem_free(out);
}

/* The row kernels, on rows of 1,536. */
static void
bench_rows(const struct kernels *k)
{
    enum { N = 1536, TIMES = 2000 };
    float *x = random_floats(N), *y = random_floats(N), *z = random_floats(N);
    struct act_group *g = need(mem_aligned_alloc(N / ACT_GROUP, sizeof(*g)));
    struct logit_chunk c;
    double t[5];

    t[0] = now();
    for (int i = 0; i < TIMES; i++)
        k->quantise(g, x, N);
    t[1] = now();
    for (int i = 0; i < TIMES; i++)
        k->rmsnorm(z, x, y, N, 1e-5f);
    t[2] = now();
    for (int i = 0; i < TIMES; i++)
        k->swiglu(z, x, y, N);
    t[3] = now();
    for (int i = 0; i < TIMES; i++)
        k->logit_chunk(&c, x, LOGIT_CHUNK);
    t[4] = now();
    printf("%-7s ns an element: quantise %.2f, rmsnorm %.2f, swiglu %.2f, logits %.2f\n",
           k->name, (t[1] - t[0]) * 1e9 / TIMES / N, (t[2] - t[1]) * 1e9 / TIMES / N,
           (t[3] - t[2]) * 1e9 / TIMES / N, (t[4] - t[3]) * 1e9 / TIMES / LOGIT_CHUNK);
    mem_free(x);
    mem_free(y);
    mem_free(z);
    mem_free(g);
}

int
main(int argc, char **argv)
{
    const struct kernels *k;
    struct limit limit;
    struct err err;

    if (kernels_choose(&k, argc > 1 ? argv[1] : NULL, &err) != 0 ||
        limit_measure(&limit, k->name, READ_BYTES, 1, &err) != 0) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    limit.bytes_per_second *= 1e-9;
    limit.macs_per_second *= 1e-9;
    printf("limits of one thread: reading %.1f GB/s, int8 (%s) %.0f GMAC/s\n",
           limit.bytes_per_second, limit.instruction, limit.macs_per_second);
    bench_products(k, limit.bytes_per_second, limit.macs_per_second);
    bench_attention(k, 256, 1);
    bench_attention(k, 1024, 1);
    bench_attention(k, 256, 64);
    bench_attention(k, 256, 256);
    bench_rows(k);
    return 0;
}
