/* SPDX-License-Identifier: Apache-2.0
 * listener.c - accept, limits, handshake; see listener.h.
 *
 * A `struct connection` ties a socket's stream (bytes) to its channel (frames):
 * it exists from accept until the stream is freed; the channel from the end of
 * the handshake. Connections hang in buckets by address, so that counting those
 * of one address looks at few others.
 */
#include "server/listener.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <event2/listener.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"
#include "common/tls.h"
#include "server/address.h"
#include "server/channel.h"
#include "server/metrics.h"
#include "server/sockets.h"
#include "server/stream.h"

#define N_BUCKETS 1024 /* power of two */
#define BACKLOG   512

struct connection {
    struct connection *prev, *next; /* in its bucket */
    struct listener *listener;
    struct stream *stream;
    struct channel *channel; /* NULL until the handshake is done */
    int64_t since_us;
    uint8_t key[16]; /* the peer's address; v4 ones mapped into v6 */
    char address[80];
};

struct listener {
    struct event_base *base;
    struct server *srv;
    SSL_CTX *ctx;
    struct listener_config config;
    int fd;                        /* bound; -1: accept has it, or it is closed */
    struct evconnlistener *accept; /* NULL: before the start, after the stop */
    struct event *retry;           /* accepting stopped for want of descriptors */
    char host[ADDRESS_HOST_SIZE];
    int port;
    uint32_t n_connections;
    struct connection *buckets[N_BUCKETS];
};

/* ---- addresses ---- */

static void
address_key(const struct sockaddr *sa, uint8_t key[16])
{
    static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };

    memset(key, 0, 16);
    if (sa->sa_family == AF_INET6) {
        memcpy(key, &((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr, 16);
    } else if (sa->sa_family == AF_INET) {
        memcpy(key, mapped, sizeof(mapped));
        memcpy(key + 12, &((const struct sockaddr_in *)(const void *)sa)->sin_addr, 4);
    }
}

static struct connection **
bucket_of(struct listener *l, const uint8_t key[16])
{
    uint32_t h = 2166136261u;
    int i;

    for (i = 0; i < 16; i++)
        h = (h ^ key[i]) * 16777619u;
    return &l->buckets[(h ^ h >> 15) & (N_BUCKETS - 1)];
}

static uint32_t
count_address(struct listener *l, const uint8_t key[16])
{
    const struct connection *c;
    uint32_t n = 0;

    for (c = *bucket_of(l, key); c; c = c->next)
        n += memcmp(c->key, key, 16) == 0;
    return n;
}

/* ---- what a connection's stream and channel say to each other ---- */

static int
io_send(void *arg, const uint8_t *data, size_t n)
{
    return stream_send(((struct connection *)arg)->stream, data, n);
}

static void
io_pause(void *arg, bool paused)
{
    stream_pause(((struct connection *)arg)->stream, paused);
}

static void
io_finish(void *arg)
{
    stream_finish(((struct connection *)arg)->stream);
}

static void
io_abort(void *arg)
{
    stream_abort(((struct connection *)arg)->stream);
}

static void
on_ready(void *arg)
{
    struct connection *c = arg;
    struct channel_io io = { c, io_send, io_pause, io_finish, io_abort };
    struct tls_peer peer;
    struct err err;

    metrics_handshake(c->listener->srv->metrics, clock_us() - c->since_us);
    if (tls_peer_get(stream_ssl(c->stream), &peer, &err) < 0) {
        metrics_refused(c->listener->srv->metrics, NULL, METRICS_REFUSED_CERTIFICATE);
        log_info_limited("peer=%s refused: %s", c->address, err.text);
        stream_abort(c->stream);
        return;
    }
    c->channel = channel_new(c->listener->srv, &io, &peer, c->address, c->since_us);
    if (!c->channel)
        stream_abort(c->stream);
}

static size_t
on_data(void *arg, const uint8_t *data, size_t len)
{
    struct connection *c = arg;

    return c->channel ? channel_input(c->channel, data, len, clock_us()) : len;
}

static void
on_lost(void *arg, const char *why)
{
    struct connection *c = arg;

    if (c->channel) {
        channel_lost(c->channel, why);
        return;
    }
    metrics_refused(c->listener->srv->metrics, NULL, METRICS_REFUSED_HANDSHAKE);
    log_info_limited("peer=%s handshake failed: %s", c->address, why);
}

static void
on_closed(void *arg)
{
    struct connection *c = arg;
    struct listener *l = c->listener;

    if (c->channel)
        channel_free(c->channel);
    if (c->prev)
        c->prev->next = c->next;
    else
        *bucket_of(l, c->key) = c->next;
    if (c->next)
        c->next->prev = c->prev;
    l->n_connections--;
    mem_free(c);
}

/* ---- accepting ---- */

static bool
over_limits(struct listener *l, const uint8_t key[16], const char *address)
{
    if (l->n_connections >= l->config.max_connections) {
        metrics_refused(l->srv->metrics, NULL, METRICS_REFUSED_CONNECTIONS);
        log_warn_limited("peer=%s refused: %u connections are open", address,
                         l->n_connections);
        return true;
    }
    if (count_address(l, key) >= l->config.max_per_address) {
        metrics_refused(l->srv->metrics, NULL, METRICS_REFUSED_ADDRESS);
        log_warn_limited("peer=%s refused: %u connections from this address", address,
                         l->config.max_per_address);
        return true;
    }
    return false;
}

static struct connection *
connection_new(struct listener *l, int fd, const uint8_t key[16], const char *address)
{
    static const struct stream_events events = { NULL, on_ready, on_data, on_lost,
                                                 on_closed };
    struct stream_events mine = events;
    struct connection *c = mem_array_alloc(1, sizeof(*c));
    SSL *ssl = SSL_new(l->ctx);
    struct err err;

    if (!c || !ssl) {
        mem_free(c);
        SSL_free(ssl);
        close(fd);
        return NULL;
    }
    c->listener = l;
    c->since_us = clock_us();
    memcpy(c->key, key, 16);
    snprintf(c->address, sizeof(c->address), "%s", address);
    mine.arg = c;
    if (stream_new(&c->stream, l->base, fd, ssl, CHANNEL_MAX_IN + 16384,
                   l->config.max_out, &mine, &err) < 0) {
        mem_free(c);
        return NULL;
    }
    return c;
}

static void
on_accept(struct evconnlistener *accept, evutil_socket_t fd, struct sockaddr *sa, int len,
          void *arg)
{
    struct listener *l = arg;
    struct connection *c, **bucket;
    char host[48] = "?", port[16] = "?", address[72];
    uint8_t key[16];

    (void)accept;
    (void)getnameinfo(sa, (socklen_t)len, host, sizeof(host), port, sizeof(port),
                      NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(address, sizeof(address), "%s:%s", host, port);
    address_key(sa, key);
    metrics_add(l->srv->metrics, METRICS_ACCEPTED, 1);
    if (over_limits(l, key, address)) {
        close(fd);
        return;
    }
    sockets_tune(fd, l->config.silence_us);
    c = connection_new(l, fd, key, address);
    if (!c) {
        log_warn_limited("peer=%s refused: no memory", address);
        return;
    }
    bucket = bucket_of(l, key);
    c->next = *bucket;
    if (c->next)
        c->next->prev = c;
    *bucket = c;
    l->n_connections++;
}

/* No descriptors, usually: wait a little instead of spinning. */
static void
on_accept_error(struct evconnlistener *accept, void *arg)
{
    struct listener *l = arg;
    struct timeval pause = { 0, 200000 };

    log_warn_limited("accept: %s", strerror(errno));
    evconnlistener_disable(accept);
    event_add(l->retry, &pause);
}

static void
on_retry(evutil_socket_t fd, short what, void *arg)
{
    struct listener *l = arg;

    (void)fd;
    (void)what;
    if (l->accept)
        evconnlistener_enable(l->accept);
}

int
listener_new(struct listener **out, struct event_base *base, struct server *srv, int fd,
             SSL_CTX *ctx, const struct listener_config *config, struct err *err)
{
    struct listener *l = mem_array_alloc(1, sizeof(*l));

    *out = NULL;
    if (!l) {
        close(fd);
        return err_set(err, CE_ENOMEM, "listener: no memory");
    }
    l->base = base;
    l->srv = srv;
    l->fd = fd;
    listener_set(l, ctx, config);
    l->retry = evtimer_new(base, on_retry, l);
    if (!l->retry) {
        listener_free(l);
        return err_set(err, CE_ENOMEM, "listener: no memory");
    }
    l->port = address_of_socket(fd, l->host);
    *out = l;
    return 0;
}

int
listener_start(struct listener *l, struct err *err)
{
    l->accept =
        evconnlistener_new(l->base, on_accept, l,
                           LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, BACKLOG, l->fd);
    if (!l->accept)
        return err_set(err, CE_EIO, "listen: %s:%d: %s", l->host, l->port,
                       strerror(errno));
    l->fd = -1; /* the event's, from now on */
    evconnlistener_set_error_cb(l->accept, on_accept_error);
    return 0;
}

void
listener_set(struct listener *l, SSL_CTX *ctx, const struct listener_config *config)
{
    SSL_CTX *old = l->ctx;

    l->config = *config;
    if (old == ctx)
        return;
    SSL_CTX_up_ref(ctx);
    l->ctx = ctx;
    SSL_CTX_free(old); /* connections hold it as long as they need it */
}

const char *
listener_host(const struct listener *l)
{
    return l->host;
}

int
listener_port(const struct listener *l)
{
    return l->port;
}

uint32_t
listener_n_connections(const struct listener *l)
{
    return l->n_connections;
}

void
listener_tick(struct listener *l, int64_t now_us)
{
    struct connection *c;
    int i;

    for (i = 0; i < N_BUCKETS; i++)
        for (c = l->buckets[i]; c; c = c->next)
            if (!c->channel && now_us - c->since_us >= l->srv->first_frame_us) {
                metrics_refused(l->srv->metrics, NULL, METRICS_REFUSED_HANDSHAKE);
                stream_abort(c->stream); /* freed by the loop, later */
            }
}

void
listener_stop(struct listener *l)
{
    if (l->accept)
        evconnlistener_free(l->accept);
    else if (l->fd >= 0)
        close(l->fd);
    l->accept = NULL;
    l->fd = -1;
}

void
listener_free(struct listener *l)
{
    struct connection *c;
    int i;

    if (!l)
        return;
    listener_stop(l);
    for (i = 0; i < N_BUCKETS; i++)
        for (c = l->buckets[i]; c; c = c->next)
            stream_abort(c->stream);
    while (l->n_connections > 0 && event_base_loop(l->base, EVLOOP_NONBLOCK) == 0)
        ;
    if (l->retry)
        event_free(l->retry);
    SSL_CTX_free(l->ctx);
    mem_free(l);
}
