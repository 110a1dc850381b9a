/* SPDX-License-Identifier: Apache-2.0
 * test_sampler.c - the random numbers are Philox, the cuts are the definition's, and
 * what is drawn has the distribution that was asked for.
 *
 * Expected probabilities are computed here with libm, which is close enough for a
 * chi-square of 20,000 draws; seeds are fixed, so the tests never flicker.
 */
#include "engine/sampler.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define DRAWS 20000

static const int32_t ids[6] = { 40, 7, 12, 3, 99, 5 };
static const float logits[6] = { 3.0f, 2.5f, 2.0f, 1.0f, 0.0f, -2.0f };

/* A row whose six logits are the whole vocabulary but for `rest` more weight, in
 * units of e^0. */
static struct sampler_row
row_with(double rest)
{
    double sum = rest;
    int i;

    for (i = 0; i < 6; i++)
        sum += exp((double)logits[i]);
    return (struct sampler_row){ 6, ids, logits, (float)log(sum) };
}

static struct sampler_params
params(double temperature)
{
    struct sampler_params p;

    sampler_params_init(&p);
    p.temperature = temperature;
    p.seed = 42;
    return p;
}

/* Published with Random123 (kat_vectors, philox4x32 of 10 rounds). */
static void
test_philox_vectors(void **state)
{
    static const uint32_t v[3][10] = {
        { 0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 },
        { 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff,
          0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd },
        { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0,
          0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 },
    };
    uint32_t out[4];
    int i;

    (void)state;
    for (i = 0; i < 3; i++) {
        sampler_philox(v[i], v[i] + 4, out);
        assert_memory_equal(out, v[i] + 6, sizeof(out));
    }
    assert_true(sampler_uniform(0, 0, 0) == (double)(0x6627e8d5e169c58d >> 11) * 0x1p-53);
}

static void
test_uniform(void **state)
{
    double u, sum = 0;
    int bins[16] = { 0 }, i;

    (void)state;
    for (i = 0; i < DRAWS; i++) {
        u = sampler_uniform(1, (uint32_t)i % 3, (uint32_t)i);
        assert_true(u >= 0 && u < 1);
        bins[(int)(u * 16)]++;
        sum += u;
    }
    assert_true(fabs(sum / DRAWS - 0.5) < 0.01);
    for (i = 0; i < 16; i++)
        assert_true(abs(bins[i] - DRAWS / 16) < 150);
    assert_true(sampler_uniform(1, 0, 0) != sampler_uniform(2, 0, 0));
    assert_true(sampler_uniform(1, 0, 0) != sampler_uniform(1, 1, 0));
    assert_true(sampler_uniform(1, 0, 0) != sampler_uniform(1ull << 32, 0, 0));
}

/* Draw many and hold the counts against `want`, [6] probabilities in rank order.
 * 30 is far beyond the 99.99 % point for up to 5 degrees of freedom. */
static void
check_distribution(const struct sampler_params *p, const struct sampler_row *row,
                   const double *want)
{
    int count[6] = { 0 }, i, k;
    double chi = 0, e;
    int32_t id;

    assert_int_equal(sampler_check(p, NULL), 0);
    for (i = 0; i < DRAWS; i++) {
        id = sampler_pick(p, row, NULL, 0, 0, (uint32_t)i, NULL);
        for (k = 0; k < 5 && ids[k] != id; k++)
            ;
        assert_int_equal(ids[k], id);
        count[k]++;
    }
    for (k = 0; k < 6; k++) {
        e = want[k] * DRAWS;
        if (want[k] == 0)
            assert_int_equal(count[k], 0);
        else
            chi += ((double)count[k] - e) * ((double)count[k] - e) / e;
    }
    assert_true(chi < 30);
}

/* Probabilities of the first n at a temperature. */
static void
softmax(double temperature, int n, double *out)
{
    double sum = 0;
    int i;

    for (i = 0; i < 6; i++) {
        out[i] = i < n ? exp((double)logits[i] / temperature) : 0;
        sum += out[i];
    }
    for (i = 0; i < 6; i++)
        out[i] /= sum;
}

static void
test_temperatures(void **state)
{
    static const double t[] = { 0.3, 0.7, 1.0, 1.5, 5.0 };
    struct sampler_row row = row_with(0);
    struct sampler_params p;
    double want[6];
    size_t i;

    (void)state;
    for (i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        p = params(t[i]);
        softmax(t[i], 6, want);
        check_distribution(&p, &row, want);
    }
}

static void
test_cuts(void **state)
{
    struct sampler_row row = row_with(0), heavy = row_with(30);
    struct sampler_params p = params(0.9);
    double want[6];

    (void)state;
    p.top_k = 3;
    softmax(0.9, 3, want);
    check_distribution(&p, &row, want);

    p = params(1.3);
    p.min_p = 0.3; /* e^-1 = 0.37 stays, e^-2 = 0.14 goes */
    softmax(1.3, 3, want);
    check_distribution(&p, &row, want);

    /* probabilities 0.466, 0.283, 0.171, ...: 0.749 < 0.8 <= 0.920 */
    p = params(1.3);
    p.top_p = 0.8;
    softmax(1.3, 3, want);
    check_distribution(&p, &row, want);
    p.top_p = 0.7;
    softmax(1.3, 2, want);
    check_distribution(&p, &row, want);

    /* With half of the weight outside the set the same cut keeps more; what the set
     * does not reach keeps all of it. */
    p.top_p = 0.45; /* 0.275 + 0.167 = 0.442 */
    softmax(1.3, 3, want);
    check_distribution(&p, &heavy, want);
    p.top_p = 0.9;
    softmax(1.3, 6, want);
    check_distribution(&p, &heavy, want);

    p = params(2);
    p.top_p = 1e-6;
    softmax(2, 1, want);
    check_distribution(&p, &row, want);
}

static void
test_greedy_and_logprob(void **state)
{
    struct sampler_row row = row_with(0);
    struct sampler_params p = params(0);
    double logprob;
    uint32_t i;

    (void)state;
    for (i = 0; i < 100; i++)
        assert_int_equal(sampler_pick(&p, &row, NULL, 0, i, i, &logprob), 40);
    assert_true(logprob == (double)3.0f - (double)row.lse);
    row.n = 1;
    p.temperature = 1;
    assert_int_equal(sampler_pick(&p, &row, NULL, 0, 0, 0, NULL), 40);
}

static void
test_penalties(void **state)
{
    const int32_t recent[] = { 40, 5, 40, 1234, 7, 40, -3 };
    struct sampler_row row = row_with(0);
    struct sampler_params p = params(0);
    double logprob;

    (void)state;
    assert_int_equal(sampler_pick(&p, &row, recent, 7, 0, 0, NULL), 40);
    p.repetition_penalty = 1.4; /* 3 / 1.4 = 2.14, 2.5 / 1.4 = 1.79, 2 stays */
    assert_int_equal(sampler_pick(&p, &row, recent, 7, 0, 0, NULL), 40);
    p.repetition_penalty = 1.6; /* 1.88 */
    assert_int_equal(sampler_pick(&p, &row, recent, 7, 0, 0, &logprob), 12);
    assert_true(logprob == (double)2.0f - (double)row.lse);
    p = params(0);
    p.presence_penalty = 0.9; /* 2.1, 1.6, 2 */
    assert_int_equal(sampler_pick(&p, &row, recent, 7, 0, 0, NULL), 40);
    p.presence_penalty = 1.1; /* 1.9, 1.4, 2 */
    assert_int_equal(sampler_pick(&p, &row, recent, 7, 0, 0, NULL), 12);
    p = params(0);
    p.frequency_penalty = 0.3; /* 3 - 0.9, 2.5 - 0.3, 2 */
    assert_int_equal(sampler_pick(&p, &row, recent, 7, 0, 0, NULL), 7);
    p.frequency_penalty = 0.25; /* 2.25 twice: the lower id */
    assert_int_equal(sampler_pick(&p, &row, recent, 7, 0, 0, NULL), 7);
    p.frequency_penalty = -1;
    assert_int_equal(sampler_pick(&p, &row, recent, 7, 0, 0, NULL), 40);
}

/* These tokens on every machine, in any order of calls. */
static void
test_same_everywhere(void **state)
{
    static const int32_t want[16] = { 40, 7,  12, 12, 12, 7,  40, 40,
                                      7,  12, 7,  7,  7,  12, 40, 7 };
    struct sampler_row row = row_with(3);
    struct sampler_params p = params(1.2);
    const int32_t recent[] = { 40, 99 };
    int32_t got[16];
    int i;

    (void)state;
    p.seed = 20240607;
    p.top_p = 0.95;
    p.min_p = 0.01;
    p.repetition_penalty = 1.1;
    for (i = 15; i >= 0; i--)
        got[i] = sampler_pick(&p, &row, recent, 2, 1, (uint32_t)i, NULL);
    for (i = 0; i < 16; i++)
        assert_int_equal(sampler_pick(&p, &row, recent, 2, 1, (uint32_t)i, NULL), got[i]);
    assert_memory_equal(got, want, sizeof(got));
}

static void
refused(struct sampler_params p, const char *name)
{
    struct err err;

    assert_int_equal(sampler_check(&p, &err), CE_EINVAL);
    assert_int_equal(strncmp(err.text, name, strlen(name)), 0);
}

static void
test_parameters_are_checked(void **state)
{
    struct sampler_params p = params(1);

    (void)state;
    assert_int_equal(sampler_check(&p, NULL), 0);
    p.temperature = -1;
    refused(p, "temperature");
    p.temperature = NAN;
    refused(p, "temperature");
    p.temperature = 1e-9;
    refused(p, "temperature");
    p = params(1);
    p.top_k = 129;
    refused(p, "top_k");
    p.top_k = -1;
    refused(p, "top_k");
    p = params(1);
    p.top_p = 0;
    refused(p, "top_p");
    p = params(1);
    p.min_p = 1.1;
    refused(p, "min_p");
    p = params(1);
    p.repetition_penalty = 0;
    refused(p, "repetition_penalty");
    p = params(1);
    p.presence_penalty = INFINITY;
    refused(p, "presence_penalty");
    p = params(1);
    p.frequency_penalty = -11;
    refused(p, "frequency_penalty");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_philox_vectors),
        cmocka_unit_test(test_uniform),
        cmocka_unit_test(test_temperatures),
        cmocka_unit_test(test_cuts),
        cmocka_unit_test(test_greedy_and_logprob),
        cmocka_unit_test(test_penalties),
        cmocka_unit_test(test_same_everywhere),
        cmocka_unit_test(test_parameters_are_checked),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
