/* SPDX-License-Identifier: Apache-2.0
 * tokenizer_spm.c - SentencePiece BPE: scores instead of a merge list, characters
 * instead of bytes, and no words: a text is merged as a whole.
 *
 * Two neighbours may merge when the vocabulary has what they make; the best score
 * goes first, leftmost among equals. A character that stays without a token is
 * written as its bytes (<0xE2> ...), and so is a byte that is not UTF-8; where the
 * vocabulary has no such token either, it is the unknown token.
 *
 * The text is compared with tokens in which U+2581 is already a space, so instead of
 * spaces being escaped, the few U+2581 that a text may hold become spaces (the same
 * tokens, three times less to store), behind a space of its own where the vocabulary
 * puts one.
 *
 * List, heap and cost are as in tokenizer_bpe.c. An entry of the heap is order << 32
 * | place, where `order` sorts scores downwards. Tokens may share a score, so an
 * entry may be taken for a pair that came later at the same place; that pair's own
 * entry is then the same number, so the order of merges does not change.
 *
 * Used by: tokenizer.c, tokenizer_encode.c. Thread: any; state is the encoder's.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/tokenizer_internal.h"
#include "engine/utf8_stream.h"

#define KEY_SCORES "tokenizer.ggml.scores"

/* ---- scores ---- */

/* A number that is the smaller the greater the score. */
static uint32_t
order_of(double score)
{
    float f = isnan(score) ? -INFINITY : (float)score + 0.0f; /* no negative zero */
    uint32_t bits;

    memcpy(&bits, &f, sizeof(bits));
    return (bits & 0x80000000u) != 0 ? bits : 0x7fffffffu - bits;
}

int
spm_load(struct tokenizer *t, const struct gguf *g, struct err *err)
{
    uint32_t type = GGUF_VAL_F32;
    size_t n = (size_t)t->n_vocab, i;
    double score = 0;
    int64_t whole;
    int rc = gguf_get_array(g, KEY_SCORES, &type, &n, err);

    if (rc == CE_ENOTFOUND)
        return err_set(err, CE_EFORMAT, "%s: key %s is missing", gguf_path(g),
                       KEY_SCORES);
    if (rc != 0)
        return rc;
    if (type != GGUF_VAL_F32 && type != GGUF_VAL_I32)
        return err_set(err, CE_EFORMAT, "%s: key %s: elements of the wrong type",
                       gguf_path(g), KEY_SCORES);
    if (n < (size_t)t->n_vocab)
        return err_set(err, CE_EFORMAT, "%s: %d tokens with %zu scores", gguf_path(g),
                       t->n_vocab, n);
    t->order = calloc((size_t)t->n_vocab, sizeof(*t->order));
    if (t->order == NULL)
        return err_set(err, CE_ENOMEM, "%s: no memory for the scores", gguf_path(g));
    for (i = 0; i < (size_t)t->n_vocab; i++) {
        if (type == GGUF_VAL_I32 && gguf_array_i64(g, KEY_SCORES, i, &whole) == 0)
            score = (double)whole;
        else if (gguf_array_f64(g, KEY_SCORES, i, &score) != 0)
            return err_set(err, CE_EFORMAT, "%s: token %zu has no score", gguf_path(g),
                           i);
        t->order[i] = order_of(score);
    }
    return 0;
}

/* ---- merging ---- */

/* Note what the symbol at `left` makes with the next, and let it wait its turn. */
static void
offer(struct encoder *e, const char *text, uint32_t left)
{
    struct symbol *s = &e->symbols[left];
    size_t len;

    s->pair = -1;
    if (s->next == NOWHERE)
        return;
    len = (size_t)s->len + e->symbols[s->next].len;
    if (len > e->t->longest_word)
        return;
    s->pair = tokenizer_find_word(e->t, text + s->at, len);
    if (s->pair >= 0)
        encoder_push(e, (uint64_t)e->t->order[s->pair] << 32 | left);
}

static void
merge_all(struct encoder *e, const char *text)
{
    struct symbol *left, *right;
    uint32_t at;
    uint64_t v;

    while (e->heap_n > 0) {
        v = encoder_pop(e);
        at = (uint32_t)v;
        left = &e->symbols[at];
        if (left->len == 0 || left->pair < 0 || e->t->order[left->pair] != v >> 32)
            continue; /* one of the two has merged elsewhere meanwhile */
        right = &e->symbols[left->next];
        left->id = left->pair;
        left->len += right->len;
        left->next = right->next;
        right->len = 0;
        if (left->next != NOWHERE)
            e->symbols[left->next].prev = at;
        if (left->prev != NOWHERE)
            offer(e, text, left->prev);
        offer(e, text, at);
    }
}

static int
emit_symbol(struct encoder *e, const char *text, const struct symbol *s)
{
    int32_t id = s->id >= 0 ? s->id : tokenizer_find_word(e->t, text + s->at, s->len);
    uint32_t i;

    if (id >= 0) {
        emit(e, id);
        return 0;
    }
    for (i = 0; i < s->len; i++) {
        unsigned char byte = (unsigned char)text[s->at + i];

        id = e->t->byte_token[byte];
        if (id < 0) /* once for the whole character */
            id = i == 0 ? e->t->unknown : TOKENIZER_NONE;
        if (id >= 0)
            emit(e, id);
        else if (e->t->unknown < 0)
            return err_set(e->err, CE_EFORMAT,
                           "the vocabulary has no token for byte 0x%02x", byte);
    }
    return 0;
}

/* One symbol for each character, or for a byte that belongs to none. */
static size_t
cut_characters(struct encoder *e, const char *text, size_t len)
{
    size_t at = 0, n = 0;

    while (at < len) {
        int bytes = utf8_char(text + at, len - at);

        if (bytes < 1)
            bytes = 1;
        e->symbols[n] = (struct symbol){ .id = -1,
                                         .prev = (uint32_t)n - 1,
                                         .next = (uint32_t)n + 1,
                                         .at = (uint32_t)at,
                                         .len = (uint32_t)bytes,
                                         .pair = -1 };
        at += (size_t)bytes;
        n++;
    }
    e->symbols[0].prev = NOWHERE;
    e->symbols[n - 1].next = NOWHERE;
    return n;
}

/* The text as it is compared with tokens, behind a space where one is due. */
static char *
prepare(const struct encoder *e, const char *text, size_t len, size_t *n)
{
    char *out = malloc(len + 2), *p = out;
    size_t i = 0;

    if (out == NULL)
        return NULL;
    if (e->t->space_prefix && e->after_special)
        *p++ = ' ';
    while (i < len)
        if (len - i >= SPM_SPACE_LEN && memcmp(text + i, SPM_SPACE, SPM_SPACE_LEN) == 0) {
            *p++ = ' ';
            i += SPM_SPACE_LEN;
        } else {
            *p++ = text[i++];
        }
    *n = (size_t)(p - out);
    return out;
}

int
spm_encode(struct encoder *e, const char *text, size_t len)
{
    size_t n = 0, i, n_symbols;
    char *own = prepare(e, text, len, &n);
    uint32_t at;
    int rc = 0;

    if (own == NULL || encoder_reserve(e, n) != 0) {
        free(own);
        return err_set(e->err, CE_ENOMEM, "no memory to encode a text of %zu bytes", len);
    }
    n_symbols = cut_characters(e, own, n);
    for (i = 0; i + 1 < n_symbols; i++)
        offer(e, own, (uint32_t)i);
    merge_all(e, own);
    for (at = 0; rc == 0 && at != NOWHERE; at = e->symbols[at].next)
        rc = emit_symbol(e, own, &e->symbols[at]);
    free(own);
    return rc;
}
