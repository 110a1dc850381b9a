/* SPDX-License-Identifier: Apache-2.0
 * commands.c - see commands.h.
 */
#include "tools/commands.h"

#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char *program_name = ""; /* of the commands_main that runs */

bool
command_options(const struct options_page *page, int argc, char **argv, int *n_operands,
                int *status)
{
    struct err err = { 0 };
    bool help = false;

    *status = COMMAND_OK;
    if (options_parse(page, argc, argv, n_operands, &help, &err) != 0) {
        *status = command_usage(argv[0], &err);
        return false;
    }
    if (help)
        options_help(page, program_name);
    return !help;
}

int
command_failed(const char *command, const struct err *err)
{
    fprintf(stderr, "%s %s: %s\n", program_name, command, err->text);
    return COMMAND_FAILED;
}

int
command_usage(const char *command, const struct err *err)
{
    fprintf(stderr, "%s %s: %s (--help shows how)\n", program_name, command, err->text);
    return COMMAND_USAGE;
}

static void
print_usage(const struct program *p, FILE *f)
{
    fprintf(f, "Usage: %s COMMAND ...\n\nCommands:\n", p->name);
    for (size_t i = 0; i < p->n_commands; i++)
        fprintf(f, "  %-11s %s\n", p->commands[i].name, p->commands[i].summary);
    fprintf(f, "\n%s%s COMMAND --help explains a command; --version names the build.\n",
            p->hint, p->name);
}

static int
finish_output(int status)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return status;
    fprintf(stderr, "%s: stdout: %s\n", program_name, strerror(errno));
    return COMMAND_FAILED;
}

int
commands_main(const struct program *p, int argc, char **argv)
{
    program_name = p->name;
    if (argc < 2) {
        print_usage(p, stderr);
        return COMMAND_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        print_usage(p, stdout);
        return finish_output(COMMAND_OK);
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("%s %s\n", p->name, PACKAGE_VERSION);
        return finish_output(COMMAND_OK);
    }
    for (size_t i = 0; i < p->n_commands; i++) {
        if (strcmp(argv[1], p->commands[i].name) == 0)
            return finish_output(p->commands[i].run(argc - 1, argv + 1));
    }
    fprintf(stderr, "%s: no command \"%s\" (--help lists them)\n", p->name, argv[1]);
    return COMMAND_USAGE;
}
