/* SPDX-License-Identifier: Apache-2.0
 * tokenizer.c - opening a vocabulary, and looking things up in it.
 *
 * Which file does what: tokenizer_vocab.c has the tokens, tokenizer_special.c those
 * with a meaning of their own, tokenizer_bpe.c and tokenizer_spm.c the two kinds of
 * merging, tokenizer_split.c and tokenizer_rules.c the words of the first kind, and
 * tokenizer_encode.c puts them together.
 *
 * A file whose parts do not fit together (ids out of range, fewer types than tokens) is
 * refused by name.
 *
 * Thread: immutable after tokenizer_open.
 */
#include "engine/tokenizer.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "common/log.h"
#include "engine/tokenizer_internal.h"

/* ---- opening ---- */

static int
load_split(struct tokenizer *t, const struct gguf *g, struct err *err)
{
    struct gguf_str s = { "default", 7 };
    int rc = gguf_get_str(g, "tokenizer.ggml.pre", &s, err);

    if (rc == CE_ENOTFOUND)
        log_warn("%s: key tokenizer.ggml.pre is missing: words are cut by the rule "
                 "\"default\", which may not be the model's",
                 gguf_path(g));
    else if (rc != 0)
        return rc;
    rc = split_open(&t->split, s.data, s.len, err);
    if (rc != 0)
        err_prefix(err, "%s", gguf_path(g));
    return rc;
}

/* tokenizer.ggml.model: byte-level BPE ("gpt2") or SentencePiece BPE ("llama"). */
static int
load_model(struct tokenizer *t, const struct gguf *g, struct err *err)
{
    struct gguf_str s;
    int rc = gguf_get_str(g, "tokenizer.ggml.model", &s, err);

    if (rc == CE_ENOTFOUND)
        return err_set(err, CE_EFORMAT, "%s: no tokenizer (key tokenizer.ggml.model)",
                       gguf_path(g));
    if (rc != 0)
        return rc;
    if (s.len == 5 && memcmp(s.data, "llama", 5) == 0) {
        t->spm = true;
        return 0;
    }
    if (s.len == 4 && memcmp(s.data, "gpt2", 4) == 0)
        return load_split(t, g, err);
    return err_set(err, CE_EUNSUPPORTED,
                   "%s: tokenizer \"%.*s\" is not known (known: gpt2, llama)",
                   gguf_path(g), s.len < 64 ? (int)s.len : 64, s.data);
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
    if ((rc = load_model(t, g, err)) == 0 && (rc = vocab_load(t, g, err)) == 0) {
        special_types(t);
        if ((rc = vocab_index(t)) != 0)
            err_set(err, rc, "%s: no memory for the vocabulary", gguf_path(g));
    }
    if (rc == 0 && (rc = t->spm ? spm_load(t, g, err) : bpe_load(t, g, err)) == 0)
        rc = special_load(t, g, err);
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
    free(t->order);
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
    size_t i, len, fits, first = 0;
    const char *piece;

    *n = 0;
    while (first < n_ids && tokenizer_is_special(t, ids[first]))
        first++;
    for (i = 0; i < n_ids; i++) {
        if (tokenizer_is_special(t, ids[i]) && !with_special)
            continue;
        piece = tokenizer_piece(t, ids[i], &len);
        if (i == first && t->space_prefix && len > 0 && piece[0] == ' ') {
            piece++; /* the one that encoding put there */
            len--;
        }
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
    return in_range(t, id) &&
           (t->kind[id] == TOKEN_CONTROL || t->kind[id] == TOKEN_UNKNOWN);
}

int32_t
tokenizer_find_special(const struct tokenizer *t, const char *text)
{
    size_t len = strlen(text);
    int i;

    for (i = 0; i < t->n_added; i++) {
        int32_t id = t->added[i];

        if (tokenizer_is_special(t, id) && token_len(t, id) == len &&
            memcmp(token_bytes(t, id), text, len) == 0)
            return id;
    }
    return TOKENIZER_NONE;
}

const char *
tokenizer_pre(const struct tokenizer *t)
{
    return t->spm ? "sentencepiece" : split_name(t->split);
}
