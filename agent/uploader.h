/* SPDX-License-Identifier: Apache-2.0
 * uploader.h - the upload thread: hidden states to the cloud while the edge
 * computes on (the paper's parallel data upload, sections 4.1 and 4.3).
 *
 * Owns the upload channel and the encoded rows of the live sequence (rows.h). Told
 * by mailbox (cloud_msg.h) what exists, what may go and what the cloud wants again.
 * The channel is opened at the first sequence and closed when idle; lost in between,
 * it is opened again and everything is sent again, the cloud skips what it has.
 * When that fails too, the decode worker is told, with SEQ_ERROR. A new session
 * (CLOUD_MSG_SESSION) ends the old one's channel; the rows wait for REOPEN.
 *
 * Order promised: rows go by position; nothing is sent of a sequence after its CLOSE
 * was taken.
 */
#ifndef CE_AGENT_UPLOADER_H
#define CE_AGENT_UPLOADER_H

#include <stddef.h>
#include <stdint.h>

#include <openssl/ssl.h>

#include "agent/cloud_msg.h"
#include "agent/dial.h"
#include "common/error.h"
#include "common/mailbox.h"

struct uploader_config {
    SSL_CTX *ctx;              /* borrowed until uploader_stop */
    struct dial_address where; /* of the infer channel; node: dial_node */
    int64_t connect_timeout_us;
    int64_t stall_timeout_us; /* most time without a byte moving */
    size_t d_model;
    uint32_t epoch;         /* of the first session */
    struct mailbox *worker; /* gets SEQ_ERROR; borrowed */
};

struct uploader;

int uploader_start(struct uploader **out, const struct uploader_config *config,
                   struct err *err) CE_MUSTCHECK;

/* Another session: what the thread waits for in the old one ends. data as of
 * CLOUD_MSG_SESSION. CE_ENOMEM. */
int uploader_session(struct uploader *u, const struct cloud_session *s,
                     struct err *err) CE_MUSTCHECK;

/* Say BYE, end the thread, free. Accepts NULL. */
void uploader_stop(struct uploader *u);

struct mailbox *uploader_mailbox(const struct uploader *u);
uint64_t uploader_bytes(const struct uploader *u); /* sent; any thread */

#endif
