/* SPDX-License-Identifier: Apache-2.0
 * tenants_reload.c - see tenants_reload.h. Ending one session can end another's
 * channels, so the walk begins again after each.
 */
#include "server/tenants_reload.h"

#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "server/session.h"
#include "server/tenant.h"

/* Why the session may not go on; NULL: it may. */
static const char *
objection(const struct server *srv, const struct session *s)
{
    static const uint8_t none[32];
    bool has_token = memcmp(s->token_hash, none, sizeof(none)) != 0;
    const struct tenants_member *m;

    if (s->tenant->gone)
        return "is no longer served here";
    if (!srv->tenants || s->tenant->kind != TENANT_NAMED)
        return NULL;
    m = tenants_named(srv->tenants, s->tenant->name);
    if (m && m->require != TENANTS_CERT && !has_token)
        return "requires a token now";
    if (m && has_token && !tenants_has_token(m, s->token_hash))
        return "has withdrawn this token";
    return NULL;
}

void
tenants_apply(struct server *srv, struct tenants *table)
{
    struct session *s;
    const char *why = NULL;
    char text[400];

    tenants_free(srv->tenants);
    srv->tenants = table;
    tenant_apply(&srv->registry, table);
    do {
        for (s = srv->sessions; s && !(why = objection(srv, s)); s = s->next)
            ;
        if (s) {
            snprintf(text, sizeof(text), "tenant %s %s", s->tenant->name, why);
            session_end(s, CE_EAUTH, text);
        }
    } while (s);
}

int
tenants_reload(struct server *srv, const char *path, struct err *err)
{
    struct tenants *table = NULL;
    int rc = 0;

    if (path && path[0])
        rc = tenants_load(&table, path, err);
    if (rc < 0)
        return rc;
    tenants_apply(srv, table);
    return 0;
}
