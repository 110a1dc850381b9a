/* SPDX-License-Identifier: Apache-2.0
 * http_places.c - see http_places.h.
 *
 * A connection is ended by shutting its socket down: evhttp then sees its end and
 * frees what it has, in its own time. The bufferevent closes the descriptor, when the
 * last reference goes, which is ours: so a number is not used again while an event
 * may still wait for it.
 */
#include "server/http_places.h"

#include <stdbool.h>
#include <sys/socket.h>

#include <event2/bufferevent.h>
#include <event2/event.h>

#include "common/clock.h"
#include "common/memory.h"

struct place {
    struct place *next;
    struct bufferevent *bev; /* one reference is ours */
    int64_t since_us;        /* accepted, or asked something */
    bool leaves;             /* is to be shut down */
};

struct http_places {
    struct place *first;
    struct event *shut; /* right after the callback in which we may not */
    uint32_t max;
    int64_t max_silent_us;
    void (*closed)(void *arg);
    void *arg;
};

static bool
is_alive(const struct place *place)
{
    bufferevent_event_cb event_cb = NULL;

    bufferevent_getcb(place->bev, NULL, NULL, &event_cb, NULL);
    return event_cb != NULL;
}

/* Drop what evhttp has let go of; returns how many stay. */
static uint32_t
sweep(struct http_places *p)
{
    struct place **at = &p->first;
    uint32_t n = 0;

    while (*at) {
        struct place *place = *at;

        if (is_alive(place)) {
            n += !place->leaves;
            at = &place->next;
            continue;
        }
        *at = place->next;
        bufferevent_decref(place->bev);
        mem_free(place);
    }
    return n;
}

static void
make_room(struct http_places *p)
{
    struct place *place, *oldest = NULL;

    for (place = p->first; place; place = place->next)
        if (!place->leaves && (!oldest || place->since_us <= oldest->since_us))
            oldest = place;
    if (!oldest)
        return;
    oldest->leaves = true;
    p->closed(p->arg);
    event_active(p->shut, EV_TIMEOUT, 0);
}

static void
on_shut(evutil_socket_t fd, short what, void *arg)
{
    struct http_places *p = arg;
    struct place *place;

    (void)fd;
    (void)what;
    for (place = p->first; place; place = place->next)
        if (place->leaves && is_alive(place))
            shutdown(bufferevent_getfd(place->bev), SHUT_RDWR);
}

/* evhttp accepts a connection. NULL would make it take one that we do not know. */
static struct bufferevent *
on_accept(struct event_base *base, void *arg)
{
    struct http_places *p = arg;
    struct bufferevent *bev = bufferevent_socket_new(base, -1, BEV_OPT_CLOSE_ON_FREE);
    struct place *place = bev ? mem_array_alloc(1, sizeof(*place)) : NULL;

    if (!place)
        return bev;
    if (sweep(p) >= p->max)
        make_room(p);
    bufferevent_incref(bev);
    place->bev = bev;
    place->since_us = clock_us();
    place->next = p->first;
    p->first = place;
    return bev;
}

int
http_places_new(struct http_places **out, struct event_base *base, struct evhttp *http,
                uint32_t max, int64_t max_silent_us, void (*closed)(void *arg), void *arg,
                struct err *err)
{
    struct http_places *p = mem_array_alloc(1, sizeof(*p));

    *out = NULL;
    if (p)
        p->shut = evtimer_new(base, on_shut, p);
    if (!p || !p->shut) {
        mem_free(p);
        return err_set(err, CE_ENOMEM, "metrics listener: no memory");
    }
    p->max = max;
    p->max_silent_us = max_silent_us;
    p->closed = closed;
    p->arg = arg;
    evhttp_set_bevcb(http, on_accept, p);
    *out = p;
    return 0;
}

void
http_places_set_max(struct http_places *p, uint32_t max)
{
    p->max = max;
}

void
http_places_touch(struct http_places *p, struct evhttp_request *req)
{
    struct evhttp_connection *c = evhttp_request_get_connection(req);
    const struct bufferevent *bev = c ? evhttp_connection_get_bufferevent(c) : NULL;
    struct place *place;

    for (place = p->first; place; place = place->next)
        if (place->bev == bev)
            place->since_us = clock_us();
}

void
http_places_tick(struct http_places *p, int64_t now_us)
{
    struct place *place;

    (void)sweep(p);
    for (place = p->first; place; place = place->next)
        if (now_us - place->since_us > p->max_silent_us)
            place->leaves = true;
    on_shut(-1, 0, p);
}

void
http_places_free(struct http_places *p)
{
    if (!p)
        return;
    while (p->first) {
        struct place *place = p->first;

        p->first = place->next;
        bufferevent_decref(place->bev);
        mem_free(place);
    }
    event_free(p->shut);
    mem_free(p);
}
