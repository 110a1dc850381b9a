/* SPDX-License-Identifier: Apache-2.0
 * test_reference.c - the scalar kernels against mathematics.
 *
 * The other test (test_tables.c) shows that instruction sets agree with scalar; this
 * one shows that scalar computes the right thing: each result is computed again in
 * double, straight from the GGUF rows and from what the layer means, and compared
 * within a tolerance that is stated beside each check. Activations quantised to int8
 * are taken as they are: the error of quantising is checked on its own.
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
#include "common/half.h"
#include "engine/logits.h"
#include "engine/mathfn.h"
#include "engine/quant.h"

static const struct kernels *k; /* scalar */

static void
assert_near(double got, double want, double tolerance)
{
    if (!(fabs(got - want) <= tolerance))
        fail_msg("%.9g is not %.9g within %.3g", got, want, tolerance);
}

static void
test_quantise(void **state)
{
    float x[256];
    struct act_group g[8];

    (void)state;
    for (int kind = 0; kind < CASE_N_KINDS; kind++) {
        cases_fill(x, 256, (enum case_kind)kind);
        k->quantise(g, x, 256);
        for (int b = 0; b < 8; b++) {
            int sum = 0;
            float a = 0.0f;

            for (int i = 0; i < 32; i++)
                a = fmaxf(a, fabsf(x[b * 32 + i]));
            for (int i = 0; i < 32; i++) {
                assert_in_range(g[b].q[i] + 127, 0, 254);
                sum += g[b].q[i];
                /* half a step, and what rounding d costs */
                assert_near((double)g[b].d * g[b].q[i], x[b * 32 + i],
                            a < 0x1p-100f ? a : (double)a / 127 * 0.50001);
            }
            assert_true(g[b].e == g[b].d * (float)sum);
            assert_int_equal(g[b].bias8, ACT_MAGIC - 8 * sum);
            assert_int_equal(g[b].bias128, ACT_MAGIC - 128 * sum);
        }
    }
}

/* One output in double, from the GGUF row and the activations as quantised. The
 * magnitude counts every weight as large as its block's largest: that is the size of
 * scale and minimum, between which rounding happens. */
static double
product(uint32_t type, const uint8_t *row, size_t n_in, const struct act_group *g,
        const float *x, double *magnitude)
{
    float *weights = cases_alloc(n_in, sizeof(*weights));
    double sum = 0.0;

    assert_int_equal(quant_dequantise_row(type, row, weights, n_in), 0);
    *magnitude = 0.0;
    for (size_t i = 0; i < n_in; i++) {
        double v = g ? (double)g[i / 32].d * g[i / 32].q[i % 32] : (double)x[i];
        double largest = 0.0;

        for (size_t j = i / 32 * 32; j < n_in && j < i / 32 * 32 + 32; j++)
            largest = fmax(largest, fabs((double)weights[j]));
        sum += weights[i] * v;
        *magnitude += largest * fabs(v);
    }
    free(weights);
    return sum;
}

static void
check_matmul(int format, size_t n_out, size_t n_in, size_t n_rows)
{
    uint32_t type = cases_types[format];
    uint8_t *rows = cases_matrix(type, n_out, n_in, 0);
    struct packed w = cases_packed(type, n_out, n_in, rows);
    float *x = cases_alloc(n_rows * n_in, sizeof(*x));
    float *y = cases_alloc(n_rows * n_out, sizeof(*y));
    struct act_group *g = cases_alloc(n_rows * n_in / 32 + 1, sizeof(*g));
    struct activations a = { g, x, n_rows };
    int quantised = packed_is_quantised(&w);

    cases_fill(x, n_rows * n_in, CASE_NORMAL);
    if (quantised)
        k->quantise(g, x, n_rows * n_in);
    k->matmul[format](y, n_out, &w, 0, w.n_tiles, &a);
    for (size_t r = 0; r < n_rows; r++) {
        for (size_t o = 0; o < n_out; o++) {
            double size, want;

            want = product(type, rows + o * quant_row_bytes(type, n_in), n_in,
                           quantised ? g + r * (n_in / 32) : NULL, x + r * n_in, &size);
            /* roundings of 2^-24: three for every 32 terms, or one per term */
            assert_near(y[r * n_out + o], want,
                        size * (double)n_in * (quantised ? 0x1p-26 : 0x1p-24) + 1e-30);
        }
    }
    free(rows);
    free(x);
    free(y);
    free(g);
    packed_free(&w);
}

static void
test_matmul(void **state)
{
    (void)state;
    for (int f = 0; f < PACKED_N_FORMATS; f++) {
        if (packed_unit_columns((enum packed_format)f) == PACKED_SUPER) {
            check_matmul(f, 1, 256, 1);
            check_matmul(f, 37, 768, 3);
            check_matmul(f, 50, 1536, 1);
            continue;
        }
        check_matmul(f, 1, 32, 1);
        check_matmul(f, 16, 64, 2);
        check_matmul(f, 37, 576, 3);
        check_matmul(f, 50, 1536, 1);
    }
    check_matmul(PACKED_F32, 5, 7, 2);
    check_matmul(PACKED_F16, 17, 33, 2);
    check_matmul(PACKED_BF16, 19, 31, 3);
}

static void
test_layer_functions(void **state)
{
    float x[100], w[100], y[100], u[100];
    double ss = 0.0;

    (void)state;
    cases_fill(x, 100, CASE_NORMAL);
    cases_fill(w, 100, CASE_NORMAL);
    k->rmsnorm(y, x, w, 100, 1e-5f);
    for (int i = 0; i < 100; i++)
        ss += (double)x[i] * x[i];
    for (int i = 0; i < 100; i++) {
        double want = x[i] / sqrt(ss / 100 + 1e-5) * w[i];

        assert_near(y[i], want, fabs(want) * 1e-6 + 1e-30);
    }
    k->rmsnorm(y, x, NULL, 100, 1e-5f);
    assert_near(y[7], x[7] / sqrt(ss / 100 + 1e-5), fabsf(y[7]) * 1e-6);
    k->swiglu(y, x, w, 100);
    for (int i = 0; i < 100; i++) {
        double want = x[i] / (1 + exp(-(double)x[i])) * w[i];

        assert_near(y[i], want, fabs(want) * 1e-6 + 1e-30);
    }
    memcpy(u, x, sizeof(u));
    k->add(u, w, 100);
    for (int i = 0; i < 100; i++)
        assert_true(u[i] == x[i] + w[i]);
}

static void
test_rope(void **state)
{
    float x[128], was[128], apart[128], c[32], s[32];
    double f[32];

    (void)state;
    mathfn_rope_frequencies(f, 48, 10000.0, 1.0, NULL);
    mathfn_rope_row(c, s, f, 24, 1234);
    cases_fill(x, 128, CASE_NORMAL);
    memcpy(was, x, sizeof(was));
    k->rope(x, c, s, 2, 64, 48);
    for (int h = 0; h < 2; h++) {
        for (int i = 0; i < 32; i++) {
            const float *a = was + h * 64 + 2 * i, *b = x + h * 64 + 2 * i;
            double t = i < 24 ? 1234 * pow(10000.0, -2.0 * i / 48) : 0.0;
            double size = (fabsf(a[0]) + fabsf(a[1])) * 1e-6;

            assert_near(b[0], a[0] * cos(t) - a[1] * sin(t), size);
            assert_near(b[1], a[0] * sin(t) + a[1] * cos(t), size);
        }
    }
    for (int i = 0; i < 128; i++) /* pair i of a head: at i and i + 24 */
        apart[i % 64 < 48 ? i / 64 * 64 + i % 64 / 2 + i % 2 * 24 : i] = was[i];
    k->rope_halves(apart, c, s, 2, 64, 48);
    for (int i = 0; i < 128; i++)
        assert_true(x[i] ==
                    apart[i % 64 < 48 ? i / 64 * 64 + i % 64 / 2 + i % 2 * 24 : i]);
}

/* Softmax attention of one head in double. */
static void
attend(double *out, const float *q, const float *keys, const float *values, int n, int h)
{
    double *p = cases_alloc((size_t)n, sizeof(*p)), m = -1e300, sum = 0.0;

    for (int j = 0; j < n; j++) {
        for (int i = 0; i < h; i++)
            p[j] +=
                (double)q[i] / sqrt(h) * half_to_float(half_from_float(keys[j * h + i]));
        m = fmax(m, p[j]);
    }
    memset(out, 0, (size_t)h * sizeof(*out));
    for (int j = 0; j < n; j++)
        sum += exp(p[j] - m);
    for (int j = 0; j < n; j++)
        for (int i = 0; i < h; i++)
            out[i] +=
                exp(p[j] - m) / sum * half_to_float(half_from_float(values[j * h + i]));
    free(p);
}

static void
test_attention(void **state)
{
    enum { H = 32, N = 200, GROUP = 3 };
    static float keys[N * H], values[N * H], q[N * GROUP * H], out[N * GROUP * H];
    static uint16_t pages[4][3 * 2 * H * KV_PAGE];
    const uint16_t *page_list[4] = { pages[0], pages[1], pages[2], pages[3] };
    double want[H];

    (void)state;
    cases_fill(keys, N * H, CASE_NORMAL);
    cases_fill(values, N * H, CASE_NORMAL);
    cases_fill(q, N * GROUP * H, CASE_NORMAL);
    memset(pages, 0x7f, sizeof(pages)); /* NaN wherever nothing was written */
    for (int t = 0; t < N; t++)         /* the second of three KV heads */
        k->kv_append(pages[t / KV_PAGE] + kv_part_len(H), t % KV_PAGE, keys + t * H,
                     values + t * H, H);
    k->attention(&(struct attention_job){ q, GROUP * H, out, GROUP * H, N, GROUP, H, 0,
                                          page_list, kv_part_len(H), NULL });
    for (int t = 0; t < N; t++) {
        for (int g = 0; g < GROUP; g++) {
            attend(want, q + (t * GROUP + g) * H, keys, values, t + 1, H);
            for (int i = 0; i < H; i++)
                assert_near(out[(t * GROUP + g) * H + i], want[i], 1e-4);
        }
    }
}

static int
descending(const void *a, const void *b)
{
    const struct logit_entry *x = a, *y = b;

    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

static void
check_logits(size_t n, int n_top, int coarse)
{
    float *x = cases_alloc(n, sizeof(*x));
    struct logit_chunk *chunks = cases_alloc(logits_n_chunks(n), sizeof(*chunks));
    struct logit_entry *all = cases_alloc(n, sizeof(*all)), top[128];
    struct logit_summary got;
    double sum = 0.0;
    int filled;

    for (size_t i = 0; i < n; i++)
        x[i] = coarse ? (float)(cases_u32() % 20) : cases_uniform(-20.0f, 15.0f);
    for (size_t i = 0; i < n; i++)
        all[i] = (struct logit_entry){ (int32_t)i, x[i] };
    qsort(all, n, sizeof(*all), descending);
    for (size_t i = 0; i < n; i++)
        sum += exp((double)x[i] - all[0].logit);
    logits_chunks(k, chunks, x, n, 0, logits_n_chunks(n));
    assert_int_equal(logits_merge(&got, chunks, logits_n_chunks(n)), 0);
    assert_int_equal(got.argmax, all[0].id);
    assert_true(got.max == all[0].logit);
    assert_near(got.lse, all[0].logit + log(sum), 1e-5);
    assert_near(got.confidence, 1 / sum, 1e-5 / sum);
    filled = logits_top(k, top, n_top, x, n, chunks);
    assert_int_equal(filled, (size_t)n_top < n ? n_top : (int)n);
    for (int i = 0; i < filled; i++)
        assert_memory_equal(&top[i], &all[i], sizeof(top[i]));
    free(x);
    free(chunks);
    free(all);
}

/* Rows for logits_largest: what a sample of every sixteenth says is right, nothing, and
 * wrong in either direction. */
enum row { ROW_RANDOM, ROW_COARSE, ROW_RISING, ROW_EQUAL, ROW_HIDDEN, ROW_SHOWN, N_ROWS };

static void
fill_row(float *x, size_t n, enum row kind)
{
    for (size_t i = 0; i < n; i++) {
        float v = cases_uniform(-20.0f, 15.0f);

        switch (kind) {
        case ROW_COARSE:
            v = (float)(cases_u32() % 20);
            break;
        case ROW_RISING:
            v = (float)i;
            break;
        case ROW_EQUAL:
            v = 1.0f;
            break;
        case ROW_HIDDEN: /* the sample sees none of the large ones, which are many */
            v += i % 16 != 0 ? 100.0f : 0.0f;
            break;
        case ROW_SHOWN: /* it sees nothing else */
            v += i % 16 == 0 ? 100.0f : 0.0f;
            break;
        default:
            break;
        }
        x[i] = v;
    }
}

static void
check_largest(size_t n, int n_top, enum row kind)
{
    float *x = cases_alloc(n, sizeof(*x));
    struct logit_entry *all = cases_alloc(n, sizeof(*all));
    struct logit_entry *top = cases_alloc((size_t)n_top, sizeof(*top));

    fill_row(x, n, kind);
    for (size_t i = 0; i < n; i++)
        all[i] = (struct logit_entry){ (int32_t)i, x[i] };
    qsort(all, n, sizeof(*all), descending);
    logits_largest(k, top, n_top, x, n);
    qsort(top, (size_t)n_top, sizeof(*top), descending);
    assert_memory_equal(top, all, (size_t)n_top * sizeof(*top));
    free(x);
    free(all);
    free(top);
}

static void
test_largest(void **state)
{
    static const struct {
        size_t n;
        int n_top;
    } sizes[] = { { 1, 1 },     { 300, 300 },   { 320, 1 },      { 2100, 256 },
                  { 4099, 1 },  { 8448, 256 },  { 8449, 256 },   { 49152, 256 },
                  { 49157, 7 }, { 49152, 600 }, { 49152, 1024 }, { 49152, 1500 } };

    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        for (int kind = 0; kind < N_ROWS; kind++)
            check_largest(sizes[i].n, sizes[i].n_top, (enum row)kind);
}

static void
test_logits(void **state)
{
    struct logit_chunk chunk;
    struct logit_summary summary;
    float x[40] = { 0 };

    (void)state;
    check_logits(1, 128, 0);
    check_logits(100, 128, 0);
    check_logits(1024, 128, 1);
    check_logits(1025, 1, 0);
    check_logits(49152, 128, 0);
    check_logits(49152, 128, 1);
    assert_true(logits_hash(x, 0) == 0xcbf29ce484222325u);
    assert_true(logits_hash(x, 1) == 0xcbf29ce484222325u * 0x100000001b3u);
    for (int bad = 0; bad < 3; bad++) {
        x[33] = bad == 0 ? NAN : bad == 1 ? INFINITY : 3e38f;
        x[3] = -3e38f;
        k->logit_chunk(&chunk, x, 40);
        assert_int_equal(logits_merge(&summary, &chunk, 1), bad < 2 ? CE_EINTERNAL : 0);
    }
}

static void
test_choice(void **state)
{
#ifdef __aarch64__
    const char *foreign = "avx2", *lacking = "x86-64";
#else
    const char *foreign = "neon-i8mm", *lacking = "ARM";
#endif
    static const char *const names[] = { "scalar", "avx2",         "avxvnni",  "avx512",
                                         "neon",   "neon-dotprod", "neon-i8mm" };
    const struct kernels *chosen;
    struct err err;

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        int rc = kernels_choose(&chosen, names[i], &err);

        if (rc == 0)
            assert_string_equal(chosen->name, names[i]);
        else
            assert_int_equal(rc, CE_EUNSUPPORTED);
        assert_true(rc == 0 || strstr(err.text, "lacks") || strstr(err.text, "not in"));
    }
    assert_int_equal(kernels_choose(&chosen, NULL, &err), 0);
    assert_non_null(chosen);
    for (int i = 0; kernels_at(i) != NULL; i++) {
        const struct kernels *named;

        assert_int_equal(kernels_choose(&named, kernels_at(i)->name, &err), 0);
        assert_ptr_equal(named, kernels_at(i));
    }
    assert_int_equal(kernels_choose(&chosen, foreign, &err), CE_EUNSUPPORTED);
    assert_null(chosen);
    assert_non_null(strstr(err.text, foreign));
    assert_non_null(strstr(err.text, lacking));
    assert_int_equal(kernels_choose(&chosen, "mmx", &err), CE_EINVAL);
}

static void
test_packed_refuses(void **state)
{
    struct packed w;
    struct err err;

    (void)state;
    assert_int_equal(packed_init(&w, cases_types[PACKED_Q4_1], 16, 33, &err), CE_EINVAL);
    assert_int_equal(packed_init(&w, cases_types[PACKED_F32], 0, 32, &err), CE_EINVAL);
    assert_int_equal(packed_init(&w, 26, 16, 256, &err), CE_EUNSUPPORTED);
    assert_int_equal(packed_init(&w, cases_types[PACKED_Q6_K], 16, 288, &err), CE_EINVAL);
    assert_int_equal(packed_init(&w, cases_types[PACKED_F32], SIZE_MAX, SIZE_MAX, &err),
                     CE_EINVAL);
    assert_int_equal(
        packed_init(&w, cases_types[PACKED_Q8_0], SIZE_MAX / 2, (size_t)1 << 40, &err),
        CE_EINVAL);
    assert_null(w.data);
    packed_free(&w);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quantise),        cmocka_unit_test(test_matmul),
        cmocka_unit_test(test_layer_functions), cmocka_unit_test(test_rope),
        cmocka_unit_test(test_attention),       cmocka_unit_test(test_logits),
        cmocka_unit_test(test_largest),         cmocka_unit_test(test_choice),
        cmocka_unit_test(test_packed_refuses),
    };

    k = kernels_at(0);
    cases_seed(1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
