/* SPDX-License-Identifier: Apache-2.0
 * kernels_avx2.c - kernels on eight floats at a time.
 */
#include "engine/kernels.h"

#include <immintrin.h>

static void
add(float *x, const float *y, size_t n)
{
    size_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(x + i,
                         _mm256_add_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i)));
    for (; i < n; i++)
        x[i] += y[i];
}

void
kernels_avx2_install(struct kernels *k)
{
    k->name = "avx2";
    k->add = add;
}
