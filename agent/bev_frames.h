/* SPDX-License-Identifier: Apache-2.0
 * bev_frames.h - whole frames out of a bufferevent over TLS, and why its TLS failed.
 *
 * No read watermark may be set on it: below 16 KiB libevent 2.1 would leave decrypted
 * bytes inside the SSL object until the next packet.
 *
 * Thread: the event loop.
 */
#ifndef CE_AGENT_BEV_FRAMES_H
#define CE_AGENT_BEV_FRAMES_H

#include <stdbool.h>
#include <stddef.h>

#include <event2/bufferevent.h>

#include "common/error.h"
#include "common/frame.h"

/* The frame at the front of the input, *size bytes that stay there: drain them after
 * use, *f borrows. CE_EAGAIN when it is not whole yet. */
int bev_frame(struct bufferevent *bev, enum frame_place place, struct frame *f,
              size_t *size, struct err *err) CE_MUSTCHECK;

/* True when TLS says why it failed; then *err says it with this code. A connection
 * that just ended is no reason. */
bool bev_tls_reason(struct bufferevent *bev, int code, struct err *err);

#endif
