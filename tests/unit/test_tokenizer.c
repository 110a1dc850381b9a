/* SPDX-License-Identifier: Apache-2.0
 * test_tokenizer.c - BPE on a tiny vocabulary against a plain reading of its
 * definition; special tokens; any bytes at all; bounds and time.
 *
 * Real vocabularies and fixtures: test_tokenizer_real.c.
 */
#include "engine/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/synth.h"
#include "megabyte.h"

#define VOCAB "test_tokenizer.gguf"

static struct gguf *file;
static struct tokenizer *tok;

static int
open_vocab(void **state)
{
    struct gguf_writer *w;
    struct err err;

    (void)state;
    if (gguf_writer_new(&w, &err) != 0 || synth_write_vocab(w, 400, &err) != 0 ||
        gguf_writer_finish(w, VOCAB, &err) != 0 || gguf_open(&file, VOCAB, &err) != 0 ||
        tokenizer_open(&tok, file, &err) != 0) {
        print_message("%s\n", err.text);
        return -1;
    }
    gguf_writer_free(w);
    return 0;
}

static int
close_vocab(void **state)
{
    (void)state;
    tokenizer_free(tok);
    gguf_close(file);
    unlink(VOCAB);
    return 0;
}

static size_t
encode(const char *text, size_t len, bool special, int32_t *ids, size_t cap)
{
    struct err err = { 0 };
    size_t n;

    if (tokenizer_encode(tok, text, len, special, ids, cap, &n, &err) != 0)
        fail_msg("%s", err.text);
    return n;
}

static void
check_ids(const char *text, bool special, const int32_t *want, size_t n_want)
{
    int32_t ids[64];
    size_t n = encode(text, strlen(text), special, ids, 64);

    if (n != n_want || memcmp(ids, want, n * sizeof(*ids)) != 0)
        fail_msg("\"%s\": %zu ids, %zu wanted, or they differ", text, n, n_want);
}

/* Id of a piece given as bytes. */
static int32_t
id_of(const char *bytes)
{
    const char *piece;
    size_t len;
    int32_t id;

    for (id = 0; id < tokenizer_n_vocab(tok); id++) {
        piece = tokenizer_piece(tok, id, &len);
        if (len == strlen(bytes) && memcmp(piece, bytes, len) == 0)
            return id;
    }
    fail_msg("no token \"%s\"", bytes);
    return -1;
}

static void
test_known_strings(void **state)
{
    (void)state;
    assert_int_equal(encode("", 0, false, NULL, 0), 0);
    check_ids(" the", false, (int32_t[]){ id_of(" the") }, 1);
    /* " you" has a lower rank than the " y" it is made of */
    check_ids(" you", false, (int32_t[]){ id_of(" you") }, 1);
    check_ids("The", false, (int32_t[]){ id_of("The") }, 1);
    /* digits stand alone, whatever the merges say */
    check_ids("12", false, (int32_t[]){ id_of("1"), id_of("2") }, 2);
    check_ids("a  5", false,
              (int32_t[]){ id_of("a"), id_of(" "), id_of(" "), id_of("5") }, 4);
    check_ids("a\n\nb", false,
              (int32_t[]){ id_of("a"), id_of("\n"), id_of("\n"), id_of("b") }, 4);
    check_ids("\n\n", false, (int32_t[]){ id_of("\n\n") }, 1);
    check_ids("\303\251", false, (int32_t[]){ id_of("\303\251") }, 1);
    check_ids(" in.", false, (int32_t[]){ id_of(" in"), id_of(".") }, 2);
}

/* BPE as it is defined, on ids, with no cleverness: find the neighbours with the
 * lowest rank, leftmost first, merge, again. */
static size_t
plain_bpe(const char *word, size_t len, int32_t *ids)
{
    struct gguf_str line;
    size_t n_merges, n = len, i, best_at;
    uint32_t elem;
    uint64_t rank, best;
    char pair[64] = "", text[64], *p;
    const char *l, *r;
    size_t nl, nr, k;

    for (i = 0; i < len; i++)
        ids[i] = 3 + (unsigned char)word[i];
    assert_int_equal(
        gguf_get_array(file, "tokenizer.ggml.merges", &elem, &n_merges, NULL), 0);
    for (;;) {
        best = UINT64_MAX;
        best_at = 0;
        for (i = 0; i + 1 < n; i++) {
            l = tokenizer_piece(tok, ids[i], &nl);
            r = tokenizer_piece(tok, ids[i + 1], &nr);
            /* the words used here hold letters and spaces only */
            for (p = pair, k = 0; k < nl; k++)
                p = l[k] == ' ' ? stpcpy(p, "\304\240") : (*p = l[k], p + 1);
            *p++ = ' ';
            for (k = 0; k < nr; k++)
                p = r[k] == ' ' ? stpcpy(p, "\304\240") : (*p = r[k], p + 1);
            for (rank = 0; rank < n_merges; rank++) {
                assert_int_equal(
                    gguf_array_str(file, "tokenizer.ggml.merges", rank, &line), 0);
                if (line.len == (size_t)(p - pair) &&
                    memcmp(line.data, pair, line.len) == 0)
                    break;
            }
            if (rank < n_merges && rank < best) {
                best = rank;
                best_at = i;
            }
        }
        if (best == UINT64_MAX)
            return n;
        l = tokenizer_piece(tok, ids[best_at], &nl);
        r = tokenizer_piece(tok, ids[best_at + 1], &nr);
        memcpy(text, l, nl);
        memcpy(text + nl, r, nr);
        text[nl + nr] = '\0';
        ids[best_at] = id_of(text);
        memmove(ids + best_at + 1, ids + best_at + 2, (n - best_at - 2) * sizeof(*ids));
        n--;
    }
}

static void
test_merges_as_defined(void **state)
{
    static const char letters[] = "theinoragwsyu";
    uint32_t seed = 3, round;
    int32_t want[32], ids[32];
    char word[24];
    size_t len, n, i;

    (void)state;
    for (round = 0; round < 400; round++) {
        seed = seed * 1664525u + 1013904223u;
        len = 1 + (seed >> 16) % 20;
        for (i = 0; i < len; i++) {
            seed = seed * 1664525u + 1013904223u;
            word[i] = letters[(seed >> 16) % (sizeof(letters) - 1)];
        }
        if (round % 2 == 0)
            word[0] = ' ';
        n = encode(word, len, false, ids, 32);
        assert_int_equal(n, plain_bpe(word, len, want));
        assert_memory_equal(ids, want, n * sizeof(*ids));
    }
}

static void
test_special_tokens(void **state)
{
    const struct text_range middle = { 11, 21 };
    const char text[] = "<|im_end|>a<|im_end|><|im_end|";
    int32_t ids[64];
    struct err err;
    size_t n, plain;

    (void)state;
    assert_int_equal(tokenizer_bos(tok), 1);
    assert_int_equal(tokenizer_eos(tok), 2);
    assert_false(tokenizer_add_bos(tok));
    assert_string_equal(tokenizer_pre(tok), "smollm");
    assert_int_equal(tokenizer_find_special(tok, "<|im_start|>"), 1);
    assert_int_equal(tokenizer_find_special(tok, "<|nothing|>"), TOKENIZER_NONE);
    assert_int_equal(tokenizer_find_special(tok, "a"), TOKENIZER_NONE);
    assert_true(tokenizer_is_special(tok, 0) && tokenizer_is_special(tok, 2));
    assert_false(tokenizer_is_special(tok, 3) || tokenizer_is_special(tok, -1));
    assert_true(tokenizer_is_end_of_generation(tok, 2));
    assert_true(tokenizer_is_end_of_generation(tok, 0));
    assert_false(tokenizer_is_end_of_generation(tok, 1));
    assert_false(tokenizer_is_end_of_generation(tok, 400));

    check_ids("<|im_start|>a<|im_end|>", true, (int32_t[]){ 1, id_of("a"), 2 }, 3);
    plain = encode("<|im_end|>", 10, false, ids, 64);
    assert_true(plain > 1);
    for (n = 0; n < plain; n++)
        assert_false(tokenizer_is_special(tok, ids[n]));
    /* only the first one is outside the literal range; the last is not whole */
    assert_int_equal(tokenizer_encode_ranges(tok, text, sizeof(text) - 1, &middle, 1, ids,
                                             64, &n, &err),
                     0);
    assert_int_equal(ids[0], 2);
    for (plain = 1; plain < n; plain++)
        assert_int_not_equal(ids[plain], 2);
    /* fillers are never produced */
    n = encode("<|filler_399|>", 14, true, ids, 64);
    assert_true(n > 1);
}

/* A special token that begins outside a literal range but ends inside is none. */
static void
test_special_across_an_edge(void **state)
{
    const char text[] = "<|im_end|>";
    const struct text_range tail = { 5, 10 }, head = { 0, 3 };
    int32_t ids[64];
    struct err err;
    size_t n;

    (void)state;
    assert_int_equal(tokenizer_encode_ranges(tok, text, 10, &tail, 1, ids, 64, &n, &err),
                     0);
    assert_true(n > 1);
    assert_int_equal(tokenizer_encode_ranges(tok, text, 10, &head, 1, ids, 64, &n, &err),
                     0);
    assert_true(n > 1);
}

static void
round_trip(const char *text, size_t len)
{
    int32_t *ids = malloc((len + 1) * sizeof(*ids));
    char *back = malloc(len + 1);
    size_t n, n_back;

    assert_non_null(ids);
    assert_non_null(back);
    n = encode(text, len, false, ids, len + 1);
    assert_int_equal(tokenizer_decode(tok, ids, n, true, back, len, &n_back), 0);
    assert_int_equal(n_back, len);
    assert_memory_equal(back, text, len);
    free(ids);
    free(back);
}

static void
test_any_bytes_come_back(void **state)
{
    static const char *const broken[] = {
        "\377",
        "a\377b",
        "\303",
        "\303(",
        "\355\240\200",
        "\360\237\230",
        "\300\200",
        "\364\220\200\200",
        "caf\303 \303\251\303",
        "\200\200\200 the \200the",
        "\0the\0\0",
    };
    uint32_t seed = 5;
    char text[300];
    size_t i, len;
    int round;

    (void)state;
    for (i = 0; i < sizeof(broken) / sizeof(broken[0]); i++)
        round_trip(broken[i], strlen(broken[i]));
    round_trip("\0the\0\0", 6);
    for (round = 0; round < 300; round++) {
        for (len = 0; len < (size_t)round; len++) {
            seed = seed * 1664525u + 1013904223u;
            text[len] = (char)(seed >> (round % 3 == 0 ? 24 : 25));
        }
        round_trip(text, len);
    }
}

static void
test_small_room(void **state)
{
    int32_t ids[3] = { -7, -7, -7 };
    struct err err;
    size_t n;

    (void)state;
    assert_int_equal(tokenizer_encode(tok, "12345", 5, false, NULL, 0, &n, NULL),
                     CE_ECONTEXT);
    assert_int_equal(n, 5);
    assert_int_equal(tokenizer_encode(tok, "12345", 5, false, ids, 2, &n, &err),
                     CE_ECONTEXT);
    assert_int_equal(n, 5);
    assert_non_null(strstr(err.text, "5 tokens"));
    assert_int_equal(ids[1], id_of("2"));
    assert_int_equal(ids[2], -7);
    assert_int_equal(
        tokenizer_encode(tok, "", TOKENIZER_MAX_TEXT + 1, false, NULL, 0, &n, &err),
        CE_EQUOTA);
    assert_int_equal(tokenizer_decode(tok, (int32_t[]){ 2, 259, 9999, -1 }, 4, false,
                                      (char[1]){ 0 }, 1, &n),
                     CE_ECONTEXT);
    assert_int_equal(n, 2);
}

/* A megabyte of the worst kinds: one word, white space, marks, broken bytes. */
static void
test_a_megabyte_is_quick(void **state)
{
    static const char *const patterns[] = { "a",       "he",   " ",   "<",
                                            "<|im_en", "\200", "\n",  "'",
                                            "12",      "the ", " \n", "\303\251" };

    (void)state;
    assert_megabytes_quick(tok, patterns, sizeof(patterns) / sizeof(patterns[0]));
}

/* ---- vocabularies that do not fit together ---- */

/* The tiny vocabulary with one key left out or replaced. */
static void
refused(const char *key, void (*put)(struct gguf_writer *, const char *), int code,
        const char *text)
{
    const char path[] = "test_tokenizer.bad.gguf";
    struct gguf_writer *w;
    struct tokenizer *t;
    struct gguf *g;
    struct err err = { 0 };
    int i;

    assert_int_equal(gguf_writer_new(&w, &err), 0);
    for (i = 0; i < gguf_n_keys(file); i++)
        if (strcmp(gguf_key_name(file, i), key) != 0)
            gguf_writer_copy_key(w, file, i);
    if (put != NULL)
        put(w, key);
    assert_int_equal(gguf_writer_finish(w, path, &err), 0);
    gguf_writer_free(w);
    assert_int_equal(gguf_open(&g, path, &err), 0);
    assert_int_equal(tokenizer_open(&t, g, &err), code);
    assert_null(t);
    if (strstr(err.text, text) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", err.text, text);
    gguf_close(g);
    unlink(path);
}

static void
put_wordpiece(struct gguf_writer *w, const char *key)
{
    gguf_writer_str(w, key, "wordpiece", 9);
}

static void
put_far(struct gguf_writer *w, const char *key)
{
    gguf_writer_u32(w, key, 400);
}

static void
put_no_space(struct gguf_writer *w, const char *key)
{
    const struct gguf_str merges[] = { { "he", 2 } };

    gguf_writer_str_array(w, key, merges, 1);
}

static void
put_few_types(struct gguf_writer *w, const char *key)
{
    gguf_writer_i32_array(w, key, (int32_t[]){ 1, 1 }, 2);
}

static void
test_broken_vocabularies(void **state)
{
    (void)state;
    refused("tokenizer.ggml.model", NULL, CE_EFORMAT, "tokenizer.ggml.model");
    refused("tokenizer.ggml.model", put_wordpiece, CE_EUNSUPPORTED, "wordpiece");
    refused("tokenizer.ggml.pre", put_wordpiece, CE_EUNSUPPORTED,
            "known: smollm, starcoder");
    refused("tokenizer.ggml.tokens", NULL, CE_EFORMAT, "tokenizer.ggml.tokens");
    refused("tokenizer.ggml.tokens", put_few_types, CE_EFORMAT, "wrong type");
    refused("tokenizer.ggml.token_type", put_few_types, CE_EFORMAT,
            "400 tokens with 2 types");
    refused("tokenizer.ggml.merges", NULL, CE_EFORMAT, "tokenizer.ggml.merges");
    refused("tokenizer.ggml.merges", put_no_space, CE_EFORMAT, "merge 0");
    refused("tokenizer.ggml.eos_token_id", put_far, CE_EFORMAT, "token 400 of 400");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_strings),
        cmocka_unit_test(test_merges_as_defined),
        cmocka_unit_test(test_special_tokens),
        cmocka_unit_test(test_special_across_an_edge),
        cmocka_unit_test(test_any_bytes_come_back),
        cmocka_unit_test(test_small_room),
        cmocka_unit_test(test_a_megabyte_is_quick),
        cmocka_unit_test(test_broken_vocabularies),
    };

    return cmocka_run_group_tests(tests, open_vocab, close_vocab);
}
