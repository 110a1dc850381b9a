/* SPDX-License-Identifier: Apache-2.0
 * model_main.c - cecollm-model: the table of commands.
 *
 * Everything about a command is in its cmd_NAME.c.
 */
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

int
main(int argc, char **argv)
{
    static const struct program program = {
        "cecollm-model", commands, sizeof(commands) / sizeof(commands[0]),
        "ppl, score, bench and the commands of exits also take --threads N and\n"
        "--cpu NAME.\n"
    };

    return commands_main(&program, argc, argv);
}
