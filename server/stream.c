/* SPDX-License-Identifier: Apache-2.0
 * stream.c - TLS on a socket with two events; see stream.h.
 *
 * States:  HANDSHAKE -> OPEN -> FLUSH (finish was called, output remains)
 *          -> LINGER (close_notify and FIN sent, reading to the end) -> DEAD.
 * Fair:    one connection reads at most READ_TURN bytes per turn of the loop.
 * Freeing: callbacks may abort the stream they are called from, so an aborted
 *          stream is freed by the loop, when nobody stands in it any more.
 */
#include "server/stream.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/err.h>

#include "common/bytebuf.h"
#include "common/memory.h"
#include "common/tls.h"

#define READ_SIZE 16384 /* a TLS record's payload */
#define READ_TURN (16 * READ_SIZE)
#define LINGER_S  2 /* for the last bytes to leave, and for the peer's end */

enum stream_state {
    STREAM_HANDSHAKE,
    STREAM_OPEN,
    STREAM_FLUSH,
    STREAM_LINGER,
    STREAM_DEAD
};

struct stream {
    enum stream_state state;
    int fd;
    SSL *ssl;
    struct event *read_ev, *write_ev, *linger_ev;
    struct bytebuf in, out;
    size_t max_in;
    bool paused;
    struct stream_events events;
};

static void
stream_free(struct stream *s)
{
    struct stream_events events = s->events;

    event_free(s->read_ev);
    event_free(s->write_ev);
    event_free(s->linger_ev);
    bytebuf_fini(&s->in);
    bytebuf_fini(&s->out);
    SSL_free(s->ssl);
    mem_free(s);
    events.closed(events.arg);
}

void
stream_abort(struct stream *s)
{
    if (s->state == STREAM_DEAD)
        return;
    s->state = STREAM_DEAD;
    event_del(s->read_ev);
    event_del(s->write_ev);
    event_del(s->linger_ev);
    close(s->fd);
    event_active(s->linger_ev, EV_TIMEOUT, 0);
}

static void
stream_lost(struct stream *s, const char *why)
{
    if (s->state == STREAM_HANDSHAKE || s->state == STREAM_OPEN)
        s->events.lost(s->events.arg, why);
    stream_abort(s);
}

/* What OpenSSL said after a call that did not succeed: wait, or the end. */
static void
stream_want(struct stream *s, int ret)
{
    struct err err;

    switch (SSL_get_error(s->ssl, ret)) {
    case SSL_ERROR_WANT_READ:
        break;
    case SSL_ERROR_WANT_WRITE:
        event_add(s->write_ev, NULL);
        break;
    case SSL_ERROR_ZERO_RETURN:
        stream_lost(s, "the peer closed the connection");
        break;
    case SSL_ERROR_SYSCALL:
        stream_lost(s, errno == ECONNRESET ? "the peer reset the connection"
                                           : "the connection broke");
        break;
    default:
        tls_error(&err, CE_EIO, s->ssl, "TLS");
        stream_lost(s, err.text);
        break;
    }
}

static void
stream_shutdown(struct stream *s)
{
    (void)SSL_shutdown(s->ssl);
    ERR_clear_error();
    shutdown(s->fd, SHUT_WR);
    s->state = STREAM_LINGER;
    event_add(s->read_ev, NULL);
}

static void
stream_flush(struct stream *s)
{
    while (bytebuf_len(&s->out) > 0) {
        int ret;

        ERR_clear_error();
        errno = 0;
        ret = SSL_write(s->ssl, bytebuf_data(&s->out), (int)bytebuf_len(&s->out));
        if (ret <= 0) {
            stream_want(s, ret);
            return;
        }
        bytebuf_consume(&s->out, (size_t)ret);
    }
    bytebuf_reset(&s->out);
    if (s->state == STREAM_FLUSH)
        stream_shutdown(s);
}

/* An idle connection keeps no buffer. */
static void
stream_release_input(struct stream *s)
{
    bytebuf_fini(&s->in);
    bytebuf_init(&s->in, s->max_in);
}

/* Offer what is buffered. */
static void
stream_deliver(struct stream *s)
{
    while (s->state == STREAM_OPEN && !s->paused && bytebuf_len(&s->in) > 0) {
        size_t used =
            s->events.data(s->events.arg, bytebuf_data(&s->in), bytebuf_len(&s->in));

        if (used == 0)
            return;
        bytebuf_consume(&s->in, used);
    }
    if (bytebuf_len(&s->in) == 0)
        stream_release_input(s);
}

/* Read until OpenSSL and the socket have nothing, or the turn is over. */
static void
stream_read(struct stream *s)
{
    size_t turn = 0;

    while (s->state == STREAM_OPEN && !s->paused) {
        size_t had = bytebuf_len(&s->in);
        uint8_t *room = bytebuf_extend(&s->in, READ_SIZE);
        int ret;

        if (!room) {
            stream_lost(s, "no room for what the peer sends");
            return;
        }
        ERR_clear_error();
        errno = 0;
        ret = SSL_read(s->ssl, room, READ_SIZE);
        bytebuf_truncate(&s->in, had + (ret > 0 ? (size_t)ret : 0));
        if (ret <= 0) {
            if (had == 0)
                stream_release_input(s);
            stream_want(s, ret);
            return;
        }
        stream_deliver(s);
        turn += (size_t)ret;
        if (turn >= READ_TURN && s->state == STREAM_OPEN) {
            event_active(s->read_ev, EV_READ, 0); /* others first, then on */
            return;
        }
    }
}

static void
stream_handshake(struct stream *s)
{
    int ret;

    ERR_clear_error();
    errno = 0;
    ret = SSL_accept(s->ssl);
    if (ret <= 0) {
        stream_want(s, ret);
        return;
    }
    s->state = STREAM_OPEN;
    s->events.ready(s->events.arg);
}

/* Read away what the peer still sends, until its end. */
static void
stream_linger(struct stream *s)
{
    static uint8_t away[READ_SIZE];
    ssize_t n = recv(s->fd, away, sizeof(away), 0);

    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        stream_abort(s);
}

static void
on_event(evutil_socket_t fd, short what, void *arg)
{
    struct stream *s = arg;

    (void)fd;
    if (s->state == STREAM_HANDSHAKE)
        stream_handshake(s);
    if (s->state == STREAM_LINGER && (what & EV_READ))
        stream_linger(s);
    if (s->state == STREAM_OPEN && (what & EV_READ))
        stream_read(s);
    if ((s->state == STREAM_OPEN || s->state == STREAM_FLUSH) && bytebuf_len(&s->out) > 0)
        stream_flush(s);
}

static void
on_linger(evutil_socket_t fd, short what, void *arg)
{
    struct stream *s = arg;

    (void)fd;
    (void)what;
    if (s->state == STREAM_DEAD)
        stream_free(s);
    else
        stream_abort(s);
}

int
stream_new(struct stream **out, struct event_base *base, int fd, SSL *ssl, size_t max_in,
           size_t max_out, const struct stream_events *events, struct err *err)
{
    struct stream *s = mem_array_alloc(1, sizeof(*s));

    *out = NULL;
    if (!s)
        goto fail;
    s->fd = fd;
    s->ssl = ssl;
    s->max_in = max_in;
    s->events = *events;
    bytebuf_init(&s->in, max_in);
    bytebuf_init(&s->out, max_out);
    s->read_ev = event_new(base, fd, EV_READ | EV_PERSIST, on_event, s);
    s->write_ev = event_new(base, fd, EV_WRITE, on_event, s);
    s->linger_ev = evtimer_new(base, on_linger, s);
    if (!s->read_ev || !s->write_ev || !s->linger_ev || SSL_set_fd(ssl, fd) != 1 ||
        event_add(s->read_ev, NULL) < 0)
        goto fail;
    SSL_set_mode(ssl, SSL_MODE_ENABLE_PARTIAL_WRITE |
                          SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    SSL_set_accept_state(ssl);
    *out = s;
    return 0;
fail:
    if (s) {
        if (s->read_ev)
            event_free(s->read_ev);
        if (s->write_ev)
            event_free(s->write_ev);
        if (s->linger_ev)
            event_free(s->linger_ev);
        mem_free(s);
    }
    SSL_free(ssl);
    close(fd);
    return err_set(err, CE_ENOMEM, "connection: no memory");
}

SSL *
stream_ssl(struct stream *s)
{
    return s->ssl;
}

int
stream_send(struct stream *s, const uint8_t *data, size_t n)
{
    if (s->state != STREAM_OPEN)
        return CE_ECLOSED;
    if (n > s->out.max - bytebuf_len(&s->out))
        return CE_EQUOTA;
    bytebuf_put_bytes(&s->out, data, n);
    if (bytebuf_status(&s->out) < 0)
        return bytebuf_status(&s->out);
    event_active(s->write_ev, EV_WRITE, 0);
    return 0;
}

void
stream_pause(struct stream *s, bool paused)
{
    if (s->paused == paused || s->state > STREAM_OPEN)
        return;
    s->paused = paused;
    if (paused) {
        event_del(s->read_ev);
        return;
    }
    event_add(s->read_ev, NULL);
    stream_deliver(s);
    if (s->state == STREAM_OPEN && !s->paused)
        event_active(s->read_ev, EV_READ, 0); /* OpenSSL may hold more */
}

void
stream_finish(struct stream *s)
{
    struct timeval linger = { LINGER_S, 0 };

    if (s->state == STREAM_HANDSHAKE) {
        stream_abort(s);
        return;
    }
    if (s->state != STREAM_OPEN)
        return;
    s->state = STREAM_FLUSH;
    event_del(s->read_ev);
    event_add(s->linger_ev, &linger);
    stream_flush(s);
}
