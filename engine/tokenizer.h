/* SPDX-License-Identifier: Apache-2.0
 * tokenizer.h - text to token ids and back, by the vocabulary in a GGUF file.
 *
 * Byte-level BPE (tokenizer.ggml.model = "gpt2"): text is cut into words by the
 * pre-tokeniser that tokenizer.ggml.pre names (tokenizer_split.h), and each word's
 * bytes are merged pair by pair in the order of the merge list. Any bytes can be
 * encoded, also those that are not UTF-8, and decoding gives exactly them back.
 *
 * SentencePiece BPE ("llama"): a space is put before the text and behind special
 * tokens (unless tokenizer.ggml.add_space_prefix is false), and characters are
 * merged by the scores of what they make; what has no token is written in bytes.
 * Decoding gives back the text less what is not in it: a U+2581 comes back as a
 * space, and spaces put behind special tokens stay.
 *
 * Thread: immutable after tokenizer_open; any number of threads may use one.
 * Ownership: everything is copied; the GGUF file may be closed afterwards.
 */
#ifndef CE_ENGINE_TOKENIZER_H
#define CE_ENGINE_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "engine/gguf.h"

#define TOKENIZER_MAX_TEXT ((size_t)4 << 20) /* bytes of one text to encode */
#define TOKENIZER_NONE     (-1)              /* "the vocabulary has no such token" */

struct tokenizer;

/* A stretch of a text: bytes from .. to-1. */
struct text_range {
    size_t from, to;
};

int tokenizer_open(struct tokenizer **out, const struct gguf *g,
                   struct err *err) CE_MUSTCHECK;
void tokenizer_free(struct tokenizer *t); /* accepts NULL */

/* Encode text[0..len). With parse_special, texts of special tokens such as
 * <|im_end|> become those tokens; without, they are ordinary characters (what users
 * type must never end a turn). No bos is added; see tokenizer_add_bos.
 *
 * ids: [cap], may be NULL when cap is 0. *n: how many ids the text has, also when
 * that is more than cap: then CE_ECONTEXT, with the first cap ids stored.
 * CE_EQUOTA: longer than TOKENIZER_MAX_TEXT. CE_EFORMAT: the vocabulary lacks a
 * single byte that the text needs. Time is near linear in len, whatever the text. */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t len,
                     bool parse_special, int32_t *ids, size_t cap, size_t *n,
                     struct err *err) CE_MUSTCHECK;

/* The same with special tokens parsed everywhere but in the ranges `literal`
 * ([n_literal], ascending, not overlapping): how a chat template and the users'
 * own words go into one text. */
int tokenizer_encode_ranges(const struct tokenizer *t, const char *text, size_t len,
                            const struct text_range *literal, size_t n_literal,
                            int32_t *ids, size_t cap, size_t *n,
                            struct err *err) CE_MUSTCHECK;

/* The bytes of one token, owned by the tokenizer, not NUL-terminated; a special
 * token gives its text. An id out of range gives "" with *len 0. A piece may end
 * inside a character: print through a utf8_stream. */
const char *tokenizer_piece(const struct tokenizer *t, int32_t id, size_t *len);

/* All pieces in a row, less the space that encoding puts before a text. out: [cap]; *n:
 * the length in full; CE_ECONTEXT when that is more than cap. Special tokens are left out
 * unless `with_special`. */
int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n_ids,
                     bool with_special, char *out, size_t cap, size_t *n);

int tokenizer_n_vocab(const struct tokenizer *t);
int32_t tokenizer_bos(const struct tokenizer *t); /* or TOKENIZER_NONE */
int32_t tokenizer_eos(const struct tokenizer *t);
bool tokenizer_add_bos(const struct tokenizer *t); /* prompts start with bos */

/* Generation ends at eos, eot, eom and the usual names of such tokens. */
bool tokenizer_is_end_of_generation(const struct tokenizer *t, int32_t id);

/* Control tokens and the unknown one: never part of the text shown. */
bool tokenizer_is_special(const struct tokenizer *t, int32_t id);

/* Id of the special token with exactly this text, or TOKENIZER_NONE. */
int32_t tokenizer_find_special(const struct tokenizer *t, const char *text);

/* Name of the pre-tokeniser in use, e.g. "smollm"; "sentencepiece" for that kind. */
const char *tokenizer_pre(const struct tokenizer *t);

#endif
