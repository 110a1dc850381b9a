/* SPDX-License-Identifier: Apache-2.0
 * cmd_info.c - cecollm-model info: what a file holds, on one page.
 *
 * Shape, formats, exits and vocabulary are here; how the graph differs from the plain
 * one in traits.c, the memory of the parts in splits.c.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/command.h"
#include "tools/exits_record.h"
#include "tools/partition.h"
#include "tools/progress.h"
#include "tools/splits.h"
#include "tools/traits.h"
#include "tools/units.h"

#include "engine/tokenizer.h"

#define MAX_FORMATS 16

struct format_sum {
    uint32_t type; /* enum gguf_type */
    int n_tensors;
    uint64_t n_weights, size_bytes;
};

struct info {
    struct model *model;
    struct tokenizer *tokenizer; /* NULL when this build has none for the file */
    struct err no_tokenizer;     /* why */
    struct format_sum formats[MAX_FORMATS];
    int n_formats;
    uint64_t n_weights, n_embd;
    struct traits traits;
    struct splits splits;
    struct partition whole; /* what the file holds */
    char fingerprint[65];
};

/* ---- gathering ---- */

static void
sum_formats(struct info *in)
{
    const struct gguf *g = in->model->file;

    for (int i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        uint64_t n = (uint64_t)t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3];
        int f = 0;

        while (f < in->n_formats && in->formats[f].type != t->type)
            f++;
        if (f == MAX_FORMATS)
            continue; /* there are not so many */
        if (f == in->n_formats)
            in->formats[in->n_formats++].type = t->type;
        in->formats[f].n_tensors++;
        in->formats[f].n_weights += n;
        in->formats[f].size_bytes += t->size_bytes;
        in->n_weights += n;
        if (t == in->model->token_embd)
            in->n_embd = n;
    }
}

static int
gather(struct info *in, const char *path, const char *exits,
       const struct options_list *exit_layers, enum splits_choice choice, int split,
       struct err *err)
{
    struct progress_busy *busy = progress_busy_start("reading");
    int rc = command_open_model(&in->model, path, exits, exit_layers, err);
    const struct model *m = in->model;

    progress_busy_end(busy);
    if (rc != 0)
        return rc;
    if (split > 0 && split >= m->config.n_layers)
        return err_set(err, CE_EINVAL, "%s: --split %d: expected 1 to %d", path, split,
                       m->config.n_layers - 1);
    if (tokenizer_open(&in->tokenizer, m->file, &in->no_tokenizer) != 0)
        in->tokenizer = NULL;
    model_fingerprint_text(m, in->fingerprint);
    in->whole = (struct partition){ m, m->layer_from, m->layer_to, true };
    sum_formats(in);
    traits_read(&in->traits, m);
    return splits_make(&in->splits, m, choice, split, err);
}

static const char *
kind_name(enum model_exit_kind kind)
{
    return model_exit_kind_name(kind);
}

/* Of an exit's screen; 0 when it has none. */
static int
screen_rank(const struct model_exit *e)
{
    return e->n_candidates > 0 ? (int)e->screen_down->ne[1] : 0;
}

static double
bits_per_weight(const struct info *in)
{
    double bytes = 0;

    for (int i = 0; i < in->n_formats; i++)
        bytes += (double)in->formats[i].size_bytes;
    return in->n_weights > 0 ? 8 * bytes / (double)in->n_weights : 0;
}

/* ---- for people ---- */

static void
print_shape(const struct info *in)
{
    const struct model_config *c = &in->model->config;
    char a[UNITS_TEXT], b[UNITS_TEXT], graph[300];

    printf("%s (%s)\n", c->name[0] ? c->name : "unnamed", c->arch);
    printf("  file         %s, %s\n", gguf_path(in->model->file),
           units_bytes(a, (double)gguf_size_bytes(in->model->file)));
    printf("  fingerprint  %s\n", in->fingerprint);
    printf("  shape        %d blocks, d_model %d, d_ff %d, %d heads of %d over %d KV "
           "heads\n",
           c->n_layers, c->d_model, c->d_ff, c->n_heads, c->head_dim, c->n_kv_heads);
    if (in->model->layer_from != 0 || in->model->layer_to != c->n_layers)
        printf("  part         blocks %d to %d\n", in->model->layer_from,
               in->model->layer_to - 1);
    printf("  context      %s positions\n", units_count(a, (uint64_t)c->n_ctx));
    printf("  graph        %s\n",
           traits_text(graph, sizeof(graph), &in->traits, in->model));
    printf("  weights      %s, of which %s embedding%s; %.2f bits each\n",
           units_amount(a, (double)in->n_weights), units_amount(b, (double)in->n_embd),
           c->tied_output ? " (also the output matrix)" : "", bits_per_weight(in));
    for (int i = 0; i < in->n_formats; i++) {
        const struct format_sum *f = &in->formats[i];

        printf("               %-5s %9s in %9s, %d tensors\n", gguf_type_name(f->type),
               units_amount(a, (double)f->n_weights),
               units_bytes(b, (double)f->size_bytes), f->n_tensors);
    }
    printf("  KV cache     %s per %d positions\n",
           units_bytes(a, (double)partition_kv_bytes(&in->whole, SPLITS_KV_POSITIONS)),
           SPLITS_KV_POSITIONS);
}

static void
print_token(const struct tokenizer *t, const char *what, int32_t id)
{
    if (id == TOKENIZER_NONE)
        return;
    printf(", %s %d ", what, (int)id);
    command_print_piece(t, id);
}

static void
print_tokenizer(const struct info *in)
{
    char a[UNITS_TEXT];

    printf("  vocabulary   %s tokens",
           units_count(a, (uint64_t)in->model->config.n_vocab));
    if (!in->tokenizer) {
        printf("; no tokenizer: %s\n", in->no_tokenizer.text);
        return;
    }
    printf(", pre-tokeniser %s", tokenizer_pre(in->tokenizer));
    print_token(in->tokenizer, "bos", tokenizer_bos(in->tokenizer));
    print_token(in->tokenizer, "eos", tokenizer_eos(in->tokenizer));
    printf("\n");
}

static void
print_template(const struct info *in)
{
    const struct traits *t = &in->traits;

    printf("  chat         %s\n", t->chat_template[0]    ? t->chat_template
                                  : t->has_chat_template ? "a template that is not known"
                                                         : "no template");
}

/* What eval-exits recorded of the suggested thresholds. */
static void
print_record(const struct model *m)
{
    struct exits_record r;

    if (m->exits_chosen || !exits_record_read(&r, m))
        return;
    printf("               recorded on %d prompts of %s, answers of up to %d tokens: "
           "%.1f %% requests,\n"
           "               ROUGE-L %.3f, %.1f %% identical; exits agree at",
           r.prompts, r.set, r.max_tokens, 100 * (double)r.request_rate,
           (double)r.rouge_l, 100 * (double)r.identical);
    for (int k = 0; k < m->n_exits; k++)
        printf("%s %.1f %%", k > 0 ? "," : "", 100 * (double)r.agreement[k]);
    printf("\n");
}

static void
print_exits(const struct info *in)
{
    const struct model *m = in->model;
    char a[UNITS_TEXT];

    if (m->n_exits == 0) {
        printf("  exits        none\n");
        return;
    }
    printf("  exits        %d in %s\n", m->n_exits,
           m->exits_chosen ? "no file: --exit-layers"
                           : gguf_path(m->exits_file ? m->exits_file : m->file));
    for (int i = 0; i < m->n_exits; i++) {
        const struct model_exit *e = &m->exits[i];

        printf("               after block %2d: %s", e->layer, kind_name(e->kind));
        if (e->kind == MODEL_EXIT_MLP && e->adapter_width == 0)
            printf(", affine");
        else if (e->kind == MODEL_EXIT_MLP)
            printf(", %d wide", e->adapter_width);
        if (partition_exit_bytes(e) > 0)
            printf(", %s", units_bytes(a, (double)partition_exit_bytes(e)));
        if (e->theta >= 1)
            printf(", suggested: off");
        else if (e->theta > 0)
            printf(", suggested threshold %g", (double)e->theta);
        if (e->n_candidates > 0)
            printf(", screen: rank %d, %d candidates", screen_rank(e), e->n_candidates);
        printf("\n");
    }
    print_record(m);
}

/* ---- for programs ---- */

static json_t *
json_formats(const struct info *in)
{
    json_t *a = json_object();

    for (int i = 0; i < in->n_formats; i++) {
        const struct format_sum *f = &in->formats[i];

        json_object_set_new(a, gguf_type_name(f->type),
                            json_pack("{s:i, s:I, s:I}", "tensors", f->n_tensors,
                                      "weights", (json_int_t)f->n_weights, "bytes",
                                      (json_int_t)f->size_bytes));
    }
    return a;
}

static json_t *
json_exits(const struct info *in)
{
    json_t *a = json_array();

    for (int i = 0; i < in->model->n_exits; i++) {
        const struct model_exit *e = &in->model->exits[i];

        json_array_append_new(
            a, json_pack("{s:i, s:s, s:i, s:f, s:I, s:i, s:i}", "layer", e->layer, "kind",
                         kind_name(e->kind), "width", e->adapter_width, "theta",
                         (double)e->theta, "bytes", (json_int_t)partition_exit_bytes(e),
                         "screen_rank", screen_rank(e), "candidates", e->n_candidates));
    }
    return a;
}

/* NULL when nothing is recorded. */
static json_t *
json_record(const struct info *in)
{
    const struct model *m = in->model;
    struct exits_record r;
    json_t *agreement;

    if (m->exits_chosen || !exits_record_read(&r, m))
        return NULL;
    agreement = json_array();
    for (int k = 0; k < m->n_exits; k++)
        json_array_append_new(agreement, json_real((double)r.agreement[k]));
    return json_pack("{s:s, s:i, s:i, s:f, s:f, s:f, s:o}", "set", r.set, "prompts",
                     r.prompts, "max_tokens", r.max_tokens, "request_rate",
                     (double)r.request_rate, "rouge_l", (double)r.rouge_l, "identical",
                     (double)r.identical, "agreement", agreement);
}

static json_t *
json_graph(const struct traits *t)
{
    return json_pack("{s:s, s:s, s:f, s:f, s:b, s:b}", "rope_order",
                     t->rope_halves ? "halves" : "neighbours", "rope_scaling",
                     t->rope_scaling, "rope_factor", t->rope_factor,
                     "rope_original_context", t->rope_original_context, "biases",
                     (int)t->biases, "qk_norm", (int)t->qk_norm);
}

static json_t *
json_tokenizer(const struct info *in)
{
    const struct tokenizer *t = in->tokenizer;

    if (!t)
        return json_null();
    return json_pack("{s:s, s:i, s:i, s:b}", "pre", tokenizer_pre(t), "bos",
                     (int)tokenizer_bos(t), "eos", (int)tokenizer_eos(t), "add_bos",
                     (int)tokenizer_add_bos(t));
}

static json_t *
info_json(const struct info *in)
{
    const struct model *m = in->model;
    const struct model_config *c = &m->config;
    json_t *shape = json_pack(
        "{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:b}", "n_layers",
        c->n_layers, "d_model", c->d_model, "d_ff", c->d_ff, "n_heads", c->n_heads,
        "n_kv_heads", c->n_kv_heads, "head_dim", c->head_dim, "n_vocab", c->n_vocab,
        "n_ctx", c->n_ctx, "n_rot", c->n_rot, "rope_base", (double)c->rope_base,
        "norm_eps", (double)c->norm_eps, "tied_output", (int)c->tied_output);

    return json_pack(
        "{s:s, s:I, s:s, s:s, s:s, s:o, s:o, s:i, s:i, s:I, s:f, s:o, s:I, s:o, s:s, "
        "s:o, s:o?, s:I, s:o}",
        "file", gguf_path(m->file), "file_bytes", (json_int_t)gguf_size_bytes(m->file),
        "fingerprint", in->fingerprint, "name", c->name, "architecture", c->arch, "shape",
        shape, "graph", json_graph(&in->traits), "layer_from", m->layer_from, "layer_to",
        m->layer_to, "weights", (json_int_t)in->n_weights, "bits_per_weight",
        bits_per_weight(in), "formats", json_formats(in), "kv_bytes_per_1000",
        (json_int_t)partition_kv_bytes(&in->whole, SPLITS_KV_POSITIONS), "tokenizer",
        json_tokenizer(in), "chat_template", in->traits.chat_template, "exits",
        json_exits(in), "exits_record", json_record(in), "upload_bytes_per_token",
        (json_int_t)splits_upload_bytes(m), "splits", splits_json(&in->splits));
}

int
cmd_info(int argc, char **argv)
{
    struct info in = { 0 };
    struct err err = { 0 };
    const char *exits = NULL, *splits = "exits";
    enum splits_choice choice;
    struct options_list exit_layers = { 0 };
    int split = 0, n, status, rc;
    bool json = false;
    const struct option_spec specs[] = {
        { "splits", 0, OPTIONS_TEXT, &splits, "exits|all|none",
          "memory when split after these blocks (default: exits)", 0, 0 },
        { "split", 0, OPTIONS_INT, &split, "L",
          "also show the memory of a split after block L", 1, 1024 },
        COMMAND_EXITS_OPTION(&exits),
        COMMAND_EXIT_LAYERS_OPTION(&exit_layers),
        { "json", 0, OPTIONS_FLAG, &json, NULL, "for programs", 0, 0 },
        { 0 }
    };
    const struct options_page page = {
        "info FILE [--splits exits|all|none] [--split L] [--json]",
        "Show a model's shape, graph, formats, vocabulary, exits and identity, and the\n"
        "memory that edge and cloud need when it is split.",
        specs, 1, 1
    };

    if (!command_options(&page, argc, argv, &n, &status))
        return status;
    if (splits_find_choice(splits, &choice, &err) != 0)
        return command_usage("info", &err);
    rc = gather(&in, argv[1], exits, &exit_layers, choice, split, &err);
    if (rc == 0 && json) {
        rc = command_print_json(info_json(&in), true, &err);
    } else if (rc == 0) {
        print_shape(&in);
        print_tokenizer(&in);
        print_template(&in);
        print_exits(&in);
        splits_print(&in.splits);
    }
    splits_free(&in.splits);
    tokenizer_free(in.tokenizer);
    model_close(in.model);
    return rc == 0 ? COMMAND_OK : command_failed("info", &err);
}
