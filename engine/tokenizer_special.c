/* SPDX-License-Identifier: Apache-2.0
 * tokenizer_special.c - tokens that are not made by merging: which they are, what they
 * mean, and finding them in a text.
 *
 * They are found by narrowing a sorted list one byte at a time, so their number does
 * not matter; the longest at a place wins.
 *
 * Files often type the marks of a conversation as user-defined, which would turn
 * them into tokens wherever a user writes them. By their names they are control
 * tokens here: found only where special tokens may be.
 *
 * Used by: tokenizer.c, tokenizer_encode.c. Thread: constant after loading.
 */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "engine/tokenizer_internal.h"

/* ---- by name ---- */

/* Generation ends at any of these. */
static const char *const ending[] = {
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|end|>",
    "</s>",
    "<end_of_turn>",
    "<EOT>",
    "[EOS]",
    "[EOT]",
    "<eos>",
    "<|return|>",
    "<|end_of_turn|>",
    "<\357\275\234end\342\226\201of\342\226\201sentence\357\275\234>",
};

/* A conversation's other marks. */
static const char *const marks[] = {
    "<s>",
    "<|im_start|>",
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<start_of_turn>",
    "[INST]",
    "[/INST]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<\357\275\234begin\342\226\201of\342\226\201sentence\357\275\234>",
    "<\357\275\234User\357\275\234>",
    "<\357\275\234Assistant\357\275\234>",
};

static bool
is_one_of(const struct tokenizer *t, int32_t id, const char *const *names, size_t n)
{
    size_t i;

    for (i = 0; i < n; i++)
        if (token_len(t, id) == strlen(names[i]) &&
            memcmp(token_bytes(t, id), names[i], token_len(t, id)) == 0)
            return true;
    return false;
}

void
special_types(struct tokenizer *t)
{
    int32_t id;

    for (id = 0; id < t->n_vocab; id++) {
        char c = token_len(t, id) > 0 ? token_bytes(t, id)[0] : '\0';

        if ((c != '<' && c != '[') || t->kind[id] == TOKEN_UNUSED)
            continue;
        t->ends[id] = is_one_of(t, id, ending, sizeof(ending) / sizeof(ending[0]));
        if (t->ends[id] || (t->kind[id] == TOKEN_USER_DEFINED &&
                            is_one_of(t, id, marks, sizeof(marks) / sizeof(marks[0]))))
            t->kind[id] = TOKEN_CONTROL;
    }
}

/* ---- sorted list ---- */

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
        if ((t->kind[id] != TOKEN_CONTROL && t->kind[id] != TOKEN_USER_DEFINED &&
             t->kind[id] != TOKEN_UNKNOWN) ||
            token_len(t, id) == 0)
            continue;
        t->added[t->n_added++] = id;
        t->added_first[(unsigned char)token_bytes(t, id)[0]] = true;
    }
    qsort_r(t->added, (size_t)t->n_added, sizeof(*t->added), compare_added, t);
}

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

/* The longest added token at text[0..len); other than user-defined ones only within
 * the first `open` bytes. -1: none. */
int32_t
special_match(const struct tokenizer *t, const char *text, size_t len, size_t open)
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

/* ---- loading ---- */

/* An id stored under `key`; *id stays when there is none. */
static int
load_id(const struct tokenizer *t, const struct gguf *g, const char *key, int32_t *id,
        struct err *err)
{
    uint64_t v;
    int rc = gguf_get_u64(g, key, &v, err);

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

/* The default of an id key that the file leaves out, where such a token exists. */
static int32_t
usual(const struct tokenizer *t, int32_t id)
{
    return t->spm && id < t->n_vocab ? id : TOKENIZER_NONE;
}

static int
load_bool(const struct gguf *g, const char *key, bool *v, struct err *err)
{
    int rc = gguf_get_bool(g, key, v, err);

    return rc == CE_ENOTFOUND ? 0 : rc;
}

/* Phi-3's vocabulary drops white space behind its marks, which no key says. */
static bool
strips_behind_marks(const struct gguf *g)
{
    struct gguf_str s;
    size_t i;

    if (gguf_get_str(g, "general.name", &s, NULL) != 0)
        return false;
    for (i = 0; i + 4 <= s.len; i++)
        if (strncasecmp(s.data + i, "phi3", 4) == 0 ||
            (i + 5 <= s.len && strncasecmp(s.data + i, "phi-3", 5) == 0))
            return true;
    return false;
}

bool
special_strips(const struct tokenizer *t, int32_t id)
{
    static const char *const keeping[] = { "<unk>", "<s>", "<|endoftext|>" };

    return t->strips && !is_one_of(t, id, keeping, 3);
}

int
special_load(struct tokenizer *t, const struct gguf *g, struct err *err)
{
    int32_t eot = TOKENIZER_NONE, eom = TOKENIZER_NONE;
    int rc;

    t->unknown = usual(t, 0);
    t->bos = usual(t, 1);
    t->eos = usual(t, 2);
    if ((rc = load_id(t, g, "tokenizer.ggml.bos_token_id", &t->bos, err)) != 0 ||
        (rc = load_id(t, g, "tokenizer.ggml.eos_token_id", &t->eos, err)) != 0 ||
        (rc = load_id(t, g, "tokenizer.ggml.eot_token_id", &eot, err)) != 0 ||
        (rc = load_id(t, g, "tokenizer.ggml.eom_token_id", &eom, err)) != 0 ||
        (rc = load_id(t, g, "tokenizer.ggml.unknown_token_id", &t->unknown, err)) != 0)
        return rc;
    t->add_bos = t->spm || split_default_bos(t->split);
    t->space_prefix = t->spm;
    if ((rc = load_bool(g, "tokenizer.ggml.add_bos_token", &t->add_bos, err)) != 0 ||
        (rc = load_bool(g, "tokenizer.ggml.add_space_prefix", &t->space_prefix, err)) !=
            0)
        return rc;
    if (t->bos == TOKENIZER_NONE)
        t->add_bos = false;
    t->strips = t->spm && strips_behind_marks(g);
    index_added(t);
    if (t->eos != TOKENIZER_NONE)
        t->ends[t->eos] = true;
    if (eot != TOKENIZER_NONE)
        t->ends[eot] = true;
    if (eom != TOKENIZER_NONE)
        t->ends[eom] = true;
    return 0;
}
