/* SPDX-License-Identifier: Apache-2.0
 * exit_start.c - see exit_start.h.
 *
 * With s = (x - mean) / sigma, C = mean of s s^T and B = mean of s y^T the map M^T
 * solves (C + ridge) M^T = B, and the bias is the mean of y. All in double, by Cholesky.
 */
#include "tools/exit_start.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

#include "common/memory.h"
#include "common/random.h"
#include "engine/mathfn.h"

#define RIDGE 1e-4 /* added to C's diagonal, which is ones */

/* Dimensions that (nearly) stand still are only shifted. */
static void
set_scales(struct exit_net *e, const double *xx, size_t n, const double *mean_t2)
{
    const size_t d = e->d;

    for (size_t i = 0; i < d; i++) {
        double mean = xx[i * (d + 1) + d] / (double)n;
        double square = xx[i * (d + 1) + i] / (double)n, var = square - mean * mean;

        e->mean[i] = (float)mean;
        e->sigma[i] = var > 1e-8 * square ? (float)sqrt(var) : 1;
        e->tau[i] = mean_t2[i] > 1e-12 ? (float)sqrt(mean_t2[i]) : 1;
    }
}

/* c [d, d], its lower triangle, and b [d, d]: the moments above. */
static void
moments(const struct exit_net *e, const double *xx, const double *xy, size_t n, double *c,
        double *b)
{
    const size_t d = e->d;
    const double *y = xy + d * d; /* sums of y: the row of the one */

    for (size_t i = 0; i < d; i++) {
        double mi = (double)e->mean[i], si = (double)e->sigma[i];

        for (size_t j = 0; j <= i; j++) {
            double mj = (double)e->mean[j];
            double cross =
                xx[i * (d + 1) + j] - mi * xx[d * (d + 1) + j] - mj * xx[i * (d + 1) + d];

            c[i * d + j] = (cross / (double)n + mi * mj) / (si * (double)e->sigma[j]);
        }
        c[i * d + i] += RIDGE;
        for (size_t o = 0; o < d; o++)
            b[i * d + o] = (xy[i * d + o] - mi * y[o]) / (double)n / si;
    }
}

/* The lower triangle of m [d, d] becomes its Cholesky factor. A pivot lost in rounding
 * gets a floor; the ridge keeps all others far above it. */
static void
cholesky(double *m, size_t d)
{
    for (size_t i = 0; i < d; i++) {
        double *row = m + i * d;

        for (size_t j = 0; j <= i; j++) {
            double s = row[j] - cblas_ddot((int)j, row, 1, m + j * d, 1);

            if (i == j)
                row[i] = sqrt(s > RIDGE * 1e-3 ? s : RIDGE * 1e-3);
            else
                row[j] = s / m[j * d + j];
        }
    }
}

/* x [n] of the standard normal distribution, by Box and Muller. */
static void
draw_normal(float *x, size_t n, double scale, uint64_t *state)
{
    for (size_t i = 0; i < n; i += 2) {
        double u = (double)((random_next(state) >> 11) + 1) * 0x1p-53;
        double radius = scale * sqrt(-2 * mathfn_ln(u)), sin, cos;

        mathfn_sincos((double)(random_next(state) >> 11) * 0x1p-53 * 6.283185307179586,
                      &sin, &cos);
        x[i] = (float)(radius * cos);
        if (i + 1 < n)
            x[i + 1] = (float)(radius * sin);
    }
}

int
exit_start(struct exit_net *e, const double *xx, const double *xy, size_t n,
           const double *mean_t2, uint64_t seed)
{
    const size_t d = e->d;
    double *c = mem_array_alloc(d * d, sizeof(*c));
    double *b = mem_array_alloc(d * d, sizeof(*b));

    if (c && b) {
        set_scales(e, xx, n, mean_t2);
        moments(e, xx, xy, n, c, b);
        cholesky(c, d);
        cblas_dtrsm(CblasRowMajor, CblasLeft, CblasLower, CblasNoTrans, CblasNonUnit,
                    (int)d, (int)d, 1, c, (int)d, b, (int)d);
        cblas_dtrsm(CblasRowMajor, CblasLeft, CblasLower, CblasTrans, CblasNonUnit,
                    (int)d, (int)d, 1, c, (int)d, b, (int)d);
        for (size_t o = 0; o < d; o++) {
            for (size_t i = 0; i < d; i++)
                e->p[o * d + i] = (float)b[i * d + o];
            e->p[exit_net_bias_at(e) + o] = (float)(xy[d * d + o] / (double)n);
        }
        draw_normal(e->p + exit_net_gate_at(e), 2 * e->w * d, 1 / sqrt((double)d), &seed);
    }
    mem_free(c);
    mem_free(b);
    return c && b ? 0 : CE_ENOMEM;
}
