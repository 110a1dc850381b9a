/* SPDX-License-Identifier: Apache-2.0
 * bench_common.h - sockets, pinning and TLS for the baselines that cloudd is held
 * against.
 *
 * Each baseline is a program of its own that does the least that a server has to do.
 * They end the process when something fails: nobody waits for them.
 */
#ifndef CE_BENCH_BENCH_COMMON_H
#define CE_BENCH_BENCH_COMMON_H

#include <stdint.h>

#include <openssl/ssl.h>

struct bench_tls {
    const char *ca, *cert, *key, *server_cert, *server_key;
};

/* Print the text after the program's name, and end with status 1. */
void bench_die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

/* Run the calling thread on this core alone; nothing for a negative one. */
void bench_pin(int core);

SSL_CTX *bench_client_tls(const struct bench_tls *t);
SSL_CTX *bench_server_tls(const struct bench_tls *t);

/* A listening socket of 127.0.0.1, and its port. */
int bench_listen(int *port);
/* A blocking connection to 127.0.0.1, without delay. */
int bench_connect(int port);
int bench_accept(int listener);

#endif
