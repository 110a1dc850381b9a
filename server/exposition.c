/* SPDX-License-Identifier: Apache-2.0
 * exposition.c - see exposition.h.
 */
#include "server/exposition.h"

#include <inttypes.h>
#include <string.h>

/* The format escapes backslash and newline everywhere, quotes in label values. */
static void
put_escaped(struct bytebuf *b, const char *s, int quotes)
{
    for (; *s; s++) {
        if (*s == '\\')
            bytebuf_put_bytes(b, "\\\\", 2);
        else if (*s == '\n')
            bytebuf_put_bytes(b, "\\n", 2);
        else if (*s == '"' && quotes)
            bytebuf_put_bytes(b, "\\\"", 2);
        else
            bytebuf_put_u8(b, (uint8_t)*s);
    }
}

static void
put_label(struct bytebuf *b, const char *label, const char *value)
{
    bytebuf_printf(b, "%s=\"", label);
    put_escaped(b, value, 1);
    bytebuf_put_u8(b, '"');
}

void
exposition_family(struct bytebuf *b, const char *name, const char *type, const char *help)
{
    bytebuf_printf(b, "# HELP %s ", name);
    put_escaped(b, help, 0);
    bytebuf_printf(b, "\n# TYPE %s %s\n", name, type);
}

void
exposition_int(struct bytebuf *b, const char *name, const char *label, const char *value,
               int64_t v)
{
    bytebuf_put_bytes(b, name, strlen(name));
    if (label) {
        bytebuf_put_u8(b, '{');
        put_label(b, label, value);
        bytebuf_put_u8(b, '}');
    }
    bytebuf_printf(b, " %" PRId64 "\n", v);
}

void
exposition_double(struct bytebuf *b, const char *name, double v)
{
    bytebuf_printf(b, "%s %.16g\n", name, v);
}

void
exposition_gauge(struct bytebuf *b, const char *name, const char *help, int64_t v)
{
    exposition_family(b, name, "gauge", help);
    exposition_int(b, name, NULL, NULL, v);
}

void
exposition_counter(struct bytebuf *b, const char *name, const char *help, int64_t v)
{
    exposition_family(b, name, "counter", help);
    exposition_int(b, name, NULL, NULL, v);
}

void
exposition_histogram(struct bytebuf *b, const char *name, const char *help,
                     const struct histogram *h)
{
    struct histogram_view v;
    size_t i;

    histogram_read(h, &v);
    exposition_family(b, name, "histogram", help);
    for (i = 0; i < v.scale->n; i++)
        bytebuf_printf(b, "%s_bucket{le=\"%g\"} %" PRIu64 "\n", name,
                       (double)v.scale->bounds[i] * v.scale->unit, v.upto[i]);
    bytebuf_printf(b, "%s_bucket{le=\"+Inf\"} %" PRIu64 "\n", name, v.upto[v.scale->n]);
    bytebuf_printf(b, "%s_sum %.16g\n", name, (double)v.sum * v.scale->unit);
    bytebuf_printf(b, "%s_count %" PRIu64 "\n", name, v.upto[v.scale->n]);
}

void
exposition_info(struct bytebuf *b, const char *name, const char *help,
                const char *const *pairs)
{
    exposition_family(b, name, "gauge", help);
    bytebuf_printf(b, "%s{", name);
    for (; pairs[0]; pairs += 2) {
        put_label(b, pairs[0], pairs[1]);
        if (pairs[2])
            bytebuf_put_u8(b, ',');
    }
    bytebuf_printf(b, "} 1\n");
}
