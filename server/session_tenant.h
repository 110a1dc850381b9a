/* SPDX-License-Identifier: Apache-2.0
 * session_tenant.h - where sessions meet their tenant: who comes in, what may be
 * opened, how fast.
 *
 * Counted limits (sessions, sequences, hidden states) refuse what would pass them, with
 * a text that names tenant and limit and a time to try again. Rates refuse nothing that
 * has been sent: rows are held back by credit, so that the agent never sends what would
 * be too much. The infer channel of a tenant with a debt of bytes is not read until it is
 * paid, and after a TRUNCATE not with a debt of rows, because what was cut off comes
 * again within old credit; that takes time but waits for nothing else. The upload channel
 * is always read.
 *
 * A sequence has two limits of rows: `granted`, by the content manager, and `limit`,
 * what the agent was told. They are the same until a rate is above its limit; then the
 * session is in srv->held until the rest has been told.
 *
 * Thread: the I/O thread's.
 */
#ifndef CE_SERVER_SESSION_TENANT_H
#define CE_SERVER_SESSION_TENANT_H

#include "server/session.h"

/* Who says HELLO, and may he have another session? 0: *tenant, with a reference, and
 * the hash of his token (zeros without). CE_EAUTH, CE_EQUOTA (ch->retry_ms is set). */
int session_tenant_admit(struct channel *ch, const struct frame_hello *h,
                         struct tenant **tenant, uint8_t token_hash[32],
                         struct err *err) CE_MUSTCHECK;

/* May the session open this sequence? Answers with ERROR when not. q is then removed. */
bool session_tenant_open(struct session *s, struct session_seq *q,
                         const struct frame_open *o);

/* A frame of this type and so many bytes came on ch; after it was handled. */
void session_tenant_frame(struct channel *ch, int type, size_t bytes, int64_t now_us);

/* Must the infer channel go on waiting for a debt to be paid? */
bool session_tenant_must_wait(const struct channel *ch, int64_t now_us);

/* Rows came for q. */
void session_tenant_rows(struct session *s, struct session_seq *q, uint32_t pos,
                         uint32_t n, int64_t now_us);

/* May so many rows be computed by GENERATE? CE_EQUOTA (*retry_ms is set). Charged. */
int session_tenant_generate(struct session *s, size_t rows, int64_t now_us,
                            uint32_t *retry_ms, struct err *err) CE_MUSTCHECK;

/* The content manager granted q->granted: raise q->limit as far as the rates allow. True
 * when that should be told. */
bool session_tenant_grant(struct session *s, struct session_seq *q, int64_t now_us);

/* Grant what was held back and can be granted now. */
void session_tenant_refill(struct server *srv, int64_t now_us);

/* The session ends, or has nothing held back: leave srv->held. */
void session_tenant_unhold(struct session *s);

/* A moment for who met a limit that ends when somebody else stops: 1 to 2 s, so that
 * those refused together do not come back together. */
uint32_t session_tenant_retry_ms(int64_t now_us);

#endif
