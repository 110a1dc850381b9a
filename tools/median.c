/* SPDX-License-Identifier: Apache-2.0
 * median.c - see median.h.
 */
#include "tools/median.h"

#include <stdlib.h>

static int
compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double
median(double *v, size_t n)
{
    if (n == 0)
        return 0;
    qsort(v, n, sizeof(*v), compare);
    return (v[(n - 1) / 2] + v[n / 2]) / 2;
}
