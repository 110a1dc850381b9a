/* SPDX-License-Identifier: Apache-2.0
 * status_json.c - see status_json.h.
 *
 * jansson's containers take what is put into them also when that is NULL for want of
 * memory; then a key is missing, and dumping still works.
 */
#include "server/status_json.h"

#include <stdlib.h>

#include <jansson.h>

#include "server/process_stats.h"
#include "server/session.h"

/* "a figure": value. A failure leaves the key out. */
static void
put_int(json_t *o, const char *key, int64_t value)
{
    (void)json_object_set_new(o, key, json_integer(value));
}

static void
put_real(json_t *o, const char *key, double value)
{
    (void)json_object_set_new(o, key, json_real(value));
}

static void
put_text(json_t *o, const char *key, const char *text)
{
    (void)json_object_set_new(o, key, json_string(text));
}

static char *
dump(json_t *o)
{
    char *text = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;

    json_decref(o);
    return text;
}

/* ---- /status.json ---- */

static json_t *
held(const struct metrics_view *v)
{
    json_t *o = json_object();

    put_int(o, "connections", v->connections);
    put_int(o, "connections_limit", v->max_connections);
    put_int(o, "connections_paused", v->paused);
    put_int(o, "sessions", v->sessions);
    put_int(o, "sessions_limit", v->max_sessions);
    put_int(o, "sequences", (int64_t)v->seqs);
    put_int(o, "sequences_limit", v->max_seqs);
    put_int(o, "hidden_state_rows", (int64_t)v->rows);
    put_int(o, "hidden_state_bytes", (int64_t)v->content_bytes);
    put_int(o, "runnable_sequences", (int64_t)v->runnable);
    put_int(o, "step_rows_limit", (int64_t)v->step_rows);
    put_int(o, "memory_waiting_sequences", (int64_t)v->wants);
    put_int(o, "kv_promised_bytes", (int64_t)v->kv_promised);
    put_int(o, "kv_bytes", (int64_t)v->kv_bytes);
    put_int(o, "kv_limit_bytes", (int64_t)v->kv_budget);
    return o;
}

static json_t *
totals(const struct metrics *m)
{
    json_t *o = json_object();
    int i;

    for (i = 0; i < METRICS_N; i++)
        put_int(o, m->counts[i].name, counter_get(&m->counts[i]));
    return o;
}

static json_t *
refusals(const struct metrics *m)
{
    json_t *o = json_object();
    int i;

    for (i = 1; i < METRICS_N_REFUSALS; i++) {
        int64_t n = atomic_load_explicit(&m->refusals[i], memory_order_relaxed);

        if (n > 0)
            put_int(o, metrics_refusal_name(i), n);
    }
    return o;
}

static json_t *
evictions(const struct metrics *m)
{
    json_t *o = json_object();
    int i;

    for (i = 0; i < CONTENT_N_EVICTIONS; i++)
        put_int(o, metrics_eviction_name((enum content_eviction)i),
                atomic_load_explicit(&m->evictions[i], memory_order_relaxed));
    return o;
}

static json_t *
histogram(const struct histogram *h)
{
    json_t *o = json_object(), *bounds = json_array(), *upto = json_array();
    struct histogram_view v;
    size_t i;

    histogram_read(h, &v);
    for (i = 0; i <= v.scale->n; i++) {
        if (i < v.scale->n)
            (void)json_array_append_new(
                bounds, json_real((double)v.scale->bounds[i] * v.scale->unit));
        (void)json_array_append_new(upto, json_integer((json_int_t)v.upto[i]));
    }
    (void)json_object_set_new(o, "bounds", bounds);
    (void)json_object_set_new(o, "upto", upto);
    put_real(o, "sum", (double)v.sum * v.scale->unit);
    return o;
}

static json_t *
histograms(const struct metrics *m)
{
    json_t *o = json_object();

    (void)json_object_set_new(o, "queue_seconds", histogram(&m->queue));
    (void)json_object_set_new(o, "token_seconds", histogram(&m->token));
    (void)json_object_set_new(o, "step_seconds", histogram(&m->step));
    (void)json_object_set_new(o, "step_rows", histogram(&m->step_rows));
    (void)json_object_set_new(o, "handshake_seconds", histogram(&m->handshake));
    return o;
}

static json_t *
tenants(const struct usage *u)
{
    static const char *const keys[USAGE_N] = {
        [USAGE_SESSIONS] = "sessions",
        [USAGE_SEQUENCES] = "sequences",
        [USAGE_KV_BYTES] = "kv_bytes",
        [USAGE_STATE_BYTES] = "hidden_state_bytes",
        [USAGE_REQUESTS] = "requests",
        [USAGE_TOKENS] = "tokens",
        [USAGE_ROWS] = "rows",
        [USAGE_BYTES_IN] = "received_bytes",
        [USAGE_BYTES_OUT] = "sent_bytes",
        [USAGE_REFUSALS] = "refusals",
        [USAGE_EVICTIONS] = "evictions",
    };
    json_t *list = json_array();
    size_t i, f;

    for (i = 0; i < u->n; i++) {
        json_t *o = json_object();

        put_text(o, "name", u->entries[i].name);
        for (f = 0; f < USAGE_N; f++)
            put_int(o, keys[f], usage_get(&u->entries[i], (enum usage_figure)f));
        (void)json_array_append_new(list, o);
    }
    return list;
}

static json_t *
process(void)
{
    struct process_stats p;
    json_t *o = json_object();

    process_stats_read(&p);
    put_int(o, "resident_bytes", p.resident_bytes);
    put_int(o, "open_fds", p.open_fds);
    put_int(o, "max_fds", p.max_fds);
    put_int(o, "threads", p.threads);
    put_real(o, "cpu_seconds", p.cpu_seconds);
    return o;
}

char *
status_json(const struct metrics *m, const struct metrics_view *v)
{
    json_t *o = json_object();
    char why[80];

    (void)json_object_set_new(o, "ready", json_boolean(metrics_ready(m, v, why)));
    put_text(o, "reason", why);
    put_text(o, "version", v->version);
    put_text(o, "backend", v->backend);
    put_text(o, "numerics", v->numerics);
    put_text(o, "model", v->model);
    put_real(o, "now_s", (double)v->now_us / 1e6);
    put_real(o, "uptime_s", (double)(v->now_us - m->start_us) / 1e6);
    (void)json_object_set_new(o, "held", held(v));
    (void)json_object_set_new(o, "totals", totals(m));
    (void)json_object_set_new(o, "refusals", refusals(m));
    (void)json_object_set_new(o, "evictions", evictions(m));
    (void)json_object_set_new(o, "histograms", histograms(m));
    (void)json_object_set_new(o, "tenants", tenants(&m->usage));
    (void)json_object_set_new(o, "process", process());
    return dump(o);
}

/* ---- /sessions ---- */

static int64_t
last_us(const struct session *s)
{
    int64_t last = s->infer ? s->infer->last_us : s->since_us;

    return s->upload && s->upload->last_us > last ? s->upload->last_us : last;
}

static json_t *
session(const struct session *s, int64_t now_us)
{
    json_t *o = json_object();
    put_int(o, "session", s->number);
    put_text(o, "peer", s->infer ? s->infer->address : "");
    put_text(o, "tenant", s->tenant->name);
    put_real(o, "age_s", (double)(now_us - s->since_us) / 1e6);
    put_real(o, "idle_s", (double)(now_us - last_us(s)) / 1e6);
    put_int(o, "epoch", s->epoch);
    put_int(o, "sequences", s->n_open);
    (void)json_object_set_new(o, "upload_channel", json_boolean(s->upload != NULL));
    put_int(o, "received_bytes", (int64_t)s->bytes_in);
    put_int(o, "sent_bytes", (int64_t)s->bytes_out);
    put_int(o, "queued_bytes",
            (int64_t)atomic_load_explicit(&s->link->queued, memory_order_relaxed));
    return o;
}

char *
status_json_sessions(const struct server *srv, int64_t now_us)
{
    json_t *o = json_object(), *list = json_array();
    const struct session *s;
    uint32_t n = 0;

    for (s = srv->sessions; s && n < STATUS_MAX_SESSIONS; s = s->next, n++)
        (void)json_array_append_new(list, session(s, now_us));
    put_int(o, "count", srv->n_sessions);
    put_int(o, "more", srv->n_sessions - n);
    (void)json_object_set_new(o, "sessions", list); /* the newest first */
    return dump(o);
}
