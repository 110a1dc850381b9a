/* SPDX-License-Identifier: Apache-2.0
 * commands.h - a program of several commands: its table, its help, how commands end.
 *
 * Results go to stdout, everything else to stderr. A command ends with 0, 1 when it
 * failed (one line says why) or 2 when its command line was wrong.
 *
 * Thread: the main one.
 */
#ifndef CE_TOOLS_COMMANDS_H
#define CE_TOOLS_COMMANDS_H

#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"
#include "tools/options.h"

#define COMMAND_OK     0
#define COMMAND_FAILED 1
#define COMMAND_USAGE  2

struct command {
    const char *name;
    const char *summary; /* one line */
    int (*run)(int argc, char **argv);
};

struct program {
    const char *name; /* "cecollm-model" */
    const struct command *commands;
    size_t n_commands;
    const char *hint; /* lines behind the list of commands, or "" */
};

/* Find the command and run it, or print help or version; what main returns. Notices when
 * the output could not be written. */
int commands_main(const struct program *p, int argc, char **argv);

/* Parse a command's options. Returns true when the command should go on; false when
 * it is over, with *status to return (help was shown, or the line was wrong). */
bool command_options(const struct options_page *page, int argc, char **argv,
                     int *n_operands, int *status);

/* Print "PROGRAM COMMAND: text" and return COMMAND_FAILED or COMMAND_USAGE. */
int command_failed(const char *command, const struct err *err);
int command_usage(const char *command, const struct err *err);

#endif
