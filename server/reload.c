/* SPDX-License-Identifier: Apache-2.0
 * reload.c - see reload.h.
 */
#include "server/reload.h"

#include <stdio.h>
#include <string.h>

/* What cloudd.c applies when SIGHUP comes. */
static const char *const live[] = {
    "node",
    "ca",
    "cert",
    "key",
    "crl",
    "client_certs",
    "tenants",
    "max_connections",
    "max_connections_per_address",
    "max_sessions",
    "max_output",
    "max_queued",
    "handshake_timeout",
    "idle_timeout",
    "peer_timeout",
    "drain_timeout",
    "metrics_token",
    "metrics_connections",
    "stall_timeout",
    "log_level",
};

bool
reload_is_live(const char *key)
{
    size_t i;

    for (i = 0; i < sizeof(live) / sizeof(live[0]); i++)
        if (strcmp(live[i], key) == 0)
            return true;
    return false;
}

static void
add_name(char *list, size_t size, const char *name)
{
    size_t n = strlen(list);

    snprintf(list + n, size - n, "%s%s", n > 0 ? "," : "", name);
}

void
reload_merge(struct server_conf *now, struct server_conf *fresh,
             struct reload_changes *out)
{
    const struct conffile_section *s = &server_conf_schema.sections[0];
    int i;

    memset(out, 0, sizeof(*out));
    for (i = 0; i < s->n_keys; i++) {
        const struct conffile_key *key = &s->keys[i];

        if (conffile_same(key, now, fresh))
            continue;
        if (reload_is_live(key->name)) {
            add_name(out->applied, sizeof(out->applied), key->name);
            conffile_swap(key, now, fresh);
        } else {
            add_name(out->needs_restart, sizeof(out->needs_restart), key->name);
        }
    }
}
