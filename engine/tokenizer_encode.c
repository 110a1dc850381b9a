/* SPDX-License-Identifier: Apache-2.0
 * tokenizer_encode.c - text to ids: special tokens first, then what lies between them
 * by the vocabulary's kind (tokenizer_bpe.c, tokenizer_spm.c); the heap of both.
 *
 * Thread: any; all state is the call's own.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/tokenizer_internal.h"

/* ---- heap of pairs, least first ---- */

void
encoder_push(struct encoder *e, uint64_t v)
{
    size_t i = e->heap_n++, parent;

    while (i > 0 && e->heap[parent = (i - 1) / 2] > v) {
        e->heap[i] = e->heap[parent];
        i = parent;
    }
    e->heap[i] = v;
}

uint64_t
encoder_pop(struct encoder *e)
{
    uint64_t least = e->heap[0], v = e->heap[--e->heap_n];
    size_t i = 0, child;

    while ((child = 2 * i + 1) < e->heap_n) {
        if (child + 1 < e->heap_n && e->heap[child + 1] < e->heap[child])
            child++;
        if (v <= e->heap[child])
            break;
        e->heap[i] = e->heap[child];
        i = child;
    }
    e->heap[i] = v;
    return least;
}

int
encoder_reserve(struct encoder *e, size_t n)
{
    struct symbol *symbols;
    uint64_t *heap;
    size_t cap = n < 64 ? 64 : n;

    if (n > e->symbols_cap) {
        symbols = realloc(e->symbols, cap * sizeof(*symbols));
        if (symbols == NULL)
            return CE_ENOMEM;
        e->symbols = symbols;
        e->symbols_cap = cap;
    }
    if (2 * n > e->heap_cap) {
        heap = realloc(e->heap, 2 * cap * sizeof(*heap));
        if (heap == NULL)
            return CE_ENOMEM;
        e->heap = heap;
        e->heap_cap = 2 * cap;
    }
    return 0;
}

/* ---- special tokens ---- */

static int
encode_text(struct encoder *e, const char *text, size_t len)
{
    int rc = e->t->spm ? spm_encode(e, text, len) : bpe_encode(e, text, len);

    e->after_special = false;
    return rc;
}

/* Bytes from `at` to where the next literal range begins; 0 inside one. *k moves
 * along with `at`. */
static size_t
open_bytes(const struct text_range *literal, size_t n, size_t *k, size_t at, size_t len)
{
    while (*k < n && literal[*k].to <= at)
        (*k)++;
    if (*k == n)
        return len - at;
    return literal[*k].from > at ? literal[*k].from - at : 0;
}

static int
encode_all(struct encoder *e, const char *text, size_t len,
           const struct text_range *literal, size_t n_literal)
{
    size_t at = 0, start = 0, k = 0;
    int32_t id;
    int rc;

    while (at < len) {
        id = special_match(e->t, text + at, len - at,
                           open_bytes(literal, n_literal, &k, at, len));
        if (id < 0) {
            at++;
            continue;
        }
        if (at > start && (rc = encode_text(e, text + start, at - start)) != 0)
            return rc;
        emit(e, id);
        e->after_special = true;
        at += token_len(e->t, id);
        if (special_strips(e->t, id))
            while (at < len && strchr(" \t\n\v\f\r", text[at]) && text[at] != '\0')
                at++;
        start = at;
    }
    return len > start ? encode_text(e, text + start, len - start) : 0;
}

int
tokenizer_encode_ranges(const struct tokenizer *t, const char *text, size_t len,
                        const struct text_range *literal, size_t n_literal, int32_t *ids,
                        size_t cap, size_t *n, struct err *err)
{
    struct encoder e = {
        .t = t, .ids = ids, .cap = cap, .after_special = true, .err = err
    };
    int rc;

    *n = 0;
    if (len > TOKENIZER_MAX_TEXT)
        return err_set(err, CE_EQUOTA, "a text of %zu bytes is too long (limit %zu)", len,
                       TOKENIZER_MAX_TEXT);
    rc = encode_all(&e, text, len, literal, n_literal);
    free(e.symbols);
    free(e.heap);
    if (rc != 0)
        return rc;
    *n = e.n;
    if (e.n > cap)
        return err_set(err, CE_ECONTEXT, "the text has %zu tokens, %zu are allowed", e.n,
                       cap);
    return 0;
}

int
tokenizer_encode(const struct tokenizer *t, const char *text, size_t len,
                 bool parse_special, int32_t *ids, size_t cap, size_t *n, struct err *err)
{
    const struct text_range all = { 0, len };

    return tokenizer_encode_ranges(t, text, len, &all, parse_special ? 0 : 1, ids, cap, n,
                                   err);
}
