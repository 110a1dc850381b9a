/* SPDX-License-Identifier: Apache-2.0
 * sampler.c - penalties, cuts, temperature and the draw, as sampler.h defines them.
 *
 * Nothing is kept between calls, not even a random state: a token drawn again, for
 * a draft, a replay or on another machine, is the same token. Every number is a
 * double computed in one fixed order; exp is our own.
 *
 * Used by: agent decode loop, cecollm-model. Thread: pure functions.
 */
#include "engine/sampler.h"

#include <assert.h>
#include <stdbool.h>

#include "engine/mathfn.h"

struct candidate {
    double x; /* logit after penalties */
    int32_t id;
    float logit;
};

void
sampler_params_init(struct sampler_params *p)
{
    *p = (struct sampler_params){ .top_p = 1, .repetition_penalty = 1 };
}

/* ---- parameters ---- */

static int
check_range(const char *what, double v, double least, double most, struct err *err)
{
    if (v >= least && v <= most) /* false for NaN */
        return 0;
    return err_set(err, CE_EINVAL, "%s: %g is not from %g to %g", what, v, least, most);
}

int
sampler_check(const struct sampler_params *p, struct err *err)
{
    int rc;

    if ((rc = check_range("temperature", p->temperature, 0, 100, err)) != 0 ||
        (rc = check_range("top_k", p->top_k, 0, SAMPLER_MAX_ROW, err)) != 0 ||
        (rc = check_range("top_p", p->top_p, 1e-6, 1, err)) != 0 ||
        (rc = check_range("min_p", p->min_p, 0, 1, err)) != 0 ||
        (rc = check_range("repetition_penalty", p->repetition_penalty, 1e-3, 10, err)) !=
            0 ||
        (rc = check_range("presence_penalty", p->presence_penalty, -10, 10, err)) != 0)
        return rc;
    if (p->temperature > 0 && p->temperature < 1e-3)
        return err_set(err, CE_EINVAL,
                       "temperature: %g is neither 0 nor from 0.001 to 100",
                       p->temperature);
    return check_range("frequency_penalty", p->frequency_penalty, -10, 10, err);
}

/* ---- random numbers ---- */

void
sampler_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    uint64_t a, b;
    int round;

    for (round = 0; round < 10; round++) {
        a = (uint64_t)0xd2511f53 * c0;
        b = (uint64_t)0xcd9e8d57 * c2;
        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)b;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)a;
        k0 += 0x9e3779b9;
        k1 += 0xbb67ae85;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

double
sampler_uniform(uint64_t seed, uint32_t choice, uint32_t position)
{
    const uint32_t counter[4] = { position, choice, 0, 0 };
    const uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
    uint32_t r[4];

    sampler_philox(counter, key, r);
    return (double)(((uint64_t)r[0] << 32 | r[1]) >> 11) * 0x1p-53;
}

/* ---- penalties ---- */

static bool
has_penalties(const struct sampler_params *p)
{
    return p->repetition_penalty != 1 || p->presence_penalty != 0 ||
           p->frequency_penalty != 0;
}

/* count[i]: how often candidate i occurs in recent. Ids are sorted first, for recent
 * may be a whole context long. */
static void
count_recent(const struct candidate *c, int n, const int32_t *recent, size_t n_recent,
             int *count)
{
    int order[SAMPLER_MAX_ROW] = { 0 }, i, k, lo, hi, mid;
    size_t r;

    for (i = 0; i < n; i++) {
        for (k = i; k > 0 && c[order[k - 1]].id > c[i].id; k--)
            order[k] = order[k - 1];
        order[k] = i;
        count[i] = 0;
    }
    for (r = 0; r < n_recent; r++) {
        lo = 0;
        hi = n;
        while (lo < hi) {
            mid = (lo + hi) / 2;
            if (c[order[mid]].id < recent[r])
                lo = mid + 1;
            else
                hi = mid;
        }
        if (lo < n && c[order[lo]].id == recent[r])
            count[order[lo]]++;
    }
}

static void
sort_candidates(struct candidate *c, int n)
{
    struct candidate v;
    int i, k;

    for (i = 1; i < n; i++) {
        v = c[i];
        for (k = i;
             k > 0 && (c[k - 1].x < v.x || (c[k - 1].x == v.x && c[k - 1].id > v.id));
             k--)
            c[k] = c[k - 1];
        c[k] = v;
    }
}

static void
penalise(const struct sampler_params *p, struct candidate *c, int n,
         const int32_t *recent, size_t n_recent)
{
    int count[SAMPLER_MAX_ROW], i;

    count_recent(c, n, recent, n_recent, count);
    for (i = 0; i < n; i++) {
        if (count[i] == 0)
            continue;
        c[i].x =
            c[i].x > 0 ? c[i].x / p->repetition_penalty : c[i].x * p->repetition_penalty;
        c[i].x = c[i].x - (p->presence_penalty + p->frequency_penalty * (double)count[i]);
    }
    sort_candidates(c, n);
}

/* ---- cuts and the draw ---- */

/* How many of the first candidates are kept: at least one. */
static int
kept(const struct sampler_params *p, const struct candidate *c, int n, float lse)
{
    double prob[SAMPLER_MAX_ROW], sum = 0, known = 0, rest, total, reached = 0;
    int i, k = p->top_k > 0 && p->top_k < n ? p->top_k : n;

    if (p->top_p >= 1 && p->min_p <= 0)
        return k;
    for (i = 0; i < n; i++) {
        prob[i] = mathfn_exp(c[i].x - c[0].x);
        sum = sum + prob[i];
        known = known + mathfn_exp((double)c[i].logit - c[0].x);
    }
    rest = mathfn_exp((double)lse - c[0].x) - known;
    total = rest > 0 ? rest + sum : sum;
    for (i = 1; i < k && prob[i] >= p->min_p; i++)
        ;
    k = i;
    if (p->top_p >= 1)
        return k;
    for (i = 0; i < k; i++) {
        reached = reached + prob[i];
        if (reached >= p->top_p * total)
            return i + 1;
    }
    return k;
}

static int
draw(const struct candidate *c, int n, double temperature, double u)
{
    double w[SAMPLER_MAX_ROW] = { 0 }, sum = 0, reached = 0;
    int i;

    for (i = 0; i < n; i++) {
        w[i] = mathfn_exp((c[i].x - c[0].x) / temperature);
        sum = sum + w[i];
    }
    for (i = 0; i < n - 1; i++) {
        reached = reached + w[i];
        if (reached > u * sum)
            break;
    }
    return i;
}

int32_t
sampler_pick(const struct sampler_params *p, const struct sampler_row *row,
             const int32_t *recent, size_t n_recent, uint32_t choice, uint32_t position,
             double *logprob)
{
    struct candidate c[SAMPLER_MAX_ROW];
    int i, at = 0;

    assert(row->n >= 1 && row->n <= SAMPLER_MAX_ROW);
    for (i = 0; i < row->n; i++)
        c[i] = (struct candidate){ row->logits[i], row->ids[i], row->logits[i] };
    if (n_recent > 0 && has_penalties(p))
        penalise(p, c, row->n, recent, n_recent);
    if (p->temperature > 0)
        at = draw(c, kept(p, c, row->n, row->lse), p->temperature,
                  sampler_uniform(p->seed, choice, position));
    if (logprob != NULL)
        *logprob = (double)c[at].logit - (double)row->lse;
    return c[at].id;
}
