/* SPDX-License-Identifier: Apache-2.0
 * cmd_tokenize.c - cecollm-model tokenize: text to ids and ids to text.
 *
 * Pieces need not be whole characters; what is shown of them is made valid UTF-8
 * and escaped, while --decode gives exactly the bytes.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "tools/command.h"

#include "engine/chat_template.h"
#include "engine/tokenizer.h"
#include "engine/utf8_stream.h"

struct token_list {
    int32_t *ids; /* owned */
    size_t n;
};

/* ---- input ---- */

/* How text becomes ids. */
struct way {
    const struct tokenizer *t;
    const struct chat_template *chat; /* the text is a user's message; NULL: it is not */
    bool special;
};

static int
encode_into(const struct way *w, const char *text, size_t len, int32_t *ids, size_t cap,
            size_t *n, struct err *err)
{
    const struct chat_message m = { "user", text, len };

    if (w->chat)
        return chat_template_encode(w->chat, w->t, &m, 1, true, ids, cap, n, err);
    return tokenizer_encode(w->t, text, len, w->special, ids, cap, n, err);
}

static int
encode(const struct way *w, const char *text, size_t len, struct token_list *out,
       struct err *err)
{
    size_t n = 0;
    int rc = encode_into(w, text, len, NULL, 0, &n, err);

    if (rc != 0 && rc != CE_ECONTEXT) /* that one says how many there are */
        return rc;
    out->ids = mem_array_alloc(n + 1, sizeof(*out->ids));
    if (!out->ids)
        return err_set(err, CE_ENOMEM, "no memory for %zu ids", n);
    return encode_into(w, text, len, out->ids, n, &out->n, err);
}

/* Ids between anything that is not part of a number: "1, 2", "[1,2]", one a line. */
static int
parse_ids(const struct tokenizer *t, const char *text, size_t len, struct token_list *out,
          struct err *err)
{
    const char *p = text, *end = text + len;

    out->ids = mem_array_alloc(len / 2 + 1, sizeof(*out->ids));
    if (!out->ids)
        return err_set(err, CE_ENOMEM, "no memory for ids");
    while ((p += strspn(p, " \t\r\n,[]")) < end) {
        char *stop;
        long id;

        errno = 0;
        id = strtol(p, &stop, 10);
        if (stop == p || (*stop != '\0' && !strchr(" \t\r\n,[]", *stop)))
            return err_set(err, CE_EFORMAT, "offset %td: \"%.10s\" is not a token id",
                           p - text, p);
        if (errno != 0 || id < 0 || id >= tokenizer_n_vocab(t))
            return err_set(err, CE_EINVAL, "offset %td: id %ld is not in 0 to %d",
                           p - text, id, tokenizer_n_vocab(t) - 1);
        out->ids[out->n++] = (int32_t)id;
        p = stop;
    }
    return 0;
}

/* ---- output ---- */

/* A piece as valid UTF-8, allocated, NUL-terminated; *len without the NUL. */
static char *
piece_text(const struct tokenizer *t, int32_t id, size_t *len)
{
    struct utf8_stream s = { 0 };
    size_t n;
    const char *piece = tokenizer_piece(t, id, &n);
    char *out = malloc(UTF8_STREAM_ROOM(n) + 4);

    if (!out)
        return NULL;
    *len = utf8_stream_push(&s, piece, n, out);
    *len += utf8_stream_end(&s, out + *len);
    out[*len] = '\0';
    return out;
}

static void
print_table(const struct tokenizer *t, const struct token_list *l)
{
    for (size_t i = 0; i < l->n; i++) {
        printf("%7d  ", (int)l->ids[i]);
        command_print_piece(t, l->ids[i]);
        putchar('\n');
    }
}

static void
print_ids(const struct token_list *l)
{
    for (size_t i = 0; i < l->n; i++)
        printf(i == 0 ? "%d" : " %d", (int)l->ids[i]);
    putchar('\n');
}

static int
print_json(const struct tokenizer *t, const struct token_list *l, struct err *err)
{
    json_t *ids = json_array(), *pieces = json_array();

    for (size_t i = 0; i < l->n; i++) {
        size_t len;
        char *text = piece_text(t, l->ids[i], &len);

        json_array_append_new(ids, json_integer(l->ids[i]));
        json_array_append_new(pieces, text ? json_stringn(text, len) : NULL);
        free(text);
    }
    return command_print_json(
        json_pack("{s:I, s:o, s:o}", "n", (json_int_t)l->n, "ids", ids, "pieces", pieces),
        false, err);
}

static int
print_text(const struct tokenizer *t, const struct token_list *l, struct err *err)
{
    size_t n, written = 0;
    char *text;
    int rc = tokenizer_decode(t, l->ids, l->n, true, NULL, 0, &n);

    (void)rc; /* CE_ECONTEXT: now its length is known */
    text = malloc(n + 1);
    if (text && tokenizer_decode(t, l->ids, l->n, true, text, n, &n) == 0)
        written = fwrite(text, 1, n, stdout);
    free(text);
    if (!text)
        return err_set(err, CE_ENOMEM, "no memory for %zu bytes", n);
    return written == n ? 0 : err_set(err, CE_EIO, "stdout: %s", strerror(errno));
}

/* ---- the command ---- */

struct tokenize_args {
    const char *file, *text; /* text NULL or "-": stdin */
    const char *chat;        /* a template's name, "auto", or NULL */
    bool special, ids, json, decode;
};

static int
tokenize(const struct tokenize_args *a, struct err *err)
{
    struct gguf *g = NULL;
    struct tokenizer *t = NULL;
    struct token_list list = { 0 };
    struct way way = { .special = a->special };
    char *input = NULL;
    const char *text = a->text;
    size_t len = text ? strlen(text) : 0;
    int rc;

    if ((rc = gguf_open(&g, a->file, err)) || (rc = tokenizer_open(&t, g, err)))
        goto out;
    way.t = t;
    if (a->chat && (rc = chat_template_find(
                        &way.chat, g, strcmp(a->chat, "auto") ? a->chat : NULL, err)))
        goto out;
    if (!text || strcmp(text, "-") == 0) {
        if ((rc = command_read_text("-", TOKENIZER_MAX_TEXT, &input, &len, err)))
            goto out;
        text = input;
    }
    rc = a->decode ? parse_ids(t, text, len, &list, err)
                   : encode(&way, text, len, &list, err);
    if (rc != 0)
        goto out;
    if (a->json)
        rc = print_json(t, &list, err);
    else if (a->decode)
        rc = print_text(t, &list, err);
    else if (a->ids)
        print_ids(&list);
    else
        print_table(t, &list);
out:
    mem_free(list.ids);
    free(input);
    tokenizer_free(t);
    gguf_close(g);
    return rc;
}

int
cmd_tokenize(int argc, char **argv)
{
    struct tokenize_args a = { 0 };
    struct err err = { 0 };
    const struct option_spec specs[] = {
        { "special", 's', OPTIONS_FLAG, &a.special, NULL,
          "texts of special tokens become those tokens", 0, 0 },
        { "chat-template", 'c', OPTIONS_TEXT, &a.chat, "NAME",
          "TEXT is a user's message in this template (auto: the file's own)", 0, 0 },
        { "ids", 'i', OPTIONS_FLAG, &a.ids, NULL, "only the ids, on one line", 0, 0 },
        { "decode", 'd', OPTIONS_FLAG, &a.decode, NULL,
          "TEXT holds ids; print the text they stand for", 0, 0 },
        { "json", 0, OPTIONS_FLAG, &a.json, NULL, "for programs", 0, 0 },
        { 0 }
    };
    const struct options_page page = {
        "tokenize FILE [TEXT|-] [--special|--chat-template NAME] [--ids|--json] "
        "[--decode]",
        "Show the tokens of TEXT, or of what stdin gives: id and piece, one a line.",
        specs, 1, 2
    };
    int n, status;

    if (!command_options(&page, argc, argv, &n, &status))
        return status;
    a.file = argv[1];
    a.text = n > 1 ? argv[2] : NULL;
    if (tokenize(&a, &err) != 0)
        return command_failed("tokenize", &err);
    return COMMAND_OK;
}
