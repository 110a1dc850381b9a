/* SPDX-License-Identifier: Apache-2.0
 * swarm_scenario.c - who misbehaves in which scenario, how many they are, and storms.
 *
 *     steady      nobody
 *     reconnect   the others lose their connections all at once, again and again
 *     slow        the others hardly read
 *     half-open   vandals vanish in the middle of something
 *     garbage     vandals send what is no protocol
 *     greedy      the others, with another certificate, ask for ten times as much
 */
#include "bench/swarm_session.h"

#include <string.h>

static const char *const names[SWARM_N_SCENARIOS] = {
    "steady", "reconnect", "slow", "half-open", "garbage", "greedy"
};

const char *
scenario_name(enum swarm_scenario scenario)
{
    return names[scenario];
}

int
scenario_find(const char *name, enum swarm_scenario *out, struct err *err)
{
    for (int i = 0; i < SWARM_N_SCENARIOS; i++) {
        if (strcmp(name, names[i]) == 0) {
            *out = (enum swarm_scenario)i;
            return 0;
        }
    }
    return err_set(err, CE_EINVAL,
                   "--scenario: %s is none of steady, reconnect, slow, half-open, "
                   "garbage, greedy",
                   name);
}

static int
usual(const struct swarm_config *c)
{
    int eighth = c->sessions / 8 > 1 ? c->sessions / 8 : 1;

    switch (c->scenario) {
    case SWARM_RECONNECT:
        return c->sessions;
    case SWARM_GREEDY:
        return 10 * (c->active > 0 ? c->active : 1);
    case SWARM_HALF_OPEN:
    case SWARM_GARBAGE:
        return eighth < 4 ? 4 : eighth;
    default:
        return eighth;
    }
}

static int
n_others(const struct swarm_config *c)
{
    if (c->scenario == SWARM_STEADY)
        return 0;
    return c->others >= 0 ? c->others : usual(c);
}

static bool
of_vandals(enum swarm_scenario s)
{
    return s == SWARM_HALF_OPEN || s == SWARM_GARBAGE;
}

int
scenario_n_sessions(const struct swarm_config *c)
{
    return c->sessions + (of_vandals(c->scenario) ? 0 : n_others(c));
}

int
scenario_n_vandals(const struct swarm_config *c)
{
    return of_vandals(c->scenario) ? n_others(c) : 0;
}

void
scenario_habits(struct session *s)
{
    const struct swarm_config *c = &s->swarm->config;

    if (s->group == SWARM_POLITE) {
        s->active = s->number < c->active;
        return;
    }
    /* In a storm one in eight was at work. */
    s->active = c->scenario != SWARM_RECONNECT || s->number % 8 == 0;
    s->habits.may_be_cut = true;
    s->habits.slow = c->scenario == SWARM_SLOW;
    s->habits.no_think = c->scenario == SWARM_GREEDY;
}

static void
storm(struct swarm *s, int64_t now_us)
{
    s->storm_us = now_us + (int64_t)s->config.storm_ms * 1000;
    s->n_storms += s->phase == SWARM_MEASURING;
    for (int i = s->config.sessions; i < s->n_sessions; i++)
        session_cut(&s->sessions[i]);
}

void
scenario_tick(struct swarm *s, int64_t now_us)
{
    for (int i = 0; i < s->n_vandals; i++)
        vandal_tick(&s->vandals[i], now_us);
    if (s->config.scenario == SWARM_RECONNECT && swarm_working(s) &&
        now_us >= s->storm_us)
        storm(s, now_us);
}
