/* SPDX-License-Identifier: Apache-2.0
 * tokenizer_internal.h - the vocabulary in memory, and what the tokenizer's files call
 * of each other. Included by engine/tokenizer*.c alone.
 */
#ifndef CE_ENGINE_TOKENIZER_INTERNAL_H
#define CE_ENGINE_TOKENIZER_INTERNAL_H

#include "engine/tokenizer.h"
#include "engine/tokenizer_split.h"

/* Values of tokenizer.ggml.token_type. */
enum token_kind {
    TOKEN_UNDEFINED = 0,
    TOKEN_NORMAL = 1,
    TOKEN_UNKNOWN = 2,
    TOKEN_CONTROL = 3,
    TOKEN_USER_DEFINED = 4,
    TOKEN_UNUSED = 5,
    TOKEN_BYTE = 6,
};

/* Two neighbours become one. Open addressing, linear probing, at most half full. */
struct merge {
    uint64_t pair; /* left id << 32 | right id; MERGE_NONE marks an empty slot */
    uint32_t rank; /* lower merges first; unique */
    int32_t merged;
};

#define MERGE_NONE UINT64_MAX

#define MAX_VOCAB ((size_t)1 << 22)

/* How SentencePiece writes a space (U+2581). */
#define SPM_SPACE     "\342\226\201"
#define SPM_SPACE_LEN 3

struct tokenizer {
    bool spm; /* SentencePiece BPE; else byte-level BPE */
    int n_vocab;
    int32_t bos, eos, unknown; /* TOKENIZER_NONE where there is none */
    bool add_bos;
    bool space_prefix;   /* spm: a text, also one behind a special token, gets a space */
    bool strips;         /* white space behind special tokens drops (special_strips) */
    struct split *split; /* byte-level only */
    char *bytes;         /* all pieces in a row */
    size_t *at;          /* [n_vocab + 1] where each begins */
    uint8_t *kind;       /* [n_vocab] enum token_kind */
    bool *ends;          /* [n_vocab] ends generation */

    int32_t *words;       /* hash table of ordinary tokens by bytes; -1 empty */
    size_t words_mask;    /* its size less one; a power of two */
    size_t longest_word;  /* bytes */
    uint32_t *order;      /* [n_vocab] spm: the least merges first; NULL otherwise */
    struct merge *merges; /* byte-level: hash table by pair */
    size_t merges_mask;
    uint64_t hash_seed;

    int32_t byte_token[256]; /* -1 where the vocabulary lacks one */

    int32_t *added; /* [n_added] control and user-defined, sorted by bytes */
    int n_added;
    bool added_first[256]; /* some added token begins with this byte */
};

static inline const char *
token_bytes(const struct tokenizer *t, int32_t id)
{
    return t->bytes + t->at[id];
}

static inline size_t
token_len(const struct tokenizer *t, int32_t id)
{
    return t->at[id + 1] - t->at[id];
}

/* A power of two that n entries fill at most half, less one. */
static inline size_t
table_mask(size_t n)
{
    size_t size = 16;

    while (size < 2 * n)
        size *= 2;
    return size - 1;
}

/* ---- tokenizer_vocab.c ---- */

/* Texts and kinds of all tokens, then (after special_types) their hash table. */
int vocab_load(struct tokenizer *t, const struct gguf *g, struct err *err);
int vocab_index(struct tokenizer *t);

/* Length of the array `key`, whose elements are of type `elem`; CE_ENOTFOUND with a
 * text that names the key. */
int vocab_array(const struct gguf *g, const char *key, uint32_t elem, size_t *n,
                struct err *err);

/* From printable form to bytes; out: [len]. Returns the length, or -1 when some
 * character stands for no byte. */
int64_t vocab_unmap(const char *text, size_t len, char *out);

/* An ordinary token with exactly these bytes, or -1. */
int32_t tokenizer_find_word(const struct tokenizer *t, const char *bytes, size_t len);

/* ---- tokenizer_special.c ---- */

/* Make control tokens of those that are known by name; set t->ends. */
void special_types(struct tokenizer *t);
int special_load(struct tokenizer *t, const struct gguf *g, struct err *err);

/* The longest special or user-defined token at text[0..len); other than user-defined
 * ones only within the first `open` bytes. -1: none. */
int32_t special_match(const struct tokenizer *t, const char *text, size_t len,
                      size_t open);
bool special_strips(const struct tokenizer *t, int32_t id);

/* ---- one call of tokenizer_encode* ---- */

#define NOWHERE UINT32_MAX

struct symbol {
    int32_t id; /* byte-level: -1 merged into the symbol on its left; spm: may lack one */
    uint32_t prev, next;
    uint32_t at, len; /* spm: where in the text; len 0: merged into the one on the left */
    int32_t pair;     /* spm: the token that this and the next would make, or -1 */
};

struct encoder {
    const struct tokenizer *t;
    int32_t *ids;
    size_t cap, n;
    bool after_special; /* at the beginning, or right behind a special token */
    struct symbol *symbols;
    size_t symbols_cap;
    uint64_t *heap; /* of pairs, least first */
    size_t heap_cap, heap_n;
    struct err *err;
};

static inline void
emit(struct encoder *e, int32_t id)
{
    if (e->n < e->cap)
        e->ids[e->n] = id;
    e->n++;
}

/* Room for n symbols and their pairs: each merge takes one pair and adds two, so at
 * most n - 1 + n - 1 are in the heap. */
int encoder_reserve(struct encoder *e, size_t n);
void encoder_push(struct encoder *e, uint64_t v);
uint64_t encoder_pop(struct encoder *e);

/* ---- tokenizer_bpe.c, tokenizer_spm.c ---- */

int bpe_load(struct tokenizer *t, const struct gguf *g, struct err *err);
int bpe_encode(struct encoder *e, const char *text, size_t len);
int spm_load(struct tokenizer *t, const struct gguf *g, struct err *err);
int spm_encode(struct encoder *e, const char *text, size_t len);

static inline size_t
pair_slot(const struct tokenizer *t, uint64_t pair)
{
    uint64_t h = (pair ^ t->hash_seed) * 0x9e3779b97f4a7c15;

    return (size_t)(h >> 32 ^ h >> 7) & t->merges_mask;
}

static inline const struct merge *
find_merge(const struct tokenizer *t, int32_t left, int32_t right)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t i = pair_slot(t, pair);

    while (t->merges[i].pair != MERGE_NONE) {
        if (t->merges[i].pair == pair)
            return &t->merges[i];
        i = (i + 1) & t->merges_mask;
    }
    return NULL;
}

#endif
