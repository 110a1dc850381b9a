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
struct model;

/* Open TLS, the sockets and the operators' pages, give up rights, begin to load the
 * model. Takes over neither conf nor what source points to; both are read, and conf's
 * live keys (reload.h) changed, until stop. */
int cloudd_start(struct cloudd **out, struct server_conf *conf,
                 const struct server_conf_source *source, struct err *err) CE_MUSTCHECK;

/* Finish loading, then serve until SIGTERM or SIGINT and the drain that follows. */
int cloudd_run(struct cloudd *c, struct err *err) CE_MUSTCHECK;

void cloudd_stop(struct cloudd *c); /* frees everything; accepts NULL */

/* The first block that the settings and the model agree on, for agents' states. */
int cloudd_layer_from(const struct server_conf *conf, const struct model *m, int *out,
                      struct err *err) CE_MUSTCHECK;

#endif
