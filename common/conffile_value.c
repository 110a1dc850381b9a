/* SPDX-License-Identifier: Apache-2.0
 * conffile_value.c - what a setting's text means, by type.
 *
 * Numbers are decimal digits with an optional unit and nothing else: no hex, no
 * spaces inside, no "1e9" for integers, nothing of the locale. Whole numbers
 * are kept within 2^53, so that bounds can be doubles.
 */
#include "common/conffile_value.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/memory.h"

#define WHOLE_MAX ((int64_t)1 << 53)

struct unit {
    const char *name;
    int64_t factor;
};

static const struct unit size_units[] = {
    { "", 1 },
    { "K", (int64_t)1 << 10 },
    { "M", (int64_t)1 << 20 },
    { "G", (int64_t)1 << 30 },
    { "T", (int64_t)1 << 40 },
    { NULL, 0 },
};

/* Microseconds. No bare number: 30 could mean anything. */
static const struct unit duration_units[] = {
    { "us", 1 },         { "ms", 1000 },        { "s", 1000000 },
    { "min", 60000000 }, { "h", 3600000000LL }, { NULL, 0 },
};

static const struct unit no_units[] = { { "", 1 }, { NULL, 0 } };

static void *
field(const struct conffile_key *key, void *base)
{
    return (char *)base + key->offset;
}

/* Digits, then one of the units. Returns 0 or CE_EINVAL. */
static int
parse_whole(const char *text, const struct unit *units, int64_t *out)
{
    bool negative = text[0] == '-';
    int64_t value = 0;
    const char *s = text + negative;

    if (!isdigit((unsigned char)*s))
        return CE_EINVAL;
    for (; isdigit((unsigned char)*s); s++) {
        value = value * 10 + (*s - '0');
        if (value > WHOLE_MAX)
            return CE_EINVAL;
    }
    for (const struct unit *u = units; u->name != NULL; u++) {
        if (strcasecmp(s, u->name) != 0)
            continue;
        if (__builtin_mul_overflow(value, u->factor, &value) || value > WHOLE_MAX)
            return CE_EINVAL;
        *out = negative ? -value : value;
        return CE_OK;
    }
    if (value == 0 && *s == '\0') { /* 0 needs no unit */
        *out = 0;
        return CE_OK;
    }
    return CE_EINVAL;
}

/* A plain decimal number, whatever the locale's decimal point is. */
static int
parse_double(const char *text, double *out)
{
    char *end;

    if (text[strspn(text, "+-.0123456789eE")] != '\0' || text[0] == '\0')
        return CE_EINVAL;
    errno = 0;
    *out = strtod(text, &end);
    if (*end != '\0' || end == text || errno != 0 || !isfinite(*out))
        return CE_EINVAL;
    return CE_OK;
}

static int
parse_bool(const char *text, bool *out)
{
    static const char *const words[] = { "no", "yes", "false", "true", "off", "on" };

    for (int i = 0; i < 6; i++) {
        if (strcasecmp(text, words[i]) == 0) {
            *out = i & 1;
            return CE_OK;
        }
    }
    return CE_EINVAL;
}

static int
parse_choice(const struct conffile_key *key, const char *text, int *out)
{
    for (int i = 0; key->choices[i] != NULL; i++) {
        if (strcmp(text, key->choices[i]) == 0) {
            *out = i;
            return CE_OK;
        }
    }
    return CE_EINVAL;
}

static bool
is_bounded(const struct conffile_key *key)
{
    return key->min != 0 || key->max != 0;
}

static int
check_bounds(const struct conffile_key *key, double value, char *why, size_t size)
{
    bool unsigned_type = key->type == CONFFILE_SIZE || key->type == CONFFILE_DURATION;

    if (unsigned_type && value < 0) {
        snprintf(why, size, "must not be negative");
        return CE_EINVAL;
    }
    if (is_bounded(key) && (value < key->min || value > key->max)) {
        char bounds[160];

        conffile_value_bounds(key, bounds, sizeof(bounds));
        snprintf(why, size, "out of range: %s", bounds);
        return CE_EINVAL;
    }
    return CE_OK;
}

/* "..." is not WHAT */
static int
complain(char *why, size_t size, const char *text, const char *what)
{
    snprintf(why, size, "\"%.80s\" is not %s", text, what);
    return CE_EINVAL;
}

static int
set_string(char **at, const char *text, char *why, size_t size)
{
    char *copy = mem_strdup(text);

    if (copy == NULL) {
        snprintf(why, size, "%s", err_name(CE_ENOMEM));
        return CE_ENOMEM;
    }
    mem_free(*at);
    *at = copy;
    return CE_OK;
}

static int
set_whole(const struct conffile_key *key, int64_t *at, const char *text, char *why,
          size_t size)
{
    const struct unit *units = no_units;
    const char *what = "a whole number";
    int64_t value;
    int rc;

    if (key->type == CONFFILE_SIZE) {
        units = size_units;
        what = "a size such as 512K, 64M or 2G";
    } else if (key->type == CONFFILE_DURATION) {
        units = duration_units;
        what = "a duration such as 250ms, 10s or 5min";
    }
    if (parse_whole(text, units, &value) != CE_OK)
        return complain(why, size, text, what);
    rc = check_bounds(key, (double)value, why, size);
    if (rc == CE_OK)
        *at = value;
    return rc;
}

static int
set_double(const struct conffile_key *key, double *at, const char *text, char *why,
           size_t size)
{
    double value;
    int rc;

    if (parse_double(text, &value) != CE_OK)
        return complain(why, size, text, "a number");
    rc = check_bounds(key, value, why, size);
    if (rc == CE_OK)
        *at = value;
    return rc;
}

int
conffile_value_set(const struct conffile_key *key, void *base, const char *text,
                   char *why, size_t why_size)
{
    void *at = field(key, base);
    char choices[160];

    switch (key->type) {
    case CONFFILE_INT:
    case CONFFILE_SIZE:
    case CONFFILE_DURATION:
        return set_whole(key, at, text, why, why_size);
    case CONFFILE_DOUBLE:
        return set_double(key, at, text, why, why_size);
    case CONFFILE_BOOL:
        if (parse_bool(text, at) != CE_OK)
            return complain(why, why_size, text, "yes or no");
        return CE_OK;
    case CONFFILE_PATH:
        if (text[0] == '\0') {
            snprintf(why, why_size, "must not be empty");
            return CE_EINVAL;
        }
        return set_string(at, text, why, why_size);
    case CONFFILE_STRING:
        return set_string(at, text, why, why_size);
    case CONFFILE_ENUM:
        if (parse_choice(key, text, at) == CE_OK)
            return CE_OK;
        conffile_value_bounds(key, choices, sizeof(choices));
        snprintf(why, why_size, "\"%.30s\" is not known. %s", text, choices);
        return CE_EINVAL;
    case CONFFILE_OTHER:
        return key->take(base, text, why, why_size);
    }
    snprintf(why, why_size, "has an unknown type");
    return CE_EINTERNAL;
}

/* A whole number with the largest unit that divides it. */
static int
print_whole(char *out, size_t size, double value, const struct unit *units)
{
    const struct unit *best = &units[0];
    int64_t v = (int64_t)value;

    if (v == 0)
        return snprintf(out, size, "0");
    for (const struct unit *u = units; u->name != NULL; u++)
        if (v % u->factor == 0)
            best = u;
    return snprintf(out, size, "%lld%s", (long long)(v / best->factor), best->name);
}

static void
print_bound(const struct conffile_key *key, char *out, size_t size, double value)
{
    if (key->type == CONFFILE_SIZE)
        print_whole(out, size, value, size_units);
    else if (key->type == CONFFILE_DURATION)
        print_whole(out, size, value, duration_units);
    else
        snprintf(out, size, "%.15g", value);
}

int
conffile_value_bounds(const struct conffile_key *key, char *out, size_t size)
{
    char low[40], high[40];
    size_t len = 0;

    out[0] = '\0';
    if (key->type == CONFFILE_ENUM) {
        for (int i = 0; key->choices[i] != NULL && len < size; i++)
            len += (size_t)snprintf(out + len, size - len, "%s%s",
                                    i > 0 ? ", " : "One of: ", key->choices[i]);
        if (len < size)
            snprintf(out + len, size - len, ".");
        return (int)strlen(out);
    }
    if (key->type == CONFFILE_BOOL || key->type == CONFFILE_STRING ||
        key->type == CONFFILE_PATH || key->type == CONFFILE_OTHER || !is_bounded(key))
        return 0;
    print_bound(key, low, sizeof(low), key->min);
    print_bound(key, high, sizeof(high), key->max);
    snprintf(out, size, "%s to %s.", low, high);
    return (int)strlen(out);
}

bool
conffile_value_is_text(const struct conffile_key *key)
{
    return key->type == CONFFILE_STRING || key->type == CONFFILE_PATH;
}

size_t
conffile_value_size(const struct conffile_key *key)
{
    switch (key->type) {
    case CONFFILE_BOOL:
        return sizeof(bool);
    case CONFFILE_ENUM:
        return sizeof(int);
    case CONFFILE_DOUBLE:
        return sizeof(double);
    case CONFFILE_STRING:
    case CONFFILE_PATH:
        return sizeof(char *);
    default:
        return sizeof(int64_t);
    }
}

void
conffile_value_free(const struct conffile_key *key, void *base)
{
    char **at = field(key, base);

    if (!conffile_value_is_text(key))
        return;
    mem_free(*at);
    *at = NULL;
}
