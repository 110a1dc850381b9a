/* SPDX-License-Identifier: Apache-2.0
 * swarm_conn.c - see swarm_conn.h.
 *
 * OpenSSL on a non-blocking socket with two events, as the server has it. States:
 * CONNECT -> HANDSHAKE (skipped without TLS) -> OPEN -> FLUSH (finish was called) ->
 * DEAD, freed by the loop.
 */
#include "bench/swarm_conn.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <openssl/err.h>

#include "common/bytebuf.h"
#include "common/memory.h"
#include "common/tls.h"

#define READ_SIZE 16384
#define SIP_SIZE  1024
#define MAX_IN    ((size_t)256 << 10)
#define MAX_OUT   ((size_t)64 << 20)
#define FLUSH_S   2

enum conn_state { CONN_CONNECT, CONN_HANDSHAKE, CONN_OPEN, CONN_FLUSH, CONN_DEAD };

struct conn {
    enum conn_state state;
    int fd;
    SSL *ssl; /* NULL: plain TCP */
    struct event *read_ev, *write_ev, *end_ev;
    struct bytebuf in, out;
    enum frame_place place;
    bool paused;
    const struct conn_events *events;
    void *arg;
};

static uint64_t bytes_sent, bytes_received;
static uint32_t n_conns;

uint64_t
conn_bytes_sent(void)
{
    return bytes_sent;
}

uint64_t
conn_bytes_received(void)
{
    return bytes_received;
}

uint32_t
conn_count(void)
{
    return n_conns;
}

/* ---- addresses ---- */

static int
split_address(struct conn_target *t, const char *text, struct err *err)
{
    const char *colon = strrchr(text, ':'), *from = text, *to = colon;

    if (colon && text[0] == '[' && colon > text + 1 && colon[-1] == ']') {
        from++;
        to--;
    }
    if (!colon || to == from || (size_t)(to - from) >= sizeof(t->host) ||
        strlen(colon + 1) >= sizeof(t->port) || colon[1] == '\0')
        return err_set(err, CE_EINVAL, "\"%s\" is not host:port", text);
    memcpy(t->host, from, (size_t)(to - from));
    snprintf(t->port, sizeof(t->port), "%s", colon + 1);
    return 0;
}

int
conn_target_find(struct conn_target *t, const char *text, struct err *err)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list;
    int rc;

    memset(t, 0, sizeof(*t));
    rc = split_address(t, text, err);
    if (rc < 0)
        return rc;
    hints.ai_family = strcmp(t->host, "localhost") == 0 ? AF_INET : AF_UNSPEC;
    rc = getaddrinfo(t->host, t->port, &hints, &list);
    if (rc != 0)
        return err_set(err, CE_ENOTFOUND, "%s: %s", text, gai_strerror(rc));
    memcpy(&t->address, list->ai_addr, list->ai_addrlen);
    t->address_len = list->ai_addrlen;
    freeaddrinfo(list);
    return 0;
}

/* ---- ends ---- */

static void
conn_free(struct conn *c)
{
    if (c->read_ev)
        event_free(c->read_ev);
    if (c->write_ev)
        event_free(c->write_ev);
    if (c->end_ev)
        event_free(c->end_ev);
    SSL_free(c->ssl);
    bytebuf_fini(&c->in);
    bytebuf_fini(&c->out);
    n_conns--;
    mem_free(c);
}

static void
conn_die(struct conn *c, bool reset)
{
    struct linger hard = { 1, 0 };

    if (c->state == CONN_DEAD)
        return;
    c->state = CONN_DEAD;
    event_del(c->read_ev);
    event_del(c->write_ev);
    event_del(c->end_ev);
    if (reset)
        (void)setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
    close(c->fd);
    event_active(c->end_ev, EV_TIMEOUT, 0);
}

void
conn_abort(struct conn *c)
{
    if (c)
        conn_die(c, true);
}

static void
conn_lost(struct conn *c, const char *why)
{
    bool tell = c->state < CONN_FLUSH;

    conn_die(c, false);
    if (tell)
        c->events->lost(c->arg, why);
}

/* What OpenSSL, or the socket without TLS, said: wait, or the end. */
static void
conn_want(struct conn *c, int ret)
{
    int saved = errno;
    struct err err;

    switch (c->ssl ? SSL_get_error(c->ssl, ret) : SSL_ERROR_SYSCALL) {
    case SSL_ERROR_WANT_READ:
        break;
    case SSL_ERROR_WANT_WRITE:
        event_add(c->write_ev, NULL);
        break;
    case SSL_ERROR_ZERO_RETURN:
        conn_lost(c, "closed");
        break;
    case SSL_ERROR_SYSCALL:
        conn_lost(c, saved ? strerror(saved) : "closed");
        break;
    default:
        tls_error(&err, CE_EIO, c->ssl, "TLS");
        conn_lost(c, err.text);
        break;
    }
}

/* ---- bytes ---- */

/* One read; > 0 bytes, 0: nothing now or the end was handled. */
static size_t
conn_receive(struct conn *c, uint8_t *room, size_t n)
{
    int ret;

    ERR_clear_error();
    errno = 0;
    if (c->ssl) {
        ret = SSL_read(c->ssl, room, (int)n);
    } else {
        ret = (int)recv(c->fd, room, n, 0);
        if (ret < 0 && errno == EAGAIN)
            return 0;
    }
    if (ret > 0) {
        bytes_received += (uint64_t)ret;
        return (size_t)ret;
    }
    conn_want(c, ret);
    return 0;
}

/* Take one frame off the front: its size, or 0 when there is no whole one. */
static size_t
conn_frame(struct conn *c)
{
    struct frame_header h;
    struct frame f;
    struct err err;
    size_t size = 0;
    int rc = frame_header_decode(&h, bytebuf_data(&c->in), bytebuf_len(&c->in), &err);

    if (rc == CE_EAGAIN)
        return 0;
    if (rc == 0)
        rc = frame_allowed(&h, c->place, &err);
    if (rc == 0) {
        size = FRAME_HEADER_SIZE + frame_body_size(&h);
        if (bytebuf_len(&c->in) < size)
            return 0;
        rc = frame_decode(&f, &h, bytebuf_data(&c->in) + FRAME_HEADER_SIZE, &err);
    }
    if (rc < 0) {
        conn_lost(c, err.text);
        return 0;
    }
    c->events->frame(c->arg, &f);
    return size;
}

/* One read of at most n bytes, and the frames that are whole by then. False when nothing
 * came. */
static bool
conn_read_once(struct conn *c, size_t n)
{
    size_t before = bytebuf_len(&c->in), got, used;
    uint8_t *room = bytebuf_extend(&c->in, n);

    if (!room) {
        conn_lost(c, "a frame is too large");
        return false;
    }
    got = conn_receive(c, room, n);
    if (c->state != CONN_OPEN)
        return false;
    bytebuf_truncate(&c->in, before + got);
    while (got > 0 && c->state == CONN_OPEN && (used = conn_frame(c)) > 0)
        bytebuf_consume(&c->in, used);
    return got > 0;
}

void
conn_sip(struct conn *c)
{
    if (c->state == CONN_OPEN)
        (void)conn_read_once(c, SIP_SIZE);
}

static void
conn_read(struct conn *c)
{
    while (c->state == CONN_OPEN && !c->paused)
        if (!conn_read_once(c, READ_SIZE))
            break;
    if (c->state == CONN_OPEN && bytebuf_len(&c->in) == 0) {
        bytebuf_fini(&c->in); /* an idle connection keeps no buffer */
        bytebuf_init(&c->in, MAX_IN);
    }
}

static void
conn_flush(struct conn *c)
{
    if (bytebuf_status(&c->out) < 0) {
        conn_lost(c, "too much waits to be sent");
        return;
    }
    while (bytebuf_len(&c->out) > 0) {
        int ret;

        ERR_clear_error();
        errno = 0;
        if (c->ssl) {
            ret = SSL_write(c->ssl, bytebuf_data(&c->out), (int)bytebuf_len(&c->out));
        } else {
            ret = (int)send(c->fd, bytebuf_data(&c->out), bytebuf_len(&c->out), 0);
            if (ret < 0 && errno == EAGAIN) {
                event_add(c->write_ev, NULL);
                return;
            }
        }
        if (ret <= 0) {
            conn_want(c, ret);
            return;
        }
        bytes_sent += (uint64_t)ret;
        bytebuf_consume(&c->out, (size_t)ret);
    }
    bytebuf_fini(&c->out);
    bytebuf_init(&c->out, MAX_OUT);
    if (c->state != CONN_FLUSH)
        return;
    if (c->ssl)
        (void)SSL_shutdown(c->ssl);
    conn_die(c, false);
}

/* ---- beginnings ---- */

static void
conn_handshake(struct conn *c)
{
    struct tls_peer peer;
    struct err err;
    int ret;

    ERR_clear_error();
    errno = 0;
    ret = SSL_connect(c->ssl);
    if (ret <= 0) {
        conn_want(c, ret);
        return;
    }
    if (tls_peer_get(c->ssl, &peer, &err) < 0) {
        conn_lost(c, err.text);
        return;
    }
    c->state = CONN_OPEN;
    c->events->ready(c->arg);
}

static void
conn_connected(struct conn *c)
{
    int error = 0;
    socklen_t len = sizeof(error);

    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0 || error != 0) {
        conn_lost(c, strerror(error ? error : errno));
        return;
    }
    event_add(c->read_ev, NULL);
    c->state = c->ssl ? CONN_HANDSHAKE : CONN_OPEN;
    if (!c->ssl)
        c->events->ready(c->arg);
}

static void
on_event(evutil_socket_t fd, short what, void *arg)
{
    struct conn *c = arg;

    (void)fd;
    if (c->state == CONN_CONNECT && (what & EV_WRITE))
        conn_connected(c);
    if (c->state == CONN_HANDSHAKE)
        conn_handshake(c);
    if (c->state == CONN_OPEN && (what & EV_READ))
        conn_read(c);
    if ((c->state == CONN_OPEN || c->state == CONN_FLUSH) && bytebuf_len(&c->out) > 0)
        conn_flush(c);
}

static void
on_end(evutil_socket_t fd, short what, void *arg)
{
    struct conn *c = arg;

    (void)fd;
    (void)what;
    if (c->state == CONN_DEAD)
        conn_free(c);
    else
        conn_die(c, true);
}

/* A socket on its way to the target. */
static int
dial(const struct conn_target *to, uint32_t source, struct err *err)
{
    struct sockaddr_in from = { .sin_family = AF_INET };
    int one = 1,
        fd = socket(to->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return err_set(err, CE_EIO, "socket: %s", strerror(errno));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + source);
    if (source > 0 && to->address.ss_family == AF_INET) {
        (void)setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
        if (bind(fd, (struct sockaddr *)&from, sizeof(from)) != 0)
            goto fail;
    }
    if (connect(fd, (const struct sockaddr *)&to->address, to->address_len) != 0 &&
        errno != EINPROGRESS)
        goto fail;
    return fd;
fail:
    err_set(err, CE_EIO, "connect: %s", strerror(errno));
    close(fd);
    return CE_EIO;
}

static int
conn_tls(struct conn *c, SSL_CTX *ctx, const char *host, struct err *err)
{
    int rc = tls_client_ssl(&c->ssl, ctx, host, err);

    if (rc < 0)
        return rc;
    if (SSL_set_fd(c->ssl, c->fd) != 1)
        return tls_error(err, CE_ENOMEM, c->ssl, "TLS");
    SSL_set_mode(c->ssl, SSL_MODE_ENABLE_PARTIAL_WRITE |
                             SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                             SSL_MODE_RELEASE_BUFFERS);
    return 0;
}

int
conn_open(struct conn **out, struct event_base *base, SSL_CTX *ctx,
          const struct conn_target *to, uint32_t source, enum frame_place place,
          const struct conn_events *events, void *arg, struct err *err)
{
    struct conn *c = mem_array_alloc(1, sizeof(*c));
    int rc = 0;

    *out = NULL;
    if (!c)
        return err_set(err, CE_ENOMEM, "connection: no memory");
    n_conns++;
    c->place = place;
    c->events = events;
    c->arg = arg;
    bytebuf_init(&c->in, MAX_IN);
    bytebuf_init(&c->out, MAX_OUT);
    c->fd = dial(to, source, err);
    if (c->fd < 0) {
        conn_free(c);
        return CE_EIO;
    }
    c->read_ev = event_new(base, c->fd, EV_READ | EV_PERSIST, on_event, c);
    c->write_ev = event_new(base, c->fd, EV_WRITE, on_event, c);
    c->end_ev = evtimer_new(base, on_end, c);
    if (!c->read_ev || !c->write_ev || !c->end_ev || event_add(c->write_ev, NULL) < 0)
        rc = err_set(err, CE_ENOMEM, "connection: no memory");
    if (rc == 0 && ctx)
        rc = conn_tls(c, ctx, to->host, err);
    if (rc < 0) {
        close(c->fd);
        conn_free(c);
        return rc;
    }
    *out = c;
    return 0;
}

/* ---- use ---- */

void
conn_set_place(struct conn *c, enum frame_place place)
{
    c->place = place;
}

static void
conn_queued(struct conn *c)
{
    event_active(c->write_ev, EV_WRITE, 0);
}

void
conn_send(struct conn *c, const struct frame *f)
{
    if (c->state != CONN_OPEN)
        return;
    frame_encode(&c->out, f);
    conn_queued(c);
}

void
conn_send_bytes(struct conn *c, const void *bytes, size_t n)
{
    if (c->state != CONN_OPEN)
        return;
    bytebuf_put_bytes(&c->out, bytes, n);
    conn_queued(c);
}

size_t
conn_unsent(const struct conn *c)
{
    return bytebuf_len(&c->out);
}

void
conn_small_window(struct conn *c)
{
    int size = 4096;

    (void)setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
}

void
conn_pause(struct conn *c, bool paused)
{
    if (c->paused == paused || c->state >= CONN_FLUSH)
        return;
    c->paused = paused;
    if (paused) {
        event_del(c->read_ev);
    } else {
        event_add(c->read_ev, NULL);
        event_active(c->read_ev, EV_READ, 0); /* OpenSSL may hold some */
    }
}

bool
conn_peer_gone(const struct conn *c)
{
    struct tcp_info info;
    socklen_t len = sizeof(info);

    if (c->state == CONN_DEAD)
        return true;
    if (getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &info, &len) != 0)
        return true;
    return info.tcpi_state == TCP_CLOSE || info.tcpi_state == TCP_CLOSE_WAIT;
}

void
conn_finish(struct conn *c)
{
    struct timeval soon = { FLUSH_S, 0 };

    if (!c || c->state >= CONN_FLUSH)
        return;
    if (c->state < CONN_OPEN) {
        conn_die(c, true);
        return;
    }
    c->state = CONN_FLUSH;
    event_del(c->read_ev);
    event_add(c->end_ev, &soon);
    event_active(c->write_ev, EV_WRITE, 0);
    if (bytebuf_len(&c->out) == 0)
        conn_flush(c);
}
