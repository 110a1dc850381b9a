/* SPDX-License-Identifier: Apache-2.0
 * kernels_avx512.c - kernels on sixteen floats at a time, with VNNI.
 */
#include "engine/kernels.h"

#include <immintrin.h>

static void
add(float *x, const float *y, size_t n)
{
    size_t i = 0;

    for (; i + 16 <= n; i += 16)
        _mm512_storeu_ps(x + i,
                         _mm512_add_ps(_mm512_loadu_ps(x + i), _mm512_loadu_ps(y + i)));
    for (; i < n; i++)
        x[i] += y[i];
}

void
kernels_avx512_install(struct kernels *k)
{
    k->name = "avx512";
    k->add = add;
}
