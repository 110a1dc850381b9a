/* SPDX-License-Identifier: Apache-2.0
 * adam.c - see adam.h.
 */
#include "tools/adam.h"

#include <math.h>

#define BETA1 0.9
#define BETA2 0.99 /* short runs: the usual 0.999 would remember the warm-up */
#define EPS   1e-8f

void
adam_step(const struct adam *a, float *restrict p, float *restrict m, float *restrict v,
          const float *restrict g, size_t n)
{
    const float b1 = (float)BETA1, b2 = (float)BETA2;
    const float c1 = (float)(1 / (1 - pow(BETA1, (double)a->step)));
    const float c2 = (float)(1 / (1 - pow(BETA2, (double)a->step)));
    const float rate = a->rate * c1;

    for (size_t i = 0; i < n; i++) {
        float x = g[i] * a->scale;

        m[i] = b1 * m[i] + (1 - b1) * x;
        v[i] = b2 * v[i] + (1 - b2) * x * x;
        p[i] -= rate * m[i] / (sqrtf(v[i] * c2) + EPS);
    }
}

float
adam_rate(float rate, size_t at, size_t steps)
{
    size_t warm = steps / 10 < 100 ? steps / 10 : 100;

    if (warm < steps / 50)
        warm = steps / 50;
    if (at < warm)
        return rate * (float)(at + 1) / (float)warm;
    return rate * (float)(0.01 + 0.99 * 0.5 *
                                     (1 + cos(M_PI * (double)(at - warm) /
                                              (double)(steps - warm))));
}
