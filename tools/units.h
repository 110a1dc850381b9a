/* SPDX-License-Identifier: Apache-2.0
 * units.h - numbers as people read them. Decimal units: 1 MB is 1,000,000 bytes.
 *
 * Each writes into `out`, [UNITS_TEXT], and returns it, so that it can stand in a
 * printf argument. Thread: any.
 */
#ifndef CE_TOOLS_UNITS_H
#define CE_TOOLS_UNITS_H

#include <stdint.h>

#define UNITS_TEXT 32

char *units_bytes(char *out, double bytes);     /* "98.4 MB" */
char *units_count(char *out, uint64_t n);       /* "49,152" */
char *units_amount(char *out, double n);        /* "134.5 M" */
char *units_seconds(char *out, double seconds); /* "1.24 s", "87 us" */

#endif
