/* SPDX-License-Identifier: Apache-2.0
 * server_conf.h - the settings of cecollm-cloudd: one table of keys.
 *
 * The table feeds the parser, --print-config, etc/cecollm.conf and the test
 * that the manual page names every key.
 *
 * Thread: loaded by the main thread before anything starts; constant after, but for
 * the keys of reload.c, which only the main thread reads.
 */
#ifndef CE_SERVER_SERVER_CONF_H
#define CE_SERVER_SERVER_CONF_H

#include <stdbool.h>
#include <stdint.h>

#include "common/conffile.h"
#include "common/error.h"

struct server_conf {
    /* network */
    char *listen, *port_file, *node;
    char *ca, *cert, *key, *crl, *tenants;
    int client_certs; /* enum server_conf_certs */
    int64_t max_connections, max_connections_per_address, max_sessions;
    int64_t max_output;
    int64_t handshake_timeout_us, idle_timeout_us, peer_timeout_us, drain_timeout_us;
    /* process */
    char *user, *group;
    bool core_dumps;
    /* model */
    char *model, *exits;
    int64_t layer_from, threads, n_ctx, kv_budget;
    char *cpu, *packing_cache;
    bool whole_model, packing;
    /* sequences */
    int64_t max_seqs, max_seqs_per_session, window, step_rows, step_budget_ms, max_queued;
    int64_t states_budget, seq_idle_timeout_us;
    int eager; /* enum content_eager */
    /* metrics */
    char *metrics_listen, *metrics_token;
    int64_t metrics_connections, metrics_tenants, stall_timeout_us;
    /* log */
    int log_level;
};

enum server_conf_certs { SERVER_CONF_REQUIRED, SERVER_CONF_OPTIONAL };

extern const struct conffile_schema server_conf_schema;

/* Where settings come from: a file, or NULL, and "key=value" over it. */
struct server_conf_source {
    const char *path;
    char *const *set;
    int n_set;
};

/* Defaults, then `path` (unless NULL), then the assignments. On failure *conf is
 * empty again. */
int server_conf_load(struct server_conf *conf, const char *path, char *const *set,
                     int n_set, struct err *err) CE_MUSTCHECK;

/* Keys without a default that must be set; ends with NULL. */
extern const char *const server_conf_required[];

/* The value of a key of text, "" when it is not set. */
const char *server_conf_text(const struct server_conf *conf, const char *key);

/* What cannot be said of one key alone: files that must be named, sizes that must
 * fit each other. */
int server_conf_check(const struct server_conf *conf, struct err *err) CE_MUSTCHECK;

void server_conf_free(struct server_conf *conf);

#endif
