/* SPDX-License-Identifier: Apache-2.0
 * check_config.h - cecollm-cloudd --check-config: all that a start would read, and
 * every problem with it, not only the first.
 *
 * Thread: the main thread.
 */
#ifndef CE_SERVER_CHECK_CONFIG_H
#define CE_SERVER_CHECK_CONFIG_H

#include <stdio.h>

#include "server/server_conf.h"

/* One line per problem to `problems`, beginning with the FILE:LINE, or "command line",
 * that set the value, where one did. Returns how many there are; without any, one
 * line that says so goes to `good`. */
int check_config(const struct server_conf_source *source, FILE *problems, FILE *good);

#endif
