/* SPDX-License-Identifier: Apache-2.0
 * tokenizer_encode.c - text to ids: special tokens first, then words, then merges.
 *
 * Merging a word: its symbols form a linked list, first one per byte; every pair of
 * neighbours that has a merge waits in a binary heap, ordered by rank, then place.
 * The best is taken, its right symbol drops out, the two new pairs enter. An entry
 * is one number, rank << 32 | place of the left symbol; whether it is still true is
 * seen by looking the pair up again (ranks are unique). So a word of n bytes costs
 * n log n, also one of a megabyte, and the order of merges is that of the
 * definition: lowest rank first, leftmost among equals.
 *
 * Special tokens are found by narrowing a sorted list one byte at a time, so their
 * number does not matter; the longest at a place wins.
 *
 * Thread: any; all state is the call's own.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/tokenizer_internal.h"

#define NOWHERE UINT32_MAX

struct symbol {
    int32_t id; /* -1: merged into the symbol on its left */
    uint32_t prev, next;
};

/* One call of tokenizer_encode*. */
struct encoder {
    const struct tokenizer *t;
    int32_t *ids;
    size_t cap, n;
    struct symbol *symbols;
    size_t symbols_cap;
    uint64_t *heap;
    size_t heap_cap, heap_n;
    struct err *err;
};

static void
emit(struct encoder *e, int32_t id)
{
    if (e->n < e->cap)
        e->ids[e->n] = id;
    e->n++;
}

/* ---- heap of pairs, least first ---- */

static void
heap_push(struct encoder *e, uint64_t v)
{
    size_t i = e->heap_n++, parent;

    while (i > 0 && e->heap[parent = (i - 1) / 2] > v) {
        e->heap[i] = e->heap[parent];
        i = parent;
    }
    e->heap[i] = v;
}

static uint64_t
heap_pop(struct encoder *e)
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

/* ---- one word ---- */

/* Room for a word of len bytes: each merge takes one pair and adds two, so at most
 * len - 1 + len - 1 are in the heap. */
static int
reserve(struct encoder *e, size_t len)
{
    struct symbol *symbols;
    uint64_t *heap;
    size_t cap = len < 64 ? 64 : len;

    if (len > e->symbols_cap) {
        symbols = realloc(e->symbols, cap * sizeof(*symbols));
        if (symbols == NULL)
            return CE_ENOMEM;
        e->symbols = symbols;
        e->symbols_cap = cap;
    }
    if (2 * len > e->heap_cap) {
        heap = realloc(e->heap, 2 * cap * sizeof(*heap));
        if (heap == NULL)
            return CE_ENOMEM;
        e->heap = heap;
        e->heap_cap = 2 * cap;
    }
    return 0;
}

static const struct merge *
merge_at(const struct encoder *e, uint32_t left)
{
    const struct symbol *s = &e->symbols[left];

    if (s->id < 0 || s->next == NOWHERE)
        return NULL;
    return find_merge(e->t, s->id, e->symbols[s->next].id);
}

static void
offer(struct encoder *e, uint32_t left)
{
    const struct merge *m = merge_at(e, left);

    if (m != NULL)
        heap_push(e, (uint64_t)m->rank << 32 | left);
}

static void
merge_all(struct encoder *e)
{
    const struct merge *m;
    struct symbol *left, *right;
    uint32_t at;
    uint64_t v;

    while (e->heap_n > 0) {
        v = heap_pop(e);
        at = (uint32_t)v;
        m = merge_at(e, at);
        if (m == NULL || m->rank != (uint32_t)(v >> 32))
            continue; /* one of the two has merged elsewhere meanwhile */
        left = &e->symbols[at];
        right = &e->symbols[left->next];
        left->id = m->merged;
        left->next = right->next;
        right->id = -1;
        if (left->next != NOWHERE)
            e->symbols[left->next].prev = at;
        offer(e, at);
        if (left->prev != NOWHERE)
            offer(e, left->prev);
    }
}

static int
encode_word(void *ctx, const char *word, size_t len)
{
    struct encoder *e = ctx;
    int32_t whole;
    uint32_t i;

    if (split_whole_words(e->t->split) &&
        (whole = tokenizer_find_word(e->t, word, len)) >= 0) {
        emit(e, whole);
        return 0;
    }
    if (reserve(e, len) != 0)
        return err_set(e->err, CE_ENOMEM, "no memory to encode a word of %zu bytes", len);
    for (i = 0; i < len; i++) {
        unsigned char byte = (unsigned char)word[i];

        e->symbols[i] = (struct symbol){ e->t->byte_token[byte], i - 1, i + 1 };
        if (e->symbols[i].id < 0)
            return err_set(e->err, CE_EFORMAT,
                           "the vocabulary has no token for byte 0x%02x", byte);
    }
    e->symbols[0].prev = NOWHERE;
    e->symbols[len - 1].next = NOWHERE;
    for (i = 0; i + 1 < len; i++)
        offer(e, i);
    merge_all(e);
    for (i = 0; i != NOWHERE; i = e->symbols[i].next)
        emit(e, e->symbols[i].id);
    return 0;
}

static int
encode_text(struct encoder *e, const char *text, size_t len)
{
    struct err inner = { 0 };
    struct err *outer = e->err;
    int rc;

    e->err = &inner;
    rc = split_each(e->t->split, text, len, encode_word, e);
    e->err = outer;
    if (rc == 0)
        return 0;
    return err_set(outer, rc, "%s",
                   inner.code != 0 ? inner.text : "the text cannot be cut into words");
}

/* ---- special tokens ---- */

/* The part of sorted [*lo, *hi) whose byte at `depth` is c; all of them agree before
 * it. */
static void
narrow(const struct tokenizer *t, size_t depth, unsigned char c, int *lo, int *hi)
{
    int edge[2], k, a, b, mid;

    for (k = 0; k < 2; k++) { /* first with byte >= c, first with byte > c */
        a = *lo;
        b = *hi;
        while (a < b) {
            int32_t id = t->added[mid = a + (b - a) / 2];
            int byte =
                token_len(t, id) > depth ? (unsigned char)token_bytes(t, id)[depth] : -1;

            if (byte < c + k)
                a = mid + 1;
            else
                b = mid;
        }
        edge[k] = a;
    }
    *lo = edge[0];
    *hi = edge[1];
}

/* The longest added token at text[0..len); control tokens only within the first
 * `open` bytes. -1: none. */
static int32_t
match_added(const struct tokenizer *t, const char *text, size_t len, size_t open)
{
    int32_t best = -1, id;
    int lo = 0, hi = t->n_added;
    size_t depth;

    if (!t->added_first[(unsigned char)text[0]])
        return -1;
    for (depth = 0; depth < len && lo < hi; depth++) {
        narrow(t, depth, (unsigned char)text[depth], &lo, &hi);
        if (lo == hi)
            break;
        id = t->added[lo]; /* the shortest comes first */
        if (token_len(t, id) == depth + 1 &&
            (t->kind[id] == TOKEN_USER_DEFINED || depth < open))
            best = id;
    }
    return best;
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
        id = match_added(e->t, text + at, len - at,
                         open_bytes(literal, n_literal, &k, at, len));
        if (id < 0) {
            at++;
            continue;
        }
        if (at > start && (rc = encode_text(e, text + start, at - start)) != 0)
            return rc;
        emit(e, id);
        at += token_len(e->t, id);
        start = at;
    }
    return len > start ? encode_text(e, text + start, len - start) : 0;
}

int
tokenizer_encode_ranges(const struct tokenizer *t, const char *text, size_t len,
                        const struct text_range *literal, size_t n_literal, int32_t *ids,
                        size_t cap, size_t *n, struct err *err)
{
    struct encoder e = { .t = t, .ids = ids, .cap = cap, .err = err };
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
