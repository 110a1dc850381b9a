/* SPDX-License-Identifier: Apache-2.0
 * exit_sums.c - see exit_sums.h.
 */
#include "tools/exit_sums.h"

#include <string.h>

#include "common/memory.h"

#define BLOCK 64

int
exit_sums_init(struct exit_sums *s, size_t d, struct err *err)
{
    s->d = d;
    s->xx = mem_array_alloc((d + 1) * (d + 1), sizeof(double));
    s->xy = mem_array_alloc((d + 1) * d, sizeof(double));
    s->block = mem_array_alloc(BLOCK * (2 * d + 1), sizeof(float));
    s->line = mem_array_alloc(2 * d + 1, sizeof(float));
    if (!s->xx || !s->xy || !s->block || !s->line)
        return err_set(err, CE_ENOMEM, "no memory for the sums of %zu columns", d);
    return 0;
}

void
exit_sums_free(struct exit_sums *s)
{
    mem_free(s->xx);
    mem_free(s->xy);
    mem_free(s->block);
    mem_free(s->line);
    *s = (struct exit_sums){ 0 };
}

/* line [n] += the sum over the block's rows of their number i times those from i on. */
static void
multiply(float *restrict line, const float *restrict block, size_t n_block, size_t wide,
         size_t i)
{
    size_t n = wide - i, r = 0;

    for (; r + 4 <= n_block; r += 4) {
        const float *a = block + r * wide + i, *b = a + wide, *c = b + wide,
                    *e = c + wide;
        float fa = *a, fb = *b, fc = *c, fe = *e;

        for (size_t j = 0; j < n; j++)
            line[j] += (fa * a[j] + fb * b[j]) + (fc * c[j] + fe * e[j]);
    }
    for (; r < n_block; r++) {
        const float *a = block + r * wide + i;
        float fa = *a;

        for (size_t j = 0; j < n; j++)
            line[j] += fa * a[j];
    }
}

static void
flush(struct exit_sums *s)
{
    size_t d = s->d, wide = 2 * d + 1;

    for (size_t i = 0; i <= d && s->n_block > 0; i++) {
        memset(s->line, 0, (wide - i) * sizeof(float));
        multiply(s->line, s->block, s->n_block, wide, i);
        for (size_t j = i; j <= d; j++)
            s->xx[i * (d + 1) + j] += (double)s->line[j - i];
        for (size_t j = 0; j < d; j++)
            s->xy[i * d + j] += (double)s->line[d + 1 - i + j];
    }
    s->n_block = 0;
}

void
exit_sums_add(struct exit_sums *s, const float *x, const float *y)
{
    float *row = s->block + s->n_block * (2 * s->d + 1);

    memcpy(row, x, s->d * sizeof(float));
    row[s->d] = 1;
    memcpy(row + s->d + 1, y, s->d * sizeof(float));
    s->n++;
    if (++s->n_block == BLOCK)
        flush(s);
}

void
exit_sums_finish(struct exit_sums *s)
{
    size_t n = s->d + 1;

    flush(s);
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < i; j++)
            s->xx[i * n + j] = s->xx[j * n + i];
    }
}
