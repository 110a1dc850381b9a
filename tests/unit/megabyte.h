/* SPDX-License-Identifier: Apache-2.0
 * megabyte.h - long texts of the worst kinds, and how long encoding one takes.
 *
 * For tests that include cmocka.h before this.
 */
#ifndef CE_TESTS_UNIT_MEGABYTE_H
#define CE_TESTS_UNIT_MEGABYTE_H

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/tokenizer.h"

#define MEGABYTE ((size_t)1 << 20)

/* text[0..len) is the pattern over and over. */
static inline void
repeat_pattern(char *text, size_t len, const char *pattern)
{
    size_t n = strlen(pattern);

    for (size_t i = 0; i < len; i++)
        text[i] = pattern[i % n];
}

/* A megabyte of each pattern, special tokens parsed. The bound is generous; quadratic
 * work would take hours. */
static inline void
assert_megabytes_quick(const struct tokenizer *tok, const char *const *patterns,
                       size_t n_patterns)
{
    int32_t *ids = malloc((MEGABYTE + 1) * sizeof(*ids));
    char *text = malloc(MEGABYTE);
    struct err err;

    assert_non_null(ids);
    assert_non_null(text);
    for (size_t k = 0; k < n_patterns; k++) {
        clock_t start;
        double seconds;
        size_t n;

        repeat_pattern(text, MEGABYTE, patterns[k]);
        start = clock();
        assert_int_equal(
            tokenizer_encode(tok, text, MEGABYTE, true, ids, MEGABYTE + 1, &n, &err), 0);
        seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
        print_message("1 MiB of \"%s\": %zu tokens, %.2f s\n", patterns[k], n, seconds);
        assert_true(seconds < 20);
    }
    free(ids);
    free(text);
}

#endif
