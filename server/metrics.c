/* SPDX-License-Identifier: Apache-2.0
 * metrics.c - counting, and whether the server is ready; see metrics.h.
 *
 * Names and help texts of the totals stand here once; metrics_page.c and
 * status_json.c only show them.
 */
#include "server/metrics.h"

#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/frame.h"

/* clang-format off */
static const struct counter counts[METRICS_N] = {
    [METRICS_ACCEPTED] = { "connections_accepted_total",
        "Connections accepted, before any TLS.", COUNTER_TOTAL, 0 },
    [METRICS_SESSIONS] = { "sessions_begun_total", "Sessions begun.", COUNTER_TOTAL, 0 },
    [METRICS_BYTES_IN] = { "received_bytes_total",
        "Bytes of frames received from agents, inside TLS.", COUNTER_TOTAL, 0 },
    [METRICS_BYTES_OUT] = { "sent_bytes_total",
        "Bytes of frames sent to agents, inside TLS.", COUNTER_TOTAL, 0 },
    [METRICS_REQUESTS] = { "requests_total", "INFER and GENERATE frames received.",
        COUNTER_TOTAL, 0 },
    [METRICS_TOKENS] = { "tokens_total", "TOKEN frames sent.", COUNTER_TOTAL, 0 },
    [METRICS_STEPS] = { "steps_total", "Steps computed.", COUNTER_TOTAL, 0 },
    [METRICS_STEP_FAILURES] = { "step_failures_total", "Steps that failed.",
        COUNTER_TOTAL, 0 },
    [METRICS_ROWS] = { "rows_total", "Rows (positions) computed.", COUNTER_TOTAL, 0 },
    [METRICS_EAGER_ROWS] = { "eager_rows_total",
        "Rows computed before anybody asked for them.", COUNTER_TOTAL, 0 },
    [METRICS_SCRAPES] = { "http_requests_total",
        "Requests to the metrics listener that were answered with a page.",
        COUNTER_TOTAL, 0 },
    [METRICS_HTTP_REFUSED] = { "http_refused_total",
        "Requests and connections that the metrics listener refused.", COUNTER_TOTAL, 0 },
};

static const char *const refusal_names[METRICS_N_REFUSALS] = {
    [0] = "none",
    [-CE_EAGAIN] = "again",           [-CE_EINVAL] = "invalid",
    [-CE_ENOMEM] = "memory",          [-CE_EIO] = "io",
    [-CE_EFORMAT] = "format",         [-CE_EUNSUPPORTED] = "unsupported",
    [-CE_EPROTO] = "protocol",        [-CE_EAUTH] = "auth",
    [-CE_EMISMATCH] = "mismatch",     [-CE_EQUOTA] = "quota",
    [-CE_EGAP] = "gap",               [-CE_ENOTFOUND] = "not_found",
    [-CE_ETIMEOUT] = "timeout",       [-CE_ECLOSED] = "closed",
    [-CE_ECONTEXT] = "context",       [-CE_EINTERNAL] = "internal",
    [METRICS_REFUSED_CONNECTIONS] = "max_connections",
    [METRICS_REFUSED_ADDRESS] = "max_connections_per_address",
    [METRICS_REFUSED_HANDSHAKE] = "handshake",
    [METRICS_REFUSED_CERTIFICATE] = "certificate",
};
/* clang-format on */

int
metrics_init(struct metrics *m, size_t max_tenants, struct err *err)
{
    memset(m, 0, sizeof(*m));
    memcpy(m->counts, counts, sizeof(counts));
    m->start_us = clock_us();
    m->start_wall_us = clock_wall_us();
    histogram_init(&m->handshake, &histogram_times);
    histogram_init(&m->queue, &histogram_times);
    histogram_init(&m->token, &histogram_times);
    histogram_init(&m->step, &histogram_times);
    histogram_init(&m->loop_delay, &histogram_times);
    histogram_init(&m->step_rows, &histogram_rows);
    return usage_init(&m->usage, max_tenants, err);
}

void
metrics_fini(struct metrics *m)
{
    usage_fini(&m->usage);
}

const char *
metrics_refusal_name(int reason)
{
    return reason > 0 && reason < METRICS_N_REFUSALS ? refusal_names[reason] : "other";
}

static void
add(_Atomic int64_t *value, int64_t n)
{
    atomic_fetch_add_explicit(value, n, memory_order_relaxed);
}

void
metrics_handshake(struct metrics *m, int64_t took_us)
{
    if (m)
        histogram_record(&m->handshake, took_us);
}

void
metrics_refused(struct metrics *m, struct tenant_usage *t, int reason)
{
    usage_add(t, USAGE_REFUSALS, 1);
    if (m && reason > 0 && reason < METRICS_N_REFUSALS)
        add(&m->refusals[reason], 1);
}

static size_t
frame_index(int type)
{
    return type > 0 && type < METRICS_MAX_FRAME ? (size_t)type : 0;
}

void
metrics_frame_in(struct metrics *m, struct tenant_usage *t, int type, size_t bytes)
{
    bool asks = type == FRAME_INFER || type == FRAME_GENERATE;

    usage_add(t, USAGE_BYTES_IN, (int64_t)bytes);
    usage_add(t, USAGE_REQUESTS, asks);
    if (!m)
        return;
    metrics_add(m, METRICS_BYTES_IN, (int64_t)bytes);
    metrics_add(m, METRICS_REQUESTS, asks);
    add(&m->frames_in[frame_index(type)], 1);
}

void
metrics_frame_out(struct metrics *m, struct tenant_usage *t, int type, size_t bytes)
{
    usage_add(t, USAGE_BYTES_OUT, (int64_t)bytes);
    usage_add(t, USAGE_TOKENS, type == FRAME_TOKEN);
    if (!m)
        return;
    metrics_add(m, METRICS_BYTES_OUT, (int64_t)bytes);
    metrics_add(m, METRICS_TOKENS, type == FRAME_TOKEN);
    add(&m->frames_out[frame_index(type)], 1);
}

void
metrics_answered(struct metrics *m, int64_t asked_us, int64_t ready_us, int64_t start_us,
                 int64_t now_us)
{
    if (!m)
        return;
    histogram_record(&m->queue, start_us - ready_us);
    histogram_record(&m->token, now_us - asked_us);
}

void
metrics_step(struct metrics *m, size_t n_rows, int64_t took_us)
{
    if (!m)
        return;
    histogram_record(&m->step, took_us);
    histogram_record(&m->step_rows, (int64_t)n_rows);
    metrics_add(m, METRICS_STEPS, 1);
    metrics_add(m, METRICS_ROWS, (int64_t)n_rows);
}

const char *
metrics_eviction_name(enum content_eviction why)
{
    static const char *const names[CONTENT_N_EVICTIONS] = {
        [CONTENT_EVICTED_IDLE] = "idle",
        [CONTENT_EVICTED_WAITING] = "waiting",
        [CONTENT_EVICTED_ROWS] = "hidden_states",
    };

    return names[why];
}

void
metrics_evicted(struct metrics *m, struct tenant_usage *t, enum content_eviction why)
{
    usage_add(t, USAGE_EVICTIONS, 1);
    if (m)
        add(&m->evictions[why], 1);
}

void
metrics_turn(struct metrics *m, int64_t now_us)
{
    if (m)
        atomic_store_explicit(&m->turn_since_us, now_us, memory_order_relaxed);
}

void
metrics_loop_delay(struct metrics *m, int64_t late_us)
{
    if (m)
        histogram_record(&m->loop_delay, late_us);
}

bool
metrics_ready(const struct metrics *m, const struct metrics_view *v, char why[80])
{
    int64_t since_us = atomic_load_explicit(&m->turn_since_us, memory_order_relaxed);

    why[0] = '\0';
    if (v->draining)
        snprintf(why, 80, "draining: the server stops");
    else if (v->loading)
        snprintf(why, 80, "loading the model");
    else if (since_us != 0 && v->now_us - since_us > v->stall_us)
        snprintf(why, 80, "stalled: a step has run for %lld s, the limit is %.3g s",
                 (long long)(v->now_us - since_us) / 1000000, (double)v->stall_us / 1e6);
    return why[0] == '\0';
}
