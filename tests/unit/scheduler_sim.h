/* SPDX-License-Identifier: Apache-2.0
 * scheduler_sim.h - a simulated server for tests of the scheduler, with a fake clock.
 *
 * It has sequences that want some rows, again and again, with a pause between;
 * a step takes as long as an exact cost says. Include after cmocka.h.
 */
#ifndef CE_TESTS_SCHEDULER_SIM_H
#define CE_TESTS_SCHEDULER_SIM_H

#include "server/scheduler.h"

#define MAX_SEQS 1024
#define NEVER    INT64_MAX
#define MS       1000

/* ---- a simulated server ---- */

struct sim_seq {
    uint64_t tenant;
    uint32_t weight;
    uint32_t rows;    /* of each of its requests */
    int64_t pause_us; /* between an answer and the next request */
    int64_t patience; /* a request's deadline, from its arrival; 0: none */
    bool eager;
    bool gone;
    /* running */
    uint32_t left;      /* rows of the present request; 0: pausing */
    uint32_t pos;       /* always looked back to */
    int64_t since_us;   /* for the scheduler */
    int64_t arrived_us; /* of the present request, or when the next one comes */
    int64_t worst_us;   /* longest from arrival to answer */
    uint64_t served;    /* rows */
    uint32_t n_answers, n_expired;
};

struct sim {
    struct scheduler *s;
    struct sim_seq seqs[MAX_SEQS];
    struct scheduler_item items[MAX_SEQS];
    size_t n;
    int64_t now_us, step_us; /* the last step's */
    struct scheduler_plan plan;
    double step_cost, row_cost, position_cost;
};

static struct sim w;

static inline void
sim_start(int64_t budget_us, uint32_t max_rows)
{
    struct scheduler_config config = { budget_us, max_rows, MAX_SEQS };
    struct err err;

    memset(&w, 0, sizeof(w));
    assert_int_equal(scheduler_new(&w.s, &config, &err), 0);
    w.now_us = 1000 * MS;
    w.step_cost = 2000;
    w.row_cost = 200;
}

static inline int
tear_down(void **state)
{
    (void)state;
    scheduler_free(w.s);
    w.s = NULL;
    return 0;
}

static inline struct sim_seq *
sim_add(uint64_t tenant, uint32_t weight, uint32_t rows, int64_t pause_us)
{
    struct sim_seq *q = &w.seqs[w.n++];

    assert_true(w.n <= MAX_SEQS);
    memset(q, 0, sizeof(*q));
    q->tenant = tenant;
    q->weight = weight;
    q->rows = rows;
    q->pause_us = pause_us;
    q->arrived_us = w.now_us;
    return q;
}

/* Requests whose time has come; then the list for the scheduler. */
static inline size_t
sim_list(void)
{
    size_t i, n = 0;

    for (i = 0; i < w.n; i++) {
        struct sim_seq *q = &w.seqs[i];

        if (q->gone)
            continue;
        if (q->left == 0 && q->arrived_us <= w.now_us) {
            q->left = q->rows;
            q->since_us = q->arrived_us;
        }
        if (q->left == 0)
            continue;
        w.items[n++] = (struct scheduler_item){
            .tenant = q->tenant,
            .weight = q->weight,
            .pos = q->pos,
            .n_rows = q->left,
            .since_us = q->since_us,
            .deadline_us = q->patience ? q->arrived_us + q->patience : NEVER,
            .eager = q->eager,
            .tag = i,
        };
    }
    return n;
}

static inline void
sim_served(struct sim_seq *q, const struct scheduler_item *item)
{
    if (item->expired) {
        assert_int_equal(item->share, 0);
        q->n_expired++;
        q->left = 0;
        q->arrived_us = w.now_us + q->pause_us;
        return;
    }
    if (item->share == 0)
        return;
    assert_true(item->share <= q->left);
    q->left -= item->share;
    q->served += item->share;
    q->since_us = w.now_us;
    if (q->left > 0)
        return;
    q->n_answers++;
    if (w.now_us - q->arrived_us > q->worst_us)
        q->worst_us = w.now_us - q->arrived_us;
    q->arrived_us = w.now_us + q->pause_us;
}

/* One step; a millisecond passes when there is nothing to do. */
static inline void
sim_step(void)
{
    size_t n = sim_list(), i;
    uint64_t wanted = 0;
    uint32_t rows = 0;
    double positions = 0;

    w.plan = scheduler_plan(w.s, w.items, n, w.now_us);
    for (i = 0; i < n; i++) {
        rows += w.items[i].share;
        positions += cost_positions(w.items[i].pos, w.items[i].share);
        assert_true(w.items[i].share <= w.items[i].n_rows);
        if (!w.items[i].expired && w.items[i].eager == w.plan.eager)
            wanted += w.items[i].n_rows;
        else
            assert_int_equal(w.items[i].share, 0);
    }
    assert_int_equal(rows, w.plan.rows);
    assert_int_equal(rows, wanted < w.plan.budget ? wanted : w.plan.budget);
    w.step_us =
        rows ? (int64_t)(w.step_cost + w.row_cost * rows + w.position_cost * positions)
             : MS;
    w.now_us += w.step_us;
    if (rows)
        scheduler_ran(w.s, rows, positions, (double)w.step_us);
    for (i = 0; i < n; i++)
        sim_served(&w.seqs[w.items[i].tag], &w.items[i]);
}

static inline void
sim_steps(int n)
{
    while (n-- > 0)
        sim_step();
}

static inline uint64_t
tenant_served(uint64_t tenant)
{
    uint64_t sum = 0;
    size_t i;

    for (i = 0; i < w.n; i++)
        if (w.seqs[i].tenant == tenant)
            sum += w.seqs[i].served;
    return sum;
}

static inline void
forget_served(void)
{
    size_t i;

    for (i = 0; i < w.n; i++) {
        w.seqs[i].served = w.seqs[i].n_answers = 0;
        w.seqs[i].worst_us = 0;
    }
}

/* Rows that the last step gave to this sequence. */
static inline uint32_t
share_of(size_t tag)
{
    size_t i;

    for (i = 0; i < w.n; i++)
        if (w.items[i].tag == tag)
            return w.items[i].share;
    fail();
    return 0;
}

#endif
