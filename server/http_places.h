/* SPDX-License-Identifier: Apache-2.0
 * http_places.h - a bound on the connections of an evhttp, which has none itself.
 *
 * evhttp asks for a bufferevent for each connection that it accepts, and that is the
 * one moment it tells us of one. We make it, keep a second reference and the time,
 * and find out that evhttp has let go when its callbacks are gone from it. Past the
 * limit the connection that has been silent longest is shut down: newcomers
 * get in, so nobody can lock an operator out by holding connections open.
 *
 * Thread: the event loop's.
 */
#ifndef CE_SERVER_HTTP_PLACES_H
#define CE_SERVER_HTTP_PLACES_H

#include <stdint.h>

#include <event2/http.h>

#include "common/error.h"

struct http_places;

/* Takes the evhttp's bufferevent callback. base and http are borrowed; `closed` is
 * called for each connection that had to make room. */
int http_places_new(struct http_places **out, struct event_base *base,
                    struct evhttp *http, uint32_t max, int64_t max_silent_us,
                    void (*closed)(void *arg), void *arg, struct err *err) CE_MUSTCHECK;

/* How many there may be, from now on. */
void http_places_set_max(struct http_places *p, uint32_t max);

/* This connection has just asked something. */
void http_places_touch(struct http_places *p, struct evhttp_request *req);

/* Shut down what has asked nothing for max_silent_us, forget what has ended. */
void http_places_tick(struct http_places *p, int64_t now_us);

/* After evhttp_free. Accepts NULL. */
void http_places_free(struct http_places *p);

#endif
