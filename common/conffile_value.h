/* SPDX-License-Identifier: Apache-2.0
 * conffile_value.h - one setting's text and its field; for conffile.c only.
 */
#ifndef CE_COMMON_CONFFILE_VALUE_H
#define CE_COMMON_CONFFILE_VALUE_H

#include <stdbool.h>

#include "common/conffile.h"

#define CONFFILE_MAX_LINE 256

/* Parse `text` into the key's field of `base` (a string there is freed). On
 * CE_EINVAL or CE_ENOMEM the field is unchanged and `why` says what is wrong. */
int conffile_value_set(const struct conffile_key *key, void *base, const char *text,
                       char *why, size_t why_size);

/* "1 to 64.", "One of: a, b." and so on into `out`; returns the length, 0 when
 * there is nothing to say. */
int conffile_value_bounds(const struct conffile_key *key, char *out, size_t size);

/* Bytes of the key's field, at most eight; is it a string of its own? */
size_t conffile_value_size(const struct conffile_key *key);
bool conffile_value_is_text(const struct conffile_key *key);

void conffile_value_free(const struct conffile_key *key, void *base);

#endif
