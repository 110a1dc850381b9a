/* SPDX-License-Identifier: Apache-2.0
 * swarm.c - cecollm-swarm: the table of commands.
 *
 * record writes what agents say, run says it to a cloudd from many sessions and checks
 * every answer, engine gives the same work to the bare engine, for comparison.
 */
#include "config.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "bench/swarm_commands.h"

static const struct command commands[] = {
    { "record", "what agents upload and ask, with the right answers", swarm_record },
    { "run", "replay it to a cecollm-cloudd, and check every token", swarm_run },
    { "engine", "give the same work to the bare engine", swarm_engine },
};
#define N_COMMANDS (sizeof(commands) / sizeof(commands[0]))

bool
swarm_options(const struct options_page *page, int argc, char **argv, int *n_operands,
              int *status)
{
    struct err err = { 0 };
    bool help = false;

    *status = COMMAND_OK;
    if (options_parse(page, argc, argv, n_operands, &help, &err) != 0) {
        *status = swarm_usage(argv[0], &err);
        return false;
    }
    if (help)
        options_help(page, "cecollm-swarm");
    return !help;
}

int
swarm_failed(const char *command, const struct err *err)
{
    fprintf(stderr, "cecollm-swarm %s: %s\n", command, err->text);
    return COMMAND_FAILED;
}

int
swarm_usage(const char *command, const struct err *err)
{
    fprintf(stderr, "cecollm-swarm %s: %s (--help shows how)\n", command, err->text);
    return COMMAND_USAGE;
}

static void
print_usage(FILE *f)
{
    fprintf(f, "Usage: cecollm-swarm COMMAND ...\n\nCommands:\n");
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(f, "  %-11s %s\n", commands[i].name, commands[i].summary);
    fprintf(f, "\ncecollm-swarm COMMAND --help explains a command; --version names the "
               "build.\n");
}

static int
finish_output(int status)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return status;
    fprintf(stderr, "cecollm-swarm: stdout: %s\n", strerror(errno));
    return COMMAND_FAILED;
}

int
main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN); /* peers that go are found out by write */
    if (argc < 2) {
        print_usage(stderr);
        return COMMAND_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        print_usage(stdout);
        return finish_output(COMMAND_OK);
    }
    if (strcmp(argv[1], "--version") == 0) {
        puts("cecollm-swarm " PACKAGE_VERSION);
        return finish_output(COMMAND_OK);
    }
    for (size_t i = 0; i < N_COMMANDS; i++) {
        if (strcmp(argv[1], commands[i].name) == 0)
            return finish_output(commands[i].run(argc - 1, argv + 1));
    }
    fprintf(stderr, "cecollm-swarm: no command \"%s\" (--help lists them)\n", argv[1]);
    return COMMAND_USAGE;
}
