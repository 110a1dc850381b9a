/* SPDX-License-Identifier: Apache-2.0
 * swarm.c - cecollm-swarm: the table of commands.
 *
 * record writes what agents say, run says it to a cloudd from many sessions and checks
 * every answer, engine gives the same work to the bare engine, for comparison.
 */
#include <signal.h>

#include "bench/swarm_commands.h"

static const struct command commands[] = {
    { "record", "what agents upload and ask, with the right answers", swarm_record },
    { "run", "replay it to a cecollm-cloudd, and check every token", swarm_run },
    { "engine", "give the same work to the bare engine", swarm_engine },
};

int
main(int argc, char **argv)
{
    static const struct program program = { "cecollm-swarm", commands,
                                            sizeof(commands) / sizeof(commands[0]), "" };

    signal(SIGPIPE, SIG_IGN); /* peers that go are found out by write */
    return commands_main(&program, argc, argv);
}
