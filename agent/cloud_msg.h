/* SPDX-License-Identifier: Apache-2.0
 * cloud_msg.h - what decode worker, infer channel and upload thread tell each other.
 *
 *                 FRAME (OPEN, INFER, TRUNCATE, CLOSE, GENERATE), REJOIN
 *      decode worker ------------------------------------> infer channel (main loop)
 *        |    ^ ^      ANSWER, SEQ_ERROR, LOST, DRAIN,        |
 *        |    | |      UP, GONE                               |
 *        |    | +---------------------------------------------+
 *   rows |    | SEQ_ERROR                                     | SESSION, CREDIT, NEED
 *        v    |                                               v
 *      upload thread <----------------------------------------+
 *
 * Messages about rows go to whoever keeps them: the upload thread, or in mode naive
 * the infer channel. A message belongs to the mailbox until it is taken, then to
 * the taker, who frees it. Rows are charged against the sequence's retain limit
 * before they are posted (remote.c); the others are a few per token.
 *
 * When a session is lost: LOST to the worker. If it has use for another one, it says
 * REJOIN; there are tries (rejoin.c); then SESSION to the upload thread and UP to the
 * worker, which opens its sequence again: REOPEN to the rows, OPEN to the new session.
 * `epoch` tells the sessions apart; what belongs to an older one is dropped. GONE: no
 * more tries.
 */
#ifndef CE_AGENT_CLOUD_MSG_H
#define CE_AGENT_CLOUD_MSG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/frame.h"
#include "common/mailbox.h"
#include "common/states.h"

enum cloud_msg_kind {
    CLOUD_MSG_FRAME, /* frame, to be sent; GENERATE's ids lie in data */

    CLOUD_MSG_OPEN,     /* seq, codec, pos = most positions: rows of it will come */
    CLOUD_MSG_ROWS,     /* pos, n, data: [n, d_model] float */
    CLOUD_MSG_RELEASE,  /* pos: rows below it may travel */
    CLOUD_MSG_REWIND,   /* send all from 0 again, up to pos */
    CLOUD_MSG_TRUNCATE, /* branch, pos: rows 0 .. pos-1 stay */
    CLOUD_MSG_CLOSE,
    CLOUD_MSG_REOPEN, /* seq: the live sequence's number in the new session */
    CLOUD_MSG_CREDIT, /* seq, limit */
    CLOUD_MSG_NEED,   /* seq, branch, pos, id, limit */

    CLOUD_MSG_SESSION, /* data: struct cloud_session */
    CLOUD_MSG_QUIT,

    CLOUD_MSG_REJOIN, /* a session after `epoch` is wanted; n: times that one was of no
                         use, retry_ms, err: what was wrong with this one */

    CLOUD_MSG_ANSWER,    /* frame: TOKEN */
    CLOUD_MSG_SEQ_ERROR, /* seq, err; again: another session may do better */
    CLOUD_MSG_LOST,      /* err: nothing more will come of this session */
    CLOUD_MSG_DRAIN,     /* err: no new sequences in it */
    CLOUD_MSG_UP,        /* epoch: a new session */
    CLOUD_MSG_GONE,      /* err: there will be none */
    CLOUD_MSG_WAKE,      /* stop waiting */
};

struct cloud_msg {
    struct mailbox_msg msg; /* first */
    enum cloud_msg_kind kind;
    uint32_t epoch; /* of the session; unused in messages about rows */
    uint32_t seq, branch, pos, n, id, limit;
    uint32_t retry_ms;
    bool again;
    enum states_codec codec;
    struct err err;
    struct frame frame;
    size_t data_size;
    _Alignas(8) unsigned char data[];
};

/* What the upload channel needs to attach. */
struct cloud_session {
    uint8_t session[16], secret[16];
    uint32_t epoch;
    uint32_t idle_ms;
    char node[256]; /* dial_node's */
};

/* May a failure with this code pass, so that another session is worth a try? retry_ms:
 * the cloud said when. Refusals (certificate, model) and defects do not pass. */
bool cloud_may_pass(int code, uint32_t retry_ms);

/* A zeroed message with room for `size` bytes of data, copied unless NULL. NULL
 * without memory. */
struct cloud_msg *cloud_msg_new(enum cloud_msg_kind kind, const void *data, size_t size);
void cloud_msg_free(struct cloud_msg *m); /* accepts NULL */

/* Post one; a box of NULL frees it. */
void cloud_msg_post(struct mailbox *box, struct cloud_msg *m);

/* The messages of mailbox_take_all or mailbox_wait, as ours. */
static inline struct cloud_msg *
cloud_msg_of(struct mailbox_msg *m)
{
    return (struct cloud_msg *)(void *)m;
}

/* Take and free everything. */
void cloud_msg_drop_all(struct mailbox *box);

#endif
