/* SPDX-License-Identifier: Apache-2.0
 * metrics_http.c - see metrics_http.h.
 *
 * libevent's evhttp speaks HTTP; around it are the bounds that it lacks or leaves
 * open: sizes of headers and bodies, silence, connections (http_places.h). A reply is
 * made whole, and evhttp reads a connection's next request only after it has left,
 * so a peer that does not read holds one page.
 *
 * Who may ask: with a token, whoever has it; it is compared by digest, in constant
 * time. Without one the listener is meant for this machine alone, and then
 * the Host header must be an address or "localhost": a page from elsewhere that runs
 * in the operator's browser can make its own name point here, but not that.
 */
#include "server/metrics_http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include <event2/buffer.h>
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <event2/listener.h>
#include <openssl/crypto.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"
#include "common/sha256.h"
#include "server/address.h"
#include "server/exposition.h"
#include "server/http_places.h"
#include "server/sockets.h"
#include "server/status_json.h"
#include "server/status_page.h"

#define MAX_HEADERS   8192
#define MAX_BODY      1024 /* nobody has a reason to send one */
#define IO_TIMEOUT_S  20
#define MAX_SILENT_US 60000000
#define MAX_PAGE      ((size_t)4 << 20)
#define BACKLOG       64
#define MIN_TOKEN     16
#define MAX_TOKEN     512

struct metrics_http {
    struct evhttp *http;
    struct http_places *places;
    struct evconnlistener *accept; /* evhttp's */
    bool accept_pauses;            /* for want of descriptors */
    struct metrics *metrics;
    const struct server *srv;
    struct metrics_http_config config;
    bool has_token, loopback;
    uint8_t token[SHA256_BYTES];
};

/* ---- the token and the Host header ---- */

int
metrics_http_token(const char *path, uint8_t digest[32], struct err *err)
{
    char line[MAX_TOKEN + 3] = "";
    FILE *f = fopen(path, "re");
    size_t n, i;
    int rc;

    if (!f)
        return err_set(err, CE_EIO, "metrics_token = %s: %s", path, strerror(errno));
    n = fread(line, 1, sizeof(line) - 1, f);
    fclose(f);
    while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r'))
        n--;
    for (i = 0; i < n; i++)
        if (line[i] <= ' ' || line[i] > '~')
            break;
    if (i < n || n < MIN_TOKEN || n > MAX_TOKEN) {
        OPENSSL_cleanse(line, sizeof(line));
        return err_set(
            err, CE_EINVAL,
            "metrics_token = %s: not one line of %d to %d printable characters "
            "without spaces",
            path, MIN_TOKEN, MAX_TOKEN);
    }
    rc = sha256_bytes(line, n, digest, err);
    OPENSSL_cleanse(line, sizeof(line));
    return rc;
}

static bool
token_is_right(const struct metrics_http *h, struct evhttp_request *req)
{
    const char *value =
        evhttp_find_header(evhttp_request_get_input_headers(req), "Authorization");
    uint8_t digest[SHA256_BYTES];
    struct err err;

    if (!value || strncasecmp(value, "Bearer ", 7) != 0)
        return false;
    if (sha256_bytes(value + 7, strlen(value + 7), digest, &err) < 0)
        return false;
    return CRYPTO_memcmp(digest, h->token, sizeof(digest)) == 0;
}

bool
metrics_http_host_is_local(const char *host)
{
    char name[INET6_ADDRSTRLEN + 1];
    const char *begin = host, *end;
    uint8_t address[16];
    size_t n;

    if (host[0] == '[') {
        begin++;
        end = strchr(host, ']');
        if (!end || (end[1] != '\0' && end[1] != ':'))
            return false;
    } else {
        end = host + strcspn(host, ":");
    }
    n = (size_t)(end - begin);
    if (n >= sizeof(name))
        return false;
    memcpy(name, begin, n);
    name[n] = '\0';
    if (host[0] == '[')
        return inet_pton(AF_INET6, name, address) == 1;
    return strcasecmp(name, "localhost") == 0 || inet_pton(AF_INET, name, address) == 1;
}

/* ---- answers ---- */

static void
send_text(struct evhttp_request *req, int code, const char *reason, const char *type,
          const void *text, size_t n)
{
    struct evkeyvalq *headers = evhttp_request_get_output_headers(req);
    struct evbuffer *body = evbuffer_new();

    if (body)
        (void)evbuffer_add(body, text, n);
    (void)evhttp_add_header(headers, "Content-Type", type);
    (void)evhttp_add_header(headers, "Cache-Control", "no-store");
    (void)evhttp_add_header(headers, "X-Content-Type-Options", "nosniff");
    evhttp_send_reply(req, code, reason, body);
    if (body)
        evbuffer_free(body);
}

static void
send_line(struct evhttp_request *req, int code, const char *reason, const char *line)
{
    char text[128];
    int n = snprintf(text, sizeof(text), "%s\n", line);

    if (evhttp_request_get_command(req) == EVHTTP_REQ_HEAD)
        n = 0; /* evhttp would send it all the same */
    send_text(req, code, reason, "text/plain; charset=utf-8", text, (size_t)n);
}

static void
look(const struct metrics_http *h, struct metrics_view *v)
{
    memset(v, 0, sizeof(*v));
    v->now_us = clock_us();
    h->config.look(h->config.look_arg, v);
}

static void
get_healthz(struct metrics_http *h, struct evhttp_request *req)
{
    (void)h;
    send_line(req, HTTP_OK, "OK", "ok");
}

static void
get_readyz(struct metrics_http *h, struct evhttp_request *req)
{
    struct metrics_view v;
    char why[80];

    look(h, &v);
    if (metrics_ready(h->metrics, &v, why))
        send_line(req, HTTP_OK, "OK", "ready");
    else
        send_line(req, HTTP_SERVUNAVAIL, "Service Unavailable", why);
}

static void
get_metrics(struct metrics_http *h, struct evhttp_request *req)
{
    struct metrics_view v;
    struct bytebuf page;

    look(h, &v);
    bytebuf_init(&page, MAX_PAGE);
    metrics_page(h->metrics, &v, &page);
    if (bytebuf_status(&page) == 0)
        send_text(req, HTTP_OK, "OK", EXPOSITION_TYPE, bytebuf_data(&page),
                  bytebuf_len(&page));
    else
        send_line(req, HTTP_INTERNAL, "Internal Server Error", "no memory for the page");
    bytebuf_fini(&page);
}

/* Takes the text. */
static void
send_json(struct evhttp_request *req, char *text)
{
    if (text)
        send_text(req, HTTP_OK, "OK", "application/json", text, strlen(text));
    else
        send_line(req, HTTP_INTERNAL, "Internal Server Error", "no memory for the page");
    free(text);
}

static void
get_status_json(struct metrics_http *h, struct evhttp_request *req)
{
    struct metrics_view v;

    look(h, &v);
    send_json(req, status_json(h->metrics, &v));
}

static void
get_sessions(struct metrics_http *h, struct evhttp_request *req)
{
    send_json(req, status_json_sessions(h->srv, clock_us()));
}

/* The page has no data in it; it fetches /status.json, and nothing from elsewhere. */
static void
get_page(struct metrics_http *h, struct evhttp_request *req)
{
    (void)h;
    (void)evhttp_add_header(
        evhttp_request_get_output_headers(req), "Content-Security-Policy",
        "default-src 'none'; style-src 'unsafe-inline'; script-src "
        "'unsafe-inline'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
    send_text(req, HTTP_OK, "OK", "text/html; charset=utf-8", status_page,
              status_page_size);
}

/* ---- requests ---- */

static const struct route {
    const char *path;
    bool open; /* to those without the token */
    void (*answer)(struct metrics_http *h, struct evhttp_request *req);
} routes[] = {
    { "/", true, get_page },
    { "/healthz", true, get_healthz },
    { "/readyz", true, get_readyz },
    { "/metrics", false, get_metrics },
    { "/sessions", false, get_sessions },
    { "/status.json", false, get_status_json },
};

static const struct route *
find_route(struct evhttp_request *req)
{
    const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(req);
    const char *path = uri ? evhttp_uri_get_path(uri) : NULL;
    size_t i;

    for (i = 0; i < sizeof(routes) / sizeof(routes[0]); i++)
        if (strcmp(routes[i].path, path && path[0] ? path : "/") == 0)
            return &routes[i];
    return NULL;
}

/* Refuse, or find who answers; NULL: it was refused. */
static const struct route *
admit(const struct metrics_http *h, struct evhttp_request *req)
{
    struct evkeyvalq *out = evhttp_request_get_output_headers(req);
    const char *host = evhttp_find_header(evhttp_request_get_input_headers(req), "Host");
    const struct route *route = find_route(req);

    if (evhttp_request_get_command(req) != EVHTTP_REQ_GET) {
        (void)evhttp_add_header(out, "Allow", "GET");
        send_line(req, HTTP_BADMETHOD, "Method Not Allowed", "only GET is answered here");
    } else if (!route) {
        send_line(req, HTTP_NOTFOUND, "Not Found", "no such page");
    } else if (h->loopback && !h->has_token && host &&
               !metrics_http_host_is_local(host)) {
        send_line(req, 403, "Forbidden", "ask by address or as localhost");
    } else if (!route->open && h->has_token && !token_is_right(h, req)) {
        (void)evhttp_add_header(out, "WWW-Authenticate", "Bearer");
        send_line(req, 401, "Unauthorized", "the token is missing or wrong");
    } else {
        return route;
    }
    return NULL;
}

static void
on_request(struct evhttp_request *req, void *arg)
{
    struct metrics_http *h = arg;
    const struct route *route;

    http_places_touch(h->places, req);
    route = admit(h, req);
    metrics_add(h->metrics, route ? METRICS_SCRAPES : METRICS_HTTP_REFUSED, 1);
    if (route)
        route->answer(h, req);
}

static void
on_closed(void *arg)
{
    struct metrics_http *h = arg;

    metrics_add(h->metrics, METRICS_HTTP_REFUSED, 1);
}

/* ---- life ---- */

static void
on_accept_error(struct evconnlistener *accept, void *arg)
{
    struct metrics_http *h = arg;

    log_warn_limited("metrics listener: accept: %s", strerror(errno));
    evconnlistener_disable(accept); /* until the next tick */
    h->accept_pauses = true;
}

static int
start_listening(struct metrics_http *h, struct event_base *base, struct err *err)
{
    const unsigned flags = LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC;

    h->loopback = sockets_is_loopback(h->config.fd);
    h->accept = evconnlistener_new(base, NULL, NULL, flags, BACKLOG, h->config.fd);
    if (!h->accept)
        return err_set(err, CE_EIO, "metrics_listen: %s", strerror(errno));
    h->config.fd = -1; /* the event's, from now on */
    if (!evhttp_bind_listener(h->http, h->accept)) {
        evconnlistener_free(h->accept);
        return err_set(err, CE_ENOMEM, "metrics listener: no memory");
    }
    evconnlistener_set_error_cb(h->accept, on_accept_error);
    return 0;
}

static int
open_http(struct metrics_http *h, struct event_base *base, struct err *err)
{
    h->http = evhttp_new(base);
    if (!h->http)
        return err_set(err, CE_ENOMEM, "metrics listener: no memory");
    evhttp_set_max_headers_size(h->http, MAX_HEADERS);
    evhttp_set_max_body_size(h->http, MAX_BODY);
    evhttp_set_timeout(h->http, IO_TIMEOUT_S);
    evhttp_set_allowed_methods(h->http, 0xffff); /* we say 405, evhttp would say 501 */
    evhttp_set_gencb(h->http, on_request, h);
    return http_places_new(&h->places, base, h->http, h->config.max_connections,
                           MAX_SILENT_US, on_closed, h, err);
}

int
metrics_http_new(struct metrics_http **out, struct event_base *base, struct metrics *m,
                 const struct server *srv, const struct metrics_http_config *config,
                 struct err *err)
{
    struct metrics_http *h = mem_array_alloc(1, sizeof(*h));
    char host[ADDRESS_HOST_SIZE];
    int rc = 0, port;

    *out = NULL;
    if (!h) {
        close(config->fd);
        return err_set(err, CE_ENOMEM, "metrics listener: no memory");
    }
    h->metrics = m;
    h->srv = srv;
    h->config = *config;
    h->has_token = config->token_path && config->token_path[0];
    if (h->has_token)
        rc = metrics_http_token(config->token_path, h->token, err);
    if (rc == 0)
        rc = open_http(h, base, err);
    if (rc == 0)
        rc = start_listening(h, base, err);
    if (rc < 0) {
        metrics_http_free(h);
        return rc;
    }
    port = address_of_socket(evconnlistener_get_fd(h->accept), host);
    log_info("metrics address=%s port=%d token=%s", host, port,
             h->has_token ? "yes" : "no");
    if (!h->loopback && !h->has_token)
        log_warn("metrics address=%s: others than this machine can read the metrics; "
                 "set metrics_token",
                 host);
    *out = h;
    return 0;
}

void
metrics_http_set(struct metrics_http *h, const uint8_t digest[32],
                 uint32_t max_connections)
{
    if (!h)
        return;
    h->has_token = digest != NULL;
    if (digest)
        memcpy(h->token, digest, sizeof(h->token));
    http_places_set_max(h->places, max_connections);
}

void
metrics_http_tick(struct metrics_http *h, int64_t now_us)
{
    if (!h)
        return;
    http_places_tick(h->places, now_us);
    if (h->accept_pauses)
        evconnlistener_enable(h->accept);
    h->accept_pauses = false;
}

void
metrics_http_free(struct metrics_http *h)
{
    if (!h)
        return;
    if (h->http)
        evhttp_free(h->http); /* and the listener */
    if (h->config.fd >= 0)
        close(h->config.fd);
    http_places_free(h->places);
    OPENSSL_cleanse(h->token, sizeof(h->token));
    mem_free(h);
}
