/* SPDX-License-Identifier: Apache-2.0
 * options.c - see options.h.
 *
 * Why:  getopt_long keeps the list of names apart from the help text and leaves
 *       the checking of numbers to every caller; a table does the three at once.
 */
#include "tools/options.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- values ---- */

static int
read_int(const struct option_spec *s, const char *text, int len, int *out,
         struct err *err)
{
    char *end;
    long v;

    errno = 0;
    v = strtol(text, &end, 10);
    if (end == text || end != text + len || errno != 0 || v < s->min || v > s->max)
        return err_set(err, CE_EINVAL, "--%s: \"%.*s\" is not a number from %d to %d",
                       s->name, len, text, s->min, s->max);
    *out = (int)v;
    return 0;
}

static int
read_list(const struct option_spec *s, const char *text, struct err *err)
{
    struct options_list *list = s->value;
    const char *p = text;

    list->n = 0;
    for (;;) {
        size_t len = strcspn(p, ",");
        int rc;

        if (list->n == OPTIONS_MAX_LIST)
            return err_set(err, CE_EINVAL, "--%s: more than %d numbers", s->name,
                           OPTIONS_MAX_LIST);
        rc = read_int(s, p, len < 40 ? (int)len : 40, &list->v[list->n], err);
        if (rc != 0)
            return rc;
        list->n++;
        if (p[len] == '\0')
            return 0;
        p += len + 1;
    }
}

static int
add_text(const struct option_spec *s, const char *text, struct err *err)
{
    struct options_texts *texts = s->value;

    if (texts->n == OPTIONS_MAX_TEXTS)
        return err_set(err, CE_EINVAL, "--%s: more than %d", s->name, OPTIONS_MAX_TEXTS);
    texts->v[texts->n++] = text;
    return 0;
}

static int
read_u64(const struct option_spec *s, const char *text, struct err *err)
{
    char *end;
    unsigned long long v;

    errno = 0;
    v = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || errno != 0)
        return err_set(err, CE_EINVAL, "--%s: \"%s\" is not a number", s->name, text);
    *(uint64_t *)s->value = v;
    return 0;
}

static int
read_real(const struct option_spec *s, const char *text, struct err *err)
{
    char *end;
    double v;

    errno = 0;
    v = strtod(text, &end);
    if (end == text || *end != '\0' || errno != 0 || !isfinite(v) || v <= 0)
        return err_set(err, CE_EINVAL, "--%s: \"%s\" is not a number above 0", s->name,
                       text);
    *(double *)s->value = v;
    return 0;
}

static int
store(const struct option_spec *s, const char *text, struct err *err)
{
    switch (s->kind) {
    case OPTIONS_FLAG:
        *(bool *)s->value = true;
        return 0;
    case OPTIONS_INT:
        return read_int(s, text, (int)strnlen(text, 40), s->value, err);
    case OPTIONS_U64:
        return read_u64(s, text, err);
    case OPTIONS_TEXT:
        *(const char **)s->value = text;
        return 0;
    case OPTIONS_REAL:
        return read_real(s, text, err);
    case OPTIONS_LIST:
        return read_list(s, text, err);
    case OPTIONS_TEXTS:
        return add_text(s, text, err);
    }
    return err_set(err, CE_EINTERNAL, "--%s: unknown kind of option", s->name);
}

/* ---- names ---- */

static const struct option_spec *
find(const struct option_spec *specs, const char *arg, size_t len)
{
    for (const struct option_spec *s = specs; s->name; s++) {
        if (arg[1] == '-' && len == strlen(s->name) + 2 &&
            strncmp(arg + 2, s->name, len - 2) == 0)
            return s;
        if (len == 2 && s->letter != 0 && arg[1] == s->letter)
            return s;
    }
    return NULL;
}

/* Option argv[i], and its value if it has one. Returns how many words it took, or
 * a negative error. */
static int
take_option(const struct option_spec *specs, int argc, char **argv, int i,
            struct err *err)
{
    const char *arg = argv[i], *equals = strchr(arg, '=');
    size_t len = equals ? (size_t)(equals - arg) : strlen(arg);
    const struct option_spec *s = find(specs, arg, len);
    int rc;

    if (!s)
        return err_set(err, CE_EINVAL, "unknown option %.*s", len < 60 ? (int)len : 60,
                       arg);
    if (s->kind == OPTIONS_FLAG) {
        if (equals)
            return err_set(err, CE_EINVAL, "--%s takes no value", s->name);
        rc = store(s, "", err);
        return rc != 0 ? rc : 1;
    }
    if (equals) {
        rc = store(s, equals + 1, err);
        return rc != 0 ? rc : 1;
    }
    if (i + 1 >= argc)
        return err_set(err, CE_EINVAL, "--%s needs a value (%s)", s->name, s->metavar);
    rc = store(s, argv[i + 1], err);
    len = 2;
    while (rc == 0 && s->kind == OPTIONS_TEXTS && i + (int)len < argc &&
           argv[i + (int)len][0] != '-')
        rc = store(s, argv[i + (int)len++], err);
    return rc != 0 ? rc : (int)len;
}

static bool
asks_for_help(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    }
    return false;
}

int
options_parse(const struct options_page *page, int argc, char **argv, int *n_operands,
              bool *help, struct err *err)
{
    bool options_end = false;
    int n = 0;

    *n_operands = 0;
    *help = asks_for_help(argc, argv);
    if (*help)
        return 0;
    for (int i = 1; i < argc;) {
        int taken = 1;

        if (!options_end && strcmp(argv[i], "--") == 0) {
            options_end = true;
        } else if (!options_end && argv[i][0] == '-' && argv[i][1] != '\0') {
            taken = take_option(page->specs, argc, argv, i, err);
            if (taken < 0)
                return taken;
        } else {
            argv[++n] = argv[i]; /* n < i, so nothing unread is overwritten */
        }
        i += taken;
    }
    if (n < page->min_operands)
        return err_set(err, CE_EINVAL, "something is missing: %s", page->usage);
    if (n > page->max_operands)
        return err_set(err, CE_EINVAL, "\"%s\" is one operand too many", argv[n]);
    *n_operands = n;
    return 0;
}

void
options_help(const struct options_page *page, const char *program)
{
    printf("Usage: %s %s\n\n%s\n\nOptions:\n", program, page->usage, page->description);
    for (const struct option_spec *s = page->specs; s->name; s++) {
        char left[64], letter[8] = "    ";

        if (s->letter != 0)
            snprintf(letter, sizeof(letter), "-%c, ", s->letter);
        snprintf(left, sizeof(left), "%s--%s%s%s", letter, s->name, s->metavar ? " " : "",
                 s->metavar ? s->metavar : "");
        printf("  %-26s %s\n", left, s->help);
    }
    printf("  %-26s %s\n", "-h, --help", "this page");
}
