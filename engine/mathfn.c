/* SPDX-License-Identifier: Apache-2.0
 * mathfn.c - double exponential, logarithm, sine and cosine by fixed sequences.
 *
 * Textbook methods: reduce the argument with a constant in two or three parts
 * (exact products thanks to fma), sum a Taylor series by Horner's rule until the
 * next term is below the last place, put the exponent back. The series are longer
 * than a tuned library's; nothing here is in an inner loop.
 */
#include "engine/mathfn.h"

#define LOG2E 0x1.71547652b82fep+0
#define LN2HI 0x1.62e42fefa39efp-1
#define LN2LO 0x1.abc9e3b39803fp-56

/* Pi / 2 in three parts. */
#define TWO_OVER_PI 0x1.45f306dc9c883p-1
#define PIO2_1      0x1.921fb54442d18p+0
#define PIO2_2      0x1.1a62633145c07p-54
#define PIO2_3      -0x1.f1976b7ed8fbcp-110

/* 2^n for -1022 <= n <= 1023. */
static double
power_of_two(int64_t n)
{
    uint64_t bits = (uint64_t)(n + 1023) << 52;
    double d;

    memcpy(&d, &bits, sizeof(d));
    return d;
}

double
mathfn_exp(double x)
{
    static const double inverse_factorial[] = { /* of 13 down to 0 */
                                                1.0 / 6227020800.0,
                                                1.0 / 479001600.0,
                                                1.0 / 39916800.0,
                                                1.0 / 3628800.0,
                                                1.0 / 362880.0,
                                                1.0 / 40320.0,
                                                1.0 / 5040.0,
                                                1.0 / 720.0,
                                                1.0 / 120.0,
                                                1.0 / 24.0,
                                                1.0 / 6.0,
                                                0.5,
                                                1.0,
                                                1.0
    };
    double n, r, p = 0.0;

    if (x < -708.0)
        return 0.0;
    if (x > 709.0)
        x = 709.0;
    if (x != x)
        return x;
    n = rint(x * LOG2E);
    r = fma(n, -LN2HI, x);
    r = fma(n, -LN2LO, r);
    for (size_t i = 0; i < sizeof(inverse_factorial) / sizeof(double); i++)
        p = fma(p, r, inverse_factorial[i]);
    return p * power_of_two((int64_t)n);
}

double
mathfn_ln(double x)
{
    uint64_t bits;
    int64_t exponent;
    double m, s, z, p = 0.0;

    memcpy(&bits, &x, sizeof(bits));
    if (bits >> 52 == 0 || bits >> 52 >= 0x7ff) /* zero, subnormal, inf, NaN, minus */
        return NAN;
    exponent = (int64_t)(bits >> 52) - 1023;
    bits = (bits & 0xfffffffffffff) | (uint64_t)1023 << 52;
    memcpy(&m, &bits, sizeof(m));
    if (m > 1.4142135623730951) {
        m *= 0.5;
        exponent++;
    }
    /* ln m = 2 (s + s^3/3 + s^5/5 + ...), s = (m - 1) / (m + 1), |s| < 0.172 */
    s = (m - 1.0) / (m + 1.0);
    z = s * s;
    for (int k = 23; k >= 3; k -= 2)
        p = fma(p, z, 1.0 / k);
    p = fma(p * z, 2.0 * s, 2.0 * s);
    return fma((double)exponent, LN2HI, fma((double)exponent, LN2LO, p));
}

double
mathfn_pow(double base, double y)
{
    return mathfn_exp(y * mathfn_ln(base));
}

void
mathfn_sincos(double x, double *sin_out, double *cos_out)
{
    double n, r, z, s = 0.0, c = 0.0;
    int quadrant;

    if (!(fabs(x) < 0x1p30)) {
        *sin_out = *cos_out = NAN;
        return;
    }
    n = rint(x * TWO_OVER_PI);
    r = fma(n, -PIO2_1, x);
    r = fma(n, -PIO2_2, r);
    r = fma(n, -PIO2_3, r);
    z = r * r;
    for (int k = 18; k >= 2; k -= 2) /* cos: 1 - z/(1*2) (1 - z/(3*4) (...)) */
        c = fma(c, -z / (double)((k - 1) * k), 1.0);
    for (int k = 19; k >= 3; k -= 2) /* sin: r (1 - z/(2*3) (1 - z/(4*5) (...))) */
        s = fma(s, -z / (double)((k - 1) * k), 1.0);
    s = r * s;
    quadrant = (int)((int64_t)n & 3);
    *sin_out = (quadrant & 1) ? c : s;
    *cos_out = (quadrant & 1) ? s : c;
    if (quadrant & 2)
        *sin_out = -*sin_out;
    if (quadrant == 1 || quadrant == 2)
        *cos_out = -*cos_out;
}

void
mathfn_rope_frequencies(double *f, int n_rot, double base, double factor,
                        const float *divisors)
{
    for (int i = 0; i < n_rot / 2; i++) {
        f[i] = mathfn_pow(base, -(2.0 * i) / n_rot) / factor;
        if (divisors)
            f[i] /= (double)divisors[i];
    }
}

void
mathfn_rope_row(float *cos_out, float *sin_out, const double *f, int n_half, int32_t pos)
{
    for (int i = 0; i < n_half; i++) {
        double s, c;

        mathfn_sincos((double)pos * f[i], &s, &c);
        cos_out[i] = (float)c;
        sin_out[i] = (float)s;
    }
}
