/* SPDX-License-Identifier: Apache-2.0
 * scheduler.c - weighted fair queueing over rows; see scheduler.h.
 *
 * Virtual time is the lowest counter among the tenants that wanted more than
 * they got in the last step; when all got what they wanted, accounts are settled
 * and it is the highest counter of all. Nobody's counter is below it. From this
 * follow both rules: whoever waits keeps what is owed to him, and whoever does not
 * wait is owed nothing, be he idle or asking for a little in every step.
 *
 * A tenant's account lives while it is waiting or ahead of virtual time, which
 * is by one row at most: the table holds about as many tenants as the last list.
 * It is sorted by id, and so is a list, so a plan merges the two; the accounts of
 * the tenants in the list, the active ones, are in a heap while rows are given.
 */
#include "server/scheduler.h"

#include <stdlib.h>
#include <string.h>

#include "common/memory.h"

#define ROW          ((uint64_t)1 << 24) /* a row of weight 1 in a counter */
#define PATIENCE_US  1000000             /* waiting so long counts as a deadline */
#define EAGER_PART   4                   /* eager steps get 1/4 of the budget */
#define CATCHUP_PART 4                   /* catch-ups are owed 1/4 of a tenant's rows */

struct account {
    uint64_t tenant;
    uint64_t counter; /* rows given * ROW / weight */
    uint64_t row;     /* ROW / weight */
    uint32_t owed;    /* to its catch-ups, in 1/CATCHUP_PART of a row */
    bool waiting;     /* wanted more than it got in the last step */
    /* of the plan under way */
    size_t first, n_items; /* its items */
    uint64_t wanted;       /* rows not given yet */
    uint32_t given;
};

struct scheduler {
    struct scheduler_config config;
    struct cost_model cost;
    uint64_t now;             /* virtual time */
    struct account *accounts; /* [n_accounts of cap], ascending by tenant */
    struct account *spare;    /* [cap] where the next table is merged */
    struct account **heap;    /* [max_items] */
    size_t n_accounts, cap;
};

/* ---- making ---- */

int
scheduler_new(struct scheduler **out, const struct scheduler_config *config,
              struct err *err)
{
    struct scheduler *s = mem_array_alloc(1, sizeof(*s));

    *out = NULL;
    if (!s)
        return err_set(err, CE_ENOMEM, "scheduler: no memory");
    s->config = *config;
    s->cap = 2 * config->max_items;
    cost_model_init(&s->cost);
    s->accounts = mem_array_alloc(s->cap, sizeof(*s->accounts));
    s->spare = mem_array_alloc(s->cap, sizeof(*s->spare));
    s->heap = mem_array_alloc(config->max_items, sizeof(struct account *));
    if (!s->accounts || !s->spare || !s->heap) {
        scheduler_free(s);
        return err_set(err, CE_ENOMEM, "scheduler: no memory for %zu sequences",
                       config->max_items);
    }
    *out = s;
    return 0;
}

void
scheduler_free(struct scheduler *s)
{
    if (!s)
        return;
    mem_free(s->accounts);
    mem_free(s->spare);
    mem_free(s->heap);
    mem_free(s);
}

/* ---- the order of items ---- */

/* Requests, then eager work, then what has expired. */
static int
rank(const struct scheduler_item *i)
{
    return i->expired ? 2 : i->eager;
}

static int64_t
due(const struct scheduler_item *i)
{
    int64_t patience = i->since_us + PATIENCE_US;

    return i->deadline_us < patience ? i->deadline_us : patience;
}

/* By rank; then tenant by tenant, short work first, the nearest due first. */
static int
by_turn(const void *a, const void *b)
{
    const struct scheduler_item *x = a, *y = b;
    bool x_long = x->n_rows > SCHEDULER_SHORT, y_long = y->n_rows > SCHEDULER_SHORT;

    if (rank(x) != rank(y))
        return rank(x) < rank(y) ? -1 : 1;
    if (x->tenant != y->tenant)
        return x->tenant < y->tenant ? -1 : 1;
    if (x_long != y_long)
        return x_long ? 1 : -1;
    if (due(x) != due(y))
        return due(x) < due(y) ? -1 : 1;
    return x->tag < y->tag ? -1 : x->tag > y->tag;
}

/* How many of the sorted items this step is for: all of the first rank, unless
 * that is "expired". */
static size_t
of_this_step(const struct scheduler_item *items, size_t n)
{
    size_t i = 0;

    while (i < n && !items[i].expired && items[i].eager == items[0].eager)
        i++;
    return i;
}

/* ---- the step's rows ---- */

static uint32_t
row_budget(const struct scheduler *s, const struct scheduler_item *items, size_t n)
{
    uint32_t max_rows = s->config.max_rows, part = items[0].eager ? EAGER_PART : 1;
    double rows = 0, positions = 0;
    size_t i;

    if (s->config.step_budget_us <= 0)
        return max_rows / part > 0 ? max_rows / part : 1;
    for (i = 0; i < n; i++) {
        uint32_t n_rows = items[i].n_rows < max_rows ? items[i].n_rows : max_rows;

        rows += n_rows;
        positions += cost_positions(items[i].pos, n_rows);
    }
    return cost_model_rows(&s->cost, (double)s->config.step_budget_us / part,
                           positions / rows, max_rows);
}

/* ---- accounts ---- */

/* Virtual time after the last step. */
static void
settle(struct scheduler *s)
{
    uint64_t lowest = UINT64_MAX, highest = 0, now;
    size_t i;

    for (i = 0; i < s->n_accounts; i++) {
        const struct account *a = &s->accounts[i];

        if (a->waiting && a->counter < lowest)
            lowest = a->counter;
        if (a->counter > highest)
            highest = a->counter;
    }
    now = lowest < UINT64_MAX ? lowest : highest;
    if (now > s->now)
        s->now = now;
}

/* Begin a plan for items [first, first+n), all the tenant's own. */
static void
account_begin(struct scheduler *s, struct account *a, const struct scheduler_item *items,
              size_t first, size_t n)
{
    uint32_t weight = items[first].weight;
    size_t i;

    if (weight < 1)
        weight = 1;
    if (weight > SCHEDULER_MAX_WEIGHT)
        weight = SCHEDULER_MAX_WEIGHT;
    a->row = ROW / weight;
    if (a->counter < s->now)
        a->counter = s->now;
    a->first = first;
    a->n_items = n;
    a->given = 0;
    a->wanted = 0;
    for (i = first; i < first + n; i++)
        a->wanted += items[i].n_rows;
}

/* Old accounts that still say something and those of the list become the new
 * table; the list's are returned in s->heap, as many as there are. */
static size_t
accounts_merge(struct scheduler *s, const struct scheduler_item *items, size_t n)
{
    struct account *old = s->accounts, *old_end = old + s->n_accounts, *to = s->spare;
    size_t i, next, active = 0, idle_room = s->cap - n;

    for (i = 0; i < n || old < old_end; i = next) {
        next = i;
        if (i == n || (old < old_end && old->tenant < items[i].tenant)) {
            if (old->counter > s->now && idle_room > 0) {
                *to = *old;
                to->waiting = false;
                to++;
                idle_room--;
            }
            old++;
            continue;
        }
        while (next < n && items[next].tenant == items[i].tenant)
            next++;
        if (old < old_end && old->tenant == items[i].tenant)
            *to = *old++;
        else
            *to = (struct account){ .tenant = items[i].tenant };
        account_begin(s, to, items, i, next - i);
        s->heap[active++] = to++;
    }
    s->n_accounts = (size_t)(to - s->spare);
    to = s->accounts;
    s->accounts = s->spare;
    s->spare = to;
    return active;
}

/* ---- rows to tenants ---- */

static bool
before(const struct account *a, const struct account *b)
{
    return a->counter != b->counter ? a->counter < b->counter : a->tenant < b->tenant;
}

static void
sift_down(struct account **heap, size_t n, size_t i)
{
    struct account *a = heap[i];
    size_t child;

    for (; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(heap[child + 1], heap[child]))
            child++;
        if (!before(heap[child], a))
            break;
        heap[i] = heap[child];
    }
    heap[i] = a;
}

/* The lowest of the others, or NULL. */
static const struct account *
runner_up(struct account *const *heap, size_t n)
{
    return n < 2 ? NULL : n > 2 && before(heap[2], heap[1]) ? heap[2] : heap[1];
}

/* Each row to the lowest counter: as many at once as keep it the lowest. */
static uint32_t
rows_to_tenants(struct account **heap, size_t n, uint32_t budget)
{
    uint32_t left = budget;
    size_t i;

    for (i = n / 2; i-- > 0;)
        sift_down(heap, n, i);
    while (left > 0 && n > 0) {
        struct account *a = heap[0];
        const struct account *other = runner_up(heap, n);
        uint64_t give = other ? (other->counter - a->counter) / a->row + 1 : left;

        if (give > left)
            give = left;
        if (give > a->wanted)
            give = a->wanted;
        a->counter += give * a->row;
        a->wanted -= give;
        a->given += (uint32_t)give;
        left -= (uint32_t)give;
        if (a->wanted == 0)
            heap[0] = heap[--n];
        if (n > 0)
            sift_down(heap, n, 0);
    }
    return budget - left;
}

/* ---- rows of a tenant to its items ---- */

/* In order, each as much as it wants. Returns what was given. */
static uint32_t
rows_to_items(struct scheduler_item *items, size_t n, uint32_t rows)
{
    uint32_t left = rows;
    size_t i;

    for (i = 0; i < n && left > 0; i++) {
        items[i].share = items[i].n_rows < left ? items[i].n_rows : left;
        left -= items[i].share;
    }
    return rows - left;
}

static uint64_t
sum_wanted(const struct scheduler_item *items, size_t n)
{
    uint64_t sum = 0;
    size_t i;

    for (i = 0; i < n; i++)
        sum += items[i].n_rows;
    return sum;
}

/* Catch-ups are owed a part of what the tenant was given. The debt is in
 * fractions of a row and goes over to the next step, so that it is paid even
 * when a step has one row for the tenant. */
static void
account_split(struct account *a, struct scheduler_item *all)
{
    struct scheduler_item *items = all + a->first, *catchups;
    size_t n_short = 0;
    uint64_t short_rows, long_rows;
    uint32_t reserved, paid;

    while (n_short < a->n_items && items[n_short].n_rows <= SCHEDULER_SHORT)
        n_short++;
    catchups = items + n_short;
    short_rows = sum_wanted(items, n_short);
    long_rows = sum_wanted(catchups, a->n_items - n_short);
    a->owed = long_rows > 0 && short_rows > 0 ? a->owed + a->given : 0;
    reserved = a->owed / CATCHUP_PART;
    if (reserved > a->given)
        reserved = a->given;
    if (reserved > long_rows)
        reserved = (uint32_t)long_rows;
    paid = a->given - rows_to_items(items, n_short, a->given - reserved);
    rows_to_items(catchups, a->n_items - n_short, paid);
    if (paid == long_rows || a->owed < paid * CATCHUP_PART)
        a->owed = 0;
    else
        a->owed -= paid * CATCHUP_PART;
}

/* ---- the plan ---- */

struct scheduler_plan
scheduler_plan(struct scheduler *s, struct scheduler_item *items, size_t n,
               int64_t now_us)
{
    struct scheduler_plan plan = { 0 };
    size_t i, n_now, n_active;

    for (i = 0; i < n; i++) {
        items[i].share = 0;
        items[i].expired = items[i].deadline_us <= now_us;
        plan.n_expired += items[i].expired;
    }
    if (n > 1)
        qsort(items, n, sizeof(*items), by_turn);
    n_now = of_this_step(items, n);
    settle(s);
    n_active = accounts_merge(s, items, n_now);
    if (n_now == 0)
        return plan;
    plan.eager = items[0].eager;
    plan.budget = row_budget(s, items, n_now);
    plan.rows = rows_to_tenants(s->heap, n_active, plan.budget);
    for (i = 0; i < s->n_accounts; i++) {
        struct account *a = &s->accounts[i];

        if (a->n_items > 0)
            account_split(a, items);
        a->waiting = a->n_items > 0 && a->wanted > 0;
        a->n_items = 0;
    }
    return plan;
}

/* ---- what came of it ---- */

void
scheduler_refund(struct scheduler *s, uint64_t tenant, uint32_t rows)
{
    size_t low = 0, high = s->n_accounts;

    while (low < high) {
        size_t mid = low + (high - low) / 2;

        if (s->accounts[mid].tenant < tenant)
            low = mid + 1;
        else
            high = mid;
    }
    if (low < s->n_accounts && s->accounts[low].tenant == tenant)
        s->accounts[low].counter -= rows * s->accounts[low].row;
}

void
scheduler_ran(struct scheduler *s, uint32_t rows, double positions, double time_us)
{
    if (rows > 0)
        cost_model_ran(&s->cost, rows, positions, time_us);
}

const struct cost_model *
scheduler_cost(const struct scheduler *s)
{
    return &s->cost;
}

size_t
scheduler_n_tenants(const struct scheduler *s)
{
    return s->n_accounts;
}
