/* SPDX-License-Identifier: Apache-2.0
 * cloud_msg.h - what decode worker, infer channel and upload thread tell each other.
 *
 *                 FRAME (OPEN, INFER, TRUNCATE, CLOSE, GENERATE)
 *      decode worker ------------------------------------> infer channel (main loop)
 *        |    ^ ^      ANSWER, SEQ_ERROR, LOST, DRAIN         |
 *        |    | +---------------------------------------------+
 *   rows |    | SEQ_ERROR                                     | SESSION, CREDIT, NEED
 *        v    |                                               v
 *      upload thread <----------------------------------------+
 *
 * Messages about rows go to whoever keeps them: the upload thread, or in mode naive
 * the infer channel. A message belongs to the mailbox until it is taken, then to
 * the taker, who frees it. Rows are charged against the sequence's retain limit
 * before they are posted (remote.c); the others are a few per token.
 */
#ifndef CE_AGENT_CLOUD_MSG_H
#define CE_AGENT_CLOUD_MSG_H

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
    CLOUD_MSG_CREDIT, /* seq, limit */
    CLOUD_MSG_NEED,   /* seq, branch, pos, id, limit */

    CLOUD_MSG_SESSION, /* data: struct cloud_session */
    CLOUD_MSG_QUIT,

    CLOUD_MSG_ANSWER,    /* frame: TOKEN */
    CLOUD_MSG_SEQ_ERROR, /* seq, err */
    CLOUD_MSG_LOST,      /* err: nothing more will come */
    CLOUD_MSG_DRAIN,     /* err: no new sequences */
    CLOUD_MSG_WAKE,      /* stop waiting */
};

struct cloud_msg {
    struct mailbox_msg msg; /* first */
    enum cloud_msg_kind kind;
    uint32_t seq, branch, pos, n, id, limit;
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
    char node[256]; /* name to dial; "": where the infer channel went */
};

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
