/* SPDX-License-Identifier: Apache-2.0
 * bench_handshakes.c - mutual TLS handshakes that a core can serve: cloudd's beside what
 * OpenSSL alone needs.
 *
 * The raw server is a child process that accepts, shakes hands, reads to the end and
 * closes. The same client makes handshakes with it and with the cloudd at --port, a
 * second at a time in turn; each server's CPU time, of all its threads, is divided by the
 * handshakes made. So neither the client's own cost nor waiting is counted.
 */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/bench_common.h"
#include "common/clock.h"
#include "common/tls.h"
#include "tools/options.h"

struct served {
    int port;
    pid_t pid;
    uint64_t handshakes, cpu_ns;
    double seconds;
};

/* ---- the raw server ---- */

static void
serve_one(SSL_CTX *ctx, int listener)
{
    int fd = bench_accept(listener);
    SSL *ssl = SSL_new(ctx);
    struct tls_peer peer;
    char byte;

    if (!ssl || SSL_set_fd(ssl, fd) != 1)
        bench_die("no memory");
    if (SSL_accept(ssl) == 1 && tls_peer_get(ssl, &peer, NULL) == 0)
        (void)SSL_read(ssl, &byte, 1);
    SSL_free(ssl);
    close(fd);
}

static pid_t
start_raw(const struct bench_tls *tls, int core, int *port)
{
    int listener = bench_listen(port);
    SSL_CTX *ctx = bench_server_tls(tls);
    pid_t pid = fork();

    if (pid < 0)
        bench_die("fork: %s", strerror(errno));
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        bench_pin(core);
        for (;;)
            serve_one(ctx, listener);
    }
    close(listener);
    SSL_CTX_free(ctx);
    return pid;
}

/* ---- measuring ---- */

/* On-CPU nanoseconds of all threads of a process. */
static uint64_t
cpu_ns(pid_t pid)
{
    char path[320];
    struct dirent *e;
    uint64_t sum = 0;
    DIR *d;

    snprintf(path, sizeof(path), "/proc/%ld/task", (long)pid);
    d = opendir(path);
    if (!d)
        bench_die("no process %ld", (long)pid);
    while ((e = readdir(d)) != NULL) {
        unsigned long long ns = 0;
        char text[64] = "";
        FILE *f;

        snprintf(path, sizeof(path), "/proc/%ld/task/%s/schedstat", (long)pid, e->d_name);
        f = e->d_name[0] == '.' ? NULL : fopen(path, "re");
        if (!f)
            continue;
        if (fgets(text, sizeof(text), f))
            ns = strtoull(text, NULL, 10);
        fclose(f);
        sum += ns;
    }
    closedir(d);
    return sum;
}

/* Shake hands, say nothing, wait until the server has closed too. */
static void
shake_hands(SSL_CTX *ctx, int port)
{
    struct err err;
    char byte[64];
    SSL *ssl;
    int fd = bench_connect(port);

    if (tls_client_ssl(&ssl, ctx, "127.0.0.1", &err) < 0)
        bench_die("%s", err.text);
    if (SSL_set_fd(ssl, fd) != 1 || SSL_connect(ssl) != 1) {
        tls_error(&err, CE_EIO, ssl, "handshake");
        bench_die("%s", err.text);
    }
    shutdown(fd, SHUT_WR);
    while (recv(fd, byte, sizeof(byte), 0) > 0)
        ;
    SSL_free(ssl);
    close(fd);
}

static void
measure(struct served *s, SSL_CTX *ctx, int64_t us)
{
    int64_t start = clock_us(), now;
    uint64_t before = cpu_ns(s->pid);

    do {
        shake_hands(ctx, s->port);
        s->handshakes++;
        now = clock_us();
    } while (now - start < us);
    usleep(20000); /* what the last one left to do */
    s->cpu_ns += cpu_ns(s->pid) - before;
    s->seconds += (double)(now - start) * 1e-6;
}

static double
per_core(const struct served *s)
{
    return (double)s->handshakes * 1e9 / (double)s->cpu_ns;
}

int
main(int argc, char **argv)
{
    struct bench_tls tls = { 0 };
    struct served raw = { 0 }, cloudd = { 0 };
    int seconds = 6, client_core = -1, server_core = -1, pid = 0, n;
    struct err err = { 0 };
    bool help, json = false;
    SSL_CTX *ctx;
    const struct option_spec specs[] = {
        { "ca", 0, OPTIONS_TEXT, &tls.ca, "FILE", "authorities", 0, 0 },
        { "cert", 0, OPTIONS_TEXT, &tls.cert, "FILE", "the client's certificate", 0, 0 },
        { "key", 0, OPTIONS_TEXT, &tls.key, "FILE", "its key", 0, 0 },
        { "server-cert", 0, OPTIONS_TEXT, &tls.server_cert, "FILE", "the server's", 0,
          0 },
        { "server-key", 0, OPTIONS_TEXT, &tls.server_key, "FILE", "its key", 0, 0 },
        { "port", 0, OPTIONS_INT, &cloudd.port, "N", "of a cloudd on 127.0.0.1", 1,
          65535 },
        { "pid", 0, OPTIONS_INT, &pid, "N", "the cloudd's process", 1, 1 << 30 },
        { "seconds", 0, OPTIONS_INT, &seconds, "S", "for each (default 6)", 1, 3600 },
        { "client-core", 0, OPTIONS_INT, &client_core, "N", "core of the client", 0,
          4095 },
        { "server-core", 0, OPTIONS_INT, &server_core, "N", "core of the raw server", 0,
          4095 },
        { "json", 0, OPTIONS_FLAG, &json, NULL, "for programs", 0, 0 },
        { 0 }
    };
    const struct options_page page = { "[options]", "Handshakes per core.", specs, 0, 0 };

    signal(SIGPIPE, SIG_IGN);
    if (options_parse(&page, argc, argv, &n, &help, &err) != 0)
        bench_die("%s", err.text);
    if (help) {
        options_help(&page, "bench_handshakes");
        return 0;
    }
    raw.pid = start_raw(&tls, server_core, &raw.port);
    cloudd.pid = pid;
    bench_pin(client_core);
    ctx = bench_client_tls(&tls);
    shake_hands(ctx, raw.port);
    for (int i = 0; i < seconds; i++) {
        measure(&raw, ctx, 1000000);
        if (cloudd.port > 0)
            measure(&cloudd, ctx, 1000000);
    }
    kill(raw.pid, SIGKILL);
    waitpid(raw.pid, NULL, 0);
    if (json)
        printf("{\"raw_per_core\": %.1f, \"cloudd_per_core\": %.1f, \"ratio\": %.4f}\n",
               per_core(&raw), cloudd.port > 0 ? per_core(&cloudd) : 0,
               cloudd.port > 0 ? per_core(&cloudd) / per_core(&raw) : 0);
    else
        printf("handshakes per second of CPU: OpenSSL %.0f, cloudd %.0f\n",
               per_core(&raw), cloudd.port > 0 ? per_core(&cloudd) : 0);
    SSL_CTX_free(ctx);
    return 0;
}
