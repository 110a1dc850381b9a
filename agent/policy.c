/* SPDX-License-Identifier: Apache-2.0
 * policy.c - see policy.h. Every rule of where a token comes from is here, so that
 * one table in tests/unit/test_policy.c can show all of them.
 */
#include "agent/policy.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const policy_mode_names[] = { "standalone", "collaborative", "cloud",
                                          "naive",      "edge-full",     NULL };

bool
policy_uses_cloud(const struct policy *p)
{
    return p->mode == POLICY_COLLABORATIVE || p->mode == POLICY_CLOUD ||
           p->mode == POLICY_NAIVE;
}

bool
policy_uses_edge(const struct policy *p)
{
    return p->mode != POLICY_CLOUD;
}

/* Does exit k have a say at all? */
static bool
may_leave(const struct policy *p, int k)
{
    return p->mode != POLICY_NAIVE && p->theta[k] < 1.0;
}

/* Whether this position must be decided at the edge. */
static bool
stands_alone(const struct policy *p, bool alone)
{
    return p->mode == POLICY_STANDALONE || alone;
}

static enum policy_step
deeper_from(const struct policy *p, bool alone, int from, int *exit)
{
    for (int k = from; k < p->n_exits; k++) {
        bool last = k == p->n_exits - 1;
        if (may_leave(p, k) || (last && stands_alone(p, alone))) {
            *exit = k;
            return POLICY_DEEPER;
        }
    }
    return POLICY_ASK;
}

/* The upload trigger looks at exit 1 whether a token may leave there or not. */
static bool
triggers_upload(const struct policy *p, bool alone)
{
    return p->mode == POLICY_COLLABORATIVE && !alone && p->n_exits > 0 &&
           p->upload == POLICY_UPLOAD_BELOW;
}

enum policy_step
policy_begin(const struct policy *p, bool alone, int *exit)
{
    if (triggers_upload(p, alone)) {
        *exit = 0;
        return POLICY_DEEPER;
    }
    return deeper_from(p, alone, 0, exit);
}

enum policy_step
policy_next(const struct policy *p, bool alone, int done, double confidence, int *exit)
{
    if (may_leave(p, done) && confidence >= p->theta[done])
        return POLICY_EMIT;
    if (done == p->n_exits - 1 && stands_alone(p, alone))
        return p->mode == POLICY_STANDALONE ? POLICY_EMIT : POLICY_FALLBACK;
    return deeper_from(p, alone, done + 1, exit);
}

double
policy_screen(const struct policy *p, bool alone, int done)
{
    double below = may_leave(p, done) ? p->theta[done] : HUGE_VAL;

    if (!p->screens || (done == p->n_exits - 1 && stands_alone(p, alone)))
        return 0; /* its token may be taken however unsure it is */
    /* Two questions to one confidence. Below the smaller threshold it is below both;
     * from there on only the confidence itself tells. */
    if (done == 0 && triggers_upload(p, alone))
        below = fmin(below, p->upload_theta);
    return below < HUGE_VAL ? below : 0;
}

bool
policy_release(const struct policy *p, bool in_prompt, bool have_confidence,
               double confidence)
{
    switch (p->upload) {
    case POLICY_UPLOAD_ALWAYS:
        return true;
    case POLICY_UPLOAD_BELOW:
        return in_prompt || (have_confidence && confidence < p->upload_theta);
    case POLICY_UPLOAD_ON_REQUEST:
        return false;
    }
    return true;
}

int
policy_n_stages(const struct policy *p)
{
    int n = 1;

    if (p->mode == POLICY_NAIVE)
        return 1;
    if (p->mode == POLICY_STANDALONE || p->on_loss == POLICY_LOSS_EDGE)
        n = p->n_exits;
    else
        for (int k = 0; k < p->n_exits; k++)
            if (may_leave(p, k))
                n = k + 1;
    return n > 1 ? n : 1;
}

int
policy_find_mode(const char *name)
{
    for (int i = 0; i < POLICY_N_MODES; i++)
        if (strcmp(name, policy_mode_names[i]) == 0)
            return i;
    return -1;
}

/* ---- settings from text ---- */

/* A number of [0, inf) that ends at `end_chars` or the string's end. */
static bool
parse_threshold(const char *s, const char **end, double *out)
{
    char *e;

    *out = strtod(s, &e);
    *end = e;
    return e != s && isfinite(*out) && *out >= 0;
}

static int
find_layer(const struct policy *p, const int *layers, long layer)
{
    for (int k = 0; k < p->n_exits; k++)
        if (layers[k] == layer)
            return k;
    return -1;
}

int
policy_parse_theta(struct policy *p, const int *layers, const char *text, struct err *err)
{
    const char *s = text;
    double v;

    if (strchr(text, '=') == NULL) {
        if (!parse_threshold(s, &s, &v) || *s != '\0')
            return err_set(err, CE_EINVAL, "theta: \"%s\" is not a number from 0", text);
        for (int k = 0; k < p->n_exits; k++)
            p->theta[k] = v;
        return 0;
    }
    for (;;) {
        char *e;
        long layer = strtol(s, &e, 10);
        if (e == s || *e != '=' || !parse_threshold(e + 1, &s, &v) ||
            (*s != ',' && *s != '\0'))
            return err_set(err, CE_EINVAL,
                           "theta: \"%s\" is not a number or LAYER=NUMBER,...", text);
        int k = find_layer(p, layers, layer);
        if (k < 0)
            return err_set(err, CE_EINVAL, "theta: the model has no exit after layer %ld",
                           layer);
        p->theta[k] = v;
        if (*s == '\0')
            return 0;
        s++;
    }
}

int
policy_parse_upload(struct policy *p, const char *text, struct err *err)
{
    const char *end;
    double v;

    if (strcmp(text, "always") == 0) {
        p->upload = POLICY_UPLOAD_ALWAYS;
        return 0;
    }
    if (strcmp(text, "on-request") == 0) {
        p->upload = POLICY_UPLOAD_ON_REQUEST;
        return 0;
    }
    if (strncmp(text, "below:", 6) == 0 && parse_threshold(text + 6, &end, &v) &&
        *end == '\0') {
        p->upload = POLICY_UPLOAD_BELOW;
        p->upload_theta = v;
        return 0;
    }
    return err_set(err, CE_EINVAL,
                   "upload: \"%s\" is not always, on-request or below:NUMBER", text);
}
