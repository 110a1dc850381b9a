/* SPDX-License-Identifier: Apache-2.0
 * tokenizer_internal.h - the vocabulary in memory: tokenizer.c builds it,
 * tokenizer_encode.c encodes with it. Included by those two alone.
 */
#ifndef CE_ENGINE_TOKENIZER_INTERNAL_H
#define CE_ENGINE_TOKENIZER_INTERNAL_H

#include "engine/tokenizer.h"
#include "engine/tokenizer_split.h"

/* Values of tokenizer.ggml.token_type. */
enum token_kind {
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

struct tokenizer {
    int n_vocab;
    int32_t bos, eos;
    bool add_bos;
    struct split *split;
    char *bytes;   /* all pieces in a row */
    size_t *at;    /* [n_vocab + 1] where each begins */
    uint8_t *kind; /* [n_vocab] enum token_kind */
    bool *ends;    /* [n_vocab] ends generation */

    int32_t *words;       /* hash table of ordinary tokens by bytes; -1 empty */
    size_t words_mask;    /* its size less one; a power of two */
    struct merge *merges; /* hash table by pair */
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

/* An ordinary token with exactly these bytes, or -1. */
int32_t tokenizer_find_word(const struct tokenizer *t, const char *bytes, size_t len);

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
