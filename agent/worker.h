/* SPDX-License-Identifier: Apache-2.0
 * worker.h - the decode worker: a thread that owns the backend and makes answers,
 * one after another.
 *
 * Jobs go in by mailbox, tokens and results come out by mailbox; the main loop
 * watches worker_events' descriptor. Whoever takes an event frees it.
 */
#ifndef CE_AGENT_WORKER_H
#define CE_AGENT_WORKER_H

#include <stddef.h>
#include <stdint.h>

#include "agent/decode.h"
#include "agent/policy.h"
#include "common/error.h"
#include "common/mailbox.h"

enum worker_event_kind {
    WORKER_TOKEN,
    WORKER_PREFILL, /* done of total */
    WORKER_DONE,    /* of an answer */
    WORKER_POLICY,  /* of a change of policy: err */
};

struct worker_event {
    struct mailbox_msg msg; /* first */
    enum worker_event_kind kind;
    struct reply_token token; /* its text points into `text` */
    int32_t done, total;
    struct decode_result result;
    struct err err; /* code 0: all went well */
    char text[];
};

struct worker;

/* Setup and policy are copied; what they point to outlives the worker. */
int worker_start(struct worker **out, const struct decode_setup *setup,
                 const struct policy *policy, struct err *err) CE_MUSTCHECK;

/* Ends the answer under way, joins, frees. Accepts NULL. */
void worker_stop(struct worker *w);

/* Ask for an answer. Copies prompt and forced ids; what else the request points to
 * stays valid until its WORKER_DONE. */
int worker_answer(struct worker *w, const struct decode_request *request,
                  struct err *err) CE_MUSTCHECK;

/* Other rules from the next answer on; answered by WORKER_POLICY. */
int worker_set_policy(struct worker *w, const struct policy *policy,
                      struct err *err) CE_MUSTCHECK;

/* End the answer under way soon. */
void worker_interrupt(struct worker *w);

struct mailbox *worker_events(const struct worker *w);

#endif
