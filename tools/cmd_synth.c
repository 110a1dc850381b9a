/* SPDX-License-Identifier: Apache-2.0
 * cmd_synth.c - cecollm-model synth: a model of random weights (engine/synth.h).
 *
 * For trying shapes and formats without a download, and for tests of the programs.
 */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "tools/command.h"
#include "tools/progress.h"

#include "engine/quant.h"
#include "engine/synth.h"

static int
arch_by_name(const char *name, enum synth_arch *arch, struct err *err)
{
    for (int i = 0; synth_arch_name(i); i++) {
        if (strcmp(name, synth_arch_name(i)) == 0) {
            *arch = (enum synth_arch)i;
            return 0;
        }
    }
    return err_set(err, CE_EINVAL,
                   "--arch: \"%s\" is none of llama, qwen2, qwen3, smollm3", name);
}

static int
kind_by_name(const char *name, enum synth_exit_kind *kind, struct err *err)
{
    static const char *const names[] = { [SYNTH_EXIT_MLP] = "mlp",
                                         [SYNTH_EXIT_TRUST] = "trust",
                                         [SYNTH_EXIT_SHARED] = "shared",
                                         [SYNTH_EXIT_OWN] = "own" };

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(name, names[i]) == 0) {
            *kind = (enum synth_exit_kind)i;
            return 0;
        }
    }
    return err_set(err, CE_EINVAL,
                   "--exit-kind: \"%s\" is none of mlp, trust, shared, own", name);
}

/* MODEL.gguf becomes MODEL.exits.gguf, where model_open looks for it. */
static int
exits_path(const char *model, char *out, size_t cap, struct err *err)
{
    size_t len = strlen(model);
    int n;

    if (len > 5 && strcasecmp(model + len - 5, ".gguf") == 0)
        len -= 5;
    n = snprintf(out, cap, "%.*s.exits.gguf", (int)len, model);
    if (n < 0 || (size_t)n >= cap)
        return err_set(err, CE_EINVAL, "%s: the name is too long", model);
    return 0;
}

static int
synth(const struct synth_params *p, const char *path, const struct options_list *exits,
      enum synth_exit_kind kind, int width, struct err *err)
{
    char side[4096];
    int rc = 0;

    if (exits->n > 0)
        rc = exits_path(path, side, sizeof(side), err);
    if (rc == 0)
        rc = synth_model(p, path, err);
    if (rc == 0 && exits->n > 0)
        rc = synth_exits_of(p, kind, path, exits->v, exits->n, width, side, err);
    return rc;
}

int
cmd_synth(int argc, char **argv)
{
    struct synth_params p;
    struct options_list exits = { 0 };
    enum synth_exit_kind exit_kind = SYNTH_EXIT_MLP;
    struct err err = { 0 };
    const char *out = NULL, *type = "F32", *arch = "llama", *kind = "mlp";
    struct progress_busy *busy;
    int n, status, rc, width = 64, rope_base = 10000, rope_scale = 0;
    bool untied = false;
    const struct option_spec specs[] = {
        { "output", 'o', OPTIONS_TEXT, &out, "FILE", "the model file to write", 0, 0 },
        { "type", 0, OPTIONS_TEXT, &type, "NAME",
          "of all matrices (default F32): " QUANT_TYPES, 0, 0 },
        { "arch", 0, OPTIONS_TEXT, &arch, "NAME",
          "llama (default), qwen2, qwen3, smollm3", 0, 0 },
        { "layers", 0, OPTIONS_INT, &p.n_layers, "N", "blocks (default 4)", 1, 1024 },
        { "d-model", 0, OPTIONS_INT, &p.d_model, "N", "default 64", 1, 65536 },
        { "heads", 0, OPTIONS_INT, &p.n_heads, "N", "default 4", 1, 1024 },
        { "kv-heads", 0, OPTIONS_INT, &p.n_kv_heads, "N", "default 2", 1, 1024 },
        { "head-dim", 0, OPTIONS_INT, &p.head_dim, "N", "default 16", 1, 1024 },
        { "d-ff", 0, OPTIONS_INT, &p.d_ff, "N", "default 128", 1, 262144 },
        { "ctx", 0, OPTIONS_INT, &p.n_ctx, "N", "positions (default 512)", 1, 1 << 24 },
        { "vocab", 0, OPTIONS_INT, &p.n_vocab, "N", "tokens (default 320, the least)", 1,
          1 << 22 },
        { "untied", 0, OPTIONS_FLAG, &untied, NULL, "an output matrix of its own", 0, 0 },
        { "biases", 0, OPTIONS_FLAG, &p.graph.bias, NULL,
          "of q, k, v and of attention's output", 0, 0 },
        { "n-rot", 0, OPTIONS_INT, &p.graph.n_rot, "N",
          "dimensions of a head that rope turns (default all)", 2, 1024 },
        { "rope-base", 0, OPTIONS_INT, &rope_base, "N", "default 10000", 1, 1 << 30 },
        { "rope-scale", 0, OPTIONS_INT, &rope_scale, "N", "linear rope scaling by N", 1,
          1024 },
        { "rope-freqs", 0, OPTIONS_FLAG, &p.graph.rope_freqs, NULL,
          "a factor for each frequency, as in Llama 3.1", 0, 0 },
        { "seed", 0, OPTIONS_U64, &p.seed, "N", "default 1", 0, 0 },
        { "exits", 0, OPTIONS_LIST, &exits, "L,L",
          "also write exit heads after these blocks, beside FILE", 1, 1023 },
        { "exit-kind", 0, OPTIONS_TEXT, &kind, "NAME",
          "mlp (default), trust: mlp with one, shared, own: a norm and output matrix "
          "each",
          0, 0 },
        { "exit-width", 0, OPTIONS_INT, &width, "N", "of the adapters (default 64)", 1,
          262144 },
        { "candidates", 0, OPTIONS_INT, &p.n_candidates, "N",
          "give each exit a screen with so many candidates (default 0: none)", 0, 1024 },
        { 0 }
    };
    const struct options_page page = {
        "synth -o FILE [options]",
        "Write a model with random weights and a small byte-level vocabulary. The same\n"
        "options give the same bytes on every machine.",
        specs, 0, 0
    };

    synth_params_init(&p);
    if (!command_options(&page, argc, argv, &n, &status))
        return status;
    if (!out) {
        err_set(&err, CE_EINVAL, "--output is missing");
        return command_usage("synth", &err);
    }
    if (command_find_type("--type", type, &p.type, &err) != 0 ||
        arch_by_name(arch, &p.graph.arch, &err) != 0 ||
        kind_by_name(kind, &exit_kind, &err) != 0)
        return command_usage("synth", &err);
    if (untied)
        p.tied = false;
    p.graph.rope_base = rope_base;
    p.graph.rope_scale = rope_scale;
    busy = progress_busy_start("synthesising");
    rc = synth(&p, out, &exits, exit_kind, width, &err);
    progress_busy_end(busy);
    return rc == 0 ? COMMAND_OK : command_failed("synth", &err);
}
