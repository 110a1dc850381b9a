/* SPDX-License-Identifier: Apache-2.0
 * tokenizer_bpe.c - byte-level BPE: the merge list, and merging the bytes of a word.
 *
 * Merges are found by numbers, not by strings: "a b" of rank r becomes (id of a, id
 * of b) -> (r, id of ab).
 *
 * Merging a word: its symbols form a linked list, first one per byte; every pair of
 * neighbours that has a merge waits in a binary heap, ordered by rank, then place.
 * The best is taken, its right symbol drops out, the two new pairs enter. An entry
 * is one number, rank << 32 | place of the left symbol; whether it is still true is
 * seen by looking the pair up again (ranks are unique). So a word of n bytes costs
 * n log n, also one of a megabyte, and the order of merges is that of the
 * definition: lowest rank first, leftmost among equals.
 *
 * Used by: tokenizer.c, tokenizer_encode.c. Thread: any; state is the encoder's.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/tokenizer_internal.h"

#define KEY_MERGES "tokenizer.ggml.merges"

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

/* One line "left right"; `buf` has room for its bytes. False: not such a line. One
 * of texts that are no tokens can never apply, and is left out. */
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
    nl = vocab_unmap(line->data, left_len, buf);
    nr = nl < 0 ? -1 : vocab_unmap(space + 1, line->len - left_len - 1, buf + nl);
    if (nr < 0)
        return true;
    left = tokenizer_find_word(t, buf, (size_t)nl);
    right = tokenizer_find_word(t, buf + nl, (size_t)nr);
    merged = tokenizer_find_word(t, buf, (size_t)(nl + nr));
    if (left >= 0 && right >= 0 && merged >= 0)
        put_merge(t, left, right, rank, merged);
    return true;
}

int
bpe_load(struct tokenizer *t, const struct gguf *g, struct err *err)
{
    size_t n, i, longest = 0;
    struct gguf_str line = { "", 0 };
    char *buf;
    int rc = vocab_array(g, KEY_MERGES, GGUF_VAL_STRING, &n, err);

    if (rc != 0)
        return rc == CE_ENOTFOUND ? CE_EFORMAT : rc;
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
                         "%s: merge %zu (\"%.*s\") does not name two tokens",
                         gguf_path(g), i, line.len < 60 ? (int)line.len : 60, line.data);
    free(buf);
    return rc;
}

/* ---- one word ---- */

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
        encoder_push(e, (uint64_t)m->rank << 32 | left);
}

static void
merge_all(struct encoder *e)
{
    const struct merge *m;
    struct symbol *left, *right;
    uint32_t at;
    uint64_t v;

    while (e->heap_n > 0) {
        v = encoder_pop(e);
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
bpe_word(void *ctx, const char *word, size_t len)
{
    struct encoder *e = ctx;
    int32_t whole;
    uint32_t i;

    if (split_whole_words(e->t->split) &&
        (whole = tokenizer_find_word(e->t, word, len)) >= 0) {
        emit(e, whole);
        return 0;
    }
    if (encoder_reserve(e, len) != 0)
        return err_set(e->err, CE_ENOMEM, "no memory to encode a word of %zu bytes", len);
    for (i = 0; i < len; i++) {
        unsigned char byte = (unsigned char)word[i];

        e->symbols[i] =
            (struct symbol){ .id = e->t->byte_token[byte], .prev = i - 1, .next = i + 1 };
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

int
bpe_encode(struct encoder *e, const char *text, size_t len)
{
    struct err inner = { 0 };
    struct err *outer = e->err;
    int rc;

    e->err = &inner;
    rc = split_each(e->t->split, text, len, bpe_word, e);
    e->err = outer;
    if (rc == 0)
        return 0;
    return err_set(outer, rc, "%s",
                   inner.code != 0 ? inner.text : "the text cannot be cut into words");
}
