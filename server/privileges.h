/* SPDX-License-Identifier: Apache-2.0
 * privileges.h - what the process may do: as whom it runs, how many files it may
 * open, whether its memory may be written into a core file.
 *
 * Thread: the main thread's, before there are others.
 */
#ifndef CE_SERVER_PRIVILEGES_H
#define CE_SERVER_PRIVILEGES_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

/* Are these a user and a group of this machine? "" is none. */
int privileges_check(const char *user, const char *group, struct err *err) CE_MUSTCHECK;

/* As root: become `user` for good, with `group` or the user's own and no other; a
 * user of "" is nobody to become, which is fine. As anybody else: only when it is that
 * user already. From then on no program that it could start gains rights. */
int privileges_drop(const char *user, const char *group, struct err *err) CE_MUSTCHECK;

/* Private keys and everybody's hidden states are in memory. Without core dumps other
 * processes of the same user cannot look into it, debuggers included. */
void privileges_core_dumps(bool allowed);

/* Let the process have so many files open, as far as it may. Returns how many
 * it can have. */
int64_t privileges_open_files(int64_t wanted);

#endif
