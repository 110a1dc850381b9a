/* SPDX-License-Identifier: Apache-2.0
 * swarm_run.c - cecollm-swarm run: many recorded agents against one server.
 *
 * Phases: all sessions connect, so many at a time; those that are active begin to work;
 * after a moment counting starts, and ends after the time asked for; pending requests are
 * waited for, everybody says BYE. Each phase has an end of its own, so the program ends
 * whatever the server does.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "bench/swarm_session.h"
#include "bench/swarm_commands.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"
#include "common/random.h"
#include "common/tls.h"
#include "tools/progress.h"

#define TICK_US        100000
#define END_S          10    /* most seconds of saying goodbye */
#define PER_SESSION    20000 /* us of connecting that a session may take, beside 60 s */
#define SPARE_FDS      64
#define MAX_WARM_UP_US 60000000
#define MAX_NODES      64
#define MAX_SESSIONS   200000

struct runner {
    struct swarm swarm;
    struct progress progress;
};

/* ---- what sessions ask ---- */

void
swarm_fail(struct swarm *s, bool fatal, const char *fmt, ...)
{
    char text[sizeof(s->failure.text)];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (s->failure.code == 0)
        err_set(&s->failure, CE_EMISMATCH, "%s", text);
    if (fatal) {
        s->phase = SWARM_OVER;
        event_base_loopbreak(s->base);
    }
}

uint64_t
swarm_random(struct swarm *s, uint64_t n)
{
    return n > 0 ? random_next(&s->random) % n : 0;
}

bool
swarm_working(const struct swarm *s)
{
    return s->phase == SWARM_WARMING || s->phase == SWARM_MEASURING;
}

const struct conn_target *
swarm_node(struct swarm *s, struct frame_str node)
{
    struct conn_target found;
    char text[300];
    struct err err;

    if (node.len == 0)
        return &s->target;
    snprintf(text, sizeof(text), "%.*s", (int)node.len, node.data);
    if (conn_target_find(&found, text, &err) == 0) {
        for (int i = 0; i < s->n_nodes; i++)
            if (strcmp(s->nodes[i].host, found.host) == 0 &&
                strcmp(s->nodes[i].port, found.port) == 0)
                return &s->nodes[i];
        if (s->n_nodes < MAX_NODES) {
            s->nodes[s->n_nodes] = found;
            return &s->nodes[s->n_nodes++];
        }
        err_set(&err, CE_EQUOTA, "more than %d nodes", MAX_NODES);
    }
    swarm_fail(s, true, "the server's node: %s", err.text);
    return NULL;
}

/* ---- phases ---- */

static void
set_phase(struct swarm *s, enum swarm_phase to)
{
    s->phase = to;
    s->phase_us = clock_us();
}

static void
watch(struct swarm *s, struct watch *w)
{
    struct err err;

    if (s->config.watch > 0 && watch_read(w, s->config.watch, &err) < 0)
        swarm_fail(s, false, "--watch: %s", err.text);
    if (w->rss_bytes > s->watch_peak_rss)
        s->watch_peak_rss = w->rss_bytes;
}

static void
start_some(struct swarm *s)
{
    while (s->next_start < s->n_sessions && s->n_connecting < s->config.connecting &&
           s->phase == SWARM_CONNECTING)
        session_start(&s->sessions[s->next_start++]);
}

static void
begin_work(struct swarm *s)
{
    watch(s, &s->watch_connected);
    set_phase(s, SWARM_WARMING);
    s->storm_us = s->phase_us + (int64_t)s->config.storm_ms * 1000;
    for (int i = 0; i < s->n_sessions && s->phase == SWARM_WARMING; i++)
        session_wake(&s->sessions[i]);
}

static void
begin_end(struct swarm *s)
{
    s->measured_s = (double)(clock_us() - s->phase_us) * 1e-6;
    s->bytes_sent = conn_bytes_sent() - s->bytes_sent;
    s->bytes_received = conn_bytes_received() - s->bytes_received;
    watch(s, &s->watch_end);
    set_phase(s, SWARM_ENDING);
}

static bool
all_answered(const struct swarm *s)
{
    for (int i = 0; i < s->n_sessions; i++)
        if (s->sessions[i].state == SESSION_ASKING && !s->sessions[i].habits.slow)
            return false;
    return true;
}

static void
say_goodbye(struct swarm *s)
{
    set_phase(s, SWARM_OVER);
    for (int i = 0; i < s->n_sessions; i++)
        session_end(&s->sessions[i]);
    for (int i = 0; i < s->n_vandals; i++)
        vandal_end(&s->vandals[i]);
}

static void
turn_phase(struct swarm *s, int64_t in_us)
{
    switch (s->phase) {
    case SWARM_CONNECTING:
        if (s->n_welcomed == s->n_sessions)
            begin_work(s);
        else if (in_us > 60000000 + (int64_t)s->n_sessions * PER_SESSION)
            swarm_fail(s, true, "only %d of %d sessions came up in time", s->n_welcomed,
                       s->n_sessions);
        break;
    case SWARM_WARMING:
        if (in_us >= (int64_t)s->config.warm_up * 1000000 &&
            (s->n_answered == s->config.active || in_us > MAX_WARM_UP_US)) {
            s->bytes_sent = conn_bytes_sent();
            s->bytes_received = conn_bytes_received();
            set_phase(s, SWARM_MEASURING);
        }
        break;
    case SWARM_MEASURING:
        if (in_us >= (int64_t)s->config.seconds * 1000000)
            begin_end(s);
        break;
    case SWARM_ENDING:
        if (all_answered(s) || in_us > (int64_t)s->config.patience * 1000000)
            say_goodbye(s);
        break;
    case SWARM_OVER:
        if (conn_count() == 0 || in_us > (int64_t)END_S * 1000000)
            event_base_loopbreak(s->base);
        break;
    }
}

static void
show(struct runner *r, int64_t in_us)
{
    const struct swarm *s = &r->swarm;
    char note[80];

    if (s->phase == SWARM_CONNECTING) {
        snprintf(note, sizeof(note), "sessions connect");
        progress_set(&r->progress, (size_t)s->n_welcomed, note);
    } else if (s->phase == SWARM_MEASURING) {
        uint64_t n = s->groups[SWARM_POLITE].tokens + s->groups[SWARM_OTHERS].tokens;

        snprintf(note, sizeof(note), "%.0f tokens/s, all %s",
                 (double)n * 1e6 / (double)(in_us > 0 ? in_us : 1),
                 s->n_wrong == 0 ? "right" : "NOT right");
        progress_set(&r->progress, (size_t)s->n_sessions + (size_t)(in_us / 1000000),
                     note);
    }
}

static void
on_tick(evutil_socket_t fd, short what, void *arg)
{
    struct runner *r = arg;
    struct swarm *s = &r->swarm;
    int64_t now_us = clock_us();

    (void)fd;
    (void)what;
    start_some(s);
    for (int i = 0; i < s->next_start && s->phase != SWARM_OVER; i++)
        session_tick(&s->sessions[i], now_us);
    if (s->phase != SWARM_OVER)
        scenario_tick(s, now_us);
    turn_phase(s, now_us - s->phase_us);
    show(r, now_us - s->phase_us);
}

/* ---- getting ready ---- */

static int
raise_fds(const struct swarm *s, struct err *err)
{
    rlim_t want = 2 * (rlim_t)s->n_sessions + (rlim_t)s->n_vandals + SPARE_FDS, need;
    struct rlimit l;

    need = (rlim_t)s->n_sessions + (rlim_t)s->config.active + (rlim_t)s->n_vandals +
           SPARE_FDS;
    if (getrlimit(RLIMIT_NOFILE, &l) != 0)
        return err_set(err, CE_EIO, "getrlimit: %s", strerror(errno));
    if (l.rlim_cur < want) {
        l.rlim_cur = want < l.rlim_max ? want : l.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &l);
    }
    if (l.rlim_cur < need)
        return err_set(
            err, CE_EQUOTA, "%d sessions need %llu open files, the limit is %llu",
            s->n_sessions, (unsigned long long)need, (unsigned long long)l.rlim_cur);
    return 0;
}

static int
open_tls(struct swarm *s, struct err *err)
{
    const struct swarm_config *c = &s->config;
    struct tls_files mine = { .ca = c->ca, .cert = c->cert, .key = c->key };
    struct tls_files greedy = { .ca = c->ca,
                                .cert = c->greedy_cert,
                                .key = c->greedy_key };
    int rc = tls_client_new(&s->ctx[SWARM_POLITE], &mine, err);

    if (rc == 0)
        rc = tls_client_new(&s->ctx[SWARM_OTHERS], c->greedy_cert ? &greedy : &mine, err);
    return rc;
}

static int
make_sessions(struct runner *r, struct err *err)
{
    struct swarm *s = &r->swarm;
    struct timeval tick = { 0, TICK_US };
    int rc = 0;

    s->base = event_base_new();
    s->sessions = mem_array_alloc((size_t)s->n_sessions, sizeof(*s->sessions));
    s->vandals = mem_array_alloc((size_t)s->n_vandals, sizeof(*s->vandals));
    s->nodes = mem_array_alloc(MAX_NODES, sizeof(*s->nodes));
    if (s->base)
        s->tick = event_new(s->base, -1, EV_PERSIST, on_tick, r);
    if (!s->base || !s->sessions || !s->vandals || !s->nodes || !s->tick ||
        event_add(s->tick, &tick) < 0)
        return err_set(err, CE_ENOMEM, "no memory for %d sessions", s->n_sessions);
    for (int i = 0; rc == 0 && i < s->n_sessions; i++) {
        int group = i < s->config.sessions ? SWARM_POLITE : SWARM_OTHERS;

        rc = session_init(&s->sessions[i], s, i, group, err);
        scenario_habits(&s->sessions[i]);
    }
    for (int i = 0; i < s->n_vandals; i++)
        s->vandals[i] = (struct vandal){ .swarm = s, .number = i };
    return rc;
}

static int
set_up(struct runner *r, struct err *err)
{
    struct swarm *s = &r->swarm;
    int rc = traffic_read(&s->traffic, s->config.traffic, err);

    s->random = 1;
    s->n_sessions = scenario_n_sessions(&s->config);
    s->n_vandals = scenario_n_vandals(&s->config);
    if (rc == 0 && s->n_sessions > MAX_SESSIONS)
        rc = err_set(err, CE_EINVAL, "more than %d sessions", MAX_SESSIONS);
    if (rc == 0)
        rc = conn_target_find(&s->target, s->config.connect, err);
    if (rc == 0)
        rc = open_tls(s, err);
    if (rc == 0)
        rc = raise_fds(s, err);
    if (rc == 0)
        rc = make_sessions(r, err);
    if (rc == 0 && s->config.watch > 0)
        rc = watch_read(&s->watch_start, s->config.watch, err);
    return rc;
}

static void
clean_up(struct swarm *s)
{
    for (int i = 0; s->sessions && i < s->n_sessions; i++)
        session_end(&s->sessions[i]);
    for (int i = 0; s->vandals && i < s->n_vandals; i++)
        vandal_end(&s->vandals[i]);
    if (s->tick)
        event_free(s->tick);
    for (int i = 0; s->base && i < 300 && conn_count() > 0; i++) {
        struct timeval moment = { 0, 10000 };

        event_base_loopexit(s->base, &moment);
        event_base_dispatch(s->base);
    }
    for (int i = 0; s->sessions && i < s->n_sessions; i++)
        session_fini(&s->sessions[i]);
    if (s->base)
        event_base_free(s->base);
    mem_free(s->sessions);
    mem_free(s->vandals);
    mem_free(s->nodes);
    SSL_CTX_free(s->ctx[SWARM_POLITE]);
    SSL_CTX_free(s->ctx[SWARM_OTHERS]);
    traffic_free(&s->traffic);
}

static int
run(struct runner *r, struct err *err)
{
    struct swarm *s = &r->swarm;
    int rc = set_up(r, err);

    if (rc < 0)
        return rc;
    progress_start(&r->progress, "swarm",
                   (size_t)s->n_sessions + (size_t)s->config.seconds);
    set_phase(s, SWARM_CONNECTING);
    start_some(s);
    if (s->phase != SWARM_OVER)
        event_base_dispatch(s->base);
    progress_end(&r->progress);
    if (s->measured_s > 0)
        rc = swarm_report(s, err);
    if (rc == 0 && s->n_wrong > 1)
        rc = err_set(err, CE_EMISMATCH, "%s (and %llu more wrong tokens)",
                     s->failure.text, (unsigned long long)s->n_wrong - 1);
    else if (rc == 0 && s->failure.code != 0)
        rc = err_set(err, CE_EMISMATCH, "%s", s->failure.text);
    else if (rc == 0 && s->config.active > 0 && s->groups[SWARM_POLITE].tokens == 0)
        rc = err_set(err, CE_ETIMEOUT, "not one token came");
    return rc;
}

/* ---- the command ---- */

/* "zero", or milliseconds. */
static int
read_think(struct swarm_config *c, struct err *err)
{
    char *end;
    double ms;

    if (!c->think_name || strcmp(c->think_name, "zero") == 0)
        return 0;
    ms = strtod(c->think_name, &end);
    if (end == c->think_name || *end != '\0' || !(ms >= 0 && ms <= 3600e3))
        return err_set(err, CE_EINVAL, "--think: %s is neither zero nor milliseconds",
                       c->think_name);
    c->think_us = (int64_t)(ms * 1000);
    return 0;
}

static int
check(struct swarm_config *c, struct err *err)
{
    const struct {
        const char *name, *value;
    } needed[] = { { "--connect", c->connect },
                   { "--ca", c->ca },
                   { "--cert", c->cert },
                   { "--key", c->key } };
    int rc;

    for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++)
        if (!needed[i].value)
            return err_set(err, CE_EINVAL, "%s is missing", needed[i].name);
    if (!c->greedy_cert != !c->greedy_key)
        return err_set(err, CE_EINVAL, "--greedy-cert and --greedy-key go together");
    if (c->active < 0 || c->active > c->sessions)
        c->active = c->sessions;
    if ((rc = scenario_find(c->scenario_name, &c->scenario, err)))
        return rc;
    return read_think(c, err);
}

int
swarm_run(int argc, char **argv)
{
    struct runner *r = mem_array_alloc(1, sizeof(*r));
    struct swarm_config c = { .sessions = 64,
                              .active = -1,
                              .others = -1,
                              .seconds = 10,
                              .warm_up = 1,
                              .sources = 1,
                              .connecting = 64,
                              .storm_ms = 2000,
                              .patience = 30,
                              .scenario_name = "steady" };
    struct err err = { 0 };
    int n, status, rc;
    const struct option_spec specs[] = {
        { "connect", 0, OPTIONS_TEXT, &c.connect, "HOST:PORT", "the server", 0, 0 },
        { "ca", 0, OPTIONS_TEXT, &c.ca, "FILE", "authorities (PEM)", 0, 0 },
        { "cert", 0, OPTIONS_TEXT, &c.cert, "FILE", "this agent's certificate", 0, 0 },
        { "key", 0, OPTIONS_TEXT, &c.key, "FILE", "its key", 0, 0 },
        { "sessions", 0, OPTIONS_INT, &c.sessions, "N", "honest sessions (default 64)", 1,
          MAX_SESSIONS },
        { "active", 0, OPTIONS_INT, &c.active, "M",
          "of them at work; the rest are idle (default all)", 0, MAX_SESSIONS },
        { "think", 0, OPTIONS_TEXT, &c.think_name, "MS|zero",
          "mean time between a token and the next request (default zero)", 0, 0 },
        { "seconds", 0, OPTIONS_INT, &c.seconds, "S", "how long to count (default 10)", 1,
          86400 },
        { "warm-up", 0, OPTIONS_INT, &c.warm_up, "S",
          "at work before counting, at least (default 1)", 0, 3600 },
        { "scenario", 0, OPTIONS_TEXT, &c.scenario_name, "NAME",
          "steady, reconnect, slow, half-open, garbage, greedy", 0, 0 },
        { "others", 0, OPTIONS_INT, &c.others, "N",
          "how many misbehave in the scenario (default: see the manual)", 0,
          MAX_SESSIONS },
        { "storm", 0, OPTIONS_INT, &c.storm_ms, "MS",
          "reconnect: between two storms (default 2000)", 100, 3600000 },
        { "greedy-cert", 0, OPTIONS_TEXT, &c.greedy_cert, "FILE",
          "certificate of those who misbehave (default: the same)", 0, 0 },
        { "greedy-key", 0, OPTIONS_TEXT, &c.greedy_key, "FILE", "its key", 0, 0 },
        { "keep-going", 0, OPTIONS_FLAG, &c.keep_going, NULL,
          "connect again when a connection is lost, and go on", 0, 0 },
        { "patience", 0, OPTIONS_INT, &c.patience, "S",
          "for an answer, before it counts as lost (default 30)", 1, 3600 },
        { "connecting", 0, OPTIONS_INT, &c.connecting, "N",
          "handshakes at once while the sessions come up (default 64)", 1, 4096 },
        { "sources", 0, OPTIONS_INT, &c.sources, "N",
          "come from so many addresses of 127.0.0.0/8 (default 1)", 1, 65000 },
        { "watch", 0, OPTIONS_INT, &c.watch, "PID",
          "also report this process's memory and descriptors", 1, 1 << 30 },
        { "json", 0, OPTIONS_FLAG, &c.json, NULL, "for programs", 0, 0 },
        { 0 }
    };
    const struct options_page page = {
        "run TRAFFIC --connect HOST:PORT --ca FILE --cert FILE --key FILE",
        "Replay recorded traffic from many sessions over TLS and check every token.",
        specs, 1, 1
    };

    if (!command_options(&page, argc, argv, &n, &status)) {
        mem_free(r);
        return status;
    }
    if (check(&c, &err) < 0 || !r) {
        mem_free(r);
        return command_usage("run", &err);
    }
    c.traffic = argv[1];
    r->swarm.config = c;
    rc = run(r, &err);
    clean_up(&r->swarm);
    mem_free(r);
    return rc == 0 ? COMMAND_OK : command_failed("run", &err);
}
