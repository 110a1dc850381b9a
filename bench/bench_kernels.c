/* SPDX-License-Identifier: Apache-2.0
 * bench_kernels.c - speed of every kernel of every table this machine runs.
 *
 *   bench_kernels [KERNELS [SECONDS]]
 *
 * KERNELS is one table ("avx2", "auto"); all is the default. SECONDS is how long each
 * timing goes on (0.2); a figure is the best of the tries in it.
 *
 * Two limits are measured for each table, on one thread and with its instructions: how
 * fast weights can be read from memory, and how many int8 multiply-adds registers can
 * do when nothing else happens (limit.h). Products of one row are held against the
 * first, products of many rows against the second. Kernels on rows work within the
 * first caches and say time and bytes (what they read and write) for each element.
 */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/memory.h"
#include "engine/gguf.h"
#include "engine/kernels.h"
#include "engine/quant.h"
#include "tools/limit.h"

#define READ_BYTES ((size_t)256 << 20) /* far more than caches hold */
#define SIDE       1536                /* of matrices, and elements of rows */
#define MATRICES   24                  /* in turn: far more than the caches hold */
#define HEAD_DIM   64
#define GROUP      3 /* query heads per KV head */

/* clang-format off: it would put several on a line.
 * Every kernel of the table; each has its time_NAME below. */
#define KERNELS(X)                                                                       \
    X(matmul)                                                                            \
    X(attention)                                                                         \
    X(quantise)                                                                          \
    X(rmsnorm)                                                                           \
    X(add)                                                                               \
    X(swiglu)                                                                            \
    X(rope)                                                                              \
    X(rope_halves)                                                                       \
    X(kv_append)                                                                         \
    X(logit_chunk)                                                                       \
    X(find_above)
/* clang-format on */

#define PLUS_SIZE(kernel) +sizeof(((struct kernels *)NULL)->kernel)
_Static_assert(offsetof(struct kernels, name) + sizeof(const char *) KERNELS(PLUS_SIZE) ==
                   sizeof(struct kernels),
               "a kernel is not in the list above: it would not be timed");

/* A table under the clock. */
struct bench {
    const struct kernels *k;
    double seconds;     /* of each timing */
    struct limit limit; /* of one thread */
};

static double
now(void)
{
    return (double)clock_ns() * 1e-9;
}

/* Best seconds of a call of once(arg), over tries of `times` calls. */
static double
best_of(const struct bench *b, void (*once)(void *arg), void *arg, int times)
{
    double best = 1e9, start = now();

    do {
        double from = now(), took;

        for (int i = 0; i < times; i++)
            once(arg);
        took = (now() - from) / times;
        best = took < best ? took : best;
    } while (now() - start < b->seconds);
    return best;
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

static float
random_float(void)
{
    return (float)(int32_t)next_random() * 0x1p-31f;
}

static float *
random_floats(size_t n)
{
    float *x = need(mem_aligned_alloc(n, sizeof(*x)));

    for (size_t i = 0; i < n; i++)
        x[i] = random_float();
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

/* ---- matrix products ---- */

static const uint32_t gguf_types[] = {
    [PACKED_Q4_0] = GGUF_Q4_0, [PACKED_Q4_1] = GGUF_Q4_1, [PACKED_Q5_0] = GGUF_Q5_0,
    [PACKED_Q5_1] = GGUF_Q5_1, [PACKED_Q2_K] = GGUF_Q2_K, [PACKED_Q3_K] = GGUF_Q3_K,
    [PACKED_Q4_K] = GGUF_Q4_K, [PACKED_Q5_K] = GGUF_Q5_K, [PACKED_Q6_K] = GGUF_Q6_K,
    [PACKED_Q8_0] = GGUF_Q8_0, [PACKED_F16] = GGUF_F16,   [PACKED_BF16] = GGUF_BF16,
    [PACKED_F32] = GGUF_F32
};
_Static_assert(sizeof(gguf_types) / sizeof(gguf_types[0]) == PACKED_N_FORMATS,
               "a format would not be timed");

struct product {
    const struct kernels *k;
    const struct packed *w; /* [n] taken in turn */
    int n;
    struct activations a;
    float *y;
};

static void
multiply(void *arg)
{
    const struct product *p = arg;

    for (int i = 0; i < p->n; i++)
        p->k->matmul[p->w[i].format](p->y, p->w[i].n_out, &p->w[i], 0, p->w[i].n_tiles,
                                     &p->a);
}

/* One product of n_rows rows with each of n matrices; best seconds of all of them. */
static double
time_products(const struct bench *b, const struct packed *w, int n, size_t n_rows)
{
    size_t n_in = w->n_in;
    float *x = random_floats(n_rows * n_in);
    float *y = random_floats(n_rows * w->n_out);
    struct act_group *g = need(mem_aligned_alloc(n_rows * n_in / ACT_GROUP, sizeof(*g)));
    struct product p = { b->k, w, n, { g, x, n_rows }, y };
    double best;

    b->k->quantise(g, x, n_rows * n_in);
    best = best_of(b, multiply, &p, 1);
    mem_free(x);
    mem_free(y);
    mem_free(g);
    return best;
}

static void
time_format(const struct bench *b, uint32_t type)
{
    static const size_t many[] = { 4, 8, 32, 128 };
    const char *name = gguf_type_name(type);
    struct packed w[MATRICES];
    double s, speed, macs = (double)SIDE * SIDE;

    for (int i = 0; i < MATRICES; i++)
        w[i] = random_matrix(type, SIDE, SIDE);
    s = time_products(b, w, MATRICES, 1) / MATRICES;
    speed = (double)packed_bytes(w) / s;
    printf("%-12s matmul %-5s   1 row   %6.1f GMAC/s  %6.1f GB/s, %3.0f %% of reading\n",
           b->k->name, name, macs / s * 1e-9, speed * 1e-9,
           100 * speed / b->limit.bytes_per_second);
    for (size_t m = 0; m < sizeof(many) / sizeof(many[0]); m++) {
        speed = macs * (double)many[m] / time_products(b, w, 1, many[m]);
        printf("%-12s matmul %-5s %3zu rows  %6.1f GMAC/s  %3.0f %% of int8\n",
               b->k->name, name, many[m], speed * 1e-9,
               100 * speed / b->limit.macs_per_second);
    }
    for (int i = 0; i < MATRICES; i++)
        packed_free(&w[i]);
}

static void
time_matmul(const struct bench *b)
{
    for (int i = 0; i < PACKED_N_FORMATS; i++)
        time_format(b, gguf_types[i]);
}

/* ---- attention ---- */

struct attention {
    const struct kernels *k;
    struct attention_job job;
};

static void
attend(void *arg)
{
    const struct attention *a = arg;

    a->k->attention(&a->job);
}

/* Pages of n positions, whose keys and values are those of x. */
static const uint16_t **
make_pages(const struct kernels *k, int n_pages, const float *x)
{
    const uint16_t **pages = need(mem_array_alloc((size_t)n_pages, sizeof(*pages)));

    for (int p = 0; p < n_pages; p++) {
        uint16_t *page = need(mem_aligned_alloc(kv_part_len(HEAD_DIM), sizeof(*page)));

        for (int j = 0; j < KV_PAGE; j++)
            k->kv_append(page, j, x, x + HEAD_DIM, HEAD_DIM);
        pages[p] = page;
    }
    return pages;
}

/* n_rows rows of one sequence, the last at position n - 1. */
static void
time_attention_of(const struct bench *b, int n, int n_rows)
{
    int n_pages = (n + KV_PAGE - 1) / KV_PAGE, width = GROUP * HEAD_DIM;
    float *q = random_floats((size_t)n_rows * (size_t)width);
    float *out = random_floats((size_t)n_rows * (size_t)width);
    const uint16_t **pages = make_pages(b->k, n_pages, q);
    struct attention a = {
        .k = b->k,
        .job = { q, (size_t)width, out, (size_t)width, n_rows, GROUP, HEAD_DIM,
                 n - n_rows, pages, 0 },
    };
    double macs = 0, s;

    for (int r = 0; r < n_rows; r++)
        macs += 2.0 * width * (n - n_rows + r + 1);
    s = best_of(b, attend, &a, 1 + 4096 / (n * n_rows));
    printf("%-12s attention %4d positions, %3d rows  %6.1f GMAC/s  %6.1f GB/s  "
           "%8.2f us a row\n",
           b->k->name, n, n_rows, macs / s * 1e-9,
           (double)n * HEAD_DIM * 2 * sizeof(uint16_t) / s * 1e-9, s * 1e6 / n_rows);
    for (int p = 0; p < n_pages; p++)
        mem_free((void *)(uintptr_t)pages[p]);
    mem_free(pages);
    mem_free(q);
    mem_free(out);
}

/* One row as in decoding; 16 as the engine cuts prompts; a whole prompt. */
static void
time_attention(const struct bench *b)
{
    static const int lengths[] = { 64, 256, 1024, 4096 };

    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++)
        time_attention_of(b, lengths[i], 1);
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++)
        time_attention_of(b, lengths[i], 16);
    time_attention_of(b, 256, 256);
}

/* ---- kernels on rows ---- */

struct rows {
    const struct kernels *k;
    float x[SIDE], y[SIDE], z[SIDE];
    float cos[HEAD_DIM / 2], sin[HEAD_DIM / 2];
    struct act_group groups[SIDE / ACT_GROUP];
    uint16_t part[HEAD_DIM * KV_PAGE * 2];
    int slot;
    struct logit_chunk chunk;
    size_t found;
};

/* once: works on `elements`, reading and writing `bytes` for each. */
static void
time_rows(const struct bench *b, const char *name, void (*once)(void *rows), int elements,
          double bytes)
{
    struct rows *r = need(mem_aligned_alloc(1, sizeof(*r)));
    double s;

    memset(r, 0, sizeof(*r));
    r->k = b->k;
    for (int i = 0; i < SIDE; i++) {
        r->x[i] = random_float();
        r->y[i] = random_float();
    }
    for (int i = 0; i < HEAD_DIM / 2; i++) { /* a rotation: it may be done for ever */
        r->cos[i] = 0.6f;
        r->sin[i] = 0.8f;
    }
    s = best_of(b, once, r, 1 + 100000 / elements) / elements;
    printf("%-12s %-11s %8.3f ns an element  %6.1f GB/s\n", b->k->name, name, s * 1e9,
           bytes / s * 1e-9);
    mem_free(r);
}

#define ROW_KERNEL(kernel, elements, bytes, ...)                                         \
    static void once_##kernel(void *arg)                                                 \
    {                                                                                    \
        struct rows *r = arg;                                                            \
                                                                                         \
        __VA_ARGS__;                                                                     \
    }                                                                                    \
    static void time_##kernel(const struct bench *b)                                     \
    {                                                                                    \
        time_rows(b, #kernel, once_##kernel, elements, bytes);                           \
    }

ROW_KERNEL(quantise, SIDE, sizeof(float) + sizeof(struct act_group) / (double)ACT_GROUP,
           r->k->quantise(r->groups, r->x, SIDE))
ROW_KERNEL(rmsnorm, SIDE, 3 * sizeof(float), r->k->rmsnorm(r->z, r->x, r->y, SIDE, 1e-5f))
ROW_KERNEL(add, SIDE, 3 * sizeof(float), r->k->add(r->x, r->y, SIDE))
ROW_KERNEL(swiglu, SIDE, 3 * sizeof(float), r->k->swiglu(r->z, r->x, r->y, SIDE))
ROW_KERNEL(rope, SIDE, 2 * sizeof(float),
           r->k->rope(r->x, r->cos, r->sin, SIDE / HEAD_DIM, HEAD_DIM, HEAD_DIM))
ROW_KERNEL(rope_halves, SIDE, 2 * sizeof(float),
           r->k->rope_halves(r->x, r->cos, r->sin, SIDE / HEAD_DIM, HEAD_DIM, HEAD_DIM))
ROW_KERNEL(kv_append, 2 * HEAD_DIM, sizeof(float) + sizeof(uint16_t),
           r->k->kv_append(r->part, r->slot++ % KV_PAGE, r->x, r->y, HEAD_DIM))
ROW_KERNEL(logit_chunk, LOGIT_CHUNK, sizeof(float),
           r->k->logit_chunk(&r->chunk, r->x, LOGIT_CHUNK))
/* none is above: the whole row is read */
ROW_KERNEL(find_above, SIDE, sizeof(float),
           r->found += r->k->find_above(r->x, 0, SIDE, 2))

/* ---- tables ---- */

static void
bench_table(struct bench *b)
{
    struct err err;

    if (limit_measure(&b->limit, b->k->name, READ_BYTES, 1, &err) != 0) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    printf("%-12s limits of one thread: reading %.1f GB/s, int8 (%s) %.0f GMAC/s\n",
           b->k->name, b->limit.bytes_per_second * 1e-9, b->limit.instruction,
           b->limit.macs_per_second * 1e-9);
#define TIME(kernel) time_##kernel(b);
    KERNELS(TIME)
#undef TIME
}

int
main(int argc, char **argv)
{
    struct bench b = { .seconds = argc > 2 ? atof(argv[2]) : 0.2 };
    struct err err;

    if (argc > 3 || b.seconds <= 0) {
        fprintf(stderr, "usage: bench_kernels [all|auto|KERNELS [SECONDS]]\n");
        return 2;
    }
    if (argc > 1 && strcmp(argv[1], "all") != 0) {
        if (kernels_choose(&b.k, argv[1], &err) != 0) {
            fprintf(stderr, "%s\n", err.text);
            return 1;
        }
        bench_table(&b);
        return 0;
    }
    for (int i = 0; (b.k = kernels_at(i)) != NULL; i++)
        bench_table(&b);
    return 0;
}
