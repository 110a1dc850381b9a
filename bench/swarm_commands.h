/* SPDX-License-Identifier: Apache-2.0
 * swarm_commands.h - the commands of cecollm-swarm. They end as tools/commands.h says; an
 * answer that was not right is a failure.
 */
#ifndef CE_BENCH_SWARM_COMMANDS_H
#define CE_BENCH_SWARM_COMMANDS_H

#include "tools/command.h"

int swarm_record(int argc, char **argv);
int swarm_run(int argc, char **argv);
int swarm_engine(int argc, char **argv);

#endif
