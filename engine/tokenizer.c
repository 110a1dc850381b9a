/* SPDX-License-Identifier: Apache-2.0
 * tokenizer.c - building the vocabulary from a GGUF file, and looking things up.
 *
 * Token texts are turned from their printable form into the bytes they stand for
 * at once (byte_map.h), so decoding is a copy, and merges are found by numbers,
 * not by strings: a merge "a b" of rank r becomes (id of a, id of b) -> (r, id of
 * ab). Control and user-defined tokens are stored as they read; they are matched in
 * the text before any word is cut, longest first.
 *
 * A file whose parts do not fit together (a merge of tokens that do not exist, ids
 * out of range) is refused by name; a vocabulary without some byte is accepted and
 * fails when a text needs that byte.
 *
 * Thread: immutable after tokenizer_open.
 */
#include "engine/tokenizer.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "engine/byte_map.h"
#include "engine/tokenizer_internal.h"

#define MAX_VOCAB ((size_t)1 << 22)

#define KEY_TOKENS "tokenizer.ggml.tokens"
#define KEY_TYPES  "tokenizer.ggml.token_type"
#define KEY_MERGES "tokenizer.ggml.merges"

/* ---- hash of ordinary tokens ---- */

static size_t
word_slot(const struct tokenizer *t, const char *bytes, size_t len)
{
    uint64_t h = t->hash_seed ^ len, part;
    size_t n;

    for (; len > 0; bytes += n, len -= n) {
        n = len < 8 ? len : 8;
        part = 0;
        memcpy(&part, bytes, n);
        h = (h ^ part) * 0x9e3779b97f4a7c15;
        h ^= h >> 29;
    }
    return (size_t)(h >> 32 ^ h) & t->words_mask;
}

int32_t
tokenizer_find_word(const struct tokenizer *t, const char *bytes, size_t len)
{
    size_t i = word_slot(t, bytes, len);
    int32_t id;

    while ((id = t->words[i]) >= 0) {
        if (token_len(t, id) == len && memcmp(token_bytes(t, id), bytes, len) == 0)
            return id;
        i = (i + 1) & t->words_mask;
    }
    return -1;
}

/* A power of two that n entries fill at most half, less one. */
static size_t
table_mask(size_t n)
{
    size_t size = 16;

    while (size < 2 * n)
        size *= 2;
    return size - 1;
}

static int
index_words(struct tokenizer *t)
{
    size_t i;
    int32_t id;

    t->words_mask = table_mask((size_t)t->n_vocab);
    t->words = malloc((t->words_mask + 1) * sizeof(*t->words));
    if (t->words == NULL)
        return CE_ENOMEM;
    memset(t->words, 0xff, (t->words_mask + 1) * sizeof(*t->words));
    for (id = 0; id < t->n_vocab; id++) {
        if (t->kind[id] != TOKEN_NORMAL || token_len(t, id) == 0 ||
            tokenizer_find_word(t, token_bytes(t, id), token_len(t, id)) >= 0)
            continue;
        i = word_slot(t, token_bytes(t, id), token_len(t, id));
        while (t->words[i] >= 0)
            i = (i + 1) & t->words_mask;
        t->words[i] = id;
    }
    for (i = 0; i < 256; i++) {
        char byte = (char)i;

        t->byte_token[i] = tokenizer_find_word(t, &byte, 1);
    }
    return 0;
}

/* ---- tokens ---- */

/* From printable form to bytes; out: [len]. Returns the length, or -1 when some
 * character stands for no byte. */
static int64_t
unmap(const char *text, size_t len, char *out)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t i = 0, n = 0;
    uint32_t c;
    int byte;

    while (i < len) {
        c = p[i++];
        if (c >= 0xc0 && c < 0xe0 && i < len && (p[i] & 0xc0) == 0x80)
            c = (c & 0x1f) << 6 | (p[i++] & 0x3fu);
        else if (c >= 0x80)
            return -1;
        byte = byte_map_byte(c);
        if (byte < 0)
            return -1;
        out[n++] = (char)byte;
    }
    return (int64_t)n;
}

static int
token_array(const struct gguf *g, const char *key, uint32_t elem, size_t *n,
            struct err *err)
{
    uint32_t type;
    int rc = gguf_get_array(g, key, &type, n, err);

    if (rc == CE_ENOTFOUND)
        return err_set(err, CE_EFORMAT, "%s: key %s is missing", gguf_path(g), key);
    if (rc == 0 && type != elem)
        return err_set(err, CE_EFORMAT, "%s: key %s: elements of the wrong type",
                       gguf_path(g), key);
    return rc;
}

/* Room for n tokens of `total` bytes together. */
static int
alloc_tokens(struct tokenizer *t, size_t n, size_t total)
{
    t->n_vocab = (int)n;
    t->bytes = malloc(total + 1);
    t->at = calloc(n + 1, sizeof(*t->at));
    t->kind = calloc(n, sizeof(*t->kind));
    t->ends = calloc(n, sizeof(*t->ends));
    t->added = calloc(n, sizeof(*t->added));
    return t->bytes == NULL || t->at == NULL || t->kind == NULL || t->ends == NULL ||
                   t->added == NULL
               ? CE_ENOMEM
               : 0;
}

static int
load_tokens(struct tokenizer *t, const struct gguf *g, struct err *err)
{
    size_t n, n_types, i, total = 0;
    struct gguf_str s;
    int64_t kind, len;
    int rc;

    if ((rc = token_array(g, KEY_TOKENS, GGUF_VAL_STRING, &n, err)) != 0 ||
        (rc = token_array(g, KEY_TYPES, GGUF_VAL_I32, &n_types, err)) != 0)
        return rc;
    if (n == 0 || n > MAX_VOCAB || n_types != n)
        return err_set(err, CE_EFORMAT, "%s: %zu tokens with %zu types", gguf_path(g), n,
                       n_types);
    for (i = 0; i < n && gguf_array_str(g, KEY_TOKENS, i, &s) == 0; i++)
        total += s.len;
    if (alloc_tokens(t, n, total) != 0)
        return err_set(err, CE_ENOMEM, "%s: no memory for the vocabulary", gguf_path(g));
    for (i = 0; i < n; i++) {
        if (gguf_array_str(g, KEY_TOKENS, i, &s) != 0 ||
            gguf_array_i64(g, KEY_TYPES, i, &kind) != 0 || kind < TOKEN_NORMAL ||
            kind > TOKEN_BYTE)
            return err_set(err, CE_EFORMAT, "%s: token %zu has an unknown type",
                           gguf_path(g), i);
        t->kind[i] = (uint8_t)kind;
        len = kind == TOKEN_NORMAL ? unmap(s.data, s.len, t->bytes + t->at[i]) : -1;
        if (len < 0) { /* as it reads */
            memcpy(t->bytes + t->at[i], s.data, s.len);
            len = (int64_t)s.len;
        }
        t->at[i + 1] = t->at[i] + (size_t)len;
    }
    return 0;
}

/* ---- merges ---- */

static void
put_merge(struct tokenizer *t, int32_t left, int32_t right, uint32_t rank, int32_t merged)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t i = pair_slot(t, pair);

    while (t->merges[i].pair != MERGE_NONE) {
        if (t->merges[i].pair == pair)
            return; /* listed before: the lower rank counts */
        i = (i + 1) & t->merges_mask;
    }
    t->merges[i] = (struct merge){ pair, rank, merged };
}

/* One line "left right"; `buf` has room for its bytes. */
static bool
add_merge(struct tokenizer *t, const struct gguf_str *line, uint32_t rank, char *buf)
{
    const char *space = line->len > 1 ? memchr(line->data + 1, ' ', line->len - 1) : NULL;
    size_t left_len;
    int64_t nl, nr;
    int32_t left, right, merged;

    if (space == NULL)
        return false;
    left_len = (size_t)(space - line->data);
    nl = unmap(line->data, left_len, buf);
    if (nl < 0)
        return false;
    nr = unmap(space + 1, line->len - left_len - 1, buf + nl);
    if (nr < 0)
        return false;
    left = tokenizer_find_word(t, buf, (size_t)nl);
    right = tokenizer_find_word(t, buf + nl, (size_t)nr);
    merged = tokenizer_find_word(t, buf, (size_t)(nl + nr));
    if (left < 0 || right < 0 || merged < 0)
        return false;
    put_merge(t, left, right, rank, merged);
    return true;
}

static int
load_merges(struct tokenizer *t, const struct gguf *g, struct err *err)
{
    size_t n, i, longest = 0;
    struct gguf_str line = { "", 0 };
    char *buf;
    int rc = token_array(g, KEY_MERGES, GGUF_VAL_STRING, &n, err);

    if (rc != 0)
        return rc;
    if (n > MAX_VOCAB)
        return err_set(err, CE_EFORMAT, "%s: %zu merges", gguf_path(g), n);
    t->merges_mask = table_mask(n);
    t->merges = malloc((t->merges_mask + 1) * sizeof(*t->merges));
    for (i = 0; i < n; i++)
        if (gguf_array_str(g, KEY_MERGES, i, &line) == 0 && line.len > longest)
            longest = line.len;
    buf = malloc(longest + 1);
    if (t->merges == NULL || buf == NULL) {
        free(buf);
        return err_set(err, CE_ENOMEM, "%s: no memory for the merges", gguf_path(g));
    }
    for (i = 0; i <= t->merges_mask; i++)
        t->merges[i].pair = MERGE_NONE;
    for (i = 0; rc == 0 && i < n; i++)
        if (gguf_array_str(g, KEY_MERGES, i, &line) != 0 ||
            !add_merge(t, &line, (uint32_t)i, buf))
            rc = err_set(err, CE_EFORMAT,
                         "%s: merge %zu (\"%.*s\") is not of two tokens into a third",
                         gguf_path(g), i, line.len < 60 ? (int)line.len : 60, line.data);
    free(buf);
    return rc;
}

/* ---- special tokens ---- */

static int
compare_added(const void *a, const void *b, void *ctx)
{
    const struct tokenizer *t = ctx;
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    size_t nx = token_len(t, x), ny = token_len(t, y);
    int order = memcmp(token_bytes(t, x), token_bytes(t, y), nx < ny ? nx : ny);

    if (order != 0)
        return order;
    if (nx != ny)
        return nx < ny ? -1 : 1;
    return x < y ? -1 : x > y;
}

static void
index_added(struct tokenizer *t)
{
    int32_t id;

    for (id = 0; id < t->n_vocab; id++) {
        if ((t->kind[id] != TOKEN_CONTROL && t->kind[id] != TOKEN_USER_DEFINED) ||
            token_len(t, id) == 0)
            continue;
        t->added[t->n_added++] = id;
        t->added_first[(unsigned char)token_bytes(t, id)[0]] = true;
    }
    qsort_r(t->added, (size_t)t->n_added, sizeof(*t->added), compare_added, t);
}

/* An id stored under `key`; TOKENIZER_NONE when there is none. */
static int
load_id(const struct tokenizer *t, const struct gguf *g, const char *key, int32_t *id,
        struct err *err)
{
    uint64_t v;
    int rc = gguf_get_u64(g, key, &v, err);

    *id = TOKENIZER_NONE;
    if (rc == CE_ENOTFOUND)
        return 0;
    if (rc != 0)
        return rc;
    if (v >= (uint64_t)t->n_vocab)
        return err_set(err, CE_EFORMAT, "%s: key %s: token %llu of %d", gguf_path(g), key,
                       (unsigned long long)v, t->n_vocab);
    *id = (int32_t)v;
    return 0;
}

static int
load_special(struct tokenizer *t, const struct gguf *g, struct err *err)
{
    static const char *const ending[] = { "<|im_end|>", "<|endoftext|>",   "<|eot_id|>",
                                          "<|eom_id|>", "<|end_of_text|>", "<|end|>",
                                          "</s>",       "<end_of_turn>" };
    int32_t eot, eom, id;
    size_t i;
    int rc;

    if ((rc = load_id(t, g, "tokenizer.ggml.bos_token_id", &t->bos, err)) != 0 ||
        (rc = load_id(t, g, "tokenizer.ggml.eos_token_id", &t->eos, err)) != 0 ||
        (rc = load_id(t, g, "tokenizer.ggml.eot_token_id", &eot, err)) != 0 ||
        (rc = load_id(t, g, "tokenizer.ggml.eom_token_id", &eom, err)) != 0)
        return rc;
    t->add_bos = split_default_bos(t->split);
    rc = gguf_get_bool(g, "tokenizer.ggml.add_bos_token", &t->add_bos, err);
    if (rc != 0 && rc != CE_ENOTFOUND)
        return rc;
    if (t->bos == TOKENIZER_NONE)
        t->add_bos = false;
    index_added(t);
    for (i = 0; i < sizeof(ending) / sizeof(ending[0]); i++)
        if ((id = tokenizer_find_special(t, ending[i])) != TOKENIZER_NONE)
            t->ends[id] = true;
    if (t->eos != TOKENIZER_NONE)
        t->ends[t->eos] = true;
    if (eot != TOKENIZER_NONE)
        t->ends[eot] = true;
    if (eom != TOKENIZER_NONE)
        t->ends[eom] = true;
    return 0;
}

/* ---- opening ---- */

static int
load_split(struct tokenizer *t, const struct gguf *g, struct err *err)
{
    struct gguf_str s;
    int rc = gguf_get_str(g, "tokenizer.ggml.model", &s, err);

    if (rc == CE_ENOTFOUND)
        return err_set(err, CE_EFORMAT, "%s: no tokenizer (key tokenizer.ggml.model)",
                       gguf_path(g));
    if (rc != 0)
        return rc;
    if (s.len != 4 || memcmp(s.data, "gpt2", 4) != 0)
        return err_set(err, CE_EUNSUPPORTED,
                       "%s: tokenizer \"%.*s\" is not known (known: gpt2)", gguf_path(g),
                       s.len < 64 ? (int)s.len : 64, s.data);
    rc = gguf_get_str(g, "tokenizer.ggml.pre", &s, err);
    if (rc == CE_ENOTFOUND)
        return err_set(
            err, CE_EFORMAT,
            "%s: key tokenizer.ggml.pre is missing: how to cut words is not known",
            gguf_path(g));
    if (rc != 0)
        return rc;
    rc = split_open(&t->split, s.data, s.len, err);
    if (rc != 0)
        err_prefix(err, "%s", gguf_path(g));
    return rc;
}

int
tokenizer_open(struct tokenizer **out, const struct gguf *g, struct err *err)
{
    struct tokenizer *t = calloc(1, sizeof(*t));
    int rc;

    *out = NULL;
    if (t == NULL)
        return err_set(err, CE_ENOMEM, "%s: no memory for the vocabulary", gguf_path(g));
    /* The hash is seeded so that no file can be made to collide; it decides about
     * speed alone, so without randomness a constant will do. */
    if (getrandom(&t->hash_seed, sizeof(t->hash_seed), GRND_NONBLOCK) < 0)
        t->hash_seed = 0x2545f4914f6cdd1d;
    if ((rc = load_split(t, g, err)) == 0 && (rc = load_tokens(t, g, err)) == 0 &&
        (rc = index_words(t)) != 0)
        err_set(err, rc, "%s: no memory for the vocabulary", gguf_path(g));
    if (rc == 0 && (rc = load_merges(t, g, err)) == 0)
        rc = load_special(t, g, err);
    if (rc != 0)
        tokenizer_free(t);
    else
        *out = t;
    return rc;
}

void
tokenizer_free(struct tokenizer *t)
{
    if (t == NULL)
        return;
    split_free(t->split);
    free(t->bytes);
    free(t->at);
    free(t->kind);
    free(t->ends);
    free(t->words);
    free(t->merges);
    free(t->added);
    free(t);
}

/* ---- looking up ---- */

static bool
in_range(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->n_vocab;
}

const char *
tokenizer_piece(const struct tokenizer *t, int32_t id, size_t *len)
{
    *len = in_range(t, id) ? token_len(t, id) : 0;
    return *len > 0 ? token_bytes(t, id) : "";
}

int
tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n_ids,
                 bool with_special, char *out, size_t cap, size_t *n)
{
    size_t i, len, fits;
    const char *piece;

    *n = 0;
    for (i = 0; i < n_ids; i++) {
        if (tokenizer_is_special(t, ids[i]) && !with_special)
            continue;
        piece = tokenizer_piece(t, ids[i], &len);
        fits = *n < cap ? cap - *n : 0;
        if (len > 0 && fits > 0)
            memcpy(out + *n, piece, len < fits ? len : fits);
        *n += len;
    }
    return *n <= cap ? 0 : CE_ECONTEXT;
}

int
tokenizer_n_vocab(const struct tokenizer *t)
{
    return t->n_vocab;
}

int32_t
tokenizer_bos(const struct tokenizer *t)
{
    return t->bos;
}

int32_t
tokenizer_eos(const struct tokenizer *t)
{
    return t->eos;
}

bool
tokenizer_add_bos(const struct tokenizer *t)
{
    return t->add_bos;
}

bool
tokenizer_is_end_of_generation(const struct tokenizer *t, int32_t id)
{
    return in_range(t, id) && t->ends[id];
}

bool
tokenizer_is_special(const struct tokenizer *t, int32_t id)
{
    return in_range(t, id) && t->kind[id] == TOKEN_CONTROL;
}

int32_t
tokenizer_find_special(const struct tokenizer *t, const char *text)
{
    size_t len = strlen(text);
    int i;

    for (i = 0; i < t->n_added; i++) {
        int32_t id = t->added[i];

        if (t->kind[id] == TOKEN_CONTROL && token_len(t, id) == len &&
            memcmp(token_bytes(t, id), text, len) == 0)
            return id;
    }
    return TOKENIZER_NONE;
}

const char *
tokenizer_pre(const struct tokenizer *t)
{
    return split_name(t->split);
}
