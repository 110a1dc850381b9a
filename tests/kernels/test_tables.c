/* SPDX-License-Identifier: Apache-2.0
 * test_tables.c - every instruction set gives the bits of scalar.
 *
 * All tables this CPU runs are compared, AVX-512 also through SIMDe where that is
 * installed (HAVE_SIMDE_TABLE), and AVX-VNNI also with stand-ins for its instruction,
 * so that their sources run on every machine with AVX2. Outputs are surrounded by
 * guard values: a kernel writes what it should and no more.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "cases.h"
#include "engine/cpu.h"
#include "engine/logits.h"
#include "engine/mathfn.h"

#define MAX_TABLES 12
#define GUARD      16 /* floats around outputs */

static const struct kernels *scalar, *tables[MAX_TABLES];
static int n_tables;

#ifdef HAVE_SIMDE_TABLE
void kernels_avx512_simde_install(struct kernels *k);
#endif
#ifdef HAVE_AVXVNNI_EMULATED
void kernels_avxvnni_emulated_install(struct kernels *k);
#endif
#ifdef HAVE_AVXVNNI_EVEX
void kernels_avxvnni_evex_install(struct kernels *k);
#endif

/* ---- comparing ---- */

/* Two buffers of n floats with guards around them. */
struct pair {
    float *want, *got;
    size_t n;
};

static struct pair
pair_new(size_t n)
{
    struct pair p = { cases_alloc(n + 2 * GUARD, sizeof(float)),
                      cases_alloc(n + 2 * GUARD, sizeof(float)), n };

    for (size_t i = 0; i < n + 2 * GUARD; i++)
        p.want[i] = p.got[i] = 1234.5f;
    return p;
}

static void
pair_fill(struct pair *p, enum case_kind kind)
{
    cases_fill(p->want + GUARD, p->n, kind);
    memcpy(p->got + GUARD, p->want + GUARD, p->n * sizeof(float));
}

static void
pair_check(struct pair *p, const char *what, const char *table)
{
    for (size_t i = 0; i < p->n + 2 * GUARD; i++) {
        uint32_t want, got;

        memcpy(&want, &p->want[i], sizeof(want));
        memcpy(&got, &p->got[i], sizeof(got));
        if (want != got)
            fail_msg("%s of %s: element %zd of %zu is %a, not %a", what, table,
                     (ptrdiff_t)i - GUARD, p->n, (double)p->got[i], (double)p->want[i]);
    }
}

static void
pair_free(struct pair *p)
{
    free(p->want);
    free(p->got);
}

/* ---- sections 2 to 6 ---- */

static void
test_quantise(void **state)
{
    enum { N = 32 * 70 };
    static struct act_group want[N / 32], got[N / 32];
    static float x[N + 1];

    (void)state;
    for (int round = 0; round < CASE_N_KINDS * 4; round++) {
        size_t n = 32 * (1 + cases_u32() % (N / 32));

        cases_fill(x, N + 1, (enum case_kind)(round % CASE_N_KINDS));
        scalar->quantise(want, x + round % 2, n);
        for (int t = 0; t < n_tables; t++) {
            memset(got, 0x55, sizeof(got));
            tables[t]->quantise(got, x + round % 2, n);
            if (memcmp(want, got, n / 32 * sizeof(*got)) != 0)
                fail_msg("quantise of %s, kind %d", tables[t]->name, round);
        }
    }
}

static void
check_matmul(int format, size_t n_out, size_t n_in, size_t n_rows, enum case_kind kind,
             int extreme)
{
    uint8_t *rows = cases_matrix(cases_types[format], n_out, n_in, extreme);
    struct packed w = cases_packed(cases_types[format], n_out, n_in, rows);
    size_t stride = n_out + cases_u32() % 3, cut = cases_u32() % (w.n_tiles + 1);
    float *x = cases_alloc(n_rows * n_in, sizeof(*x));
    struct act_group *g = cases_alloc(n_rows * n_in / 32 + 1, sizeof(*g));
    struct activations a = { g, x, n_rows };
    struct pair y = pair_new(n_rows * stride);

    cases_fill(x, n_rows * n_in, kind);
    if (packed_is_quantised(&w))
        scalar->quantise(g, x, n_rows * n_in);
    scalar->matmul[format](y.want + GUARD, stride, &w, 0, w.n_tiles, &a);
    for (int t = 0; t < n_tables; t++) {
        for (size_t i = 0; i < y.n; i++)
            y.got[GUARD + i] = 1234.5f;
        tables[t]->matmul[format](y.got + GUARD, stride, &w, 0, cut, &a);
        tables[t]->matmul[format](y.got + GUARD, stride, &w, cut, w.n_tiles, &a);
        pair_check(&y, "matmul", tables[t]->name);
    }
    pair_free(&y);
    free(rows);
    free(x);
    free(g);
    packed_free(&w);
}

/* A row of about n blocks: superblocks count as four. */
static size_t
columns(int format, size_t n)
{
    size_t unit = packed_unit_columns((enum packed_format)format);

    return unit == PACKED_SUPER ? (n + 3) / 4 * unit : 32 * n;
}

static void
test_matmul(void **state)
{
    (void)state;
    for (int f = 0; f < PACKED_N_FORMATS; f++) {
        for (size_t n_rows = 1; n_rows <= 30; n_rows++)
            check_matmul(f, 1 + cases_u32() % 90, columns(f, 1 + cases_u32() % 8), n_rows,
                         CASE_MIXED, n_rows % 2);
        for (int round = 0; round < CASE_N_KINDS * 3; round++)
            check_matmul(f, 1 + cases_u32() % 50, columns(f, 1 + cases_u32() % 20),
                         1 + cases_u32() % 6, (enum case_kind)(round % CASE_N_KINDS),
                         round & 1);
        check_matmul(f, 576, 1536, 1, CASE_NORMAL, 0);
        check_matmul(f, 40, columns(f, 18), 67, CASE_NORMAL, 0);
    }
    for (size_t n_in = 1; n_in < 20; n_in++) {
        check_matmul(PACKED_F16, 70, n_in, n_in % 5 + 1, CASE_NORMAL, 0);
        check_matmul(PACKED_BF16, 70, n_in, n_in % 5 + 1, CASE_NORMAL, 0);
        check_matmul(PACKED_F32, 70, n_in, n_in % 6 + 1, CASE_NORMAL, 0);
    }
}

/* A format that a table forgets would pass above, by scalar kernels. */
static void
test_no_product_is_scalar(void **state)
{
    const struct kernels *k;

    (void)state;
    for (int t = 1; (k = kernels_at(t)) != NULL; t++)
        for (int f = 0; f < PACKED_N_FORMATS; f++)
            if (k->matmul[f] == scalar->matmul[f])
                fail_msg("%s has no product of format %d", k->name, f);
}

static void
check_rows(size_t n, enum case_kind kind)
{
    float *w = cases_alloc(n, sizeof(*w));

    cases_fill(w, n, kind == CASE_LARGE ? CASE_NORMAL : kind);
    for (int t = 0; t < n_tables; t++) {
        struct pair x = pair_new(n), y = pair_new(n), z = pair_new(n);
        const struct kernels *k = tables[t];

        pair_fill(&x, kind);
        pair_fill(&y, CASE_MIXED);
        scalar->rmsnorm(z.want + GUARD, x.want + GUARD, w, n, 1e-5f);
        k->rmsnorm(z.got + GUARD, x.got + GUARD, w, n, 1e-5f);
        pair_check(&z, "rmsnorm", k->name);
        scalar->rmsnorm(x.want + GUARD, x.want + GUARD, NULL, n, 1e-6f);
        k->rmsnorm(x.got + GUARD, x.got + GUARD, NULL, n, 1e-6f);
        pair_check(&x, "rmsnorm without weight", k->name);
        scalar->add(x.want + GUARD, y.want + GUARD, n);
        k->add(x.got + GUARD, y.got + GUARD, n);
        pair_check(&x, "add", k->name);
        pair_fill(&x, kind);
        scalar->swiglu(x.want + GUARD, x.want + GUARD, y.want + GUARD, n);
        k->swiglu(x.got + GUARD, x.got + GUARD, y.got + GUARD, n);
        pair_check(&x, "swiglu", k->name);
        pair_free(&x);
        pair_free(&y);
        pair_free(&z);
    }
    free(w);
}

static void
test_rows(void **state)
{
    (void)state;
    for (size_t n = 1; n <= 70; n++)
        check_rows(n, (enum case_kind)(n % CASE_N_KINDS));
    for (int kind = 0; kind < CASE_N_KINDS; kind++)
        check_rows(576 + cases_u32() % 64, (enum case_kind)kind);
}

static void
test_exp_range(void **state)
{
    enum { N = 4096 };
    float *up = cases_alloc(N, sizeof(*up));

    (void)state;
    for (int i = 0; i < N; i++)
        up[i] = 1.0f;
    for (int t = 0; t < n_tables; t++) {
        struct pair x = pair_new(N);

        for (int i = 0; i < N; i++)
            x.want[GUARD + i] = x.got[GUARD + i] = -100.0f + (float)i * (200.0f / N);
        scalar->swiglu(x.want + GUARD, x.want + GUARD, up, N);
        tables[t]->swiglu(x.got + GUARD, x.got + GUARD, up, N);
        pair_check(&x, "swiglu", tables[t]->name);
        pair_free(&x);
    }
    free(up);
}

static void
test_rope(void **state)
{
    float c[128], s[128];
    double f[128];

    (void)state;
    for (int round = 0; round < 40; round++) {
        int head_dim = 16 * (1 + (int)(cases_u32() % 16)), n_heads = 1 + round % 5;
        int n_rot = round % 3 ? head_dim : 2 * (1 + (int)(cases_u32() % 8));

        mathfn_rope_frequencies(f, n_rot, 100000.0, 1.0, NULL);
        mathfn_rope_row(c, s, f, n_rot / 2, (int32_t)(cases_u32() % 8192));
        for (int t = 0; t < n_tables; t++) {
            struct pair x = pair_new((size_t)(n_heads * head_dim));

            pair_fill(&x, (enum case_kind)(round % CASE_N_KINDS));
            scalar->rope(x.want + GUARD, c, s, n_heads, head_dim, n_rot);
            tables[t]->rope(x.got + GUARD, c, s, n_heads, head_dim, n_rot);
            pair_check(&x, "rope", tables[t]->name);
            pair_fill(&x, (enum case_kind)(round % CASE_N_KINDS));
            scalar->rope_halves(x.want + GUARD, c, s, n_heads, head_dim, n_rot);
            tables[t]->rope_halves(x.got + GUARD, c, s, n_heads, head_dim, n_rot);
            pair_check(&x, "rope_halves", tables[t]->name);
            pair_free(&x);
        }
    }
}

/* ---- section 7 ---- */

struct cache {
    int head_dim, n_pages;
    uint16_t *data[64];
    size_t part, len;
};

/* A cache of n positions, written by `k`; NaN wherever nothing was written. */
static struct cache
cache_new(const struct kernels *k, const float *keys, const float *values, int n, int h)
{
    struct cache c = { h, (n + KV_PAGE - 1) / KV_PAGE, { 0 }, kv_part_len(h), 0 };

    c.len = 3 * kv_part_len(h);
    for (int p = 0; p < c.n_pages; p++) {
        c.data[p] = cases_alloc(c.len, sizeof(uint16_t));
        memset(c.data[p], 0x7f, c.len * sizeof(uint16_t));
    }
    for (int t = 0; t < n; t++)
        k->kv_append(c.data[t / KV_PAGE] + c.part, t % KV_PAGE, keys + t * h,
                     values + t * h, h);
    return c;
}

static void
cache_free(struct cache *c)
{
    for (int p = 0; p < c->n_pages; p++)
        free(c->data[p]);
}

static void
check_attention(int n, int n_rows, int n_group, int h, enum case_kind kind)
{
    size_t kv = (size_t)n * (size_t)h, row = (size_t)(n_group * h);
    size_t q_stride = row + 7, out_stride = row + 3;
    float *keys = cases_alloc(kv, sizeof(float)),
          *values = cases_alloc(kv, sizeof(float));
    float *q = cases_alloc((size_t)n_rows * q_stride, sizeof(float));
    struct pair out = pair_new((size_t)n_rows * out_stride);
    struct cache want;

    cases_fill(keys, kv, kind);
    cases_fill(values, kv, kind == CASE_LARGE ? CASE_LARGE : CASE_NORMAL);
    cases_fill(q, (size_t)n_rows * q_stride, kind == CASE_LARGE ? CASE_NORMAL : kind);
    want = cache_new(scalar, keys, values, n, h);
    for (int t = -1; t < n_tables; t++) {
        const struct kernels *k = t < 0 ? scalar : tables[t];
        struct cache c = cache_new(k, keys, values, n, h);
        struct attention_job job = {
            q,          q_stride,   (t < 0 ? out.want : out.got) + GUARD,
            out_stride, n_rows,     n_group,
            h,          n - n_rows, (const uint16_t *const *)c.data,
            c.part,     NULL
        };

        for (int p = 0; p < c.n_pages; p++)
            assert_memory_equal(want.data[p], c.data[p], c.len * sizeof(uint16_t));
        k->attention(&job);
        if (t >= 0)
            pair_check(&out, "attention", k->name);
        cache_free(&c);
    }
    cache_free(&want);
    pair_free(&out);
    free(keys);
    free(values);
    free(q);
}

static void
test_attention(void **state)
{
    (void)state;
    for (int n = 1; n <= 200; n += n < 70 ? 1 : 13)
        check_attention(n, 1, 1 + n % 4, 64, CASE_NORMAL);
    for (int round = 0; round < 60; round++) {
        int n = 1 + (int)(cases_u32() % 200), rows = 1 + (int)(cases_u32() % 9);

        check_attention(n, rows < n ? rows : n, 1 + round % 8,
                        16 * (1 + (int)(cases_u32() % 16)),
                        (enum case_kind)(round % CASE_N_KINDS));
    }
    check_attention(150, 150, 3, 64, CASE_NORMAL);
    check_attention(130, 129, 1, 80, CASE_LARGE);
}

/* ---- section 9 ---- */

static void
check_logits(size_t n, int kind)
{
    float *x = cases_alloc(n, sizeof(*x));

    for (size_t i = 0; i < n; i++)
        x[i] = kind == 0   ? cases_uniform(-30.0f, 20.0f)
               : kind == 1 ? (float)(cases_u32() % 4)
               : kind == 2 ? (cases_u32() & 1 ? 0.0f : -0.0f)
                           : cases_uniform(-300.0f, -100.0f);
    for (int t = 0; t < n_tables; t++) {
        struct logit_chunk want, got;
        size_t from = cases_u32() % (n + 1);
        float threshold = x[cases_u32() % n];

        memset(&want, 0, sizeof(want));
        memset(&got, 0, sizeof(got));
        scalar->logit_chunk(&want, x, n);
        tables[t]->logit_chunk(&got, x, n);
        if (memcmp(&want, &got, sizeof(want)) != 0)
            fail_msg("logit_chunk of %s, n %zu: %a %a %d, not %a %a %d", tables[t]->name,
                     n, (double)got.max, (double)got.sum, got.argmax, (double)want.max,
                     (double)want.sum, want.argmax);
        assert_int_equal(scalar->find_above(x, from, n, threshold),
                         tables[t]->find_above(x, from, n, threshold));
    }
    free(x);
}

static void
test_logits(void **state)
{
    (void)state;
    for (size_t n = 1; n <= 100; n++)
        check_logits(n, (int)(n % 4));
    for (int round = 0; round < 40; round++)
        check_logits(LOGIT_CHUNK - (round < 20 ? 0 : cases_u32() % 900), round % 4);
}

static void
test_logits_not_finite(void **state)
{
    float x[100] = { 0 };

    (void)state;
    for (int t = 0; t < n_tables; t++) {
        for (int i = 0; i < 100; i++) {
            for (int bad = 0; bad < 3; bad++) {
                struct logit_chunk c;
                struct logit_summary s;

                x[i] = bad == 0 ? NAN : bad == 1 ? INFINITY : -NAN;
                tables[t]->logit_chunk(&c, x, 100);
                assert_int_equal(logits_merge(&s, &c, 1), CE_EINTERNAL);
                assert_in_range(c.argmax, 0, 99);
                x[i] = 0.0f;
            }
        }
    }
}

/* A table of the source of other CPUs, on scalar, if this CPU has what it needs. */
__attribute__((unused)) static void
add_source(unsigned needs, void (*install)(struct kernels *), const char *name)
{
    static struct kernels made[3];
    static int n_made;
    struct kernels *k = &made[n_made];

    if (needs & ~cpu_flags())
        return;
    kernels_scalar_install(k);
    install(k);
    k->name = name;
    tables[n_tables++] = k;
    n_made++;
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quantise),
        cmocka_unit_test(test_matmul),
        cmocka_unit_test(test_no_product_is_scalar),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_exp_range),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_logits),
        cmocka_unit_test(test_logits_not_finite),
    };

    cases_seed(2);
    scalar = kernels_at(0);
    while (n_tables < MAX_TABLES - 1 && (tables[n_tables] = kernels_at(n_tables)) != NULL)
        n_tables++;
#ifdef HAVE_SIMDE_TABLE
    add_source(CPU_AVX2, kernels_avx512_simde_install, "avx512 through SIMDe");
#endif
#ifdef HAVE_AVXVNNI_EMULATED
    add_source(CPU_AVX2, kernels_avxvnni_emulated_install, "avxvnni, emulated");
#endif
#ifdef HAVE_AVXVNNI_EVEX
    add_source(CPU_AVX512, kernels_avxvnni_evex_install, "avxvnni, encoded as AVX-512");
#endif
    for (int t = 0; t < n_tables; t++)
        print_message("comparing %s\n", tables[t]->name);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
