/* SPDX-License-Identifier: Apache-2.0
 * synth.h - a Llama-family model with random weights, of any shape and format.
 *
 * What the test suite runs on: a complete GGUF file with a tiny byte-level
 * vocabulary and a ChatML template, made in milliseconds, the same bytes for the
 * same parameters on every machine. Weights are scaled so that hidden states stay
 * of order one and logits spread by about 4, so confidences vary from token to
 * token as a real model's do.
 *
 * Vocabulary: 0 <|endoftext|>, 1 <|im_start|> (bos), 2 <|im_end|> (eos), 3..258 the
 * bytes 0..255, 259..319 merged pieces of English, then unused fillers.
 */
#ifndef CE_ENGINE_SYNTH_H
#define CE_ENGINE_SYNTH_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "engine/gguf.h"

#define SYNTH_MIN_VOCAB 320 /* specials, bytes and merged pieces */

enum synth_arch { SYNTH_LLAMA, SYNTH_QWEN2, SYNTH_QWEN3, SYNTH_SMOLLM3 };

/* In what a model differs from the plain Llama graph, which is all zeros. */
struct synth_graph {
    enum synth_arch arch;
    bool bias;         /* q, k and v have one (qwen2's always do), and the output matrix
                          of attention, where the architecture allows it */
    int n_rot;         /* dimensions that rope turns; 0: the whole head */
    double rope_base;  /* 0: 10000 */
    double rope_scale; /* linear scaling's factor; 0: none */
    bool rope_freqs;   /* factors of Llama 3.1's kind, 1 to 8, as a tensor */
};

struct synth_params {
    int n_layers;
    int d_model;
    int n_heads, n_kv_heads, head_dim; /* n_heads is a multiple of n_kv_heads */
    int d_ff;
    int n_ctx;
    int n_vocab;   /* >= SYNTH_MIN_VOCAB */
    bool tied;     /* no output matrix of its own */
    uint32_t type; /* of all matrices: GGUF_F32, F16, Q8_0, Q4_0 or Q4_1 */
    uint64_t seed;
    int n_candidates; /* of each exit's screen; 0: none */
    struct synth_graph graph;
};

/* "llama", "qwen2", ...; NULL past the last. */
const char *synth_arch_name(int arch);

/* 4 blocks, d_model 64, 4 heads of 16 over 2 KV heads, d_ff 128, 512 positions,
 * 320 tokens, tied, F32, seed 1. */
void synth_params_init(struct synth_params *p);

/* Write the model to `path`. CE_EINVAL with a text naming the parameter when the
 * shape is not possible (e.g. rows that are not whole blocks of the format). */
int synth_model(const struct synth_params *p, const char *path,
                struct err *err) CE_MUSTCHECK;

enum synth_exit_kind {
    SYNTH_EXIT_MLP,
    SYNTH_EXIT_TRUST, /* kind mlp, with a trust (trust.h) */
    SYNTH_EXIT_SHARED,
    SYNTH_EXIT_OWN
};

/* Write exit heads (doc/EXITS.md; adapters are `width` wide) of one kind after the given
 * blocks, bound by SHA-256 to the file at `model_path`, which was made with `p`.
 * layers: [n_exits], ascending, each from 1 to n_layers - 1. With p->n_candidates each
 * has a screen of rank 32, as random as the rest; those of kind own can have none. */
int synth_exits_of(const struct synth_params *p, enum synth_exit_kind kind,
                   const char *model_path, const int *layers, int n_exits, int width,
                   const char *path, struct err *err) CE_MUSTCHECK;

/* The same of kind mlp. */
int synth_exits(const struct synth_params *p, const char *model_path, const int *layers,
                int n_exits, int width, const char *path, struct err *err) CE_MUSTCHECK;

/* The vocabulary's keys alone (tokenizer.*), for tests that need no weights. */
int synth_write_vocab(struct gguf_writer *w, int n_vocab, struct err *err) CE_MUSTCHECK;

/* The keys of a tiny SentencePiece vocabulary: 0 <unk>, 1 <s> (bos), 2 </s> (eos), 3
 * <mark> (user-defined), pieces, then the 256 bytes. */
void synth_write_spm_vocab(struct gguf_writer *w);

#endif
