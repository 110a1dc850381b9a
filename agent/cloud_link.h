/* SPDX-License-Identifier: Apache-2.0
 * cloud_link.h - the infer channel: greeting, requests and answers, keep-alive.
 *
 * Lives in the main event loop. The decode worker posts frames to its mailbox;
 * answers go to the worker's inbox, credit and NEED to whoever keeps the rows. In
 * mode naive that is the link itself: there is no upload thread, STATES go over the
 * infer channel.
 *
 * States: CONNECTING (TLS, HELLO sent) -> UP (WELCOME came) -> DOWN, and from there
 * to CONNECTING again when there is a new connection (rejoin.c makes them). Every
 * failure becomes one line that begins "cloud HOST:PORT:".
 *
 * A cloud that owes an answer and is silent is asked for a sign of life; without one
 * it counts as lost. One that says GOAWAY is left at a random moment of the second
 * half of the time that it gives, if the worker has not left it before.
 */
#ifndef CE_AGENT_CLOUD_LINK_H
#define CE_AGENT_CLOUD_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <event2/event.h>
#include <openssl/ssl.h>

#include "agent/cloud_msg.h"
#include "agent/dial.h"
#include "common/error.h"
#include "common/frame.h"
#include "common/mailbox.h"

struct cloud_link_config {
    struct event_base *base;
    SSL_CTX *ctx; /* borrowed until cloud_link_free */
    struct dial_address where;
    int64_t connect_timeout_us;
    struct frame_hello hello; /* what its strings point to outlives cloud_link_open */
    int64_t silence_us;       /* most time without a sign of life; 0: no limit */
    bool require_exact;
    bool naive;             /* rows are ours */
    struct mailbox *worker; /* gets ANSWER, SEQ_ERROR, LOST, DRAIN */
};

struct cloud_link_hooks {
    /* The greeting is done; rows may be told where to attach. */
    void (*up)(void *ctx, const struct frame_welcome *w, bool exact);
    /* retry_ms: how long the cloud wants to be left alone; 0: it did not say. */
    void (*down)(void *ctx, const struct err *why, uint32_t retry_ms);
    /* The worker has use for a session after m->epoch (CLOUD_MSG_REJOIN). */
    void (*rejoin)(void *ctx, const struct cloud_msg *m);
    void *ctx;
};

struct cloud_link;

/* Connects (waiting at most connect_timeout), then shakes hands in the event
 * loop: `up` or `down` is called later, `down` also later on. */
int cloud_link_open(struct cloud_link **out, const struct cloud_link_config *config,
                    const struct cloud_link_hooks *hooks, struct err *err) CE_MUSTCHECK;

/* A new session over a connected socket, which is taken, also on failure. Only when
 * DOWN. Ends in `up` or `down`, as above. */
int cloud_link_reopen(struct cloud_link *l, int fd, uint32_t epoch,
                      struct err *err) CE_MUSTCHECK;

/* Say BYE and go DOWN with these words; the worker is told as of any loss. */
void cloud_link_leave(struct cloud_link *l, const struct err *why);

/* How long this session's cloud wants us to stay away yet, as it said with GOAWAY. */
uint32_t cloud_link_retry_ms(const struct cloud_link *l);

uint32_t cloud_link_epoch(const struct cloud_link *l); /* of the last HELLO */

/* Where messages about rows go from now on: the upload thread's mailbox. */
void cloud_link_set_uploader(struct cloud_link *l, struct mailbox *uploader);

/* Say BYE, give it a moment to leave, close, free. Accepts NULL. Not from a hook. */
void cloud_link_close(struct cloud_link *l);

struct mailbox *cloud_link_mailbox(const struct cloud_link *l);
uint64_t cloud_link_bytes(const struct cloud_link *l); /* sent; any thread */

#endif
