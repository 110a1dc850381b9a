/* SPDX-License-Identifier: Apache-2.0
 * bench_pingpong.c - the least that a token costs beyond computing it: TLS and a thread
 * hand-over.
 *
 * A client sends a row's STATES on one TLS connection and an INFER on another, and waits
 * for a TOKEN, as frames of the real sizes. The server's I/O thread reads both, wakes a
 * second thread through an eventfd, is woken by it through another, and answers. Nothing
 * is decoded, queued or computed. Client and I/O thread share a core, as in the
 * measurement that this is held against; the second thread has another.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "bench/bench_common.h"
#include "bench/swarm_stats.h"
#include "common/bytebuf.h"
#include "common/clock.h"
#include "common/frame.h"
#include "common/random.h"
#include "common/states.h"
#include "common/tls.h"
#include "tools/options.h"

#define MAX_FRAME (FRAME_MAX_STATES + 4096)

struct pingpong {
    struct bench_tls tls;
    int io_core, compute_core, seconds, d_model, think_us;
    size_t states_size, infer_size, token_size;
    int listener, port, there, back; /* eventfds */
    struct stats_times times;
};

/* ---- sizes ---- */

static size_t
encoded_size(const struct frame *f)
{
    struct bytebuf b;
    size_t n;

    bytebuf_init(&b, MAX_FRAME);
    frame_encode(&b, f);
    n = bytebuf_len(&b);
    bytebuf_fini(&b);
    return n;
}

static void
find_sizes(struct pingpong *p)
{
    static uint8_t row[MAX_FRAME];
    struct frame f = { .type = FRAME_STATES };

    f.u.states =
        (struct frame_states){ .epoch = 1, .seq = 1000, .pos = 200, .n = 1, .rows = row };
    f.u.states.rows_size = states_row_bytes(STATES_F16, (size_t)p->d_model);
    p->states_size = encoded_size(&f);
    f = (struct frame){ .type = FRAME_INFER };
    f.u.infer =
        (struct frame_infer){ .epoch = 1, .seq = 1000, .pos = 200, .deadline_ms = 30000 };
    p->infer_size = encoded_size(&f);
    memset(&f, 0, sizeof(f));
    f.type = FRAME_TOKEN;
    f.u.token.epoch = 1;
    f.u.token.seq = 1000;
    f.u.token.pos = 200;
    f.u.token.token = 30000;
    f.u.token.queue_us = 1000;
    f.u.token.compute_us = 1000;
    p->token_size = encoded_size(&f);
}

/* ---- the server ---- */

static SSL *
server_end(SSL_CTX *ctx, int listener)
{
    SSL *ssl = SSL_new(ctx);

    if (!ssl || SSL_set_fd(ssl, bench_accept(listener)) != 1 || SSL_accept(ssl) != 1)
        bench_die("the server's handshake failed");
    return ssl;
}

static void
wake(int fd)
{
    uint64_t one = 1;

    if (write(fd, &one, sizeof(one)) != sizeof(one))
        bench_die("eventfd: %s", strerror(errno));
}

static void
wait_for(int fd)
{
    uint64_t n;

    while (read(fd, &n, sizeof(n)) != sizeof(n))
        if (errno != EINTR)
            bench_die("eventfd: %s", strerror(errno));
}

static void *
compute(void *arg)
{
    struct pingpong *p = arg;

    bench_pin(p->compute_core);
    for (;;) {
        wait_for(p->there);
        wake(p->back);
    }
    return NULL;
}

/* Bytes that came; 0 at the end. */
static size_t
take(SSL *ssl)
{
    static uint8_t away[16384];
    size_t sum = 0;

    do {
        int n = SSL_read(ssl, away, sizeof(away));

        if (n <= 0)
            return 0;
        sum += (size_t)n;
    } while (SSL_pending(ssl) > 0);
    return sum;
}

static void *
serve(void *arg)
{
    static const uint8_t token[4096];
    struct pingpong *p = arg;
    SSL_CTX *ctx = bench_server_tls(&p->tls);
    SSL *infer, *upload;
    struct pollfd fds[3];
    size_t got = 0;

    bench_pin(p->io_core);
    infer = server_end(ctx, p->listener);
    upload = server_end(ctx, p->listener);
    fds[0] = (struct pollfd){ .fd = SSL_get_fd(infer), .events = POLLIN };
    fds[1] = (struct pollfd){ .fd = SSL_get_fd(upload), .events = POLLIN };
    fds[2] = (struct pollfd){ .fd = p->back, .events = POLLIN };
    for (;;) {
        if (poll(fds, 3, -1) < 0 && errno != EINTR)
            bench_die("poll: %s", strerror(errno));
        for (int i = 0; i < 2; i++) {
            size_t n = fds[i].revents ? take(i == 0 ? infer : upload) : 0;

            if (fds[i].revents && n == 0)
                return NULL;
            got += n;
        }
        if (got == p->states_size + p->infer_size) {
            got = 0;
            wake(p->there);
        }
        if (fds[2].revents) {
            wait_for(p->back);
            if (SSL_write(infer, token, (int)p->token_size) <= 0)
                return NULL;
        }
    }
}

/* ---- the client ---- */

static SSL *
client_end(SSL_CTX *ctx, int port)
{
    struct err err;
    SSL *ssl;

    if (tls_client_ssl(&ssl, ctx, "127.0.0.1", &err) < 0)
        bench_die("%s", err.text);
    if (SSL_set_fd(ssl, bench_connect(port)) != 1 || SSL_connect(ssl) != 1)
        bench_die("the client's handshake failed");
    return ssl;
}

static void
measure(struct pingpong *p)
{
    static const uint8_t bytes[MAX_FRAME];
    SSL_CTX *ctx = bench_client_tls(&p->tls);
    SSL *infer = client_end(ctx, p->port), *upload = client_end(ctx, p->port);
    int64_t end = clock_us() + (int64_t)p->seconds * 1000000, start;
    uint64_t random = 1;

    bench_pin(p->io_core);
    while ((start = clock_us()) < end) {
        size_t got = 0;

        if (SSL_write(infer, bytes, (int)p->infer_size) <= 0 ||
            SSL_write(upload, bytes, (int)p->states_size) <= 0)
            bench_die("the client cannot write");
        while (got < p->token_size) {
            size_t n = take(infer);

            if (n == 0)
                bench_die("the server has closed");
            got += n;
        }
        stats_add(&p->times, clock_us() - start);
        if (p->think_us > 0)
            usleep((useconds_t)((uint64_t)p->think_us / 2 +
                                random_next(&random) % (uint64_t)p->think_us));
    }
}

static void
report(const struct pingpong *p, bool json)
{
    double p50 = (double)stats_quantile(&p->times, 0.5) * 1e-3;
    double p90 = (double)stats_quantile(&p->times, 0.9) * 1e-3;
    double p99 = (double)stats_quantile(&p->times, 0.99) * 1e-3;
    double most = (double)p->times.max_us * 1e-3;

    if (json)
        printf(
            "{\"n\": %llu, \"p50\": %.3f, \"p90\": %.3f, \"p99\": %.3f, \"max\": %.3f, "
            "\"states_bytes\": %zu, \"infer_bytes\": %zu, \"token_bytes\": %zu}\n",
            (unsigned long long)p->times.n, p50, p90, p99, most, p->states_size,
            p->infer_size, p->token_size);
    else
        printf(
            "%llu times %zu + %zu bytes there, %zu back: p50 %.3f, p90 %.3f, p99 %.3f, "
            "max %.3f ms\n",
            (unsigned long long)p->times.n, p->states_size, p->infer_size, p->token_size,
            p50, p90, p99, most);
}

int
main(int argc, char **argv)
{
    static struct pingpong p = {
        .io_core = -1, .compute_core = -1, .seconds = 5, .d_model = 576, .think_us = 2000
    };
    pthread_t io, other;
    struct err err = { 0 };
    bool help, json = false;
    int n;
    const struct option_spec specs[] = {
        { "ca", 0, OPTIONS_TEXT, &p.tls.ca, "FILE", "authorities", 0, 0 },
        { "cert", 0, OPTIONS_TEXT, &p.tls.cert, "FILE", "the client's certificate", 0,
          0 },
        { "key", 0, OPTIONS_TEXT, &p.tls.key, "FILE", "its key", 0, 0 },
        { "server-cert", 0, OPTIONS_TEXT, &p.tls.server_cert, "FILE", "the server's", 0,
          0 },
        { "server-key", 0, OPTIONS_TEXT, &p.tls.server_key, "FILE", "its key", 0, 0 },
        { "d-model", 0, OPTIONS_INT, &p.d_model, "N", "of a row (default 576)", 1,
          16384 },
        { "think", 0, OPTIONS_INT, &p.think_us, "US", "between two (default 2000)", 0,
          1000000 },
        { "seconds", 0, OPTIONS_INT, &p.seconds, "S", "default 5", 1, 3600 },
        { "io-core", 0, OPTIONS_INT, &p.io_core, "N", "of client and I/O", 0, 4095 },
        { "compute-core", 0, OPTIONS_INT, &p.compute_core, "N", "of the other", 0, 4095 },
        { "json", 0, OPTIONS_FLAG, &json, NULL, "for programs", 0, 0 },
        { 0 }
    };
    const struct options_page page = { "[options]", "TLS and eventfd, there and back.",
                                       specs, 0, 0 };

    signal(SIGPIPE, SIG_IGN);
    if (options_parse(&page, argc, argv, &n, &help, &err) != 0)
        bench_die("%s", err.text);
    if (help) {
        options_help(&page, "bench_pingpong");
        return 0;
    }
    find_sizes(&p);
    p.listener = bench_listen(&p.port);
    p.there = eventfd(0, EFD_CLOEXEC);
    p.back = eventfd(0, EFD_CLOEXEC);
    if (p.there < 0 || p.back < 0 || pthread_create(&io, NULL, serve, &p) != 0 ||
        pthread_create(&other, NULL, compute, &p) != 0)
        bench_die("no threads");
    measure(&p);
    report(&p, json);
    return 0;
}
