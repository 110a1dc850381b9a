/* SPDX-License-Identifier: Apache-2.0
 * remote.h - the cloud port over the network: the decode worker's end of the two
 * channels.
 *
 * Turns calls into messages (cloud_msg.h) and waits in its inbox for answers, never
 * longer than a deadline. Numbers sequences and branches; whatever comes for an
 * older one is dropped.
 *
 * A session that is lost takes no sequence with it: the port asks for another one
 * (REJOIN), opens its sequence there again, has all rows sent again and puts the
 * question that was open once more. The tokens are the same, the wait counts against
 * the request's deadline. It gives a sequence up after REMOTE_MOVES sessions that did
 * not bring a token, or when there is no session to be had (GONE).
 */
#ifndef CE_AGENT_REMOTE_H
#define CE_AGENT_REMOTE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/cloud_port.h"
#include "common/error.h"
#include "common/mailbox.h"
#include "common/states.h"

#define REMOTE_MOVES 8

struct remote_config {
    struct mailbox *link; /* the infer channel's; borrowed */
    struct mailbox *rows; /* of whoever keeps the rows; borrowed */
    uint32_t epoch;       /* of the first session, which is up */
    bool wait;            /* for another session; else what is lost is lost, at once */
    size_t d_model;
    enum states_codec codec;
    size_t retain_bytes; /* most encoded bytes of one sequence */
    bool naive;          /* send all rows with each request */
    bool keep_kv;        /* of OPEN */
    uint64_t (*bytes_up)(void *ctx);
    void *ctx;
};

/* Make the inbox first, so that the channels know where to answer. */
int remote_new(struct cloud_port **out, struct err *err) CE_MUSTCHECK;
struct mailbox *remote_inbox(const struct cloud_port *c);
void remote_connect(struct cloud_port *c, const struct remote_config *config);

/* Wake a wait: it returns CE_EAGAIN. From any thread. */
void remote_interrupt(struct cloud_port *c);

void remote_free(struct cloud_port *c); /* accepts NULL */

#endif
