/* SPDX-License-Identifier: Apache-2.0
 * test_tokenizer_real.c - real vocabularies against what the original tokenizers
 * give: SmolLM2's fixtures, and the strings that come with GPT-2, Llama 2 and 3, Qwen2
 * and Phi-3.
 *
 * Needs the fixture data and, for SmolLM2, the model; skips what is not there.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "engine/chat_template.h"
#include "engine/tokenizer.h"
#include "tests/unit/testdata.h"

#define MAX_IDS 8192

static void
check(const struct tokenizer *t, const char *text, size_t len, bool special,
      const int32_t *want, size_t n_want)
{
    static int32_t ids[MAX_IDS];
    struct err err = { 0 };
    size_t n, i;

    if (tokenizer_encode(t, text, len, special, ids, MAX_IDS, &n, &err) != 0)
        fail_msg("%s", err.text);
    for (i = 0; i < n && i < n_want && ids[i] == want[i]; i++)
        ;
    if (n != n_want || i < n)
        fail_msg("\"%s\": %zu ids, %zu wanted, first difference at %zu", text, n, n_want,
                 i);
}

/* Ids of a JSON array; returns how many. */
static size_t
json_ids(const json_t *array, int32_t *ids)
{
    size_t i, n = json_array_size(array);

    assert_true(n <= MAX_IDS);
    for (i = 0; i < n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(array, i));
    return n;
}

static struct tokenizer *
open_tokenizer(const char *path, struct gguf **g)
{
    struct tokenizer *t = NULL;
    struct err err;

    if (gguf_open(g, path, &err) != 0 || tokenizer_open(&t, *g, &err) != 0)
        fail_msg("%s", err.text);
    return t;
}

/* Call fn for each line of a JSONL file; returns the number of lines. */
static int
each_line(const char *path,
          void (*fn)(const json_t *, const struct gguf *, const struct tokenizer *),
          const struct gguf *g, const struct tokenizer *t)
{
    FILE *f = fopen(path, "r");
    json_t *o;
    int n = 0;

    assert_non_null(f);
    while ((o = json_loadf(f, JSON_DISABLE_EOF_CHECK, NULL)) != NULL) {
        fn(o, g, t);
        json_decref(o);
        n++;
    }
    fclose(f);
    return n;
}

static void
check_text(const json_t *o, const struct gguf *g, const struct tokenizer *t)
{
    static int32_t want[MAX_IDS];
    size_t n = json_ids(json_object_get(o, "ids"), want), n_back;
    const json_t *text = json_object_get(o, "text");
    char *back = malloc(json_string_length(text) + 1);

    (void)g;
    assert_non_null(back);
    check(t, json_string_value(text), json_string_length(text), false, want, n);
    assert_int_equal(
        tokenizer_decode(t, want, n, true, back, json_string_length(text), &n_back), 0);
    assert_int_equal(n_back, json_string_length(text));
    assert_memory_equal(back, json_string_value(text), n_back);
    free(back);
}

static void
check_chat(const json_t *o, const struct gguf *g, const struct tokenizer *t)
{
    static int32_t want[MAX_IDS], ids[MAX_IDS];
    const json_t *list = json_object_get(o, "messages"), *m;
    const struct chat_template *tmpl;
    struct chat_message messages[16];
    struct err err = { 0 };
    size_t n_want = json_ids(json_object_get(o, "ids"), want), n, i, len;
    char *text;

    assert_true(json_array_size(list) <= 16);
    for (i = 0; i < json_array_size(list); i++) {
        m = json_array_get(list, i);
        messages[i].role = json_string_value(json_object_get(m, "role"));
        messages[i].content = json_string_value(json_object_get(m, "content"));
        messages[i].content_len = json_string_length(json_object_get(m, "content"));
    }
    assert_int_equal(chat_template_find(&tmpl, g, NULL, &err), 0);
    assert_int_equal(
        chat_template_render(tmpl, messages, (int)i, true, &text, &len, NULL, NULL, &err),
        0);
    assert_string_equal(text, json_string_value(json_object_get(o, "text")));
    check(t, text, len, true, want, n_want);
    free(text);
    assert_int_equal(
        chat_template_encode(tmpl, t, messages, (int)i, true, ids, MAX_IDS, &n, &err), 0);
    assert_int_equal(n, n_want);
    assert_memory_equal(ids, want, n * sizeof(*ids));
}

static void
test_smollm2_fixtures(void **state)
{
    char model[4096], texts[4096], chats[4096];
    struct tokenizer *t;
    struct gguf *g;
    int n;

    (void)state;
    if (testdata_model(model, sizeof(model)) == NULL ||
        testdata_file(texts, sizeof(texts), "reference/tokenize.jsonl") == NULL ||
        testdata_file(chats, sizeof(chats), "reference/chat.jsonl") == NULL)
        skip();
    t = open_tokenizer(model, &g);
    assert_int_equal(tokenizer_eos(t), 2);
    assert_int_equal(tokenizer_n_vocab(t), 49152);
    n = each_line(texts, check_text, g, t);
    assert_true(n >= 251);
    n += each_line(chats, check_chat, g, t);
    print_message("%d strings and chats equal\n", n);
    tokenizer_free(t);
    gguf_close(g);
}

/* ---- vocabularies with test strings ---- */

static char *
slurp(const char *path)
{
    FILE *f = fopen(path, "rb");
    char *text = calloc(1, 1 << 20);

    assert_non_null(f);
    assert_non_null(text);
    assert_true(fread(text, 1, (1 << 20) - 1, f) > 0);
    fclose(f);
    return text;
}

/* NAME.inp: strings, each followed by a separator line; NAME.out: a line of ids for
 * each. */
static void
check_vocab(const char *name)
{
    static const char separator[] = "\n__ggml_vocab_test__\n";
    char path[4096], file[128], *texts, *ids, *text, *line, *end, *p;
    int32_t want[MAX_IDS];
    struct tokenizer *t;
    struct gguf *g;
    size_t n, n_lines = 0;

    snprintf(file, sizeof(file), "vocab/%s.inp", name);
    if (testdata_file(path, sizeof(path), file) == NULL)
        skip();
    texts = slurp(path);
    snprintf(file, sizeof(file), "vocab/%s.out", name);
    assert_non_null(testdata_file(path, sizeof(path), file));
    ids = slurp(path);
    snprintf(file, sizeof(file), "vocab/%s", name);
    assert_non_null(testdata_file(path, sizeof(path), file));
    t = open_tokenizer(path, &g);
    for (text = texts, line = ids; (end = strstr(text, separator)) != NULL;
         text = end + sizeof(separator) - 1) {
        for (n = 0, p = line; *p != '\n' && *p != '\0';) {
            want[n++] = (int32_t)strtol(p, &p, 10);
            while (*p == ' ')
                p++;
        }
        line = p + 1;
        *end = '\0';
        check(t, text, (size_t)(end - text), false, want, n);
        n_lines++;
    }
    print_message("%s: %zu strings equal\n", name, n_lines);
    assert_true(n_lines > 40);
    tokenizer_free(t);
    gguf_close(g);
    free(texts);
    free(ids);
}

static void
test_gpt2(void **state)
{
    (void)state;
    check_vocab("ggml-vocab-gpt-2.gguf");
}

static void
test_llama3(void **state)
{
    (void)state;
    check_vocab("ggml-vocab-llama-bpe.gguf");
}

static void
test_qwen2(void **state)
{
    (void)state;
    check_vocab("ggml-vocab-qwen2.gguf");
}

static void
test_llama2(void **state)
{
    (void)state;
    check_vocab("ggml-vocab-llama-spm.gguf");
}

static void
test_phi3(void **state)
{
    (void)state;
    check_vocab("ggml-vocab-phi-3.gguf");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_smollm2_fixtures), cmocka_unit_test(test_gpt2),
        cmocka_unit_test(test_llama3),           cmocka_unit_test(test_qwen2),
        cmocka_unit_test(test_llama2),           cmocka_unit_test(test_phi3),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
