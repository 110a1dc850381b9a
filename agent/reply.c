/* SPDX-License-Identifier: Apache-2.0
 * reply.c - see reply.h.
 *
 * The text grows in one buffer. Every token remembers where its text ends; it waits
 * in `held` until everything up to there is final, so a token that completes
 * half a stop string is reported once the next one shows that it was none.
 */
#include "agent/reply.h"

#include <string.h>

#include "common/bytebuf.h"
#include "common/memory.h"
#include "engine/utf8_stream.h"

#define REPLY_MAX_TEXT ((size_t)64 << 20)

struct held {
    struct reply_token token;
    size_t text_end;
};

struct reply {
    struct reply_vocab vocab;
    const char *const *stops;
    int n_stops;
    reply_token_fn *on_token;
    void *ctx;

    struct bytebuf text;
    struct utf8_stream utf8;
    size_t reported; /* bytes of text that have been reported */
    bool stopped;

    int32_t *ids;
    int n_ids, cap_ids;

    struct held *held;
    int n_held, cap_held;
};

const char *
reply_origin_name(enum reply_origin o)
{
    switch (o) {
    case REPLY_EXIT:
        return "exit";
    case REPLY_CLOUD:
        return "cloud";
    case REPLY_FULL:
        return "full";
    case REPLY_FALLBACK:
        return "fallback";
    }
    return "unknown";
}

int
reply_new(struct reply **out, const struct reply_vocab *vocab, const char *const *stops,
          int n_stops, reply_token_fn *on_token, void *ctx, struct err *err)
{
    struct reply *r = mem_array_alloc(1, sizeof(*r));

    *out = r;
    if (r == NULL)
        return err_set(err, CE_ENOMEM, "answer: out of memory");
    r->vocab = *vocab;
    r->stops = stops;
    r->n_stops = n_stops;
    r->on_token = on_token;
    r->ctx = ctx;
    bytebuf_init(&r->text, REPLY_MAX_TEXT);
    return 0;
}

void
reply_free(struct reply *r)
{
    if (r == NULL)
        return;
    bytebuf_fini(&r->text);
    mem_free(r->ids);
    mem_free(r->held);
    mem_free(r);
}

/* Room for one more element; doubles. */
static int
grow(void **array, int n, int *cap, size_t size)
{
    if (n < *cap)
        return 0;
    int want = *cap < 32 ? 32 : *cap * 2;
    void *p = mem_array_resize(*array, (size_t)want, size);
    if (p == NULL)
        return CE_ENOMEM;
    *array = p;
    *cap = want;
    return 0;
}

/* Where the first stop string begins, or SIZE_MAX. `from`: text before it has been
 * searched. */
static size_t
find_stop(const struct reply *r, size_t from)
{
    const char *text = (const char *)bytebuf_data(&r->text);
    size_t len = bytebuf_len(&r->text), best = SIZE_MAX;

    for (int i = 0; i < r->n_stops && text != NULL; i++) {
        size_t n = strlen(r->stops[i]);
        const char *at = memmem(text + from, len - from, r->stops[i], n);
        if (at != NULL && (size_t)(at - text) < best)
            best = (size_t)(at - text);
    }
    return best;
}

/* Length of the text that no stop string can still claim. */
static size_t
final_length(const struct reply *r)
{
    const char *text = (const char *)bytebuf_data(&r->text);
    size_t len = bytebuf_len(&r->text), hold = 0;

    if (r->stopped)
        return len;
    for (int i = 0; i < r->n_stops; i++) {
        size_t n = strlen(r->stops[i]) - 1;
        for (n = n < len ? n : len; n > hold; n--)
            if (memcmp(text + len - n, r->stops[i], n) == 0)
                hold = n;
    }
    return len - hold;
}

/* Report the first `most` held tokens, as far as their text lies below `length`. */
static void
report(struct reply *r, int most, size_t length)
{
    int n = 0;

    while (n < most && r->held[n].text_end <= length) {
        struct reply_token *t = &r->held[n].token;
        t->text = (const char *)bytebuf_data(&r->text);
        t->text = t->text != NULL ? t->text + r->reported : "";
        t->text_len = r->held[n].text_end - r->reported;
        r->reported = r->held[n].text_end;
        r->on_token(r->ctx, t);
        n++;
    }
    if (n > 0)
        memmove(r->held, r->held + n, (size_t)(r->n_held - n) * sizeof(*r->held));
    r->n_held -= n;
}

static int
append_piece(struct reply *r, int32_t id)
{
    size_t len;
    const char *piece = r->vocab.piece(r->vocab.ctx, id, &len);
    size_t before = bytebuf_len(&r->text);
    uint8_t *room = bytebuf_extend(&r->text, UTF8_STREAM_ROOM(len));

    if (room == NULL)
        return bytebuf_status(&r->text);
    size_t n = utf8_stream_push(&r->utf8, piece, len, (char *)room);
    bytebuf_truncate(&r->text, before + n);
    return 0;
}

/* Cut the text at a stop string and what the held tokens claim of it. */
static void
cut_text(struct reply *r, size_t at)
{
    bytebuf_truncate(&r->text, at);
    for (int i = 0; i < r->n_held; i++)
        if (r->held[i].text_end > at)
            r->held[i].text_end = at;
    r->stopped = true;
}

int
reply_add(struct reply *r, const struct reply_token *t, struct err *err)
{
    size_t from = r->reported;
    void *ids = r->ids, *held = r->held;
    int rc = grow(&ids, r->n_ids, &r->cap_ids, sizeof(*r->ids));

    r->ids = ids;
    if (rc == 0)
        rc = grow(&held, r->n_held, &r->cap_held, sizeof(*r->held));
    r->held = held;
    if (rc == 0)
        rc = append_piece(r, t->id);
    if (rc < 0)
        return err_set(err, CE_ENOMEM, "answer: no memory for token %d", r->n_ids + 1);
    r->ids[r->n_ids++] = t->id;
    r->held[r->n_held].token = *t;
    r->held[r->n_held++].text_end = bytebuf_len(&r->text);
    size_t at = find_stop(r, from);
    if (at != SIZE_MAX)
        cut_text(r, at);
    /* A token that ends inside a character waits for the rest of it. */
    bool half = r->utf8.n_held > 0 && !r->stopped;
    report(r, r->n_held - (half ? 1 : 0), final_length(r));
    return r->stopped ? 1 : 0;
}

int
reply_finish(struct reply *r, struct err *err)
{
    if (!r->stopped && r->n_ids > 0) {
        size_t before = bytebuf_len(&r->text);
        uint8_t *room = bytebuf_extend(&r->text, 3);
        if (room == NULL)
            return err_set(err, CE_ENOMEM, "answer: out of memory");
        bytebuf_truncate(&r->text, before + utf8_stream_end(&r->utf8, (char *)room));
    }
    /* A last half character belongs to the last token, which waits for it. */
    if (r->n_held > 0)
        r->held[r->n_held - 1].text_end = bytebuf_len(&r->text);
    report(r, r->n_held, SIZE_MAX);
    return 0;
}

int
reply_n_tokens(const struct reply *r)
{
    return r->n_ids;
}

const int32_t *
reply_ids(const struct reply *r)
{
    return r->ids;
}

const char *
reply_text(const struct reply *r, size_t *len)
{
    *len = bytebuf_len(&r->text);
    return *len > 0 ? (const char *)bytebuf_data(&r->text) : "";
}
