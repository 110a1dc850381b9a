/* SPDX-License-Identifier: Apache-2.0
 * tenants_reload.h - another tenants file, or the same one changed, while serving.
 *
 * Thread: the I/O thread's.
 */
#ifndef CE_SERVER_TENANTS_RELOAD_H
#define CE_SERVER_TENANTS_RELOAD_H

#include "server/server.h"
#include "server/tenants.h"

/* Make the table (taken; NULL: no file) the one that counts. Live sessions keep their
 * tenant, with its new limits; they end when it is gone, their token is no longer one of
 * its tokens, or it wants a token now and they came without. Cannot fail. */
void tenants_apply(struct server *srv, struct tenants *table);

/* Read the file (NULL or "": none) and apply it. On any error nothing has changed. */
int tenants_reload(struct server *srv, const char *path, struct err *err) CE_MUSTCHECK;

#endif
