/* SPDX-License-Identifier: Apache-2.0
 * cloudd_reload.c - settings that can change while the server runs: where they go, and
 * SIGHUP, which reads them and the certificates again.
 *
 * A reload makes first, on things of its own, all that may fail; only then it changes
 * anything, and nothing of that fails. So after an error everything is as it was.
 * Connections keep the TLS context that they began with, and what they were told.
 */
#include "server/cloudd_internal.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include <openssl/crypto.h>

#include "common/clock.h"
#include "common/tls.h"
#include "server/privileges.h"
#include "server/reload.h"
#include "server/service.h"
#include "server/tenants_reload.h"

#define OTHER_FILES 64 /* descriptors that are no connections */

void
cloudd_set_limits(struct cloudd *c)
{
    const struct server_conf *conf = c->conf;
    struct server *srv = &c->srv;

    snprintf(srv->node, sizeof(srv->node), "%s", conf->node);
    srv->max_sessions = (uint32_t)conf->max_sessions;
    srv->max_queued = (size_t)conf->max_queued;
    srv->first_frame_us = conf->handshake_timeout_us;
    srv->idle_us = conf->idle_timeout_us;
}

int
cloudd_open_tls(const struct server_conf *conf, SSL_CTX **out, struct err *err)
{
    const struct tls_files files = { conf->ca, conf->cert, conf->key, conf->crl };

    int rc = tls_server_new(out, &files, err);

    if (rc == 0 && conf->client_certs == SERVER_CONF_OPTIONAL)
        tls_server_optional(*out);
    return rc;
}

void
cloudd_fill_listener(const struct server_conf *conf, struct listener_config *lc)
{
    lc->max_connections = (uint32_t)conf->max_connections;
    lc->max_per_address = (uint32_t)conf->max_connections_per_address;
    lc->max_out = (size_t)conf->max_output;
    lc->silence_us = conf->peer_timeout_us;
}

/* Connections that cannot have a descriptor would wait in the kernel. */
void
cloudd_allow_files(const struct server_conf *conf)
{
    int64_t wanted = conf->max_connections + conf->metrics_connections + OTHER_FILES;
    int64_t have = privileges_open_files(wanted);

    if (have < wanted)
        log_warn("max_connections = %lld needs %lld open files, the limit is %lld: raise "
                 "it (LimitNOFILE=, ulimit -n) or set fewer",
                 (long long)conf->max_connections, (long long)wanted, (long long)have);
}

/* ---- reload ---- */

/* What a reload may stumble over, made before anything changes. */
struct fresh {
    struct server_conf conf;
    SSL_CTX *tls;
    struct tenants *tenants; /* NULL: no file */
    bool has_token;
    uint8_t token[32];
};

static int
fresh_open(struct cloudd *c, struct fresh *f, struct err *err)
{
    int rc =
        server_conf_load(&f->conf, c->source.path, c->source.set, c->source.n_set, err);

    if (rc == 0)
        rc = server_conf_check(&f->conf, err);
    if (rc == 0)
        rc = cloudd_open_tls(&f->conf, &f->tls, err);
    f->has_token = rc == 0 && f->conf.metrics_token[0];
    if (f->has_token)
        rc = metrics_http_token(f->conf.metrics_token, f->token, err);
    if (rc == 0 && f->conf.tenants[0])
        rc = tenants_load(&f->tenants, f->conf.tenants, err);
    return rc;
}

/* Nothing in here fails. */
static void
fresh_apply(struct cloudd *c, struct fresh *f)
{
    struct listener_config lc;
    struct reload_changes changes;
    char until[40];

    reload_merge(c->conf, &f->conf, &changes);
    cloudd_fill_listener(c->conf, &lc);
    listener_set(c->listener, f->tls, &lc);
    cloudd_set_limits(c);
    tenants_apply(&c->srv, f->tenants);
    f->tenants = NULL;
    cloudd_allow_files(c->conf);
    metrics_http_set(c->http, f->has_token ? f->token : NULL,
                     (uint32_t)c->conf->metrics_connections);
    c->level = (enum log_level)c->conf->log_level;
    log_set_level(c->level);
    tls_expiry(f->tls, until);
    log_info("reloaded changed=%s certificate_until=\"%s\"",
             changes.applied[0] ? changes.applied : "none", until);
    if (changes.needs_restart[0])
        log_warn("reload: a change of %s takes a restart", changes.needs_restart);
}

void
cloudd_reload(struct cloudd *c)
{
    struct fresh f = { 0 };
    struct err err;

    service_notify("RELOADING=1\nMONOTONIC_USEC=%lld", (long long)clock_us());
    if (fresh_open(c, &f, &err) == 0) {
        fresh_apply(c, &f);
        service_notify("READY=1\nSTATUS=reloaded");
    } else {
        log_error("reload refused, everything stays as it was: %s", err.text);
        service_notify("READY=1\nSTATUS=reload refused: %s", err.text);
    }
    OPENSSL_cleanse(f.token, sizeof(f.token));
    SSL_CTX_free(f.tls);
    tenants_free(f.tenants);
    server_conf_free(&f.conf);
}
