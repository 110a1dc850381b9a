/* SPDX-License-Identifier: Apache-2.0
 * test_tokenizer_spm.c - SentencePiece BPE on a tiny vocabulary against a plain reading
 * of its definition; spaces, special tokens, byte fallback; bounds and time.
 *
 * Real vocabularies: test_tokenizer_real.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/synth.h"
#include "engine/tokenizer.h"
#include "megabyte.h"

#define VOCAB "test_tokenizer_spm.gguf"

static struct gguf *file;
static struct tokenizer *tok;

/* The tiny vocabulary, with keys left out (put NULL) or replaced; opened into g. */
static void
write_vocab(struct gguf **g, const char *key,
            void (*put)(struct gguf_writer *, const char *))
{
    struct gguf_writer *w;
    struct gguf *all;
    struct err err;
    int i;

    assert_int_equal(gguf_writer_new(&w, &err), 0);
    synth_write_spm_vocab(w);
    assert_int_equal(gguf_writer_finish(w, VOCAB, &err), 0);
    gguf_writer_free(w);
    assert_int_equal(gguf_open(&all, VOCAB, &err), 0);
    assert_int_equal(gguf_writer_new(&w, &err), 0);
    for (i = 0; i < gguf_n_keys(all); i++)
        if (key == NULL || strcmp(gguf_key_name(all, i), key) != 0)
            gguf_writer_copy_key(w, all, i);
    if (put != NULL)
        put(w, key);
    assert_int_equal(gguf_writer_finish(w, VOCAB, &err), 0);
    gguf_writer_free(w);
    gguf_close(all);
    assert_int_equal(gguf_open(g, VOCAB, &err), 0);
    unlink(VOCAB);
}

static int
open_vocab(void **state)
{
    struct err err;

    (void)state;
    write_vocab(&file, NULL, NULL);
    if (tokenizer_open(&tok, file, &err) != 0) {
        print_message("%s\n", err.text);
        return -1;
    }
    return 0;
}

static int
close_vocab(void **state)
{
    (void)state;
    tokenizer_free(tok);
    gguf_close(file);
    return 0;
}

/* ---- what encoding gives, written with a bar after each piece ---- */

static void
pieces(const struct tokenizer *t, const char *text, size_t len, bool special, char *out,
       size_t cap)
{
    int32_t ids[256];
    struct err err = { 0 };
    const char *piece;
    size_t n, i, k, at = 0;

    if (tokenizer_encode(t, text, len, special, ids, 256, &n, &err) != 0)
        fail_msg("%s", err.text);
    for (i = 0; i < n; i++) {
        piece = tokenizer_piece(t, ids[i], &k);
        assert_true(at + k + 1 < cap);
        memcpy(out + at, piece, k);
        at += k;
        out[at++] = '|';
    }
    out[at] = '\0';
}

static void
check(const struct tokenizer *t, const char *text, bool special, const char *want)
{
    char got[1024];

    pieces(t, text, strlen(text), special, got, sizeof(got));
    assert_string_equal(got, want);
}

static void
test_known_strings(void **state)
{
    (void)state;
    check(tok, "", false, "");
    check(tok, "the", false, " the|");
    check(tok, " the", false, " | the|");
    check(tok, "hehe", false, " |he|he|");
    /* the best score first, not the longest or the leftmost */
    check(tok, "xhell", false, " |x|he|ll|");
    /* equal scores: leftmost first */
    check(tok, "xaaa", false, " |x|aa|a|");
    check(tok, "the\xe2\x96\x81the", false, " the| the|");
    check(tok, "e\xcc\x81\n", false, " |e|\xcc|\x81|\n|");
    check(tok, "\xc3\xa9", false, " |\xc3\xa9|");
    check(tok, "\xff the", false, " |\xff| the|");
}

static void
test_special_tokens(void **state)
{
    const char text[] = "<s>the</s>the";
    const struct text_range tail = { 6, 10 };
    int32_t ids[64];
    struct err err;
    size_t n, i;

    (void)state;
    assert_int_equal(tokenizer_bos(tok), 1);
    assert_int_equal(tokenizer_eos(tok), 2);
    assert_true(tokenizer_add_bos(tok));
    assert_true(tokenizer_is_special(tok, 0));
    assert_true(tokenizer_is_end_of_generation(tok, 2));
    assert_string_equal(tokenizer_pre(tok), "sentencepiece");
    check(tok, text, true, "<s>| the|</s>| the|");
    check(tok, "a<s> the", true, " a|<s>| | the|");
    /* a user-defined token is found in any text; the space rule holds behind it too */
    check(tok, "a<mark>the", false, " a|<mark>| the|");
    /* </s> is typed as user-defined here, and still is not what a user can write */
    assert_int_equal(tokenizer_encode_ranges(tok, text, 10, &tail, 1, ids, 64, &n, &err),
                     0);
    assert_int_equal(ids[0], 1);
    for (i = 1; i < n; i++)
        assert_false(tokenizer_is_special(tok, ids[i]));
}

static void
test_decode(void **state)
{
    static const char *const texts[] = {
        "the", " the", "", "x\n", "\xff\xc3", "<s>", "  "
    };
    int32_t ids[64];
    char back[64];
    struct err err;
    size_t i, n, len;

    (void)state;
    for (i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        ids[0] = tokenizer_bos(tok);
        len = strlen(texts[i]);
        assert_int_equal(
            tokenizer_encode(tok, texts[i], len, false, ids + 1, 63, &n, &err), 0);
        assert_int_equal(tokenizer_decode(tok, ids, n + 1, false, back, 64, &len), 0);
        assert_int_equal(len, strlen(texts[i]));
        assert_memory_equal(back, texts[i], len);
    }
}

/* ---- the definition, with no cleverness ---- */

static int32_t
find(const char *bytes, size_t len)
{
    const char *piece;
    size_t n;
    int32_t id;

    for (id = 3; id < tokenizer_n_vocab(tok); id++) {
        piece = tokenizer_piece(tok, id, &n);
        if (n == len && memcmp(piece, bytes, len) == 0)
            return id;
    }
    return -1;
}

/* ASCII words: begin[i] .. begin[i + 1] is a symbol. */
static size_t
plain(const char *word, size_t len, int32_t *ids)
{
    size_t begin[64], n = len, i, at;
    double best, score;
    int32_t id;

    for (i = 0; i <= len; i++)
        begin[i] = i;
    for (;;) {
        at = n;
        best = 0;
        for (i = 0; i + 1 < n; i++) {
            id = find(word + begin[i], begin[i + 2] - begin[i]);
            if (id < 0)
                continue;
            assert_int_equal(
                gguf_array_f64(file, "tokenizer.ggml.scores", (size_t)id, &score), 0);
            if (at == n || score > best) {
                best = score;
                at = i;
            }
        }
        if (at == n)
            break;
        memmove(begin + at + 1, begin + at + 2, (n - at - 1) * sizeof(*begin));
        n--;
    }
    for (i = 0; i < n; i++)
        ids[i] = find(word + begin[i], begin[i + 1] - begin[i]);
    return n;
}

static void
test_merges_as_defined(void **state)
{
    static const char letters[] = "theinoa l";
    uint32_t seed = 3, round;
    int32_t want[64], ids[64];
    char word[48] = " ";
    struct err err;
    size_t len, n, i;

    (void)state;
    for (round = 0; round < 400; round++) {
        seed = seed * 1664525u + 1013904223u;
        len = 1 + (seed >> 16) % 40;
        for (i = 1; i <= len; i++) {
            seed = seed * 1664525u + 1013904223u;
            word[i] = letters[(seed >> 16) % (sizeof(letters) - 1)];
        }
        assert_int_equal(tokenizer_encode(tok, word + 1, len, false, ids, 64, &n, &err),
                         0);
        assert_int_equal(n, plain(word, len + 1, want));
        assert_memory_equal(ids, want, n * sizeof(*ids));
    }
}

static void
test_a_megabyte_is_quick(void **state)
{
    static const char *const patterns[] = { "a",        "he",       " ",    "\200",
                                            "\n",       "<",        "<mar", "the ",
                                            "\303\251", "\360\237", "</s" };

    (void)state;
    assert_megabytes_quick(tok, patterns, sizeof(patterns) / sizeof(patterns[0]));
}

/* ---- other files ---- */

static void
put_false(struct gguf_writer *w, const char *key)
{
    gguf_writer_bool(w, key, false);
}

static void
put_phi3(struct gguf_writer *w, const char *key)
{
    gguf_writer_str(w, key, "Phi-3 mini", 10);
}

static void
put_few(struct gguf_writer *w, const char *key)
{
    gguf_writer_f32_array(w, key, (float[]){ 0, 1 }, 2);
}

static void
put_bert(struct gguf_writer *w, const char *key)
{
    gguf_writer_str(w, key, "bert", 4);
}

static void
with(const char *key, void (*put)(struct gguf_writer *, const char *), const char *text,
     const char *want)
{
    struct tokenizer *t;
    struct gguf *g;
    struct err err;

    write_vocab(&g, key, put);
    assert_int_equal(tokenizer_open(&t, g, &err), 0);
    check(t, text, true, want);
    tokenizer_free(t);
    gguf_close(g);
}

static void
refused(const char *key, void (*put)(struct gguf_writer *, const char *), int code,
        const char *text)
{
    struct tokenizer *t;
    struct gguf *g;
    struct err err;

    write_vocab(&g, key, put);
    assert_int_equal(tokenizer_open(&t, g, &err), code);
    if (strstr(err.text, text) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", err.text, text);
    gguf_close(g);
}

static void
test_other_files(void **state)
{
    (void)state;
    with("tokenizer.ggml.add_space_prefix", put_false, "the</s>the", "t|he|</s>|t|he|");
    /* without types the bytes are known by their texts, and </s> by its name */
    with("tokenizer.ggml.token_type", NULL, "the</s>\n", " the|</s>| |\n|");
    with("general.name", NULL, "a</s> \n the", " a|</s>| | |\n| the|");
    with("general.name", put_phi3, "a</s> \n the", " a|</s>| the|");
    with("general.name", put_phi3, "a<s> the", " a|<s>| | the|");
    refused("tokenizer.ggml.scores", NULL, CE_EFORMAT, "tokenizer.ggml.scores");
    refused("tokenizer.ggml.scores", put_few, CE_EFORMAT, "with 2 scores");
    refused("tokenizer.ggml.model", put_bert, CE_EUNSUPPORTED,
            "\"bert\" is not known (known: gpt2, llama)");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_strings),
        cmocka_unit_test(test_special_tokens),
        cmocka_unit_test(test_decode),
        cmocka_unit_test(test_merges_as_defined),
        cmocka_unit_test(test_a_megabyte_is_quick),
        cmocka_unit_test(test_other_files),
    };

    return cmocka_run_group_tests(tests, open_vocab, close_vocab);
}
