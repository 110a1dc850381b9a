/* SPDX-License-Identifier: Apache-2.0
 * test_nomem.c - every allocation of the text path fails once: opening files and
 * vocabularies, encoding, rendering, writing. Each time the answer is CE_ENOMEM and
 * nothing is left behind (the leak check of the address sanitizer looks).
 *
 * The linker sends our code's allocations through the wrappers below; libraries keep
 * their own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/chat_template.h"
#include "engine/synth.h"
#include "engine/tokenizer.h"

#define MODEL "test_nomem.gguf"
#define OTHER "test_nomem.other.gguf"

static long left = -1; /* allocations until one fails; negative: none does */

static int
fails(void)
{
    if (left < 0)
        return 0;
    return left-- == 0;
}

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
char *__real_strdup(const char *s);
char *__real_strndup(const char *s, size_t n);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);
char *__wrap_strdup(const char *s);
char *__wrap_strndup(const char *s, size_t n);

void *
__wrap_malloc(size_t size)
{
    return fails() ? NULL : __real_malloc(size);
}

void *
__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : __real_calloc(n, size);
}

void *
__wrap_realloc(void *p, size_t size)
{
    return fails() ? NULL : __real_realloc(p, size);
}

char *
__wrap_strdup(const char *s)
{
    return fails() ? NULL : __real_strdup(s);
}

char *
__wrap_strndup(const char *s, size_t n)
{
    return fails() ? NULL : __real_strndup(s, n);
}

static struct gguf *file;
static struct tokenizer *tok;

/* ---- what is tried; each undoes what it did ---- */

static int
try_open(struct err *err)
{
    struct gguf *g;
    int rc = gguf_open(&g, MODEL, err);

    assert_true((rc == 0) == (g != NULL));
    gguf_close(g);
    return rc;
}

static int
try_tokenizer(struct err *err)
{
    struct tokenizer *t;
    int rc = tokenizer_open(&t, file, err);

    assert_true((rc == 0) == (t != NULL));
    tokenizer_free(t);
    return rc;
}

static int
try_encode(struct err *err)
{
    static const char text[] =
        "The same long word again: "
        "thethethethethethethethethethethethethethethethethethethethe"
        "thethethethethethethethethethethethethethethethethethethethe";
    int32_t ids[256];
    size_t n;

    return tokenizer_encode(tok, text, sizeof(text) - 1, true, ids, 256, &n, err);
}

static int
try_chat(struct err *err)
{
    const struct chat_message m = { "user", "hello", 5 };
    const struct chat_template *t;
    int32_t ids[256];
    size_t n;
    int rc = chat_template_find(&t, file, NULL, err);

    assert_int_equal(rc, 0);
    return chat_template_encode(t, tok, &m, 1, true, ids, 256, &n, err);
}

static int
try_synth(struct err *err)
{
    struct synth_params p;
    const int layer = 1;
    int rc;

    synth_params_init(&p);
    p.n_layers = 2;
    p.d_model = p.d_ff = 32;
    rc = synth_model(&p, OTHER, err);
    if (rc == 0)
        rc = synth_exits(&p, OTHER, &layer, 1, 8, OTHER ".exits", err);
    unlink(OTHER);
    unlink(OTHER ".exits");
    return rc;
}

static void
each_allocation(int (*attempt)(struct err *err))
{
    struct err err;
    long n;
    int rc;

    for (n = 0;; n++) {
        err = (struct err){ 0 };
        left = n;
        rc = attempt(&err);
        if (left >= 0) { /* none was left to fail */
            left = -1;
            break;
        }
        left = -1;
        if (rc != CE_ENOMEM || err.code != CE_ENOMEM)
            fail_msg("allocation %ld: %d, %s", n, rc, err.text);
    }
    assert_int_equal(rc, 0);
    assert_true(n > 0);
    print_message("%ld allocations\n", n);
}

static void
test_opening(void **state)
{
    (void)state;
    each_allocation(try_open);
    each_allocation(try_tokenizer);
}

static void
test_encoding(void **state)
{
    (void)state;
    each_allocation(try_encode);
    each_allocation(try_chat);
}

static void
test_writing(void **state)
{
    (void)state;
    each_allocation(try_synth);
    assert_int_not_equal(access(OTHER ".tmp", F_OK), 0);
}

static int
set_up(void **state)
{
    struct synth_params p;
    struct err err;

    (void)state;
    synth_params_init(&p);
    p.n_layers = 1;
    return synth_model(&p, MODEL, &err) != 0 || gguf_open(&file, MODEL, &err) != 0 ||
                   tokenizer_open(&tok, file, &err) != 0
               ? -1
               : 0;
}

static int
tear_down(void **state)
{
    (void)state;
    tokenizer_free(tok);
    gguf_close(file);
    unlink(MODEL);
    return 0;
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_opening),
        cmocka_unit_test(test_encoding),
        cmocka_unit_test(test_writing),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
