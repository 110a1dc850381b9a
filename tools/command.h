/* SPDX-License-Identifier: Apache-2.0
 * command.h - what the commands of cecollm-model share.
 *
 * A command is one function in its own cmd_NAME.c; model_main.c has the table, commands.h
 * says how they end.
 */
#ifndef CE_TOOLS_COMMAND_H
#define CE_TOOLS_COMMAND_H

#include <stdbool.h>

#include <jansson.h>

#include "common/error.h"
#include "engine/backend.h"
#include "engine/model.h"
#include "engine/tokenizer.h"
#include "tools/options.h"
#include "tools/commands.h"

int cmd_info(int argc, char **argv);
int cmd_split(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_ppl(int argc, char **argv);
int cmd_score(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_synth(int argc, char **argv);
int cmd_fit_screens(int argc, char **argv);
int cmd_tune_exits(int argc, char **argv);
int cmd_eval_exits(int argc, char **argv);
int cmd_quantize(int argc, char **argv);
int cmd_verify(int argc, char **argv);

/* Print on one line, or indented; takes the reference. CE_ENOMEM when `json` is NULL. */
int command_print_json(json_t *json, bool indented, struct err *err) CE_MUSTCHECK;

/* The format of weights called `name`, case ignored. CE_EINVAL with the names there are,
 * after `option`. */
int command_find_type(const char *option, const char *name, uint32_t *type,
                      struct err *err) CE_MUSTCHECK;

/* ---- a model ready to compute ---- */

/* Options of every command that computes; put COMMAND_ENGINE_OPTIONS(&e) into the
 * table. */
struct engine_options {
    int threads;                     /* 0: all cores allowed */
    const char *cpu;                 /* NULL: the best */
    const char *exits;               /* as for model_open */
    struct options_list exit_layers; /* shared exits instead; empty: as the file says */
    const char *packing;             /* "on" or "off"; NULL: on */
    const char *packing_cache;       /* folder, or NULL */
};

/* The option --threads, for every command that shares work out. */
#define COMMAND_THREADS_OPTION(var)                                                      \
    {                                                                                    \
        "threads", 't', OPTIONS_INT, var, "N",                                           \
            "threads (default: all cores this process may use)", 1, 256                  \
    }

#define COMMAND_ENGINE_OPTIONS(e)                                                        \
    COMMAND_THREADS_OPTION(&(e)->threads),                                               \
        { "cpu",     0,      OPTIONS_TEXT,                                               \
          &(e)->cpu, "NAME", "kernels: auto, scalar, avx2, avxvnni, avx512",             \
          0,         0 },                                                                \
        { "packing",                                                                     \
          0,                                                                             \
          OPTIONS_TEXT,                                                                  \
          &(e)->packing,                                                                 \
          "on|off",                                                                      \
          "off: keep no packed copy of the weights; slower",                             \
          0,                                                                             \
          0 },                                                                           \
    {                                                                                    \
        "packing-cache", 0, OPTIONS_TEXT, &(e)->packing_cache, "DIR",                    \
            "keep packed weights in DIR, shared by processes", 0, 0                      \
    }

/* The option --exits, for every command that can use exit heads. */
#define COMMAND_EXITS_OPTION(var)                                                        \
    {                                                                                    \
        "exits", 0, OPTIONS_TEXT, var, "FILE",                                           \
            "exit heads (default: side file; none: only FILE's own)", 0, 0               \
    }

/* The option --exit-layers, beside it. */
#define COMMAND_EXIT_LAYERS_OPTION(list)                                                 \
    {                                                                                    \
        "exit-layers", 0, OPTIONS_LIST, list, "L,L",                                     \
            "exits with the model's own norm and output after these blocks", 1, 1023     \
    }

/* model_open, then the exits that --exit-layers asks for, if any. */
int command_open_model(struct model **out, const char *path, const char *exits,
                       const struct options_list *exit_layers,
                       struct err *err) CE_MUSTCHECK;

struct loaded {
    struct model *model;
    struct backend *backend;
};

/* Open the model at `path` and a CPU backend over all blocks its file holds. `opt`
 * gives what the engine options do not: heads, n_ctx, max_seqs; its threads, cpu
 * and range are filled in. `whole`: NULL, or what needs the whole model ("perplexity"),
 * then a part is refused. */
int command_load(struct loaded *out, const char *path, const struct engine_options *e,
                 const struct backend_options *opt, const char *whole,
                 struct err *err) CE_MUSTCHECK;
void command_unload(struct loaded *l); /* accepts an empty one */

/* A token's piece on stdout, whatever the vocabulary says: bytes that are not text a
 * terminal should get are escaped, as \n or \x1b. */
void command_print_piece(const struct tokenizer *t, int32_t id);

/* Can a file of exits be made at `path`, as far as one can know beforehand, and is it
 * another file than the model? CE_EIO, CE_EINVAL. */
int command_check_output(const char *path, const char *model,
                         struct err *err) CE_MUSTCHECK;

/* A whole file, or stdin when path is "-", at most max bytes. *text is allocated,
 * with a NUL behind the last byte. */
int command_read_text(const char *path, size_t max, char **text, size_t *len,
                      struct err *err) CE_MUSTCHECK;

#endif
