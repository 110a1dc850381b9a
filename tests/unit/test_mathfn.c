/* SPDX-License-Identifier: Apache-2.0
 * test_mathfn.c - our exponentials, logarithms and sines against libm's.
 *
 * libm is only the yardstick here: errors are counted in units in the last place.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/mathfn.h"

static double
ulps_of_double(double got, double want)
{
    if (got == want)
        return 0.0;
    return fabs(got - want) / ldexp(1.0, ilogb(want) - 52);
}

static void
test_expf_error(void **state)
{
    double worst = 0.0;

    (void)state;
    for (float x = -87.0f; x <= 88.0f; x += 0x1.3p-12f) {
        double want = exp((double)x);
        double off = fabs((double)mathfn_expf(x) - want) / ldexp(1.0, ilogb(want) - 23);

        worst = off > worst ? off : worst;
    }
    assert_true(worst < 0.9);
}

static void
test_expf_edges(void **state)
{
    (void)state;
    assert_true(mathfn_expf(0.0f) == 1.0f);
    assert_true(mathfn_expf(-0.0f) == 1.0f);
    assert_true(mathfn_expf(1e-30f) == 1.0f);
    assert_true(mathfn_expf(-87.0f) > 0.0f);
    assert_true(mathfn_expf(-87.00001f) == 0.0f);
    assert_true(mathfn_expf(-INFINITY) == 0.0f);
    assert_true(mathfn_expf(INFINITY) == mathfn_expf(88.0f));
    assert_true(isfinite(mathfn_expf(88.0f)));
    assert_true(isnan(mathfn_expf(NAN)));
    assert_true(mathfn_siluf(0.0f) == 0.0f);
    assert_true(mathfn_siluf(100.0f) == 100.0f);
    assert_true(fabsf(mathfn_siluf(-100.0f)) < 1e-30f);
}

static void
test_exp_and_ln(void **state)
{
    double worst_exp = 0.0, worst_ln = 0.0;

    (void)state;
    for (double x = -708.0; x <= 709.0; x += 0.00937) {
        double off = ulps_of_double(mathfn_exp(x), exp(x));

        worst_exp = off > worst_exp ? off : worst_exp;
    }
    for (double x = 1e-300; x < 1e300; x *= 1.0171) {
        double off = ulps_of_double(mathfn_ln(x), log(x));

        worst_ln = off > worst_ln ? off : worst_ln;
    }
    for (double x = 0.4; x < 3.0; x += 0.000173) { /* relative to 1 near ln 1 = 0 */
        double off = fabs(mathfn_ln(x) - log(x)) / 0x1p-52;

        worst_ln = off > worst_ln ? off : worst_ln;
    }
    assert_true(worst_exp < 2.0);
    assert_true(worst_ln < 2.0);
    assert_true(mathfn_exp(0.0) == 1.0);
    assert_true(mathfn_exp(-1000.0) == 0.0);
    assert_true(isfinite(mathfn_exp(1000.0)));
    assert_true(isnan(mathfn_exp(NAN)));
    assert_true(mathfn_ln(1.0) == 0.0);
    assert_true(isnan(mathfn_ln(0.0)) && isnan(mathfn_ln(-1.0)) && isnan(mathfn_ln(NAN)));
    assert_true(isnan(mathfn_ln(INFINITY)));
}

static void
test_sincos(void **state)
{
    double worst = 0.0, s, c;

    (void)state;
    for (double x = -300000.0; x <= 300000.0; x += 0.7371) {
        double off;

        mathfn_sincos(x, &s, &c);
        off = fmax(fabs(s - sin(x)), fabs(c - cos(x)));
        worst = off > worst ? off : worst;
    }
    assert_true(worst < 0x1p-51);
    mathfn_sincos(0.0, &s, &c);
    assert_true(s == 0.0 && c == 1.0);
    mathfn_sincos(0x1p30, &s, &c);
    assert_true(isnan(s) && isnan(c));
}

static void
test_rope(void **state)
{
    double f[32];
    float c[32], s[32];

    (void)state;
    mathfn_rope_frequencies(f, 64, 100000.0, 1.0, NULL);
    assert_true(f[0] == 1.0);
    for (int i = 0; i < 32; i++)
        assert_true(ulps_of_double(f[i], pow(100000.0, -2.0 * i / 64)) < 16.0);
    mathfn_rope_row(c, s, f, 32, 0);
    for (int i = 0; i < 32; i++)
        assert_true(c[i] == 1.0f && s[i] == 0.0f);
    mathfn_rope_row(c, s, f, 32, 131071);
    for (int i = 0; i < 32; i++) {
        assert_true(fabs((double)c[i] - cos(131071 * f[i])) < 1e-7);
        assert_true(fabs((double)s[i] - sin(131071 * f[i])) < 1e-7);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_expf_error), cmocka_unit_test(test_expf_edges),
        cmocka_unit_test(test_exp_and_ln), cmocka_unit_test(test_sincos),
        cmocka_unit_test(test_rope),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
