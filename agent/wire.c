/* SPDX-License-Identifier: Apache-2.0
 * wire.c - see wire.h. The socket is non-blocking; waiting is poll's.
 */
#include "agent/wire.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/err.h>

#include "common/clock.h"
#include "common/memory.h"
#include "common/tls.h"

struct wire {
    int fd;
    SSL *ssl;
    const struct dial_stop *stop;
    struct bytebuf in, out;
    size_t taken; /* bytes at the front of `in` that the last frame borrowed */
};

#define WIRE_MAX_OUT ((size_t)FRAME_HEADER_SIZE + FRAME_MAX_MAP + FRAME_MAX_STATES)
#define WIRE_MAX_IN  ((size_t)64 << 10)

/* Wait until the socket can do what SSL asked for. CE_EIO on what SSL cannot mend. */
static int
wait_for(struct wire *s, int ssl_rc, int64_t deadline_us, const char *what,
         struct err *err)
{
    int code = SSL_get_error(s->ssl, ssl_rc);
    short events;

    if (code == SSL_ERROR_WANT_READ)
        events = POLLIN;
    else if (code == SSL_ERROR_WANT_WRITE)
        events = POLLOUT;
    else if (code == SSL_ERROR_ZERO_RETURN)
        return err_set(err, CE_ECLOSED, "connection closed");
    else if (code == SSL_ERROR_SYSCALL && ERR_peek_error() == 0)
        return err_set(err, CE_ECLOSED, "connection lost%s%s", errno != 0 ? ": " : "",
                       errno != 0 ? strerror(errno) : "");
    else
        return tls_error(err, CE_ECLOSED, s->ssl, what);
    int rc = dial_poll(s->fd, events, deadline_us, s->stop);
    if (rc == CE_ETIMEOUT)
        return err_set(err, CE_ETIMEOUT, "%s: no progress in time", what);
    if (rc == CE_EAGAIN)
        return err_set(err, CE_ECLOSED, "%s: no longer wanted", what);
    return rc == 0 ? 0 : err_set(err, CE_EIO, "poll: %s", strerror(errno));
}

static int
handshake(struct wire *s, int64_t deadline_us, struct err *err)
{
    struct tls_peer peer;

    for (;;) {
        ERR_clear_error();
        errno = 0;
        int rc = SSL_connect(s->ssl);
        if (rc == 1)
            return tls_peer_get(s->ssl, &peer, err);
        rc = wait_for(s, rc, deadline_us, "TLS", err);
        if (rc < 0)
            return rc;
    }
}

int
wire_open(struct wire **out, SSL_CTX *ctx, const struct dial_address *where,
          int64_t timeout_us, const struct dial_stop *stop, struct err *err)
{
    int64_t deadline = clock_us() + timeout_us;
    struct wire *s = mem_array_alloc(1, sizeof(*s));

    *out = NULL;
    if (s == NULL)
        return err_set(err, CE_ENOMEM, "out of memory");
    s->fd = -1;
    s->stop = stop;
    bytebuf_init(&s->in, WIRE_MAX_IN);
    bytebuf_init(&s->out, WIRE_MAX_OUT);
    int rc = dial(where, timeout_us, stop, &s->fd, err);
    if (rc == 0)
        rc = tls_client_ssl(&s->ssl, ctx, dial_name(where), err);
    if (rc == 0 && SSL_set_fd(s->ssl, s->fd) != 1)
        rc = tls_error(err, CE_EIO, s->ssl, "TLS");
    if (rc == 0)
        rc = handshake(s, deadline, err);
    if (rc < 0) {
        wire_close(s, false);
        return rc;
    }
    *out = s;
    return 0;
}

void
wire_close(struct wire *s, bool politely)
{
    struct frame bye = { .type = FRAME_BYE };
    uint64_t sent = 0;

    if (s == NULL)
        return;
    if (politely && wire_send(s, &bye, 200000, &sent, NULL) == 0)
        SSL_shutdown(s->ssl);
    SSL_free(s->ssl);
    if (s->fd >= 0)
        close(s->fd);
    bytebuf_fini(&s->in);
    bytebuf_fini(&s->out);
    mem_free(s);
}

int
wire_send(struct wire *s, const struct frame *f, int64_t timeout_us, uint64_t *sent,
          struct err *err)
{
    bytebuf_reset(&s->out);
    frame_encode(&s->out, f);
    if (bytebuf_status(&s->out) < 0)
        return err_set(err, bytebuf_status(&s->out), "frame too large to send");
    while (bytebuf_len(&s->out) > 0) {
        size_t n = 0;
        ERR_clear_error();
        errno = 0;
        int rc = SSL_write_ex(s->ssl, bytebuf_data(&s->out), bytebuf_len(&s->out), &n);
        if (rc != 1) {
            rc = wait_for(s, rc, clock_us() + timeout_us, "sending", err);
            if (rc < 0)
                return rc;
            continue;
        }
        bytebuf_consume(&s->out, n);
        *sent += n;
    }
    return 0;
}

/* A whole frame at the front of `in`: 0; CE_EAGAIN when more bytes are needed. */
static int
decode(struct wire *s, enum frame_place place, struct frame *f, struct err *err)
{
    struct frame_header h;
    int rc = frame_header_decode(&h, bytebuf_data(&s->in), bytebuf_len(&s->in), err);

    if (rc == 0)
        rc = frame_allowed(&h, place, err);
    if (rc < 0)
        return rc;
    size_t size = FRAME_HEADER_SIZE + frame_body_size(&h);
    if (bytebuf_len(&s->in) < size)
        return CE_EAGAIN;
    rc = frame_decode(f, &h, bytebuf_data(&s->in) + FRAME_HEADER_SIZE, err);
    s->taken = size;
    return rc;
}

int
wire_receive(struct wire *s, enum frame_place place, int64_t timeout_us, struct frame *f,
             struct err *err)
{
    int64_t deadline = clock_us() + timeout_us;

    bytebuf_consume(&s->in, s->taken);
    s->taken = 0;
    for (;;) {
        size_t n = 0, before = bytebuf_len(&s->in);
        int rc = decode(s, place, f, err);
        if (rc != CE_EAGAIN)
            return rc;
        uint8_t *room = bytebuf_extend(&s->in, 4096);
        if (room == NULL)
            return err_set(err, bytebuf_status(&s->in), "frame too large");
        ERR_clear_error();
        errno = 0;
        rc = SSL_read_ex(s->ssl, room, 4096, &n);
        bytebuf_truncate(&s->in, before + n);
        if (rc == 1)
            continue;
        rc = wait_for(s, rc, deadline, "receiving", err);
        if (rc == CE_ETIMEOUT)
            return CE_EAGAIN;
        if (rc < 0)
            return rc;
    }
}

int
wire_fd(const struct wire *s)
{
    return s->fd;
}
