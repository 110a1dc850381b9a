/* SPDX-License-Identifier: Apache-2.0
 * metrics_page.c - /metrics: everything that is counted or held, as Prometheus
 * reads it.
 *
 * Names follow its customs: base units, _total for what only grows, process_* as
 * every exporter has them. A family is here or is not, it never comes and goes with
 * its values, so that a graph of zeros is a line and not a gap.
 */
#include <math.h>
#include <stdio.h>

#include "common/frame.h"
#include "server/exposition.h"
#include "server/metrics.h"
#include "server/process_stats.h"

static void
put_held(const struct metrics_view *v, struct bytebuf *out)
{
    const struct {
        const char *name, *help;
        size_t value;
    } gauges[] = {
        { "cecollm_connections", "Connections open, handshakes included.",
          v->connections },
        { "cecollm_connections_limit", "Setting max_connections.", v->max_connections },
        { "cecollm_connections_paused", "Connections not read for want of room.",
          v->paused },
        { "cecollm_sessions", "Sessions open.", v->sessions },
        { "cecollm_sessions_limit", "Setting max_sessions.", v->max_sessions },
        { "cecollm_sequences", "Sequences open.", v->seqs },
        { "cecollm_sequences_limit", "Setting max_seqs.", v->max_seqs },
        { "cecollm_hidden_state_rows", "Hidden states waiting to be computed.", v->rows },
        { "cecollm_hidden_state_bytes", "Bytes held for sequences, KV apart.",
          v->content_bytes },
        { "cecollm_runnable_sequences", "Sequences with something to compute.",
          v->runnable },
        { "cecollm_step_rows_limit", "Rows that the last step could have had.",
          v->step_rows },
        { "cecollm_kv_bytes", "Bytes of KV pages in use.", v->kv_bytes },
        { "cecollm_kv_pages", "KV pages in use.",
          v->kv_page_bytes ? v->kv_bytes / v->kv_page_bytes : 0 },
        { "cecollm_kv_free_pages",
          "KV pages that nobody has or is promised, within kv_budget.",
          v->kv_page_bytes && v->kv_budget > v->kv_promised
              ? (v->kv_budget - v->kv_promised) / v->kv_page_bytes
              : 0 },
        { "cecollm_kv_promised_bytes", "Bytes of KV pages in use or kept for an answer.",
          v->kv_promised },
        { "cecollm_memory_waiting_sequences", "Sequences that wait for memory.",
          v->wants },
        { "cecollm_waiting_state_bytes", "Bytes of hidden states waiting to be computed.",
          v->row_bytes },
        { "cecollm_waiting_state_limit_bytes", "Setting states_budget; 0: no limit.",
          v->states_budget },
        { "cecollm_kv_limit_bytes", "Setting kv_budget; 0: no limit.", v->kv_budget },
        { "cecollm_weight_bytes", "Bytes of packed weights.", v->weight_bytes },
        { "cecollm_draining", "1 while the server stops.", v->draining },
    };
    size_t i;

    for (i = 0; i < sizeof(gauges) / sizeof(gauges[0]); i++)
        exposition_gauge(out, gauges[i].name, gauges[i].help, (int64_t)gauges[i].value);
}

static void
put_ready(const struct metrics *m, const struct metrics_view *v, struct bytebuf *out)
{
    int64_t since_us = atomic_load_explicit(&m->turn_since_us, memory_order_relaxed);
    char why[80];

    exposition_gauge(out, "cecollm_ready", "1 while /readyz says yes.",
                     metrics_ready(m, v, why));
    exposition_family(out, "cecollm_backend_turn_seconds", "gauge",
                      "How long the backend's present turn has lasted; 0: it waits.");
    exposition_double(out, "cecollm_backend_turn_seconds",
                      since_us ? fmax((double)(v->now_us - since_us) / 1e6, 0) : 0);
}

/* What a step is expected to take: the sum of its parts. */
static void
put_cost(const struct metrics_view *v, struct bytebuf *out)
{
    static const char *const families[3][2] = {
        { "cecollm_step_cost_seconds", "Learnt: what a step costs whatever is in it." },
        { "cecollm_row_cost_seconds", "Learnt: what each row of a step costs." },
        { "cecollm_position_cost_seconds",
          "Learnt: what each position costs that a row looks back to." },
    };
    size_t i;

    for (i = 0; i < 3; i++) {
        exposition_family(out, families[i][0], "gauge", families[i][1]);
        exposition_double(out, families[i][0], v->step_cost_us[i] / 1e6);
    }
}

static void
put_by_type(const char *name, const char *help, const _Atomic int64_t *frames,
            struct bytebuf *out)
{
    int i;

    exposition_family(out, name, "counter", help);
    for (i = FRAME_HELLO; i <= FRAME_BYE; i++)
        exposition_int(out, name, "type", frame_type_name(i),
                       atomic_load_explicit(&frames[i], memory_order_relaxed));
}

static void
put_refusals(const struct metrics *m, struct bytebuf *out)
{
    int i;

    exposition_family(
        out, "cecollm_refusals_total", "counter",
        "Connections, sessions and sequences refused or ended by an error.");
    for (i = 1; i < METRICS_N_REFUSALS; i++)
        exposition_int(out, "cecollm_refusals_total", "reason", metrics_refusal_name(i),
                       atomic_load_explicit(&m->refusals[i], memory_order_relaxed));
}

static void
put_evictions(const struct metrics *m, struct bytebuf *out)
{
    int i;

    exposition_family(out, "cecollm_evictions_total", "counter",
                      "Times that a sequence's pages or hidden states were given up for "
                      "others; it gets them back by NEED.");
    for (i = 0; i < CONTENT_N_EVICTIONS; i++)
        exposition_int(out, "cecollm_evictions_total", "reason",
                       metrics_eviction_name((enum content_eviction)i),
                       atomic_load_explicit(&m->evictions[i], memory_order_relaxed));
}

static void
put_tenants(const struct metrics *m, struct bytebuf *out)
{
    static const struct {
        const char *name, *help;
    } families[USAGE_N] = {
        [USAGE_SESSIONS] = { "cecollm_tenant_sessions", "Sessions open." },
        [USAGE_SEQUENCES] = { "cecollm_tenant_sequences", "Sequences open." },
        [USAGE_KV_BYTES] = { "cecollm_tenant_kv_bytes",
                             "Bytes of KV pages in use or kept for an answer." },
        [USAGE_STATE_BYTES] = { "cecollm_tenant_hidden_state_bytes",
                                "Bytes of hidden states waiting." },
        [USAGE_EVICTIONS] = { "cecollm_tenant_evictions_total",
                              "Times that pages or hidden states were given up." },
        [USAGE_REQUESTS] = { "cecollm_tenant_requests_total", "Requests received." },
        [USAGE_TOKENS] = { "cecollm_tenant_tokens_total", "Tokens sent." },
        [USAGE_ROWS] = { "cecollm_tenant_rows_total", "Rows computed." },
        [USAGE_BYTES_IN] = { "cecollm_tenant_received_bytes_total",
                             "Bytes of frames received." },
        [USAGE_BYTES_OUT] = { "cecollm_tenant_sent_bytes_total",
                              "Bytes of frames sent." },
        [USAGE_REFUSALS] = { "cecollm_tenant_refusals_total",
                             "Sessions and sequences refused or ended by an error." },
    };
    size_t f, i;

    for (f = 0; f < USAGE_N; f++) {
        exposition_family(out, families[f].name, f < USAGE_GAUGES ? "gauge" : "counter",
                          families[f].help);
        for (i = 0; i < m->usage.n; i++)
            exposition_int(out, families[f].name, "tenant", m->usage.entries[i].name,
                           usage_get(&m->usage.entries[i], (enum usage_figure)f));
    }
}

static void
put_process(const struct metrics *m, struct bytebuf *out)
{
    struct process_stats p;

    process_stats_read(&p);
    exposition_family(out, "process_start_time_seconds", "gauge",
                      "Start of the process, seconds since 1970.");
    exposition_double(out, "process_start_time_seconds", (double)m->start_wall_us / 1e6);
    exposition_family(out, "process_cpu_seconds_total", "counter",
                      "Processor time of all threads.");
    exposition_double(out, "process_cpu_seconds_total", p.cpu_seconds);
    exposition_gauge(out, "process_resident_memory_bytes", "Resident memory.",
                     p.resident_bytes);
    exposition_gauge(out, "process_virtual_memory_bytes", "Address space.",
                     p.virtual_bytes);
    exposition_gauge(out, "process_open_fds", "Descriptors open.", p.open_fds);
    exposition_gauge(out, "process_max_fds", "Descriptors allowed.", p.max_fds);
    exposition_gauge(out, "process_threads", "Threads.", p.threads);
}

static void
put_allocator(struct bytebuf *out)
{
    struct allocator_stats a;

    if (!allocator_stats_read(&a))
        return;
    exposition_gauge(out, "cecollm_jemalloc_allocated_bytes", "Given to the program.",
                     a.allocated);
    exposition_gauge(out, "cecollm_jemalloc_active_bytes",
                     "In pages that hold something given.", a.active);
    exposition_gauge(out, "cecollm_jemalloc_metadata_bytes", "The allocator's own.",
                     a.metadata);
    exposition_gauge(out, "cecollm_jemalloc_resident_bytes", "Resident, at most.",
                     a.resident);
    exposition_gauge(out, "cecollm_jemalloc_mapped_bytes", "Mapped.", a.mapped);
    exposition_gauge(out, "cecollm_jemalloc_retained_bytes", "Mapped, kept for later.",
                     a.retained);
}

static void
put_info(const struct metrics_view *v, struct bytebuf *out)
{
    char fingerprint[65];
    const char *const pairs[] = { "version",  v->version,  "backend",
                                  v->backend, "numerics",  v->numerics,
                                  "model",    fingerprint, NULL };
    size_t i;

    for (i = 0; i < sizeof(v->fingerprint); i++)
        snprintf(fingerprint + 2 * i, 3, "%02x", v->fingerprint[i]);
    exposition_info(out, "cecollm_build_info",
                    "Version, backend, numerics id and the model's fingerprint.", pairs);
}

void
metrics_page(const struct metrics *m, const struct metrics_view *v, struct bytebuf *out)
{
    put_info(v, out);
    put_ready(m, v, out);
    put_held(v, out);
    put_cost(v, out);
    counters_render(m->counts, METRICS_N, "cecollm_", out);
    put_refusals(m, out);
    put_evictions(m, out);
    put_by_type("cecollm_frames_received_total", "Frames received.", m->frames_in, out);
    put_by_type("cecollm_frames_sent_total", "Frames sent.", m->frames_out, out);
    exposition_histogram(out, "cecollm_queue_seconds",
                         "From the moment a request could be computed to its step.",
                         &m->queue);
    exposition_histogram(out, "cecollm_token_seconds",
                         "From a request's arrival to its answer.", &m->token);
    exposition_histogram(out, "cecollm_step_seconds", "Computing one step.", &m->step);
    exposition_histogram(out, "cecollm_step_rows", "Rows of one step.", &m->step_rows);
    exposition_histogram(out, "cecollm_handshake_seconds",
                         "From accepting a connection to the end of its TLS handshake.",
                         &m->handshake);
    exposition_histogram(out, "cecollm_loop_delay_seconds",
                         "How late a timer of the event loop ran.", &m->loop_delay);
    put_tenants(m, out);
    put_process(m, out);
    put_allocator(out);
}
