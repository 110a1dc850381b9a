/* SPDX-License-Identifier: Apache-2.0
 * rejoin.c - see rejoin.h.
 *
 * States: IDLE (there is a session, or nobody asked) -> WAITING (for the next try's
 * time) -> DIALING (dialer.h) -> GREETING (the link is CONNECTING) -> IDLE or WAITING.
 */
#include "agent/rejoin.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <openssl/rand.h>

#include "agent/dialer.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"

enum rejoin_state { REJOIN_IDLE, REJOIN_WAITING, REJOIN_DIALING, REJOIN_GREETING };

struct rejoin {
    struct rejoin_config config;
    enum rejoin_state state;
    struct backoff backoff;
    struct event *timer, *dialed;
    struct dialer *dialer;
    struct err last; /* why there is no session */
    uint32_t last_retry_ms;
    int64_t asked_us;
    bool gave_up;
};

static void
set_state(struct rejoin *r, enum rejoin_state to)
{
    static const char *const names[] = { "IDLE", "WAITING", "DIALING", "GREETING" };

    log_debug("rejoin state=%s was=%s try=%d", names[to], names[r->state],
              r->backoff.n_tries);
    r->state = to;
}

static void
tell_worker(struct rejoin *r, enum cloud_msg_kind kind, const struct err *why)
{
    struct cloud_msg *m = cloud_msg_new(kind, NULL, 0);

    if (m == NULL) {
        log_error("rejoin no memory to tell the worker"); /* its deadline ends the wait */
        return;
    }
    m->epoch = cloud_link_epoch(r->config.link);
    if (why != NULL)
        m->err = *why;
    cloud_msg_post(r->config.worker, m);
}

static void
give_up(struct rejoin *r)
{
    struct err e = r->last;
    double seconds = (double)(clock_us() - r->asked_us) / 1e6;
    int n = r->backoff.n_tries;

    if (n > 0)
        err_set(&e, r->last.code, "%s (gave up after %d %s in %.1f s)", r->last.text, n,
                n == 1 ? "try" : "tries", seconds);
    set_state(r, REJOIN_IDLE);
    r->gave_up = true;
    tell_worker(r, CLOUD_MSG_GONE, &e);
}

/* Wait for the next try's time, if there is a next try. */
static void
plan(struct rejoin *r)
{
    int64_t now = clock_us(), at;
    int64_t retry_us = (int64_t)r->last_retry_ms * 1000;

    if (!cloud_may_pass(r->last.code, r->last_retry_ms) ||
        !backoff_next(&r->backoff, now, retry_us, &at))
        return give_up(r);
    struct timeval wait = { (at - now) / 1000000, (at - now) % 1000000 };
    set_state(r, REJOIN_WAITING);
    event_add(r->timer, &wait);
}

static void
try_failed(struct rejoin *r, const struct err *why, uint32_t retry_ms)
{
    r->last = *why;
    r->last_retry_ms = retry_ms;
    plan(r);
}

static void
dial_failed(struct rejoin *r, struct err *why)
{
    err_prefix(why, "cloud %s:%s", r->config.where.host, r->config.where.port);
    try_failed(r, why, 0);
}

static void
on_dialed(evutil_socket_t event_fd, short what, void *arg)
{
    struct rejoin *r = arg;
    struct err err = { 0 };
    int fd, rc = dialer_take(r->dialer, &fd, &err);

    (void)event_fd;
    (void)what;
    if (rc == CE_EAGAIN)
        return;
    event_free(r->dialed);
    r->dialed = NULL;
    dialer_drop(r->dialer);
    r->dialer = NULL;
    if (rc < 0)
        return dial_failed(r, &err);
    set_state(r, REJOIN_GREETING);
    rc =
        cloud_link_reopen(r->config.link, fd, cloud_link_epoch(r->config.link) + 1, &err);
    if (rc < 0)
        try_failed(r, &err, 0);
}

static void
on_time(evutil_socket_t fd, short what, void *arg)
{
    struct rejoin *r = arg;
    struct err err = { 0 };
    int rc =
        dialer_start(&r->dialer, &r->config.where, r->config.connect_timeout_us, &err);

    (void)fd;
    (void)what;
    if (rc < 0)
        return dial_failed(r, &err);
    set_state(r, REJOIN_DIALING);
    r->dialed = event_new(r->config.base, dialer_fd(r->dialer), EV_READ | EV_PERSIST,
                          on_dialed, r);
    if (r->dialed == NULL || event_add(r->dialed, NULL) < 0) {
        dialer_drop(r->dialer);
        r->dialer = NULL;
        err_set(&err, CE_ENOMEM, "out of memory");
        dial_failed(r, &err);
    }
}

void
rejoin_ask(struct rejoin *r, const struct cloud_msg *m)
{
    uint64_t seed = 0;

    if (r->state != REJOIN_IDLE || m->epoch < cloud_link_epoch(r->config.link))
        return; /* it will hear of the newer session, or has */
    r->last_retry_ms = cloud_link_retry_ms(r->config.link);
    if (r->last_retry_ms < m->retry_ms)
        r->last_retry_ms = m->retry_ms;
    r->last = m->err;
    r->gave_up = false;
    cloud_link_leave(r->config.link, &m->err);
    r->asked_us = clock_us();
    RAND_bytes((unsigned char *)&seed, sizeof(seed));
    backoff_begin(&r->backoff, &r->config.limits, m->n > 0 ? (int)m->n : 0, seed,
                  r->asked_us);
    plan(r);
    if (r->state == REJOIN_WAITING) {
        char text[sizeof(r->last.text) + 32];
        snprintf(text, sizeof(text), "%s; looking for another session", r->last.text);
        r->config.notice(r->config.ctx, text);
    }
}

void
rejoin_up(struct rejoin *r)
{
    char text[400];

    if (r->state != REJOIN_GREETING)
        return;
    set_state(r, REJOIN_IDLE);
    tell_worker(r, CLOUD_MSG_UP, NULL);
    snprintf(text, sizeof(text), "cloud %s:%s: there again after %.1f s (try %d)",
             r->config.where.host, r->config.where.port,
             (double)(clock_us() - r->asked_us) / 1e6, r->backoff.n_tries);
    r->config.notice(r->config.ctx, text);
}

void
rejoin_down(struct rejoin *r, const struct err *why, uint32_t retry_ms)
{
    if (r->state == REJOIN_GREETING)
        try_failed(r, why, retry_ms);
}

bool
rejoin_gave_up(const struct rejoin *r)
{
    return r->gave_up;
}

int
rejoin_new(struct rejoin **out, const struct rejoin_config *config, struct err *err)
{
    struct rejoin *r = mem_array_alloc(1, sizeof(*r));

    *out = NULL;
    if (r == NULL)
        return err_set(err, CE_ENOMEM, "out of memory");
    r->config = *config;
    r->timer = evtimer_new(config->base, on_time, r);
    if (r->timer == NULL) {
        mem_free(r);
        return err_set(err, CE_ENOMEM, "out of memory");
    }
    *out = r;
    return 0;
}

void
rejoin_free(struct rejoin *r)
{
    if (r == NULL)
        return;
    event_free(r->timer);
    if (r->dialed != NULL)
        event_free(r->dialed);
    dialer_drop(r->dialer);
    mem_free(r);
}
