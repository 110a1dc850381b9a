/* SPDX-License-Identifier: Apache-2.0
 * test_low_rank.c - matrices of low rank come back whole, what is lost of others is what
 * must be, singular moments do no harm, and threads change no bit.
 */
#include "tools/low_rank.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/gguf.h"
#include "engine/quant.h"

#define D    40
#define ROWS 301 /* a multiple of nothing */
#define N    150

struct world {
    float w[ROWS * D], x[N * D];
    double moment[D * D], gram[D * D], up[D * D];
    float down[D * D], out[ROWS * D];
    struct threads *pool;
};

/* Uniform in [-1, 1). */
static float
draw(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (float)(*state >> 40) * 0x1p-23f - 1.0f;
}

/* m [rows, D] of the rank given, the columns of size 1, 1/decay, 1/decay^2 ... */
static void
fill(float *m, size_t rows, size_t rank, double decay, uint64_t seed)
{
    float right[D * D];

    for (size_t i = 0; i < rank * D; i++)
        right[i] = draw(&seed) / (float)pow(decay, (double)(i / D));
    memset(m, 0, rows * D * sizeof(*m));
    for (size_t i = 0; i < rows; i++) {
        for (size_t k = 0; k < rank; k++) {
            float a = draw(&seed);

            for (size_t j = 0; j < D; j++)
                m[i * D + j] += a * right[k * D + j];
        }
    }
}

static struct world *
world_new(size_t w_rank, double w_decay, size_t x_rank, double x_decay, int n_threads)
{
    struct world *s = calloc(1, sizeof(*s));

    assert_non_null(s);
    fill(s->w, ROWS, w_rank, w_decay, 1);
    fill(s->x, N, x_rank, x_decay, 2);
    assert_int_equal(threads_new(&s->pool, n_threads, NULL), 0);
    return s;
}

static void
world_free(struct world *s)
{
    threads_free(s->pool);
    free(s);
}

static void
fit(struct world *s, size_t r, uint64_t seed)
{
    struct low_rank_matrix w = { GGUF_F32, s->w, ROWS, D, NULL };

    memset(s->moment, 0, sizeof(s->moment));
    low_rank_add_moment(s->moment, s->x, 50, D, s->pool);
    low_rank_add_moment(s->moment, s->x + (size_t)50 * D, N - 50, D, s->pool);
    assert_int_equal(low_rank_gram(s->gram, &w, s->pool, NULL), 0);
    assert_int_equal(
        low_rank_fit(s->down, s->up, s->moment, s->gram, D, r, seed, s->pool, NULL), 0);
    assert_int_equal(low_rank_project(s->out, GGUF_F32, &w, s->up, r, s->pool, NULL), 0);
}

/* The mean of |W n - U D n|^2, as a share of that of |W n|^2. */
static double
loss(const struct world *s, const float *u, const float *down, size_t r)
{
    double lost = 0, all = 0;

    for (size_t i = 0; i < N; i++) {
        const float *x = s->x + i * D;
        double v[D] = { 0 };

        for (size_t k = 0; k < r; k++) {
            for (size_t j = 0; j < D; j++)
                v[k] += (double)down[k * D + j] * (double)x[j];
        }
        for (size_t row = 0; row < ROWS; row++) {
            double y = 0, z = 0;

            for (size_t j = 0; j < D; j++)
                y += (double)s->w[row * D + j] * (double)x[j];
            for (size_t k = 0; k < r; k++)
                z += (double)u[row * r + k] * v[k];
            lost += (y - z) * (y - z);
            all += y * y;
        }
    }
    return lost / all;
}

static void
test_sums(void **state)
{
    struct world *s = world_new(D, 1, D, 1, 3);
    double moment = 0, gram = 0;

    (void)state;
    fit(s, 8, 1);
    for (size_t i = 0; i < N; i++)
        moment += (double)s->x[i * D + 3] * (double)s->x[i * D + 7];
    for (size_t i = 0; i < ROWS; i++)
        gram += (double)s->w[i * D + 3] * (double)s->w[i * D + 7];
    assert_true(fabs(s->moment[3 * D + 7] - moment) < 1e-4);
    assert_true(fabs(s->gram[7 * D + 3] - gram) < 1e-4);
    assert_true(s->gram[7 * D + 3] == s->gram[3 * D + 7]);
    world_free(s);
}

/* W of rank 5 needs no more; what r has beyond stays empty and does no harm. */
static void
test_low_rank_is_recovered(void **state)
{
    static const size_t ranks[] = { 5, 6, 16, D };

    (void)state;
    for (size_t i = 0; i < sizeof(ranks) / sizeof(ranks[0]); i++) {
        struct world *s = world_new(5, 1.5, D, 1, 2);

        fit(s, ranks[i], 1);
        assert_true(loss(s, s->out, s->down, ranks[i]) < 1e-9);
        world_free(s);
    }
}

/* Vectors that fill seven directions: W's other directions do not matter, C has no
 * inverse, and the rank's rest is again empty. */
static void
test_singular_moment(void **state)
{
    static const size_t ranks[] = { 7, 12, D };

    (void)state;
    for (size_t i = 0; i < sizeof(ranks) / sizeof(ranks[0]); i++) {
        struct world *s = world_new(D, 1, 7, 1.2, 2);

        fit(s, ranks[i], 1);
        assert_true(loss(s, s->out, s->down, ranks[i]) < 1e-6);
        world_free(s);
    }
}

/* Rank 5 and one row on top of all: without that row rank 5 is enough. */
static void
test_mean_is_free(void **state)
{
    struct world *s = world_new(5, 1.5, D, 1, 2), *t = world_new(5, 1.5, D, 1, 2);
    struct low_rank_matrix w = { GGUF_F32, s->w, ROWS, D, NULL };
    double mean[D];

    (void)state;
    for (size_t i = 0; i < (size_t)ROWS * D; i++)
        s->w[i] += 3 + (float)(i % D);
    assert_int_equal(low_rank_mean(mean, &w, NULL), 0);
    for (size_t i = 0; i < (size_t)ROWS * D; i++)
        t->w[i] = (float)((double)s->w[i] - mean[i % D]);
    fit(t, 5, 1); /* for the moment, and what is to come out */
    w.less = mean;
    assert_int_equal(low_rank_gram(s->gram, &w, s->pool, NULL), 0);
    assert_int_equal(
        low_rank_fit(s->down, s->up, t->moment, s->gram, D, 5, 1, s->pool, NULL), 0);
    assert_int_equal(low_rank_project(s->out, GGUF_F32, &w, s->up, 5, s->pool, NULL), 0);
    assert_true(loss(t, s->out, s->down, 5) < 1e-6);
    fit(s, 5, 1); /* with the row it is not */
    assert_true(loss(s, s->out, s->down, 5) > 1e-6);
    world_free(s);
    world_free(t);
}

/* No vectors at all, no matrix at all: finite numbers. */
static void
test_nothing(void **state)
{
    struct world *s = world_new(D, 1, 0, 1, 1);

    (void)state;
    fit(s, 8, 1);
    for (size_t i = 0; i < (size_t)8 * D; i++)
        assert_true(isfinite(s->down[i]));
    memset(s->w, 0, sizeof(s->w));
    fit(s, 8, 1);
    for (size_t i = 0; i < (size_t)8 * ROWS; i++)
        assert_true(s->out[i] == 0);
    world_free(s);
}

/* Against truncation that knows the vectors' moment to be I: the first r directions of
 * W alone. Both have the same rank; ours must lose less by much. */
static void
test_beats_plain_truncation(void **state)
{
    struct world *plain = world_new(D, 1.05, D, 1.3, 1),
                 *s = world_new(D, 1.05, D, 1.3, 1);
    struct low_rank_matrix w = { GGUF_F32, plain->w, ROWS, D, NULL };
    double ours, theirs;

    (void)state;
    fit(s, 8, 1);
    ours = loss(s, s->out, s->down, 8);
    for (size_t i = 0; i < D; i++)
        plain->moment[i * D + i] = 1;
    assert_int_equal(low_rank_gram(plain->gram, &w, plain->pool, NULL), 0);
    assert_int_equal(low_rank_fit(plain->down, plain->up, plain->moment, plain->gram, D,
                                  8, 1, plain->pool, NULL),
                     0);
    assert_int_equal(
        low_rank_project(plain->out, GGUF_F32, &w, plain->up, 8, plain->pool, NULL), 0);
    theirs = loss(plain, plain->out, plain->down, 8);
    assert_true(ours > 0 && ours < 0.5 * theirs);
    world_free(plain);
    world_free(s);
}

/* The seed turns the basis, not the space; U's columns are about equally large, and so
 * 4 bits keep what D finds. */
static void
test_rotation(void **state)
{
    struct world *a = world_new(D, 1.2, D, 1.2, 1), *b = world_new(D, 1.2, D, 1.2, 1);
    struct low_rank_matrix w = { GGUF_F32, a->w, ROWS, D, NULL };
    double least = INFINITY, most = 0;
    struct quant_q4_1 blocks[ROWS];

    (void)state;
    fit(a, 32, 1);
    fit(b, 32, 2);
    assert_memory_not_equal(a->down, b->down, sizeof(a->down));
    assert_true(fabs(loss(a, a->out, a->down, 32) - loss(b, b->out, b->down, 32)) < 1e-6);
    for (size_t k = 0; k < 32; k++) {
        double sum = 0;

        for (size_t i = 0; i < ROWS; i++)
            sum += (double)a->out[i * 32 + k] * (double)a->out[i * 32 + k];
        least = fmin(least, sum);
        most = fmax(most, sum);
    }
    assert_true(most < 100 * least); /* sorted, they would span 1.44^62 */
    assert_int_equal(low_rank_project(blocks, GGUF_Q4_1, &w, a->up, 32, a->pool, NULL),
                     0);
    for (size_t i = 0; i < ROWS; i++)
        quant_dequantise_row(GGUF_Q4_1, &blocks[i], b->out + i * 32, 32);
    assert_true(loss(a, b->out, a->down, 32) < 0.02);
    world_free(a);
    world_free(b);
}

static void
test_threads_change_no_bit(void **state)
{
    struct world *one = world_new(D, 1.2, D, 1.2, 1);

    (void)state;
    fit(one, 16, 5);
    for (int n = 2; n <= 5; n++) {
        struct world *s = world_new(D, 1.2, D, 1.2, n);

        fit(s, 16, 5);
        assert_memory_equal(s->down, one->down, sizeof(s->down));
        assert_memory_equal(s->out, one->out, sizeof(s->out));
        world_free(s);
    }
    world_free(one);
}

static void
test_refuses(void **state)
{
    struct world *s = world_new(D, 1, D, 1, 1);
    struct low_rank_matrix w = { GGUF_Q4_1, s->w, ROWS, D,
                                 NULL }; /* D is not whole blocks */
    struct err err = { 0 };

    (void)state;
    assert_int_equal(low_rank_gram(s->gram, &w, s->pool, &err), CE_EUNSUPPORTED);
    w.type = GGUF_F32;
    assert_int_equal(low_rank_project(s->out, GGUF_Q4_1, &w, s->up, 16, s->pool, &err),
                     CE_EINVAL);
    fit(s, 16, 1);
    s->up[0] = NAN;
    assert_int_equal(low_rank_project(s->out, GGUF_Q8_0, &w, s->up, 32, s->pool, &err),
                     CE_EINTERNAL);
    world_free(s);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sums),
        cmocka_unit_test(test_low_rank_is_recovered),
        cmocka_unit_test(test_singular_moment),
        cmocka_unit_test(test_mean_is_free),
        cmocka_unit_test(test_nothing),
        cmocka_unit_test(test_beats_plain_truncation),
        cmocka_unit_test(test_rotation),
        cmocka_unit_test(test_threads_change_no_bit),
        cmocka_unit_test(test_refuses),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
