/* SPDX-License-Identifier: Apache-2.0
 * edge_model.h - what the agent loads: the model's file, its vocabulary and chat
 * template, its exits, and a backend with the blocks that the mode needs.
 *
 * Turns settings into numbers: which layers are exits, at which thresholds, where
 * the model is cut.
 *
 * Owner: main; the backend is lent to the decode worker while that runs.
 */
#ifndef CE_AGENT_EDGE_MODEL_H
#define CE_AGENT_EDGE_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include "agent/agent_conf.h"
#include "agent/policy.h"
#include "agent/reply.h"
#include "common/error.h"
#include "engine/backend.h"
#include "engine/chat_template.h"
#include "engine/model.h"
#include "engine/tokenizer.h"

struct edge_model {
    struct model *model;
    struct tokenizer *tokenizer;
    const struct chat_template *chat; /* NULL: prompts go in as they are */
    struct backend *backend;          /* NULL in mode cloud */
    struct policy policy;
    int exit_layers[MODEL_MAX_EXITS]; /* [policy.n_exits] */
    int cut_layer;
    int n_ctx;
};

int edge_model_open(struct edge_model *m, const struct agent_conf *conf,
                    struct err *err) CE_MUSTCHECK;
void edge_model_close(struct edge_model *m); /* a zeroed one is fine */

/* The vocabulary as reply.h wants it. */
struct reply_vocab edge_model_vocab(const struct edge_model *m);

/* A conversation, or with raw templates (chat NULL) the last message alone, as ids.
 * *ids: mem_free'd by the caller. */
int edge_model_encode(const struct edge_model *m, const struct chat_message *messages,
                      int n, int32_t **ids, size_t *n_ids, struct err *err) CE_MUSTCHECK;

#endif
