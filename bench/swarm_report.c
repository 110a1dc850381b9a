/* SPDX-License-Identifier: Apache-2.0
 * swarm_report.c - what a run has shown, as a table or as JSON.
 */
#include <stdio.h>

#include <jansson.h>

#include "bench/swarm_session.h"
#include "tools/command.h"

static const char *const group_names[] = { "polite", "others" };

static bool
has_group(const struct swarm *s, int group)
{
    return group == SWARM_POLITE || s->n_sessions > s->config.sessions;
}

static double
per_second(const struct swarm *s, uint64_t n)
{
    return s->measured_s > 0 ? (double)n / s->measured_s : 0;
}

/* ---- JSON ---- */

static json_t *
times_json(const struct stats_times *t)
{
    return json_pack("{s:I,s:f,s:f,s:f,s:f}", "n", (json_int_t)t->n, "p50",
                     (double)stats_quantile(t, 0.5) * 1e-3, "p90",
                     (double)stats_quantile(t, 0.9) * 1e-3, "p99",
                     (double)stats_quantile(t, 0.99) * 1e-3, "max",
                     (double)t->max_us * 1e-3);
}

static json_t *
group_json(const struct swarm *s, const struct stats_group *g)
{
    json_t *o = json_pack(
        "{s:I,s:I,s:I,s:f,s:f,s:I,s:I,s:I,s:I}", "tokens", (json_int_t)g->tokens, "rows",
        (json_int_t)g->rows, "sequences", (json_int_t)g->sequences, "tokens_per_second",
        per_second(s, g->tokens), "rows_per_second", per_second(s, g->rows), "lost",
        (json_int_t)g->lost, "refused", (json_int_t)g->refused, "needs",
        (json_int_t)g->needs, "goaways", (json_int_t)g->goaways);

    if (!o)
        return NULL;
    json_object_set_new(o, "latency_ms", times_json(&g->latency));
    json_object_set_new(o, "beyond_compute_ms", times_json(&g->beyond));
    json_object_set_new(o, "beyond_compute_one_row_ms", times_json(&g->one_row));
    json_object_set_new(o, "recovery_ms", times_json(&g->recovery));
    return o;
}

static json_t *
watch_json(const struct watch *w)
{
    return json_pack("{s:I,s:I,s:I,s:f}", "rss_bytes", (json_int_t)w->rss_bytes,
                     "anon_bytes", (json_int_t)w->anon_bytes, "descriptors",
                     (json_int_t)w->n_fds, "cpu_seconds", w->cpu_seconds);
}

static json_t *
report_json(const struct swarm *s)
{
    const struct swarm_config *c = &s->config;
    json_t *o = json_pack(
        "{s:s,s:i,s:i,s:i,s:f,s:f,s:I,s:I,s:I,s:I,s:I,s:b}", "scenario",
        scenario_name(c->scenario), "sessions", c->sessions, "active", c->active,
        "misbehaving", s->n_sessions - c->sessions + s->n_vandals, "think_ms",
        (double)c->think_us * 1e-3, "seconds", s->measured_s, "connects",
        (json_int_t)s->n_connects, "storms", (json_int_t)s->n_storms, "bytes_sent",
        (json_int_t)s->bytes_sent, "bytes_received", (json_int_t)s->bytes_received,
        "wrong_tokens", (json_int_t)s->n_wrong, "right",
        s->n_wrong == 0 && s->failure.code == 0);

    if (!o)
        return NULL;
    json_object_set_new(o, "connect_ms", times_json(&s->handshake));
    for (int i = 0; i < SWARM_N_GROUPS; i++)
        if (has_group(s, i))
            json_object_set_new(o, group_names[i], group_json(s, &s->groups[i]));
    if (s->n_vandals > 0)
        json_object_set_new(o, "vandals",
                            json_pack("{s:I,s:I,s:I}", "tries",
                                      (json_int_t)s->vandal_tries, "ended_by_server",
                                      (json_int_t)s->vandal_closed, "given_up",
                                      (json_int_t)s->vandal_ignored));
    if (c->watch > 0)
        json_object_set_new(o, "server",
                            json_pack("{s:o,s:o,s:o,s:I}", "start",
                                      watch_json(&s->watch_start), "connected",
                                      watch_json(&s->watch_connected), "end",
                                      watch_json(&s->watch_end), "peak_rss_bytes",
                                      (json_int_t)s->watch_peak_rss));
    return o;
}

/* ---- the table ---- */

static void
times_line(const char *group, const char *what, const struct stats_times *t)
{
    if (t->n > 0)
        printf("%-8s %-16s %9.2f %9.2f %9.2f %9.2f   %llu\n", group, what,
               (double)stats_quantile(t, 0.5) * 1e-3,
               (double)stats_quantile(t, 0.9) * 1e-3,
               (double)stats_quantile(t, 0.99) * 1e-3, (double)t->max_us * 1e-3,
               (unsigned long long)t->n);
}

static void
group_line(const struct swarm *s, int i)
{
    const struct stats_group *g = &s->groups[i];

    printf("%-8s %llu tokens in %llu whole sequences: %.1f tokens/s, %.1f rows/s",
           group_names[i], (unsigned long long)g->tokens,
           (unsigned long long)g->sequences, per_second(s, g->tokens),
           per_second(s, g->rows));
    if (g->lost + g->refused + g->needs + g->goaways > 0)
        printf("; %llu lost, %llu refused, %llu replays, %llu sent away",
               (unsigned long long)g->lost, (unsigned long long)g->refused,
               (unsigned long long)g->needs, (unsigned long long)g->goaways);
    printf("\n");
}

static void
watch_line(const char *when, const struct watch *w)
{
    printf("server   %-10s %8.1f MiB resident, %llu descriptors, %.2f s of CPU\n", when,
           (double)w->rss_bytes / 1048576, (unsigned long long)w->n_fds, w->cpu_seconds);
}

static void
report_table(const struct swarm *s)
{
    printf("%s: %d sessions, %d at work, %d others, %.1f s; %s\n",
           scenario_name(s->config.scenario), s->config.sessions, s->config.active,
           s->n_sessions - s->config.sessions + s->n_vandals, s->measured_s,
           s->n_wrong == 0 ? "every token right" : "WRONG TOKENS");
    for (int i = 0; i < SWARM_N_GROUPS; i++)
        if (has_group(s, i))
            group_line(s, i);
    printf("\n%-8s %-16s %9s %9s %9s %9s   %s\n", "", "milliseconds", "p50", "p90", "p99",
           "max", "n");
    times_line("all", "connect", &s->handshake);
    for (int i = 0; i < SWARM_N_GROUPS; i++) {
        times_line(group_names[i], "token", &s->groups[i].latency);
        times_line(group_names[i], "beyond compute", &s->groups[i].beyond);
        times_line(group_names[i], "recovery", &s->groups[i].recovery);
    }
    if (s->n_vandals > 0)
        printf("\nvandals  %llu deeds: %llu ended by the server, %llu given up\n",
               (unsigned long long)s->vandal_tries, (unsigned long long)s->vandal_closed,
               (unsigned long long)s->vandal_ignored);
    if (s->config.watch > 0) {
        printf("\n");
        watch_line("start", &s->watch_start);
        watch_line("connected", &s->watch_connected);
        watch_line("end", &s->watch_end);
    }
}

int
swarm_report(const struct swarm *s, struct err *err)
{
    if (s->config.json)
        return command_print_json(report_json(s), true, err);
    report_table(s);
    return 0;
}
