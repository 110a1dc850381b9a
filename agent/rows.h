/* SPDX-License-Identifier: Apache-2.0
 * rows.h - the encoded hidden states of the live sequence: kept until it ends, sent
 * as far as they are released and within the cloud's credit.
 *
 *        0 .... next .... min(released, limit) .... n
 *        sent   to send   held back                 end of what exists
 *
 * Keeping them is what makes the cloud's state soft: on NEED, or on a new upload
 * channel, everything is sent again from here (design section 3.4). No sockets, no
 * threads, so tests drive it alone.
 *
 * Owner: the upload thread; in mode naive the infer channel.
 */
#ifndef CE_AGENT_ROWS_H
#define CE_AGENT_ROWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/cloud_msg.h"
#include "common/error.h"
#include "common/frame.h"
#include "common/states.h"

struct rows {
    size_t d_model;
    uint32_t epoch;

    bool open;
    uint32_t seq, branch, id;
    enum states_codec codec;
    size_t row_bytes;
    uint32_t max_pos;
    uint32_t n, released, limit, next;
    uint8_t *data; /* [cap] rows; owned */
    uint32_t cap;
};

void rows_init(struct rows *r, size_t d_model, uint32_t epoch);
void rows_fini(struct rows *r);

/* Apply a message about rows (OPEN to NEED of cloud_msg.h); others and those of
 * another sequence change nothing. CE_ENOMEM; CE_EINTERNAL on a hole. The
 * message stays the caller's. */
int rows_take(struct rows *r, const struct cloud_msg *m, struct err *err) CE_MUSTCHECK;

/* The next STATES frame, its payload at most 64 KiB (or one row), borrowed until r
 * changes. False when nothing may be sent. */
bool rows_next(struct rows *r, struct frame *f);

/* Another session, which has nothing yet: the live sequence waits for REOPEN, then all
 * of it goes again within the new session's credit. */
void rows_session(struct rows *r, uint32_t epoch);

/* The channel was lost: all goes again. The cloud skips what it has. */
void rows_rewind(struct rows *r);

#endif
