/* SPDX-License-Identifier: Apache-2.0
 * synth_vocab.c - the tiny vocabulary of synthesised models.
 *
 * Three special tokens, all bytes, and pieces built from them by merges of one to
 * three levels, so that encoding meets ranks, chains and characters of two bytes.
 * The file is an ordinary byte-level BPE vocabulary; nothing knows it is tiny.
 */
#include "engine/synth.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/byte_map.h"

enum { TOKEN_NORMAL = 1, TOKEN_CONTROL = 3, TOKEN_UNUSED = 5 };

#define N_SPECIAL 3

static const char *const special[N_SPECIAL] = { "<|endoftext|>", "<|im_start|>",
                                                "<|im_end|>" };

/* In order of rank; "_" stands for the space. */
static const char *const merges[][2] = {
    { "_", "t" },       { "h", "e" },    { "_", "a" },       { "i", "n" },
    { "_t", "he" },     { "o", "n" },    { "e", "r" },       { "_", "s" },
    { "a", "t" },       { "e", "n" },    { "_", "w" },       { "o", "u" },
    { "i", "s" },       { "n", "d" },    { "_a", "nd" },     { "in", "g" },
    { "_", "c" },       { "i", "t" },    { "o", "r" },       { "e", "s" },
    { "_", "b" },       { "_t", "o" },   { "_", "o" },       { "_o", "f" },
    { "_", "p" },       { "e", "d" },    { "_", "in" },      { "_", "m" },
    { "l", "l" },       { "_", "d" },    { "i", "on" },      { "_", "h" },
    { "a", "r" },       { "l", "e" },    { "_w", "h" },      { "v", "e" },
    { "_", "f" },       { "_wh", "at" }, { "r", "o" },       { "s", "t" },
    { "_y", "ou" },     { "_", "y" },    { "a", "s" },       { "_", "e" },
    { "o", "w" },       { "_h", "ow" },  { "_", "is" },      { "W", "h" },
    { "Wh", "at" },     { "T", "he" },   { "u", "r" },       { "e", "l" },
    { "_", "l" },       { "c", "h" },    { "ing", "_" },     { "\n", "\n" },
    { ".", "\n" },      { "1", "2" },    { "\303", "\251" }, { "q", "u" },
    { "\360", "\237" },
};

#define N_MERGES (sizeof(merges) / sizeof(merges[0]))

_Static_assert(N_SPECIAL + 256 + N_MERGES == SYNTH_MIN_VOCAB, "vocabulary size");

/* Append one byte as its character; returns the end. */
static char *
put_byte(char *p, uint8_t byte)
{
    uint32_t c = byte_map_char(byte);

    if (c < 0x80) {
        *p++ = (char)c;
    } else {
        *p++ = (char)(0xc0 | c >> 6);
        *p++ = (char)(0x80 | (c & 0x3f));
    }
    return p;
}

static char *
put_piece(char *p, const char *piece)
{
    for (; *piece != '\0'; piece++)
        p = put_byte(p, *piece == '_' ? ' ' : (uint8_t)*piece);
    return p;
}

/* Texts of all tokens and merges, each at most ROOM bytes, in one block. */
#define ROOM 32

static struct gguf_str
token_text(int id, char *room)
{
    char *end;

    if (id < N_SPECIAL) {
        end = stpcpy(room, special[id]);
    } else if (id < N_SPECIAL + 256) {
        end = put_byte(room, (uint8_t)(id - N_SPECIAL));
    } else if (id < SYNTH_MIN_VOCAB) {
        const char *const *pair = merges[id - N_SPECIAL - 256];

        end = put_piece(put_piece(room, pair[0]), pair[1]);
    } else {
        end = room + snprintf(room, ROOM, "<|filler_%d|>", id);
    }
    return (struct gguf_str){ room, (size_t)(end - room) };
}

static struct gguf_str
merge_text(size_t i, char *room)
{
    char *end = put_piece(room, merges[i][0]);

    *end++ = ' ';
    end = put_piece(end, merges[i][1]);
    return (struct gguf_str){ room, (size_t)(end - room) };
}

static const char chat_template[] =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + "
    "message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

static void
put_str(struct gguf_writer *w, const char *key, const char *value)
{
    gguf_writer_str(w, key, value, strlen(value));
}

int
synth_write_vocab(struct gguf_writer *w, int n_vocab, struct err *err)
{
    size_t n = (size_t)n_vocab, i;
    struct gguf_str *texts = NULL;
    int32_t *types = NULL;
    char *room = NULL;
    int rc = 0;

    if (n_vocab < SYNTH_MIN_VOCAB)
        return err_set(err, CE_EINVAL, "n_vocab: %d is less than %d", n_vocab,
                       SYNTH_MIN_VOCAB);
    texts = calloc(n, sizeof(*texts));
    types = calloc(n, sizeof(*types));
    room = malloc(n * ROOM);
    if (texts == NULL || types == NULL || room == NULL) {
        rc = err_set(err, CE_ENOMEM, "no memory for a vocabulary of %d tokens", n_vocab);
        goto out;
    }
    for (i = 0; i < n; i++) {
        texts[i] = token_text((int)i, room + i * ROOM);
        types[i] = i < N_SPECIAL         ? TOKEN_CONTROL
                   : i < SYNTH_MIN_VOCAB ? TOKEN_NORMAL
                                         : TOKEN_UNUSED;
    }
    put_str(w, "tokenizer.ggml.model", "gpt2");
    put_str(w, "tokenizer.ggml.pre", "smollm");
    gguf_writer_str_array(w, "tokenizer.ggml.tokens", texts, n);
    gguf_writer_i32_array(w, "tokenizer.ggml.token_type", types, n);
    for (i = 0; i < N_MERGES; i++)
        texts[i] = merge_text(i, room + i * ROOM);
    gguf_writer_str_array(w, "tokenizer.ggml.merges", texts, N_MERGES);
    gguf_writer_u32(w, "tokenizer.ggml.bos_token_id", 1);
    gguf_writer_u32(w, "tokenizer.ggml.eos_token_id", 2);
    gguf_writer_bool(w, "tokenizer.ggml.add_bos_token", false);
    put_str(w, "tokenizer.chat_template", chat_template);
out:
    free(texts);
    free(types);
    free(room);
    return rc;
}
