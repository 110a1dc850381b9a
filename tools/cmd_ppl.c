/* SPDX-License-Identifier: Apache-2.0
 * cmd_ppl.c - cecollm-model ppl: perplexity of a text.
 *
 * The text is tokenised in one piece and cut into chunks of --ctx tokens. Each
 * chunk starts with an empty cache; its first half is context, the tokens of its
 * second half are scored, so every scored token has seen at least ctx/2 others.
 * Where the vocabulary asks for it the text starts with bos, and bos takes the
 * place of each chunk's first token. llama.cpp counts in the same way, so figures
 * can be compared.
 *
 * Rows whose logits are wanted go through the model ROWS at a time, which bounds
 * the logits' memory; by doc/NUMERICS.md the cut changes no bit.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "tools/command.h"
#include "tools/perplexity.h"
#include "tools/progress.h"
#include "tools/units.h"

#include "engine/tokenizer.h"

#define ROWS     32
#define MAX_TEXT TOKENIZER_MAX_TEXT

struct ppl {
    struct loaded loaded;
    int32_t *ids; /* [n_ids], owned */
    size_t n_ids;
    int32_t bos; /* put at each chunk's start, or TOKENIZER_NONE */
    int ctx;
    size_t n_chunks;
    int32_t *chunk;              /* [ctx], owned */
    float *logits;               /* [ROWS, n_vocab], owned */
    struct head_result *results; /* [ROWS], owned */
    struct perplexity sum;
};

/* ---- set-up ---- */

static int
read_ids(struct ppl *p, const char *path, struct err *err)
{
    const struct gguf *g = p->loaded.model->file;
    struct tokenizer *t = NULL;
    char *text = NULL;
    size_t len, n = 0, extra;
    int rc;

    if ((rc = tokenizer_open(&t, g, err)) ||
        (rc = command_read_text(path, MAX_TEXT, &text, &len, err)))
        goto out;
    p->bos = tokenizer_add_bos(t) ? tokenizer_bos(t) : TOKENIZER_NONE;
    extra = p->bos != TOKENIZER_NONE;
    p->ids =
        mem_array_alloc(len + 1, sizeof(*p->ids)); /* a token has at least one byte */
    if (!p->ids) {
        rc = err_set(err, CE_ENOMEM, "%s: no memory for its tokens", path);
        goto out;
    }
    p->ids[0] = p->bos;
    rc = tokenizer_encode(t, text, len, false, p->ids + extra, len, &n, err);
    if (rc != 0) {
        err_prefix(err, "%s", path);
        goto out;
    }
    p->n_ids = n + extra;
    if (p->n_ids < (size_t)p->ctx)
        rc = err_set(err, CE_EINVAL, "%s: has %zu tokens; one chunk needs %d", path,
                     p->n_ids, p->ctx);
out:
    free(text);
    tokenizer_free(t);
    return rc;
}

static int
prepare(struct ppl *p, const char *text_path, int max_chunks, struct err *err)
{
    const struct backend_info *info = &p->loaded.backend->info;
    int rc;

    if (p->ctx > info->n_ctx)
        return err_set(err, CE_ECONTEXT, "--ctx %d: the model's context is %d", p->ctx,
                       info->n_ctx);
    if ((rc = read_ids(p, text_path, err)))
        return rc;
    p->n_chunks = p->n_ids / (size_t)p->ctx;
    if (max_chunks > 0 && p->n_chunks > (size_t)max_chunks)
        p->n_chunks = (size_t)max_chunks;
    p->chunk = mem_array_alloc((size_t)p->ctx, sizeof(*p->chunk));
    p->logits = mem_array_alloc((size_t)info->n_vocab * ROWS, sizeof(*p->logits));
    p->results = mem_array_alloc(ROWS, sizeof(*p->results));
    if (!p->chunk || !p->logits || !p->results)
        return err_set(err, CE_ENOMEM, "no memory for %d rows of logits", ROWS);
    return 0;
}

static void
release(struct ppl *p)
{
    mem_free(p->ids);
    mem_free(p->chunk);
    mem_free(p->logits);
    mem_free(p->results);
    command_unload(&p->loaded);
}

/* ---- scoring ---- */

/* Rows pos .. pos+n-1 of the chunk; when `scored`, each row's next token counts. */
static int
run_rows(struct ppl *p, int seq, int pos, int n, bool scored, struct err *err)
{
    struct backend *b = p->loaded.backend;
    struct batch_item item = { .seq = seq,
                               .pos = pos,
                               .n_rows = n,
                               .tokens = p->chunk + pos,
                               .head_rows = scored ? n : 0,
                               .results = scored ? p->results : NULL,
                               .logits = scored ? p->logits : NULL };
    struct batch batch = { .layer_from = 0,
                           .layer_to = b->info.n_layers,
                           .head = scored ? HEAD_FINAL : HEAD_NONE,
                           .n_items = 1,
                           .items = &item };
    int rc = backend_run(b, &batch, err);

    for (int r = 0; rc == 0 && scored && r < n; r++) {
        const float *row = p->logits + (size_t)r * (size_t)b->info.n_vocab;

        perplexity_add(&p->sum,
                       (double)p->results[r].lse - (double)row[p->chunk[pos + r + 1]]);
    }
    return rc;
}

static int
score_chunk(struct ppl *p, size_t index, struct err *err)
{
    struct backend *b = p->loaded.backend;
    int first = p->ctx / 2, last = p->ctx - 1, seq, rc;

    memcpy(p->chunk, p->ids + index * (size_t)p->ctx, (size_t)p->ctx * sizeof(*p->chunk));
    if (p->bos != TOKENIZER_NONE)
        p->chunk[0] = p->bos;
    if ((rc = backend_seq_open(b, &seq, err)))
        return rc;
    rc = run_rows(p, seq, 0, first, false, err);
    for (int pos = first; rc == 0 && pos < last; pos += ROWS)
        rc = run_rows(p, seq, pos, last - pos < ROWS ? last - pos : ROWS, true, err);
    backend_seq_close(b, seq);
    return rc;
}

static int
score_all(struct ppl *p, struct err *err)
{
    struct progress progress;
    char note[64];
    int rc = 0;

    progress_start(&progress, "perplexity", p->n_chunks);
    for (size_t i = 0; rc == 0 && i < p->n_chunks; i++) {
        rc = score_chunk(p, i, err);
        snprintf(note, sizeof(note), "%.2f +- %.2f", perplexity_value(&p->sum),
                 perplexity_error(&p->sum));
        progress_set(&progress, i + 1, note);
    }
    progress_end(&progress);
    if (rc == 0 && !isfinite(perplexity_value(&p->sum)))
        rc = err_set(err, CE_EINTERNAL, "the perplexity is not finite");
    return rc;
}

static int
print_result(const struct ppl *p, bool json, struct err *err)
{
    double value = perplexity_value(&p->sum), error = perplexity_error(&p->sum);
    char scored[UNITS_TEXT];

    if (json)
        return command_print_json(json_pack("{s:f, s:f, s:I, s:i, s:I, s:s}",
                                            "perplexity", value, "standard_error", error,
                                            "chunks", (json_int_t)p->n_chunks, "ctx",
                                            p->ctx, "scored", (json_int_t)p->sum.n,
                                            "backend", p->loaded.backend->info.name),
                                  true, err);
    printf("perplexity %.4f +- %.4f (%zu chunks of %d tokens, %s scored)\n", value, error,
           p->n_chunks, p->ctx, units_count(scored, p->sum.n));
    return 0;
}

int
cmd_ppl(int argc, char **argv)
{
    struct ppl p = { .ctx = 512 };
    struct engine_options engine = { .exits = "none" };
    struct backend_options opt = { .final_head = true, .max_seqs = 1 };
    struct err err = { 0 };
    int chunks = 0, n, status, rc;
    bool json = false;
    const struct option_spec specs[] = {
        { "chunks", 0, OPTIONS_INT, &chunks, "N", "only the first N (default: all)", 1,
          1 << 30 },
        { "ctx", 0, OPTIONS_INT, &p.ctx, "N", "tokens of a chunk (default 512)", 4,
          1 << 20 },
        COMMAND_ENGINE_OPTIONS(&engine),
        { "json", 0, OPTIONS_FLAG, &json, NULL, "for programs", 0, 0 },
        { 0 }
    };
    const struct options_page page = {
        "ppl FILE TEXT [--chunks N] [--ctx N] [--json]",
        "Perplexity of the text in file TEXT (-: stdin), counted as llama.cpp does: in\n"
        "chunks, the second half of each scored.",
        specs, 2, 2
    };

    if (!command_options(&page, argc, argv, &n, &status))
        return status;
    rc = command_load(&p.loaded, argv[1], &engine, &opt, "perplexity", &err);
    if (rc == 0)
        rc = prepare(&p, argv[2], chunks, &err);
    if (rc == 0)
        rc = score_all(&p, &err);
    if (rc == 0)
        rc = print_result(&p, json, &err);
    release(&p);
    return rc == 0 ? COMMAND_OK : command_failed("ppl", &err);
}
