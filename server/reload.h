/* SPDX-License-Identifier: Apache-2.0
 * reload.h - which settings can change while the server runs, and what has changed.
 *
 * A key that is not in the list of reload.c needs a restart; so does every new one,
 * until somebody has made the server heed its change.
 *
 * Thread: the main thread's.
 */
#ifndef CE_SERVER_RELOAD_H
#define CE_SERVER_RELOAD_H

#include <stdbool.h>

#include "server/server_conf.h"

bool reload_is_live(const char *key);

/* Names of keys, "a,b"; "" when there is none. */
struct reload_changes {
    char applied[512];
    char needs_restart[512];
};

/* Take the live keys that differ over from `fresh` into `now`, whose other keys stay
 * as they are, and say which. What was replaced is left in `fresh`. */
void reload_merge(struct server_conf *now, struct server_conf *fresh,
                  struct reload_changes *out);

#endif
