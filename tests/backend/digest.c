/* SPDX-License-Identifier: Apache-2.0
 * digest.c - digest [CPU [THREADS]]: what small models of every format and
 * architecture compute, as hashes, to be compared between machines.
 *
 * Models are made from a seed (engine/synth.h), so two machines start from the same
 * bytes. Per format it prints the file's SHA-256, the hash of all bits that a prefill
 * gave (hidden states, logits, results of the final head and of an exit), and the
 * tokens of greedy decoding. Whatever CPU and threads: the same text.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/sha256.h"
#include "engine/backend.h"
#include "engine/model.h"
#include "engine/synth.h"

#define N_PROMPT 150 /* three pages, the last one in part */
#define N_ANSWER 24
#define EXIT     2 /* blocks below the exit head */

static const struct format {
    const char *name;
    struct synth_params p;
} formats[] = {
    { "Q4_1", { 4, 192, 3, 1, 64, 288, 300, 2100, true, GGUF_Q4_1, 11, 64, { 0 } } },
    { "Q4_0", { 4, 128, 4, 2, 32, 224, 300, 1500, false, GGUF_Q4_0, 12, 64, { 0 } } },
    { "Q8_0", { 4, 64, 4, 4, 16, 96, 300, 333, true, GGUF_Q8_0, 13, 64, { 0 } } },
    { "F16", { 4, 72, 3, 3, 16, 100, 300, 333, false, GGUF_F16, 14, 64, { 0 } } },
    { "F32", { 4, 96, 6, 2, 80, 160, 300, 320, true, GGUF_F32, 15, 64, { 0 } } },
    { "qwen2",
      { 4,
        96,
        6,
        2,
        48,
        160,
        300,
        320,
        true,
        GGUF_F32,
        16,
        64,
        { .arch = SYNTH_QWEN2, .rope_base = 1e6, .rope_scale = 4 } } },
    { "qwen3",
      { 4,
        64,
        4,
        2,
        32,
        96,
        300,
        333,
        false,
        GGUF_Q8_0,
        17,
        64,
        { .arch = SYNTH_QWEN3 } } },
    { "smollm3",
      { 4,
        96,
        3,
        3,
        32,
        160,
        300,
        333,
        true,
        GGUF_Q4_1,
        18,
        64,
        { .arch = SYNTH_SMOLLM3, .bias = true, .n_rot = 20, .rope_freqs = true } } },
    { "BF16", { 4, 72, 3, 3, 16, 100, 300, 333, false, GGUF_BF16, 16, 64, { 0 } } },
    { "Q5_0", { 4, 64, 4, 4, 16, 96, 300, 333, true, GGUF_Q5_0, 17, 64, { 0 } } },
    { "Q5_1", { 4, 64, 4, 2, 16, 96, 300, 333, false, GGUF_Q5_1, 18, 64, { 0 } } },
    { "Q2_K", { 4, 256, 4, 2, 64, 256, 300, 333, true, GGUF_Q2_K, 19, 64, { 0 } } },
    { "Q3_K", { 4, 256, 4, 2, 64, 256, 300, 333, true, GGUF_Q3_K, 20, 64, { 0 } } },
    { "Q4_K", { 4, 256, 4, 2, 64, 256, 300, 333, false, GGUF_Q4_K, 21, 64, { 0 } } },
    { "Q5_K", { 4, 256, 4, 2, 64, 256, 300, 333, true, GGUF_Q5_K, 22, 64, { 0 } } },
    { "Q6_K", { 4, 256, 4, 2, 64, 256, 300, 333, false, GGUF_Q6_K, 23, 64, { 0 } } },
};

static void
must(int rc, const struct err *err)
{
    if (rc == 0)
        return;
    fprintf(stderr, "digest: %s\n", err->text);
    exit(1);
}

static uint64_t
hash(uint64_t h, const void *data, size_t size)
{
    const unsigned char *p = data;

    for (size_t i = 0; i < size; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

static uint64_t
hash_result(uint64_t h, const struct head_result *r)
{
    h = hash(h, &r->argmax, sizeof(r->argmax));
    h = hash(h, &r->max_logit, sizeof(r->max_logit));
    h = hash(h, &r->lse, sizeof(r->lse));
    h = hash(h, &r->confidence, sizeof(r->confidence));
    h = hash(h, &r->hash, sizeof(r->hash));
    return hash(h, r->top, (size_t)r->n_top * sizeof(r->top[0]));
}

/* Make the model and its exit and open both; the files are gone afterwards. */
static struct model *
make_model(const struct format *f)
{
    char path[64], exits[64], text[SHA256_TEXT];
    uint8_t sum[SHA256_BYTES];
    struct model *m = NULL;
    int layer = EXIT;
    struct err err;

    snprintf(path, sizeof(path), "digest-%ld.gguf", (long)getpid());
    snprintf(exits, sizeof(exits), "digest-%ld.exits.gguf", (long)getpid());
    must(synth_model(&f->p, path, &err), &err);
    must(synth_exits_of(&f->p, SYNTH_EXIT_TRUST, path, &layer, 1, 64, exits, &err), &err);
    must(model_open(&m, path, exits, &err), &err);
    must(sha256_file(path, sum, &err), &err);
    sha256_text(sum, text);
    printf("%s file %s\n", f->name, text);
    unlink(path);
    unlink(exits);
    return m;
}

/* One step of the prompt's rows; the hash of their results. */
static uint64_t
run_prompt(struct backend *b, const struct batch *batch)
{
    uint64_t h = 0xcbf29ce484222325u;
    struct err err;

    must(backend_run(b, batch, &err), &err);
    for (int i = 0; i < N_PROMPT; i++)
        h = hash_result(h, &batch->items[0].results[i]);
    return h;
}

/* The prompt through one half of the model; returns the last row's argmax. */
static int32_t
prefill_half(struct backend *b, struct batch_item *item, const char *name, int head)
{
    struct batch batch = { .layer_from = head == HEAD_FINAL ? EXIT : 0,
                           .layer_to = head == HEAD_FINAL ? b->info.n_layers : EXIT,
                           .head = head,
                           .n_top = 20,
                           .want_hash = true,
                           .n_items = 1,
                           .items = item };
    uint64_t h = run_prompt(b, &batch);

    h = hash(h, item->hidden_out,
             (size_t)N_PROMPT * (size_t)b->info.d_model * sizeof(*item->hidden_out));
    printf("%s %s head %016" PRIx64 "\n", name, head == HEAD_FINAL ? "final" : "exit", h);
    return item->results[N_PROMPT - 1].argmax;
}

/* The exit on the rows at its layer, each turned away by the screen. */
static void
screen(struct backend *b, struct batch_item *item, const char *name)
{
    struct batch batch = { .layer_from = EXIT,
                           .layer_to = EXIT,
                           .head = HEAD_EXIT(0),
                           .screen_theta = 2,
                           .n_items = 1,
                           .items = item };

    printf("%s exit screened %016" PRIx64 "\n", name, run_prompt(b, &batch));
}

static int32_t
prefill(struct backend *b, int seq, const char *name)
{
    size_t n = (size_t)N_PROMPT * (size_t)b->info.d_model;
    float *middle = calloc(n, sizeof(*middle)), *end = calloc(n, sizeof(*end));
    static struct head_result results[N_PROMPT];
    int32_t tokens[N_PROMPT], next;
    struct batch_item item = { .seq = seq,
                               .n_rows = N_PROMPT,
                               .tokens = tokens,
                               .hidden_out = middle,
                               .head_rows = N_PROMPT,
                               .results = results };

    if (!middle || !end)
        exit(1);
    for (int i = 0; i < N_PROMPT; i++)
        tokens[i] = (int32_t)((unsigned)i * 7919u % (unsigned)b->info.n_vocab);
    prefill_half(b, &item, name, HEAD_EXIT(0));
    item.tokens = NULL;
    item.hidden = middle;
    item.hidden_out = NULL;
    screen(b, &item, name);
    item.hidden_out = end;
    next = prefill_half(b, &item, name, HEAD_FINAL);
    free(middle);
    free(end);
    return next;
}

static void
decode(struct backend *b, int seq, int32_t token, const char *name)
{
    struct head_result result;
    struct batch_item item = {
        .seq = seq, .n_rows = 1, .tokens = &token, .head_rows = 1, .results = &result
    };
    struct batch batch = { .layer_to = b->info.n_layers,
                           .head = HEAD_FINAL,
                           .want_hash = true,
                           .n_items = 1,
                           .items = &item };
    uint64_t h = 0xcbf29ce484222325u;
    struct err err;

    printf("%s tokens", name);
    for (int i = 0; i < N_ANSWER; i++) {
        item.pos = N_PROMPT + i;
        must(backend_run(b, &batch, &err), &err);
        h = hash_result(h, &result);
        printf(" %d", (int)token);
        token = result.argmax;
    }
    printf("\n%s decode %016" PRIx64 "\n", name, h);
}

int
main(int argc, char **argv)
{
    struct backend_options o = { .cpu = argc > 1 ? argv[1] : NULL,
                                 .n_threads = argc > 2 ? atoi(argv[2]) : 1,
                                 .final_head = true,
                                 .exit_heads = true };

    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
        struct model *m = make_model(&formats[i]);
        struct backend *b = NULL;
        struct err err;
        int seq;

        must(backend_cpu_open(&b, m, &o, &err), &err);
        must(backend_seq_open(b, &seq, &err), &err);
        if (i == 0)
            fprintf(stderr, "computed by %s\n", b->info.name);
        decode(b, seq, prefill(b, seq, formats[i].name), formats[i].name);
        backend_close(b);
        model_close(m);
    }
    return 0;
}
