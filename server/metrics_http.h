/* SPDX-License-Identifier: Apache-2.0
 * metrics_http.h - the operator's listener: a few pages over plain HTTP.
 *
 *     /             the status page       /metrics   for Prometheus
 *     /healthz      200: the loop turns   /sessions  who is here, JSON
 *     /readyz       200, or 503 and why   /status.json  what the page shows
 *
 * With a token, /metrics, /sessions and /status.json want "Authorization: Bearer
 * TOKEN"; the others tell nothing that a balancer may not know. Answers are made at
 * once from what the I/O thread knows; none waits for the backend.
 *
 * Thread: the I/O thread's.
 */
#ifndef CE_SERVER_METRICS_HTTP_H
#define CE_SERVER_METRICS_HTTP_H

#include <event2/event.h>

#include "common/error.h"
#include "server/metrics.h"
#include "server/server.h"

struct metrics_http_config {
    int fd;                   /* taken: a bound TCP socket */
    const char *token_path;   /* a file with the token; "" or NULL: none is asked for */
    uint32_t max_connections; /* >= 1; past them the longest silent one is closed */
    /* Fill in what is held now. */
    void (*look)(void *arg, struct metrics_view *out);
    void *look_arg;
};

struct metrics_http;

/* Takes the socket, also on failure; base, m and srv are borrowed. Logs where it
 * listens, and warns when strangers can reach it without a token. */
int metrics_http_new(struct metrics_http **out, struct event_base *base,
                     struct metrics *m, const struct server *srv,
                     const struct metrics_http_config *config,
                     struct err *err) CE_MUSTCHECK;

/* Who may ask, and how many, from now on. digest: of the token (metrics_http_token), or
 * NULL for none. Accepts h NULL. */
void metrics_http_set(struct metrics_http *h, const uint8_t digest[32],
                      uint32_t max_connections);

/* Close what is past its time; a few times a second. Accepts NULL. */
void metrics_http_tick(struct metrics_http *h, int64_t now_us);

/* Closes everything. Accepts NULL. */
void metrics_http_free(struct metrics_http *h);

/* Read a token: one line of 16 to 512 printable characters. Puts its SHA-256 into
 * `digest`. */
int metrics_http_token(const char *path, uint8_t digest[32],
                       struct err *err) CE_MUSTCHECK;

/* ---- for tests ---- */

/* Is this Host header one that a browser sends only to who typed an address or
 * "localhost"? */
bool metrics_http_host_is_local(const char *host);

#endif
