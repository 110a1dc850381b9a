/* SPDX-License-Identifier: Apache-2.0
 * reply.h - an answer taking shape: its tokens, its text, where it must stop.
 *
 * Each token adds bytes. Bytes become text only when they are whole characters,
 * and text becomes final only when it can no longer be the beginning of a stop
 * string; a token is reported together with its final text. So whoever shows the
 * answer never has to take anything back.
 *
 * Thread: the one that decodes.
 */
#ifndef CE_AGENT_REPLY_H
#define CE_AGENT_REPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "engine/model.h"

enum reply_origin {
    REPLY_EXIT,     /* an early exit was sure */
    REPLY_CLOUD,    /* the cloud answered */
    REPLY_FULL,     /* the whole model, here */
    REPLY_FALLBACK, /* the last exit was not sure, and there was no cloud */
};

/* "exit", "cloud", "full", "fallback". */
const char *reply_origin_name(enum reply_origin o);

/* One line of the paper's Table 1: what each head would have said. */
struct reply_cell {
    int layer; /* exit layer; 0: the whole model */
    int32_t id;
    float confidence;
};

struct reply_token {
    int32_t id;
    int32_t pos; /* that the token takes */
    enum reply_origin origin;
    int layer; /* exit layer, 0 for the cloud and the whole model */
    float confidence;
    bool has_hash;
    uint64_t hash; /* of the row of logits it was taken from */
    int64_t edge_us, cloud_us, wire_us;
    int request; /* number of the request that brought it, from 1; 0: none */
    int n_cells;
    struct reply_cell cells[MODEL_MAX_EXITS + 1];
    const char *text; /* UTF-8, not NUL-terminated, may be empty; for the call */
    size_t text_len;
};

/* What a vocabulary must tell; engine/tokenizer.h behind it, or a test. */
struct reply_vocab {
    /* Bytes that the token adds to the text; "" for special tokens. */
    const char *(*piece)(const void *ctx, int32_t id, size_t *len);
    bool (*ends)(const void *ctx, int32_t id); /* ends every answer */
    const void *ctx;
};

typedef void reply_token_fn(void *ctx, const struct reply_token *t);

struct reply;

/* stops: [n_stops] strings, not empty; borrowed like `vocab`. on_token is called
 * for every token, in order, during reply_add and reply_finish. */
int reply_new(struct reply **out, const struct reply_vocab *vocab,
              const char *const *stops, int n_stops, reply_token_fn *on_token, void *ctx,
              struct err *err) CE_MUSTCHECK;
void reply_free(struct reply *r); /* accepts NULL */

/* Add a token (text is filled in here). Returns 1 when a stop string is complete:
 * the text ends before it. 0, or CE_ENOMEM. */
int reply_add(struct reply *r, const struct reply_token *t, struct err *err) CE_MUSTCHECK;

/* Nothing follows: report what is held back. */
int reply_finish(struct reply *r, struct err *err) CE_MUSTCHECK;

int reply_n_tokens(const struct reply *r);
const int32_t *reply_ids(const struct reply *r);
const char *reply_text(const struct reply *r, size_t *len); /* all of it, so far */

#endif
