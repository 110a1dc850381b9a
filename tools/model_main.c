/* SPDX-License-Identifier: Apache-2.0
 * model_main.c - cecollm-model: the table of commands.
 *
 * Everything about a command is in its cmd_NAME.c. This file finds it, runs it, and
 * notices when the output could not be written.
 */
#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tools/command.h"

static const struct command commands[] = {
    { "info", "what a model file holds, and what its parts would need", cmd_info },
    { "verify", "check a file: will it load, is it whole, are its weights numbers",
      cmd_verify },
    { "split", "write the edge's and the cloud's part of a model", cmd_split },
    { "tokenize", "text to token ids and back", cmd_tokenize },
    { "ppl", "perplexity of a text", cmd_ppl },
    { "score", "teacher-forced predictions for given ids", cmd_score },
    { "bench", "speed, beside the machine's limit and llama.cpp", cmd_bench },
    { "fit-screens", "make the screens of a model's exits", cmd_fit_screens },
    { "tune-exits", "train exits that foretell the model's own tokens", cmd_tune_exits },
    { "eval-exits", "judge a model's exits, and choose thresholds", cmd_eval_exits },
    { "quantize", "write a model in another format", cmd_quantize },
    { "synth", "write a model of random weights", cmd_synth },
};
#define N_COMMANDS (sizeof(commands) / sizeof(commands[0]))

static void
print_usage(FILE *f)
{
    fprintf(f, "Usage: cecollm-model COMMAND ...\n\nCommands:\n");
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(f, "  %-11s %s\n", commands[i].name, commands[i].summary);
    fprintf(f, "\nppl, score, bench and the commands of exits also take --threads N and\n"
               "--cpu NAME.\n"
               "cecollm-model COMMAND --help explains a command; --version names the "
               "build.\n");
}

static int
finish_output(int status)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return status;
    fprintf(stderr, "cecollm-model: stdout: %s\n", strerror(errno));
    return COMMAND_FAILED;
}

int
main(int argc, char **argv)
{
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
        puts("cecollm-model " PACKAGE_VERSION);
        return finish_output(COMMAND_OK);
    }
    for (size_t i = 0; i < N_COMMANDS; i++) {
        if (strcmp(argv[1], commands[i].name) == 0)
            return finish_output(commands[i].run(argc - 1, argv + 1));
    }
    fprintf(stderr, "cecollm-model: no command \"%s\" (--help lists them)\n", argv[1]);
    return COMMAND_USAGE;
}
