/* SPDX-License-Identifier: Apache-2.0
 * fuzz_tokenizer.c - any bytes as a prompt, under both kinds of vocabulary: they come
 * back from their tokens, no special token appears where none may, and what is
 * printed is valid UTF-8. And any damage to a vocabulary: it is refused by a text, or
 * it encodes within its bounds.
 *
 * First byte: bit 0 parses special tokens, up to a literal range that begins at the
 * high four bits' sixteenths of the text; bit 1 takes the SentencePiece vocabulary;
 * bit 2 damages it: the next byte says how many bytes of the file (at most 15) are
 * replaced, three bytes each: offset (little endian) and value.
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

struct vocab {
    struct gguf *file;
    struct tokenizer *t;
};

static void
open_vocab(struct vocab *v, bool spm)
{
    char path[] = "fuzz_tokenizer.XXXXXX";
    int fd = mkstemp(path), rc = 0;
    struct gguf_writer *w = NULL;
    struct err err;

    check(fd >= 0, "no temporary file");
    close(fd);
    check(gguf_writer_new(&w, &err) == 0, "no vocabulary");
    if (spm)
        synth_write_spm_vocab(w);
    else
        rc = synth_write_vocab(w, 330, &err);
    check(rc == 0 && gguf_writer_finish(w, path, &err) == 0 &&
              gguf_open(&v->file, path, &err) == 0 &&
              tokenizer_open(&v->t, v->file, &err) == 0,
          "no vocabulary");
    gguf_writer_free(w);
    unlink(path);
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

/* ---- damaged vocabularies ---- */

/* Bytes used for the damage. */
static size_t
damage(uint8_t *file, size_t file_size, const uint8_t *data, size_t size)
{
    size_t n = data[0] & 15, i;

    for (i = 0; i < n && 1 + 3 * i + 3 <= size; i++) {
        const uint8_t *p = data + 1 + 3 * i;

        file[(p[0] | p[1] << 8) % file_size] = p[2];
    }
    return 1 + 3 * i;
}

static void
try_damaged(const struct vocab *v, const uint8_t *data, size_t size)
{
    static int32_t ids[2 * MAX_TEXT];
    static char back[MAX_TEXT];
    size_t file_size = gguf_size_bytes(v->file), used, n, n_back, i;
    uint8_t *file = malloc(file_size);
    struct tokenizer *t = NULL;
    struct gguf *g = NULL;
    struct err err = { 0 };

    check(file != NULL, "no memory");
    memcpy(file, gguf_bytes(v->file), file_size);
    used = damage(file, file_size, data, size);
    if (gguf_open_memory(&g, file, file_size, "fuzz", &err) == 0 &&
        tokenizer_open(&t, g, &err) == 0 &&
        tokenizer_encode(t, (const char *)data + used, size - used, true, ids,
                         2 * MAX_TEXT, &n, &err) == 0) {
        for (i = 0; i < n; i++)
            check(ids[i] >= 0 && ids[i] < tokenizer_n_vocab(t), "an id out of range");
        (void)tokenizer_decode(t, ids, n, true, back, sizeof(back), &n_back);
    } else {
        check(err.code != 0 && err.text[0] != '\0', "refused without a word");
    }
    tokenizer_free(t);
    gguf_close(g);
    free(file);
}

/* ---- sound ones ---- */

/* Byte-level BPE loses nothing. */
static void
check_bpe(const struct tokenizer *t, const int32_t *ids, size_t n, const char *text,
          size_t len, size_t literal)
{
    static char back[MAX_TEXT];
    size_t n_back, i;

    check(tokenizer_decode(t, ids, n, true, back, sizeof(back), &n_back) == 0 &&
              n_back == len && (len == 0 || memcmp(back, text, len) == 0),
          "does not come back");
    for (i = 0, n_back = 0; i < n; i++) {
        size_t piece_len;

        tokenizer_piece(t, ids[i], &piece_len);
        n_back += piece_len;
        check(!tokenizer_is_special(t, ids[i]) || n_back <= literal,
              "a special token in a literal range");
    }
    check_print(t, ids, n, text, len);
}

/* Without spaces, and without what stands for one. Returns the length. */
static size_t
squeeze(const char *text, size_t len, char *out)
{
    size_t i = 0, n = 0;

    while (i < len)
        if (text[i] == ' ')
            i++;
        else if (len - i >= 3 && memcmp(text + i, "\342\226\201", 3) == 0)
            i += 3;
        else
            out[n++] = text[i++];
    return n;
}

/* SentencePiece puts spaces behind special tokens; all else comes back. */
static void
check_spm(const struct tokenizer *t, const int32_t *ids, size_t n, const char *text,
          size_t len, size_t literal)
{
    static char back[2 * MAX_TEXT], a[2 * MAX_TEXT], b[2 * MAX_TEXT];
    size_t n_back, i, na, nb;

    check(tokenizer_decode(t, ids, n, true, back, sizeof(back), &n_back) == 0,
          "does not come back");
    na = squeeze(text, len, a);
    nb = squeeze(back, n_back, b);
    check(na == nb && memcmp(a, b, na) == 0, "comes back otherwise");
    if (memchr(text, '<', len) == NULL && memchr(text, '\342', len) == NULL)
        check(n_back == len && memcmp(back, text, len) == 0, "spaces come or go");
    for (i = 0; i < n; i++)
        check(!tokenizer_is_special(t, ids[i]) || literal > 0,
              "a special token in a literal range");
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct vocab vocabs[2];
    static int32_t ids[2 * MAX_TEXT];
    const char *text = (const char *)data + 1;
    struct text_range literal;
    size_t len, n;
    struct vocab *v;
    bool spm;

    if (size == 0 || size > MAX_TEXT)
        return 0;
    spm = (data[0] & 2) != 0;
    v = &vocabs[spm];
    if (v->t == NULL)
        open_vocab(v, spm);
    if ((data[0] & 4) != 0 && size > 1) {
        try_damaged(v, data + 1, size - 1);
        return 0;
    }
    len = size - 1;
    literal.from = (data[0] & 1) != 0 ? len * (data[0] >> 4) / 16 : 0;
    literal.to = len;
    check(tokenizer_encode_ranges(v->t, text, len, &literal, 1, ids, 2 * MAX_TEXT, &n,
                                  NULL) == 0,
          "cannot be encoded");
    if (spm)
        check_spm(v->t, ids, n, text, len, literal.from);
    else
        check_bpe(v->t, ids, n, text, len, literal.from);
    return 0;
}
