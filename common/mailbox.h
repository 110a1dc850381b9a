/* SPDX-License-Identifier: Apache-2.0
 * mailbox.h - a queue from any threads to one, with a file descriptor that
 * becomes readable when there is something in it.
 *
 * Messages are the caller's structs with a `struct mailbox_msg` inside; the
 * mailbox knows nothing of what they carry and allocates nothing, so a post
 * cannot fail and never blocks (but for a lock held for a few instructions).
 * It has no bound of its own: whoever posts charges the message against a
 * limit beforehand. Messages of one thread stay in their order.
 *
 * The descriptor is written only when the queue was empty: a thousand posts
 * to a busy reader cost one wake-up.
 *
 * Thread: any may post; one takes.
 */
#ifndef CE_COMMON_MAILBOX_H
#define CE_COMMON_MAILBOX_H

#include <stdint.h>

#include "common/error.h"

/* The first member of a message, or found by offsetof. A posted message
 * belongs to the mailbox until it is taken. */
struct mailbox_msg {
    struct mailbox_msg *next;
};

struct mailbox;

int mailbox_new(struct mailbox **out, struct err *err) CE_MUSTCHECK;
/* Accepts NULL. Messages still inside are not freed: take them first. */
void mailbox_free(struct mailbox *m);

/* Put msg at the end, wake the reader if there was nothing before. */
void mailbox_post(struct mailbox *m, struct mailbox_msg *msg);

/* All messages, oldest first, linked by `next` (the last one's is NULL); NULL
 * when there are none. Clears the descriptor. */
struct mailbox_msg *mailbox_take_all(struct mailbox *m);

/* The same for a thread without an event loop: wait until there is something
 * or timeout_us passed (negative: for ever). NULL after the timeout. */
struct mailbox_msg *mailbox_wait(struct mailbox *m, int64_t timeout_us);

/* Readable while messages wait; for an event loop (level triggered). Owned by
 * the mailbox; do not read it. */
int mailbox_fd(const struct mailbox *m);

#endif
