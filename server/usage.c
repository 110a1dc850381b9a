/* SPDX-License-Identifier: Apache-2.0
 * usage.c - see usage.h.
 *
 * Finding a name is a walk over the table, once for each new session: a few
 * hundred comparisons beside a TLS handshake.
 */
#include "server/usage.h"

#include <string.h>

#include "common/memory.h"

int
usage_init(struct usage *u, size_t max, struct err *err)
{
    u->n = 1;
    u->max = max;
    u->entries = mem_array_alloc(max + 1, sizeof(*u->entries));
    if (!u->entries)
        return err_set(err, CE_ENOMEM, "metrics: no memory for %zu tenants", max);
    memcpy(u->entries[0].name, USAGE_OTHER, sizeof(USAGE_OTHER));
    return 0;
}

void
usage_fini(struct usage *u)
{
    mem_free(u->entries);
    memset(u, 0, sizeof(*u));
}

/* err_set makes any text printable, and never longer. */
void
usage_name(char out[USAGE_NAME_SIZE], const char *name)
{
    struct err text;
    size_t n;

    (void)err_set(&text, CE_OK, "%s", name && name[0] ? name : USAGE_UNNAMED);
    n = strnlen(text.text, USAGE_NAME_SIZE - 1);
    memcpy(out, text.text, n);
    memset(out + n, 0, USAGE_NAME_SIZE - n);
}

struct tenant_usage *
usage_of(struct usage *u, const char *name)
{
    char shown[USAGE_NAME_SIZE];
    size_t i;

    usage_name(shown, name);
    for (i = 0; i < u->n; i++)
        if (strcmp(u->entries[i].name, shown) == 0)
            return &u->entries[i];
    if (u->n > u->max)
        return &u->entries[0];
    memcpy(u->entries[u->n].name, shown, sizeof(shown));
    return &u->entries[u->n++];
}
