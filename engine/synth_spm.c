/* SPDX-License-Identifier: Apache-2.0
 * synth_spm.c - a tiny SentencePiece vocabulary, for tests.
 *
 * Everything that encoding distinguishes is in it: scores that are not in the order
 * of ids, two that are equal, a token that no merge of two tokens makes, characters
 * of two bytes, all byte tokens, a user-defined token, and an end mark that is typed
 * as user-defined as some files have it.
 */
#include <stdio.h>
#include <string.h>

#include "engine/synth.h"

enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER_DEFINED = 4, UNUSED = 5, BYTE = 6 };

#define SPACE    "\342\226\201"
#define N_PIECES (sizeof(pieces_of) / sizeof(pieces_of[0]))

static const struct {
    const char *text;
    float score;
    int kind;
} pieces_of[] = {
    { "<unk>", 0, UNKNOWN },     { "<s>", 0, CONTROL },
    { "</s>", 0, USER_DEFINED }, { "<mark>", 0, USER_DEFINED },
    { SPACE "the", -4, NORMAL }, { "he", -2, NORMAL },
    { SPACE "t", -3, NORMAL },   { "el", -7, NORMAL },
    { "ll", -6, NORMAL },        { "aa", -9, NORMAL },
    { "ia", -9, NORMAL },        { "in", -5, NORMAL },
    { "on", -8, NORMAL },        { SPACE "a", -20, NORMAL },
    { "thei", -10, NORMAL },     { "th", -30, NORMAL },
    { "hello", -11, NORMAL },    { SPACE SPACE, -40, UNUSED },
    { SPACE, -41, NORMAL },      { "e", -42, NORMAL },
    { "t", -43, NORMAL },        { "a", -44, NORMAL },
    { "h", -45, NORMAL },        { "i", -46, NORMAL },
    { "n", -47, NORMAL },        { "o", -48, NORMAL },
    { "l", -49, NORMAL },        { "x", -50, NORMAL },
    { "\303\251", -51, NORMAL },
};

void
synth_write_spm_vocab(struct gguf_writer *w)
{
    struct gguf_str texts[N_PIECES + 256];
    float scores[N_PIECES + 256];
    int32_t types[N_PIECES + 256];
    char names[256][8];
    size_t i;

    for (i = 0; i < N_PIECES; i++) {
        texts[i] = (struct gguf_str){ pieces_of[i].text, strlen(pieces_of[i].text) };
        scores[i] = pieces_of[i].score;
        types[i] = pieces_of[i].kind;
    }
    for (i = 0; i < 256; i++) {
        snprintf(names[i], sizeof(names[i]), "<0x%02X>", (unsigned)i);
        texts[N_PIECES + i] = (struct gguf_str){ names[i], 6 };
        scores[N_PIECES + i] = 0;
        types[N_PIECES + i] = BYTE;
    }
    gguf_writer_str(w, "tokenizer.ggml.model", "llama", 5);
    gguf_writer_str_array(w, "tokenizer.ggml.tokens", texts, N_PIECES + 256);
    gguf_writer_f32_array(w, "tokenizer.ggml.scores", scores, N_PIECES + 256);
    gguf_writer_i32_array(w, "tokenizer.ggml.token_type", types, N_PIECES + 256);
    gguf_writer_u32(w, "tokenizer.ggml.bos_token_id", 1);
    gguf_writer_u32(w, "tokenizer.ggml.eos_token_id", 2);
    gguf_writer_u32(w, "tokenizer.ggml.unknown_token_id", 0);
}
