/* SPDX-License-Identifier: Apache-2.0
 * exit_choice.c - the best setting for a wish; see exit_frontier.h.
 */
#include "tools/exit_frontier.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    enum exit_aim aim;
    double most;
} aims[] = { { "rouge=", EXIT_AIM_ROUGE, 1 },
             { "requests=", EXIT_AIM_REQUESTS, 1 },
             { "time=", EXIT_AIM_TIME, 1e9 } };

int
exit_wish_parse(struct exit_wish *out, const char *text, struct err *err)
{
    for (size_t i = 0; i < sizeof(aims) / sizeof(aims[0]); i++) {
        size_t len = strlen(aims[i].name);
        char *end;

        if (strncmp(text, aims[i].name, len) != 0)
            continue;
        out->aim = aims[i].aim;
        out->target = strtod(text + len, &end);
        if (end == text + len || *end != '\0' || !(out->target >= 0) ||
            out->target > aims[i].most)
            return err_set(err, CE_EINVAL, "\"%s\": not a number from 0 to %g", text,
                           aims[i].most);
        return 0;
    }
    return err_set(err, CE_EINVAL,
                   "\"%s\" is none of rouge=SHARE, requests=SHARE and time=MILLISECONDS",
                   text);
}

double
exit_point_time(const struct exit_point *p, const struct exit_times *t)
{
    return p->edge_blocks * t->edge_block + p->request_rate * (t->cloud + t->round_trip);
}

static bool
same_thetas(const struct exit_setting *a, const struct exit_setting *b)
{
    for (int i = 0; i < MODEL_MAX_EXITS; i++) {
        if (a->theta[i] < b->theta[i] || a->theta[i] > b->theta[i])
            return false;
    }
    return true;
}

const struct exit_point *
exit_frontier_without(const struct exit_frontier *f, const struct exit_point *p, int k)
{
    struct exit_setting s = p->setting;

    s.theta[k] = 1;
    for (int i = 0; i < f->n; i++) {
        if (same_thetas(&f->points[i].setting, &s))
            return &f->points[i];
    }
    return NULL;
}

/* Does every exit that is on make the edge faster, beside the others? */
static bool
each_pays(const struct exit_frontier *f, const struct exit_point *p)
{
    int on = 0;

    for (int k = 0; k < f->n_exits; k++)
        on += p->setting.theta[k] < 1;
    for (int k = 0; on > 1 && k + 1 < f->n_exits; k++) {
        const struct exit_point *q = NULL;

        if (p->setting.theta[k] < 1)
            q = exit_frontier_without(f, p, k);
        if (q && q->edge_blocks <= p->edge_blocks)
            return false;
    }
    return true;
}

/* What a point costs, and what it is worth; the wish bounds the one of them. */
struct value {
    double cost, worth;
    bool enough;
    double misses_by;
};

static struct value
value_of(const struct exit_point *p, const struct exit_wish *w, bool timed)
{
    double time = exit_point_time(p, &w->times);
    double cost = timed ? time : p->request_rate;
    struct value v = { .cost = cost, .worth = -cost };

    if (w->aim == EXIT_AIM_ROUGE) {
        v.misses_by = w->target - p->rouge_l;
    } else {
        v.misses_by = (w->aim == EXIT_AIM_TIME ? time : p->request_rate) - w->target;
        v.worth = p->rouge_l;
    }
    v.enough = v.misses_by <= 0;
    return v;
}

/* Is a better than b? */
static bool
is_better(const struct value *a, const struct value *b)
{
    if (a->enough != b->enough)
        return a->enough;
    if (!a->enough)
        return a->misses_by < b->misses_by;
    return a->worth > b->worth || (!(a->worth < b->worth) && a->cost < b->cost);
}

static int
nothing_reaches(const struct exit_point *p, const struct exit_wish *w, struct err *err)
{
    if (w->aim == EXIT_AIM_TIME)
        return err_set(err, CE_ENOTFOUND,
                       "no setting makes a token in %g ms; the fastest takes %.3g",
                       w->target, exit_point_time(p, &w->times));
    return err_set(err, CE_ENOTFOUND, "no setting has a %s of %g; the nearest has %.3f",
                   w->aim == EXIT_AIM_ROUGE ? "ROUGE-L" : "request rate", w->target,
                   w->aim == EXIT_AIM_ROUGE ? p->rouge_l : p->request_rate);
}

int
exit_frontier_choose(const struct exit_frontier *f, const struct exit_wish *w,
                     const struct exit_point **out, struct err *err)
{
    bool timed = !isnan(w->times.edge_block + w->times.cloud + w->times.round_trip);
    struct value best = { 0 };

    *out = NULL;
    if (w->aim == EXIT_AIM_TIME && !timed)
        return err_set(err, CE_EINVAL,
                       "time=%g needs the times of the cloud and of the link", w->target);
    for (int i = 0; i < f->n; i++) {
        const struct exit_point *p = &f->points[i];
        struct value v = value_of(p, w, timed);

        if (!timed && !each_pays(f, p))
            continue;
        if (!*out || is_better(&v, &best)) {
            *out = p;
            best = v;
        }
    }
    if (!*out)
        return err_set(err, CE_ENOTFOUND, "there are no settings to choose from");
    return best.enough ? 0 : nothing_reaches(*out, w, err);
}
