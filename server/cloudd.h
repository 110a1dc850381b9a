/* SPDX-License-Identifier: Apache-2.0
 * cloudd.h - the running server: everything opened in order, the event loop, and
 * the order of stopping.
 *
 * Thread: the main thread, which is the I/O thread.
 */
#ifndef CE_SERVER_CLOUDD_H
#define CE_SERVER_CLOUDD_H

#include "common/error.h"
#include "server/server_conf.h"

struct cloudd;

/* Open the model, the backend and its thread, TLS and the listener. conf and
 * conf_path are borrowed; conf_path (or NULL) is read again by SIGHUP. */
int cloudd_start(struct cloudd **out, const struct server_conf *conf,
                 const char *conf_path, struct err *err) CE_MUSTCHECK;

/* Serve until SIGTERM or SIGINT and the drain that follows. */
int cloudd_run(struct cloudd *c, struct err *err) CE_MUSTCHECK;

void cloudd_stop(struct cloudd *c); /* frees everything; accepts NULL */

/* Open what a start would open, but nothing on the network: for --check-config. */
int cloudd_check(const struct server_conf *conf, struct err *err) CE_MUSTCHECK;

#endif
