/* SPDX-License-Identifier: Apache-2.0
 * swarm_commands.h - the commands of cecollm-swarm, and what they share.
 *
 * A command ends with 0, 1 when it failed or something was not right (one line says
 * what), or 2 when its command line was wrong.
 */
#ifndef CE_BENCH_SWARM_COMMANDS_H
#define CE_BENCH_SWARM_COMMANDS_H

#include <stdbool.h>

#include "common/error.h"
#include "tools/command.h"

int swarm_record(int argc, char **argv);
int swarm_run(int argc, char **argv);
int swarm_engine(int argc, char **argv);

/* As command_options, command_failed and command_usage, in this program's name. */
bool swarm_options(const struct options_page *page, int argc, char **argv,
                   int *n_operands, int *status);
int swarm_failed(const char *command, const struct err *err);
int swarm_usage(const char *command, const struct err *err);

#endif
