/* SPDX-License-Identifier: Apache-2.0
 * wire.h - frames over TLS for a thread without an event loop.
 *
 * Calls wait, but never longer than their deadline. Reading gives whole frames;
 * writing takes one at a time.
 *
 * Thread: one per wire.
 */
#ifndef CE_AGENT_WIRE_H
#define CE_AGENT_WIRE_H

#include <stdint.h>

#include <openssl/ssl.h>

#include "agent/dial.h"
#include "common/bytebuf.h"
#include "common/error.h"
#include "common/frame.h"

struct wire;

/* Connect and shake hands within timeout_us. ctx is borrowed for the call. stop (may be
 * NULL, borrowed until wire_close) can end this and every later wait: CE_ECLOSED. */
int wire_open(struct wire **out, SSL_CTX *ctx, const struct dial_address *where,
              int64_t timeout_us, const struct dial_stop *stop,
              struct err *err) CE_MUSTCHECK;

/* Say BYE if `politely`, and close. Accepts NULL. */
void wire_close(struct wire *s, bool politely);

/* Send one frame. *sent grows by its bytes. CE_ETIMEOUT when nothing moves for
 * timeout_us, CE_ECLOSED when the other side is gone. */
int wire_send(struct wire *s, const struct frame *f, int64_t timeout_us, uint64_t *sent,
              struct err *err) CE_MUSTCHECK;

/* The next frame, allowed in `place`. Waits at most timeout_us (0: only looks);
 * CE_EAGAIN when there is none. *f borrows from the wire until the next call. */
int wire_receive(struct wire *s, enum frame_place place, int64_t timeout_us,
                 struct frame *f, struct err *err) CE_MUSTCHECK;

int wire_fd(const struct wire *s); /* to poll for reading */

#endif
