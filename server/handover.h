/* SPDX-License-Identifier: Apache-2.0
 * handover.h - what the I/O thread and the backend thread give each other.
 *
 * Two kinds of messages over two mailboxes: work (frames that concern a
 * sequence, or "this session is gone") and replies (frames to send). Both name
 * their session by a `struct session_link`, the one object that the two threads
 * share: a reference count, the bytes of work posted and not yet taken, and
 * the two messages that must go through when there is no memory for new ones.
 *
 *     I/O thread                          backend thread
 *     session --ref--> session_link <--ref-- messages, both ways
 *
 * The address of the link is the session's number in the content manager: the
 * session's own reference ends only with WORK_GONE, the last work it posts, so
 * no sequence outlives its link.
 *
 * Ownership: a posted message belongs to the mailbox, then to the taker.
 */
#ifndef CE_SERVER_HANDOVER_H
#define CE_SERVER_HANDOVER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/frame.h"
#include "common/mailbox.h"
#include "server/content.h"

struct session;
struct session_link;
struct tenant;
struct tenant_usage;

enum work_kind {
    WORK_OPEN,
    WORK_STATES,
    WORK_INFER,
    WORK_TRUNCATE,
    WORK_CANCEL,
    WORK_CLOSE,
    WORK_GENERATE,
    WORK_GONE, /* embedded in the link */
    WORK_STOP, /* embedded in the backend thread */
};

struct work_msg {
    struct mailbox_msg msg; /* first */
    enum work_kind kind;
    struct session_link *link;   /* holds a reference */
    size_t cost;                 /* charged to link->queued */
    int64_t posted_us;           /* when it was made */
    int layer_from;              /* WORK_OPEN */
    char codec[8];               /* WORK_OPEN: what open.codec points to */
    struct content_chunk *chunk; /* WORK_STATES; owned */
    union {
        struct frame_open open;
        struct frame_infer infer;
        struct frame_truncate truncate;
        struct frame_cancel cancel;
        struct frame_close close;
        struct frame_generate generate; /* ids point behind the message */
    } u;
};

enum reply_kind {
    REPLY_FRAME,
    REPLY_LOST, /* embedded in the link: a reply could not be allocated */
};

struct reply_msg {
    struct mailbox_msg msg; /* first */
    enum reply_kind kind;
    struct session_link *link; /* holds a reference */
    struct frame frame;
    char text[FRAME_MAX_TEXT]; /* what an ERROR's text points to */
};

struct session_link {
    _Atomic int refs;
    _Atomic size_t queued;      /* bytes of work posted and not yet taken */
    atomic_bool lost_posted;    /* `lost` is under way or was */
    struct session *session;    /* I/O thread only; NULL once the session ended */
    struct tenant_usage *usage; /* of whom (server/usage.h), or NULL; outlives the link */
    struct tenant *tenant;      /* whose (server/tenant.h); a reference */
    struct work_msg gone;
    struct reply_msg lost;
};

/* One reference, the caller's. NULL without memory. */
struct session_link *session_link_new(struct session *s);
struct session_link *session_link_ref(struct session_link *link);
void session_link_unref(struct session_link *link);

/* A message with `extra` bytes behind it, charged to the link with `cost` more
 * bytes; NULL without memory. */
struct work_msg *work_msg_new(enum work_kind kind, struct session_link *link,
                              size_t extra, size_t cost);
void work_msg_free(struct work_msg *w); /* also what it owns; embedded ones are kept */

/* A copy of the frame and its text. Never fails: without memory it becomes the
 * link's REPLY_LOST, or NULL when that is under way already. */
struct reply_msg *reply_msg_new(struct session_link *link, const struct frame *f);
void reply_msg_free(struct reply_msg *r);

#endif
