/* SPDX-License-Identifier: Apache-2.0
 * swarm.h - a run of cecollm-swarm: its settings, its sessions, what it counts.
 *
 * Files: swarm_run.c starts, paces and ends the run; swarm_session.c and
 * swarm_dialog.c are one session; swarm_scenario.c says which sessions misbehave and how;
 * swarm_vandal.c are connections that are not sessions at all; swarm_report.c prints.
 *
 * Thread: everything belongs to the one event loop.
 */
#ifndef CE_BENCH_SWARM_H
#define CE_BENCH_SWARM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <event2/event.h>
#include <openssl/ssl.h>

#include "bench/swarm_conn.h"
#include "bench/swarm_stats.h"
#include "bench/swarm_traffic.h"
#include "bench/swarm_watch.h"
#include "common/error.h"

enum swarm_scenario {
    SWARM_STEADY,
    SWARM_RECONNECT,
    SWARM_SLOW,
    SWARM_HALF_OPEN,
    SWARM_GARBAGE,
    SWARM_GREEDY,
    SWARM_N_SCENARIOS
};

/* As on the command line; constant during a run. */
struct swarm_config {
    const char *traffic, *connect, *ca, *cert, *key, *greedy_cert, *greedy_key;
    const char *scenario_name, *think_name;
    enum swarm_scenario scenario;
    int sessions, active, others; /* others: those that misbehave; -1: the usual number */
    int seconds, warm_up, sources, connecting, storm_ms, patience, watch;
    int64_t think_us;
    bool keep_going; /* lost connections are made again instead of failing the run */
    bool json;
};

enum { SWARM_POLITE, SWARM_OTHERS, SWARM_N_GROUPS };

enum swarm_phase {
    SWARM_CONNECTING, /* until every session has been welcomed once */
    SWARM_WARMING,    /* at work, not yet counted */
    SWARM_MEASURING,
    SWARM_ENDING, /* no new requests; pending ones are waited for */
    SWARM_OVER
};

struct session;
struct vandal;

struct swarm {
    struct swarm_config config;
    struct traffic traffic;
    struct conn_target target;
    struct conn_target *nodes; /* [n_nodes] where upload channels go, when told */
    int n_nodes;
    struct event_base *base;
    struct event *tick;
    SSL_CTX *ctx[SWARM_N_GROUPS];
    enum swarm_phase phase;
    int64_t phase_us; /* began */
    uint64_t random;

    struct session *sessions; /* [n_sessions]; the others' at the end */
    int n_sessions, next_start;
    int n_connecting, n_welcomed; /* now; sessions that were welcomed at least once */
    int n_answered;               /* polite ones that were at least once */
    struct vandal *vandals;       /* [n_vandals] */
    int n_vandals;
    int64_t storm_us; /* the next one */

    struct stats_group groups[SWARM_N_GROUPS];
    struct stats_times handshake; /* connect to welcome */
    uint64_t n_connects, n_storms;
    uint64_t vandal_tries, vandal_closed, vandal_ignored;
    uint64_t bytes_sent, bytes_received; /* before the measured time */
    double measured_s;
    struct watch watch_start, watch_connected, watch_end;
    uint64_t watch_peak_rss;

    uint64_t n_wrong;   /* tokens */
    struct err failure; /* the first reason for failing */
};

/* Not what should be: note the first, end the run when `fatal`. */
void swarm_fail(struct swarm *s, bool fatal, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Below n, the same for the same run. */
uint64_t swarm_random(struct swarm *s, uint64_t n);

/* The place called `node` in WELCOME. NULL, and the run has failed, if there is none. */
const struct conn_target *swarm_node(struct swarm *s, struct frame_str node);

/* May new requests be made? */
bool swarm_working(const struct swarm *s);

/* Print the table or the JSON. */
int swarm_report(const struct swarm *s, struct err *err) CE_MUSTCHECK;

/* ---- swarm_scenario.c ---- */

/* Who else is there: sessions of the others and vandals, and their habits. */
int scenario_n_sessions(const struct swarm_config *c);
int scenario_n_vandals(const struct swarm_config *c);
void scenario_habits(struct session *s);
void scenario_tick(struct swarm *s, int64_t now_us);
const char *scenario_name(enum swarm_scenario scenario);
int scenario_find(const char *name, enum swarm_scenario *out,
                  struct err *err) CE_MUSTCHECK;

/* ---- swarm_vandal.c ---- */

struct vandal {
    struct swarm *swarm;
    int number, deed;
    struct conn *conn;
    bool done; /* the deed; only the other side's reaction is missing */
    int64_t since_us, next_us;
    uint8_t session[16];
};

void vandal_tick(struct vandal *v, int64_t now_us);
void vandal_end(struct vandal *v);

#endif
