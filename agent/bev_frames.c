/* SPDX-License-Identifier: Apache-2.0
 * bev_frames.c - see bev_frames.h.
 */
#include "agent/bev_frames.h"

#include <event2/buffer.h>
#include <event2/bufferevent_ssl.h>
#include <openssl/err.h>

#include "common/tls.h"

int
bev_frame(struct bufferevent *bev, enum frame_place place, struct frame *f, size_t *size,
          struct err *err)
{
    struct evbuffer *in = bufferevent_get_input(bev);
    size_t have = evbuffer_get_length(in);
    struct frame_header h;

    if (have < FRAME_HEADER_SIZE)
        return CE_EAGAIN;
    const uint8_t *bytes = evbuffer_pullup(in, FRAME_HEADER_SIZE);
    if (bytes == NULL)
        return err_set(err, CE_ENOMEM, "no memory to receive");
    int rc = frame_header_decode(&h, bytes, FRAME_HEADER_SIZE, err);
    if (rc == 0)
        rc = frame_allowed(&h, place, err);
    if (rc < 0)
        return rc;
    *size = FRAME_HEADER_SIZE + frame_body_size(&h);
    if (have < *size)
        return CE_EAGAIN;
    bytes = evbuffer_pullup(in, (ev_ssize_t)*size);
    if (bytes == NULL)
        return err_set(err, CE_ENOMEM, "no memory to receive");
    return frame_decode(f, &h, bytes + FRAME_HEADER_SIZE, err);
}

/* Its own words are in the bufferevent, or still unread behind a write that failed
 * first (an alert that refuses our certificate). */
bool
bev_tls_reason(struct bufferevent *bev, int code, struct err *err)
{
    SSL *ssl = bufferevent_openssl_get_ssl(bev);
    unsigned long e;
    bool any = false;
    char byte;

    ERR_clear_error();
    while ((e = bufferevent_get_openssl_error(bev)) != 0) {
        if (ERR_GET_LIB(e) != ERR_LIB_SSL) /* libevent also puts bare SSL_ERROR_* here */
            continue;
        if (ERR_GET_REASON(e) == SSL_R_UNEXPECTED_EOF_WHILE_READING)
            continue;
        ERR_put_error(ERR_GET_LIB(e), 0, ERR_GET_REASON(e), "", 0);
        any = true;
    }
    if (!any && SSL_is_init_finished(ssl)) {
        int rc = SSL_read(ssl, &byte, 1);
        any = rc <= 0 && SSL_get_error(ssl, rc) == SSL_ERROR_SSL &&
              ERR_GET_REASON(ERR_peek_error()) != SSL_R_UNEXPECTED_EOF_WHILE_READING;
    }
    if (any)
        tls_error(err, code, ssl, "TLS");
    ERR_clear_error();
    return any;
}
