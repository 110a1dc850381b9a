/* SPDX-License-Identifier: Apache-2.0
 * fuzz_tokenizer.c - any bytes as a prompt: they come back from their tokens, no
 * special token appears where none may, and what is printed is valid UTF-8.
 *
 * First byte: bit 0 parses special tokens; the rest of it says where a literal range
 * begins, in sixteenths of the text.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/synth.h"
#include "engine/tokenizer.h"
#include "engine/utf8_stream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_TEXT 4096

static void
check(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "%s\n", what);
    abort();
}

static struct tokenizer *
open_vocab(void)
{
    char path[] = "fuzz_tokenizer.XXXXXX";
    int fd = mkstemp(path);
    struct gguf_writer *w = NULL;
    struct tokenizer *t = NULL;
    struct gguf *g = NULL;
    struct err err;

    check(fd >= 0, "no temporary file");
    close(fd);
    check(gguf_writer_new(&w, &err) == 0 && synth_write_vocab(w, 330, &err) == 0 &&
              gguf_writer_finish(w, path, &err) == 0 && gguf_open(&g, path, &err) == 0 &&
              tokenizer_open(&t, g, &err) == 0,
          "no vocabulary");
    gguf_writer_free(w);
    gguf_close(g);
    unlink(path);
    return t;
}

/* Token by token through a stream: always valid, and as the whole text gives. */
static void
check_print(const struct tokenizer *t, const int32_t *ids, size_t n, const char *text,
            size_t len)
{
    static char whole[UTF8_STREAM_ROOM(MAX_TEXT) + 3],
        parts[UTF8_STREAM_ROOM(MAX_TEXT) * 4];
    struct utf8_stream a = { .n_held = 0 }, b = { .n_held = 0 };
    size_t n_whole = utf8_stream_push(&a, text, len, whole), n_parts = 0, i, piece_len;
    const char *piece;

    n_whole += utf8_stream_end(&a, whole + n_whole);
    for (i = 0; i < n; i++) {
        piece = tokenizer_piece(t, ids[i], &piece_len);
        n_parts += utf8_stream_push(&b, piece, piece_len, parts + n_parts);
        check(n_parts < sizeof(parts) - UTF8_STREAM_ROOM(64), "too much is printed");
    }
    n_parts += utf8_stream_end(&b, parts + n_parts);
    check(utf8_valid_prefix(whole, n_whole) == n_whole, "prints invalid UTF-8");
    check(n_parts == n_whole && memcmp(parts, whole, n_whole) == 0, "prints otherwise");
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tokenizer *t;
    static int32_t ids[MAX_TEXT];
    static char back[MAX_TEXT];
    const char *text = (const char *)data + 1;
    struct text_range literal;
    size_t len, n, n_back, i;

    if (t == NULL)
        t = open_vocab();
    if (size == 0 || size > MAX_TEXT)
        return 0;
    len = size - 1;
    literal.from = (data[0] & 1) != 0 ? len * (data[0] >> 4) / 16 : 0;
    literal.to = len;
    check(tokenizer_encode_ranges(t, text, len, &literal, 1, ids, MAX_TEXT, &n, NULL) ==
              0,
          "cannot be encoded");
    check(tokenizer_decode(t, ids, n, true, back, sizeof(back), &n_back) == 0 &&
              n_back == len && (len == 0 || memcmp(back, text, len) == 0),
          "does not come back");
    for (i = 0, n_back = 0; i < n; i++) {
        size_t piece_len;

        tokenizer_piece(t, ids[i], &piece_len);
        n_back += piece_len;
        check(!tokenizer_is_special(t, ids[i]) || n_back <= literal.from,
              "a special token in a literal range");
    }
    check_print(t, ids, n, text, len);
    return 0;
}
