/* SPDX-License-Identifier: Apache-2.0
 * reference_data.h - where the real model and the reference files are, for tests
 * that skip without them.
 */
#ifndef CE_TESTS_BACKEND_REFERENCE_DATA_H
#define CE_TESTS_BACKEND_REFERENCE_DATA_H

#include <stddef.h>
#include <stdint.h>

struct json_t; /* jansson.h */

/* Path of the real model (CECOLLM_MODEL, or models/ under the source root), or of a
 * file below the test data; NULL when it is not there. Static memory, one each. */
const char *reference_model(void);
const char *reference_file(const char *name);

/* Lines of a JSONL file as an array; NULL when it is not there or does not parse. */
struct json_t *reference_lines(const char *name);

/* Lists of numbers as arrays; the caller frees. *n receives the length. */
int32_t *reference_ints(const struct json_t *list, size_t *n);
double *reference_doubles(const struct json_t *list, size_t *n);

#endif
