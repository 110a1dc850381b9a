/* SPDX-License-Identifier: Apache-2.0
 * median.h - the middle of a few samples.
 */
#ifndef CE_TOOLS_MEDIAN_H
#define CE_TOOLS_MEDIAN_H

#include <stddef.h>

/* Sorts v[0..n-1] ascending and returns its median, the mean of the two middle ones
 * when n is even; 0 when n is 0. */
double median(double *v, size_t n);

#endif
