/* SPDX-License-Identifier: Apache-2.0
 * test_text_windows.c - texts are cut without loss, and what is kept or set apart is
 * spread over all of them.
 */
#include "tools/text_windows.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/synth.h"

#define MODEL "test_text_windows.gguf"
#define TEXT  "test_text_windows.txt"

static void
write_text(const char *text, size_t len)
{
    FILE *f = fopen(TEXT, "w");

    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

static void
test_cut(void **state)
{
    static const char text[] = "\xff\x01zqxjzqxj"; /* no merges: a token a byte */
    struct text_windows w = { .length = 4 };
    struct synth_params p;
    struct tokenizer *t;
    struct gguf *g;
    struct err err = { 0 };
    size_t n = 0;

    (void)state;
    synth_params_init(&p);
    assert_int_equal(synth_model(&p, MODEL, &err), 0);
    assert_int_equal(gguf_open(&g, MODEL, &err), 0);
    assert_int_equal(tokenizer_open(&t, g, &err), 0);
    write_text(text, sizeof(text) - 1);
    assert_int_equal(text_windows_add(&w, t, TEXT, &err), 0);
    assert_int_equal(text_windows_add(&w, t, TEXT, &err), 0);
    write_text("", 0);
    assert_int_equal(text_windows_add(&w, t, TEXT, &err), 0);
    assert_int_equal(text_windows_add(&w, t, "/nonexistent", &err), CE_EIO);
    for (size_t i = 0; i < w.n; i++) {
        const int32_t *ids = w.ids + w.list[i].at;
        int from = tokenizer_add_bos(t);

        assert_true(w.list[i].n > from && w.list[i].n <= 4);
        assert_true(!from || ids[0] == tokenizer_bos(t));
        for (int j = from; j < w.list[i].n; j++) {
            size_t len;
            const char *piece = tokenizer_piece(t, ids[j], &len);

            assert_int_equal(len, 1);
            assert_int_equal(piece[0], text[n++ % (sizeof(text) - 1)]);
        }
    }
    assert_int_equal(n, 2 * (sizeof(text) - 1));
    text_windows_free(&w);
    tokenizer_free(t);
    gguf_close(g);
    unlink(MODEL);
    unlink(TEXT);
}

/* A tenth is set apart, at least one, and no two are close. */
static void
test_apart(void **state)
{
    (void)state;
    for (size_t n = 1; n < 300; n++) {
        size_t apart = 0, last = 0;

        for (size_t i = 0; i < n; i++) {
            if (!text_windows_apart(i, n))
                continue;
            assert_true(apart == 0 || i - last >= 10);
            last = i;
            apart++;
        }
        assert_int_equal(apart, n < 20 ? 1 : n / 10);
    }
}

static void
test_thin(void **state)
{
    struct text_window list[100];
    struct text_windows w = { .length = 8, .list = list, .n = 100 };

    (void)state;
    for (size_t i = 0; i < 100; i++)
        list[i] = (struct text_window){ i * 8, 8 };
    text_windows_thin(&w, 801);
    assert_int_equal(w.n, 100);
    assert_int_equal(text_windows_count(&w, true), 80);
    assert_int_equal(text_windows_count(&w, false), 720);
    text_windows_thin(&w, 207);
    assert_int_equal(w.n, 25);
    for (size_t i = 0; i < 25; i++)
        assert_int_equal(list[i].at, i * 4 * 8);
    text_windows_thin(&w, 1);
    assert_int_equal(w.n, 2);
    assert_int_equal(list[1].at, 12 * 4 * 8);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cut),
        cmocka_unit_test(test_apart),
        cmocka_unit_test(test_thin),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
