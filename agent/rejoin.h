/* SPDX-License-Identifier: Apache-2.0
 * rejoin.h - finding another session when one is lost: tries in turn, with growing,
 * jittered waits (backoff.h), until one comes up or it is time to give up.
 *
 * Nobody is dialed before the worker has use for a session (CLOUD_MSG_REJOIN): an idle
 * agent does not join the rush on a server that has just come back. Each try is a new
 * epoch. The end of it is told to the worker: UP, or GONE with the last reason.
 *
 * Thread: the main loop.
 */
#ifndef CE_AGENT_REJOIN_H
#define CE_AGENT_REJOIN_H

#include <stdbool.h>
#include <stdint.h>

#include <event2/event.h>

#include "agent/backoff.h"
#include "agent/cloud_link.h"
#include "agent/cloud_msg.h"
#include "agent/dial.h"
#include "common/error.h"
#include "common/mailbox.h"

struct rejoin_config {
    struct event_base *base;
    struct dial_address where;
    int64_t connect_timeout_us;
    struct backoff_limits limits; /* total_us 0: one loss is the end */
    struct cloud_link *link;      /* borrowed; DOWN or UP */
    struct mailbox *worker;       /* gets UP, GONE; borrowed */
    /* One line for the user, of what is going on. */
    void (*notice)(void *ctx, const char *text);
    void *ctx;
};

struct rejoin;

int rejoin_new(struct rejoin **out, const struct rejoin_config *config,
               struct err *err) CE_MUSTCHECK;
void rejoin_free(struct rejoin *r); /* accepts NULL; before the link */

/* What the link's hooks pass on. rejoin_up: the session is good, and those who need to
 * know of it before the worker have been told. */
void rejoin_ask(struct rejoin *r, const struct cloud_msg *m);
void rejoin_up(struct rejoin *r);
void rejoin_down(struct rejoin *r, const struct err *why, uint32_t retry_ms);

/* Given up, and not asked again since. */
bool rejoin_gave_up(const struct rejoin *r);

#endif
