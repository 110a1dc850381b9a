/* SPDX-License-Identifier: Apache-2.0
 * units.c - see units.h.
 */
#include "tools/units.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* n with one of the prefixes "", k, M, G, T and three to four digits. */
static char *
scaled(char *out, double n, const char *unit)
{
    static const char prefixes[] = " kMGT";
    int p = 0;

    while (fabs(n) >= 999.95 && prefixes[p + 1] != '\0') {
        n /= 1000;
        p++;
    }
    if (p == 0)
        snprintf(out, UNITS_TEXT, "%.0f%s%s", n, unit[0] ? " " : "", unit);
    else
        snprintf(out, UNITS_TEXT, "%.1f %c%s", n, prefixes[p], unit);
    return out;
}

char *
units_bytes(char *out, double bytes)
{
    return scaled(out, bytes, "B");
}

char *
units_amount(char *out, double n)
{
    return scaled(out, n, "");
}

char *
units_count(char *out, uint64_t n)
{
    char digits[24];
    int len = snprintf(digits, sizeof(digits), "%" PRIu64, n), at = 0;

    for (int i = 0; i < len; i++) {
        if (i > 0 && (len - i) % 3 == 0)
            out[at++] = ',';
        out[at++] = digits[i];
    }
    out[at] = '\0';
    return out;
}

char *
units_seconds(char *out, double seconds)
{
    if (seconds < 1e-3)
        snprintf(out, UNITS_TEXT, "%.0f us", seconds * 1e6);
    else if (seconds < 1)
        snprintf(out, UNITS_TEXT, "%.1f ms", seconds * 1e3);
    else
        snprintf(out, UNITS_TEXT, "%.2f s", seconds);
    return out;
}
