/* SPDX-License-Identifier: Apache-2.0
 * program.h - run another program and read what it prints.
 *
 * Thread: any; waits for the program.
 */
#ifndef CE_TOOLS_PROGRAM_H
#define CE_TOOLS_PROGRAM_H

#include <stdbool.h>

#include "common/error.h"

/* May the file at `path` be run? */
bool program_exists(const char *path);

/* Run argv[0], a path, with these arguments and no shell; what it says on stderr is
 * dropped. *text (unless `text` is NULL) is what it prints, at most a megabyte, with a
 * NUL behind it, allocated with malloc. CE_ENOTFOUND when there is no such program;
 * CE_EIO when it cannot be run or ends with another status than 0; CE_ENOMEM. */
int program_capture(char *const argv[], char **text, struct err *err) CE_MUSTCHECK;

#endif
