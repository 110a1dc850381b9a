/* SPDX-License-Identifier: Apache-2.0
 * mathfn.h - exponentials, logarithms, sines: the same bits on every machine.
 *
 * libm's results differ between versions and CPUs, so none of them may reach a
 * token. These are fixed sequences of + - * / and fma (doc/NUMERICS.md, section
 * 5). The float exponential is inline, for it is the specification that vector
 * kernels repeat lane by lane; the double functions serve tables, one value per
 * row, and sampling.
 *
 * Thread: any; no state. Nothing here sets errno.
 */
#ifndef CE_ENGINE_MATHFN_H
#define CE_ENGINE_MATHFN_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* ---- float ---- */

#define MATHFN_EXPF_MIN   -87.0f
#define MATHFN_EXPF_MAX   88.0f
#define MATHFN_EXPF_LOG2E 0x1.715476p+0f
#define MATHFN_EXPF_LN2HI 0x1.62e400p-1f
#define MATHFN_EXPF_LN2LO 0x1.7f7d1cp-20f
#define MATHFN_EXPF_C6    0x1.6a522ap-10f
#define MATHFN_EXPF_C5    0x1.12396cp-7f
#define MATHFN_EXPF_C4    0x1.5558aap-5f
#define MATHFN_EXPF_C3    0x1.555492p-3f
#define MATHFN_EXPF_C2    0x1.fffffcp-2f
#define MATHFN_EXPF_ROUND 0x1.8p+23f /* adding it rounds to an integer */

/* e^x: below 0.9 units in the last place off; 0 below -87, e^88 above 88, NaN for
 * a NaN. */
static inline float
mathfn_expf(float x)
{
    float shifted, n, r, p, scale;
    uint32_t bits;

    if (x < MATHFN_EXPF_MIN)
        return 0.0f;
    if (x > MATHFN_EXPF_MAX)
        x = MATHFN_EXPF_MAX;
    shifted = x * MATHFN_EXPF_LOG2E + MATHFN_EXPF_ROUND;
    n = shifted - MATHFN_EXPF_ROUND;
    r = fmaf(n, -MATHFN_EXPF_LN2HI, x);
    r = fmaf(n, -MATHFN_EXPF_LN2LO, r);
    p = MATHFN_EXPF_C6;
    p = fmaf(p, r, MATHFN_EXPF_C5);
    p = fmaf(p, r, MATHFN_EXPF_C4);
    p = fmaf(p, r, MATHFN_EXPF_C3);
    p = fmaf(p, r, MATHFN_EXPF_C2);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    memcpy(&bits, &shifted, sizeof(bits)); /* n sits in the low bits: 2^n */
    bits = (bits + 127) << 23;
    memcpy(&scale, &bits, sizeof(scale));
    return p * scale;
}

/* g / (1 + e^-g). */
static inline float
mathfn_siluf(float g)
{
    return g / (1.0f + mathfn_expf(-g));
}

/* ---- double; errors of one or two units in the last place ---- */

/* e^x: 0 below -708, e^709 above 709. */
double mathfn_exp(double x);

/* ln x of a positive, normal, finite x; NaN for anything else. */
double mathfn_ln(double x);

/* base^y = e^(y ln base), base > 0. */
double mathfn_pow(double base, double y);

/* sin and cos of |x| < 2^30 (absolute error below 2^-50); NaN beyond. */
void mathfn_sincos(double x, double *sin, double *cos);

/* ---- rope (section 6) ---- */

/* f[i] = base^(-2i / n_rot) / factor / divisors[i], i < n_rot / 2. factor 1 and
 * divisors NULL: not divided. */
void mathfn_rope_frequencies(double *f, int n_rot, double base, double factor,
                             const float *divisors);

/* Row `pos` of the tables: cos, sin [n_half] of pos * f[i], rounded to float. */
void mathfn_rope_row(float *cos, float *sin, const double *f, int n_half, int32_t pos);

#endif
