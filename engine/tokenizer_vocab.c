/* SPDX-License-Identifier: Apache-2.0
 * tokenizer_vocab.c - the tokens of a GGUF file as the bytes they stand for.
 *
 * Texts are turned into bytes at once, so decoding is a copy and encoding compares
 * with the text as it came: byte-level vocabularies write bytes as characters
 * (byte_map.h), SentencePiece ones write the space as U+2581 and single bytes as
 * <0x0A>. Control and user-defined tokens are stored as they read; they are found in
 * the text before anything is cut or merged (tokenizer_special.c).
 *
 * Ordinary tokens are found through one hash table; of two with the same bytes the
 * first counts. A file may leave the types out (then all are ordinary) or list more
 * than there are tokens; a vocabulary without some byte fails when a text needs it.
 *
 * Used by: tokenizer.c. Thread: as tokenizer_open.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/byte_map.h"
#include "engine/tokenizer_internal.h"

#define KEY_TOKENS "tokenizer.ggml.tokens"
#define KEY_TYPES  "tokenizer.ggml.token_type"

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

static void
put_word(struct tokenizer *t, int32_t id)
{
    size_t len = token_len(t, id), i;

    if (len == 0 || tokenizer_find_word(t, token_bytes(t, id), len) >= 0)
        return;
    if (len > t->longest_word)
        t->longest_word = len;
    i = word_slot(t, token_bytes(t, id), len);
    while (t->words[i] >= 0)
        i = (i + 1) & t->words_mask;
    t->words[i] = id;
}

/* May merges arrive at this user-defined token? Under SentencePiece its text is
 * compared with spaces already written as U+2581, so not when it holds either. */
static bool
merges_reach(const struct tokenizer *t, int32_t id)
{
    const char *s = token_bytes(t, id);
    size_t len = token_len(t, id);

    return !t->spm || (memchr(s, ' ', len) == NULL &&
                       memmem(s, len, SPM_SPACE, SPM_SPACE_LEN) == NULL);
}

int
vocab_index(struct tokenizer *t)
{
    int32_t id;
    int i;

    t->words_mask = table_mask((size_t)t->n_vocab);
    t->words = malloc((t->words_mask + 1) * sizeof(*t->words));
    if (t->words == NULL)
        return CE_ENOMEM;
    memset(t->words, 0xff, (t->words_mask + 1) * sizeof(*t->words));
    for (id = 0; id < t->n_vocab; id++)
        if (t->kind[id] == TOKEN_NORMAL)
            put_word(t, id);
    for (id = 0; id < t->n_vocab; id++)
        if (t->kind[id] == TOKEN_USER_DEFINED && merges_reach(t, id))
            put_word(t, id);
    for (i = 0; i < 256; i++) {
        char byte = (char)i;

        t->byte_token[i] = tokenizer_find_word(t, &byte, 1);
    }
    for (id = t->n_vocab - 1; id >= 0; id--)
        if (t->kind[id] == TOKEN_BYTE && token_len(t, id) == 1)
            t->byte_token[(unsigned char)token_bytes(t, id)[0]] = id;
    return 0;
}

/* ---- texts to bytes ---- */

/* From printable form to bytes; out: [len]. Returns the length, or -1 when some
 * character stands for no byte. */
int64_t
vocab_unmap(const char *text, size_t len, char *out)
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

/* U+2581 to spaces; out: [len]. */
static size_t
unescape(const char *text, size_t len, char *out)
{
    size_t i = 0, n = 0;

    while (i < len)
        if (len - i >= SPM_SPACE_LEN && memcmp(text + i, SPM_SPACE, SPM_SPACE_LEN) == 0) {
            out[n++] = ' ';
            i += SPM_SPACE_LEN;
        } else {
            out[n++] = text[i++];
        }
    return n;
}

static int
hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The byte of a text "<0x0A>", or -1. */
static int
named_byte(const struct gguf_str *s)
{
    if (s->len != 6 || memcmp(s->data, "<0x", 3) != 0 || s->data[5] != '>' ||
        hex(s->data[3]) < 0 || hex(s->data[4]) < 0)
        return -1;
    return hex(s->data[3]) << 4 | hex(s->data[4]);
}

/* Write the bytes of token i, whose kind is set; out: [s->len]. Returns how many. */
static size_t
put_bytes(struct tokenizer *t, size_t i, const struct gguf_str *s, char *out)
{
    int64_t len = -1;
    int byte;

    if (t->spm && t->kind[i] != TOKEN_CONTROL && (byte = named_byte(s)) >= 0) {
        t->kind[i] = TOKEN_BYTE;
        out[0] = (char)byte;
        return 1;
    }
    if (t->kind[i] == TOKEN_NORMAL)
        len = t->spm ? (int64_t)unescape(s->data, s->len, out)
                     : vocab_unmap(s->data, s->len, out);
    if (len < 0) { /* as it reads */
        memcpy(out, s->data, s->len);
        len = (int64_t)s->len;
    }
    return (size_t)len;
}

/* ---- loading ---- */

int
vocab_array(const struct gguf *g, const char *key, uint32_t elem, size_t *n,
            struct err *err)
{
    uint32_t type;
    int rc = gguf_get_array(g, key, &type, n, err);

    if (rc == CE_ENOTFOUND)
        return err_set(err, rc, "%s: key %s is missing", gguf_path(g), key);
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

/* The kind of token i; all are ordinary in a file without types. */
static int
load_kind(struct tokenizer *t, const struct gguf *g, size_t i, bool typed,
          struct err *err)
{
    int64_t kind = TOKEN_NORMAL;

    if (typed && (gguf_array_i64(g, KEY_TYPES, i, &kind) != 0 || kind < TOKEN_UNDEFINED ||
                  kind > TOKEN_BYTE))
        return err_set(err, CE_EFORMAT, "%s: token %zu has an unknown type", gguf_path(g),
                       i);
    t->kind[i] = (uint8_t)(kind == TOKEN_UNDEFINED ? TOKEN_NORMAL : kind);
    return 0;
}

int
vocab_load(struct tokenizer *t, const struct gguf *g, struct err *err)
{
    size_t n, n_types = 0, i, total = 0;
    struct gguf_str s;
    int rc;

    if ((rc = vocab_array(g, KEY_TOKENS, GGUF_VAL_STRING, &n, err)) != 0)
        return rc == CE_ENOTFOUND ? CE_EFORMAT : rc;
    rc = vocab_array(g, KEY_TYPES, GGUF_VAL_I32, &n_types, err);
    if (rc != 0 && rc != CE_ENOTFOUND)
        return rc;
    if (n == 0 || n > MAX_VOCAB || (rc == 0 && n_types < n))
        return err_set(err, CE_EFORMAT, "%s: %zu tokens with %zu types", gguf_path(g), n,
                       n_types);
    for (i = 0; i < n && gguf_array_str(g, KEY_TOKENS, i, &s) == 0; i++)
        total += s.len;
    if (alloc_tokens(t, n, total) != 0)
        return err_set(err, CE_ENOMEM, "%s: no memory for the vocabulary", gguf_path(g));
    for (i = 0; i < n; i++) {
        if (gguf_array_str(g, KEY_TOKENS, i, &s) != 0)
            return err_set(err, CE_EFORMAT, "%s: token %zu has no text", gguf_path(g), i);
        if ((rc = load_kind(t, g, i, n_types != 0, err)) != 0)
            return rc;
        t->at[i + 1] = t->at[i] + put_bytes(t, i, &s, t->bytes + t->at[i]);
    }
    return 0;
}
