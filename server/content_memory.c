/* SPDX-License-Identifier: Apache-2.0
 * content_memory.c - whose KV pages and rows stay when there is no room for all.
 *
 * Pages are promised before they are used: a sequence that asks and has rows to compute
 * is promised all that its answer takes, at once, so two half computed ones never wait
 * for each other. What is
 * promised, in all, is within the budget; what is computed is within its promise.
 *
 * A sequence without a promise waits in c->wants, first come first, tenants within
 * their share before others. content_settle makes room for the first: it evicts
 *
 *     1. idle sequences (nothing asked), of tenants over their share first,
 *     2. those that wait for a promise themselves, or ask but send nothing for GUARD_US
 *        (less when their tenant is over its share);
 *
 * in each the least recently used first. A tenant may have a limit of its own: what would
 * pass it makes room among that tenant's sequences only, in the same order, and waits
 * without keeping others waiting. What was evicted is `lost`: its rows are dropped
 * as they come, and only when it asks again and has a promise does NEED go out, so that
 * a replay finds room. From then until its answer it is `restoring` and stays, whatever
 * others want; and it stays a little longer, in proportion to what the replay took, so
 * that sequences which take turns do more than replay. GENERATE needs no agent for it:
 * its tokens are here.
 *
 * Rows have a budget of their own. When it is full the rows, not the pages, of the same
 * sequences go, in the same order, or else the rows that come; and what can be
 * computed below a pending INFER is, before all of it has come (content_run.c).
 */
#include "server/content_internal.h"

#include "common/memory.h"

#define GUARD_US    5000000 /* an INFER whose rows do not come holds its pages so long */
#define GUARD_OVER  1000000 /* that of a tenant over its share */
#define KEEP_FACTOR 4       /* of a replay's time, after it */
#define KEEP_MAX_US 1000000
#define RETRY_US    10000 /* room may come without a word: time passes */

/* ---- tenants ---- */

int
content_tenant_join(struct content *c, struct content_seq *s)
{
    uint32_t weight = 1;
    uint64_t id =
        c->hooks.tenant ? c->hooks.tenant(c->hooks.arg, s->session, &weight) : 0;
    struct content_tenant *t = c->tenants;

    while (t && t->id != id)
        t = t->next;
    if (!t) {
        t = mem_array_alloc(1, sizeof(*t));
        if (!t)
            return CE_ENOMEM;
        t->id = id;
        t->next = c->tenants;
        c->tenants = t;
    }
    c->weights = c->weights - t->weight + weight;
    t->weight = weight;
    t->n_seqs++;
    s->tenant = t;
    return 0;
}

static void
tenant_leave(struct content *c, struct content_tenant *t)
{
    struct content_tenant **at = &c->tenants;

    if (--t->n_seqs > 0)
        return;
    while (*at != t)
        at = &(*at)->next;
    *at = t->next;
    c->weights -= t->weight;
    mem_free(t);
}

/* Of a budget that all tenants with sequences share by weight. */
static bool
over_share(const struct content *c, const struct content_tenant *t, size_t used,
           size_t budget)
{
    return (double)used * (double)c->weights > (double)budget * (double)t->weight;
}

static bool
over_kv_share(const struct content *c, const struct content_seq *s)
{
    return over_share(c, s->tenant, s->tenant->kv, c->config.kv_budget);
}

/* ---- accounts ---- */

void
content_charge(struct content *c, struct content_seq *s, int64_t kv, int64_t rows)
{
    c->kv += (size_t)kv;
    c->row_bytes += (size_t)rows;
    s->tenant->kv += (size_t)kv;
    s->tenant->rows += (size_t)rows;
    if (c->hooks.charged && (kv || rows))
        c->hooks.charged(c->hooks.arg, s->session, kv, rows);
}

static size_t
kv_size(const struct content *c, const struct content_seq *s, uint32_t n)
{
    size_t pages = ((size_t)n + BACKEND_PAGE - 1) / BACKEND_PAGE;
    int layers = c->config.n_layers - (s->generated ? 0 : s->layer_from);

    return pages * (size_t)layers * c->config.kv_page_bytes;
}

static size_t
kv_room(const struct content *c)
{
    return c->config.kv_budget == 0 ? SIZE_MAX : c->config.kv_budget - c->kv;
}

static size_t
kv_limit(const struct content *c, const struct content_seq *s)
{
    return c->hooks.kv_limit ? c->hooks.kv_limit(c->hooks.arg, s->session) : 0;
}

/* Bytes by which `more` would pass its tenant's own limit; a reload may have lowered
 * that below what it has. */
static size_t
own_shortage(const struct content *c, const struct content_seq *s, size_t more)
{
    size_t limit = kv_limit(c, s), used = s->tenant->kv + more;

    return limit > 0 && used > limit ? used - limit : 0;
}

/* Pages for n positions, and for those computed already. */
static void
promise(struct content *c, struct content_seq *s, uint32_t n)
{
    size_t size;

    if (n < s->consumed)
        n = s->consumed;
    n += (BACKEND_PAGE - n % BACKEND_PAGE) % BACKEND_PAGE;
    size = kv_size(c, s, n);
    content_charge(c, s, (int64_t)size - (int64_t)s->kv_charged, 0);
    s->promised = n;
    s->kv_charged = size;
}

/* ---- who may go ---- */

enum leave { STAYS, IDLE, WAITS };

static enum leave
may_go(const struct content *c, const struct content_seq *s, int64_t now_us)
{
    bool stalled =
        !content_list_linked(&s->ready) &&
        now_us - s->progress_us > (over_kv_share(c, s) ? GUARD_OVER : GUARD_US);

    if (!s->restoring && s->n_pending == 0 && !s->gen)
        return now_us >= s->keep_until_us ? IDLE : STAYS;
    if (stalled || (!s->restoring && content_list_linked(&s->wants)))
        return WAITS;
    return STAYS;
}

static void
tell(struct content *c, const struct content_seq *s, enum content_eviction why)
{
    if (c->hooks.evicted)
        c->hooks.evicted(c->hooks.arg, s->session, why);
}

/* An agent that has sent all it may waits for a word, and gets it. */
static void
lose(struct content *c, struct content_seq *s)
{
    const struct content_chunk *k;

    for (k = s->parked; k; k = k->next)
        if (s->gap_branch < k->branch)
            s->gap_branch = k->branch;
    content_rows_drop_parked(c, s, 0);
    s->begs = s->n_pending == 0 && s->next >= s->limit && s->limit < s->max_pos;
    s->lost = !s->generated;
    s->restoring = false;
}

static void
evict(struct content *c, struct content_seq *s, enum content_eviction why, int64_t now_us)
{
    lose(c, s);
    content_forget_from(c, s, 0);
    promise(c, s, 0);
    tell(c, s, why);
    content_refresh(c, s, now_us);
}

/* Evict until `shortage` bytes more are free, of tenant `of` or (NULL) of anybody; nobody
 * when that is not possible. */
static bool
make_room(struct content *c, const struct content_seq *for_whom,
          const struct content_tenant *of, size_t shortage, int64_t now_us)
{
    struct content_link *l, *next;
    size_t possible = 0, freed = 0;
    int pass;

    for (l = c->held.next; l != &c->held; l = l->next) {
        const struct content_seq *s = CONTENT_SEQ_OF(l, held);

        if (s != for_whom && (!of || s->tenant == of) && may_go(c, s, now_us) != STAYS)
            possible += s->kv_charged;
    }
    if (possible < shortage)
        return false;
    for (pass = 0; pass < 4; pass++)
        for (l = c->held.next; l != &c->held && freed < shortage; l = next) {
            struct content_seq *s = CONTENT_SEQ_OF(l, held);
            enum leave class = pass < 2 ? IDLE : WAITS;

            next = l->next;
            if (s == for_whom || (of && s->tenant != of) || s->kv_charged == 0 ||
                may_go(c, s, now_us) != class || (pass % 2 == 0 && !over_kv_share(c, s)))
                continue;
            freed += s->kv_charged;
            evict(c, s, class == IDLE ? CONTENT_EVICTED_IDLE : CONTENT_EVICTED_WAITING,
                  now_us);
        }
    return freed >= shortage; /* a tenant within its share now may keep the rest */
}

/* Discard others' rows until there is room for `bytes` more. */
static bool
make_row_room(struct content *c, const struct content_seq *for_whom, size_t bytes,
              int64_t now_us)
{
    size_t budget = c->config.states_budget;
    struct content_link *l, *next;
    int pass;

    if (budget == 0)
        return true;
    for (pass = 0; pass < 4; pass++)
        for (l = c->held.next; l != &c->held && c->row_bytes + bytes > budget; l = next) {
            struct content_seq *s = CONTENT_SEQ_OF(l, held);

            next = l->next;
            if (s == for_whom || (!s->first && !s->parked) ||
                may_go(c, s, now_us) != (pass < 2 ? IDLE : WAITS) ||
                (pass % 2 == 0 && !over_share(c, s->tenant, s->tenant->rows, budget)))
                continue;
            lose(c, s);
            content_rows_drop_from(c, s, s->consumed);
            s->next = s->consumed;
            tell(c, s, CONTENT_EVICTED_ROWS);
            content_refresh(c, s, now_us);
        }
    return c->row_bytes + bytes <= budget;
}

bool
content_memory_rows(struct content *c, struct content_seq *s, size_t bytes,
                    int64_t now_us)
{
    s->progress_us = now_us;
    if (make_row_room(c, s, bytes, now_us))
        return true;
    tell(c, s, CONTENT_EVICTED_ROWS);
    return false;
}

bool
content_memory_pressed(const struct content *c)
{
    return c->config.states_budget > 0 && c->row_bytes > c->config.states_budget / 2;
}

/* ---- promises ---- */

/* Positions that s needs pages for now. */
static uint32_t
target_of(const struct content *c, const struct content_seq *s, uint32_t wanted)
{
    if (!s->gen && s->n_pending && (s->lost || wanted > s->consumed))
        return s->pending[0].pos + 1;
    if (!s->begs)
        return wanted;
    return s->max_pos - s->next > c->config.window ? s->next + c->config.window
                                                   : s->max_pos;
}

static void
relink(struct content_link *list, struct content_link *l, bool in)
{
    if (in && !content_list_linked(l))
        content_list_add(list, l);
    else if (!in)
        content_list_remove(l);
}

void
content_memory_refresh(struct content *c, struct content_seq *s, uint32_t wanted,
                       bool eager)
{
    bool asks = s->n_pending || s->gen || s->begs;
    uint32_t target = target_of(c, s, wanted);

    if (!asks && !s->restoring && wanted <= s->consumed) {
        promise(c, s, 0); /* no more than it has */
    } else if (!s->lost && target > s->promised) {
        size_t more = kv_size(c, s, target) - s->kv_charged, room = kv_room(c);
        bool own = own_shortage(c, s, more) == 0;

        if (own && (eager ? room > c->config.kv_budget / 2 && more <= room / 2
                          : more <= room && c->wants.next == &c->wants))
            promise(c, s, target);
    }
    relink(&c->wants, &s->wants,
           asks && s->lost ? true : !eager && target > s->promised && !s->lost);
    relink(&c->held, &s->held, s->kv_charged > 0 || s->first || s->parked);
}

void
content_memory_free(struct content *c, struct content_seq *s)
{
    content_charge(c, s, -(int64_t)s->kv_charged, 0);
    content_list_remove(&s->wants);
    content_list_remove(&s->held);
    tenant_leave(c, s->tenant);
}

void
content_memory_used(struct content *c, struct content_seq *s, int64_t now_us)
{
    s->seen_us = now_us;
    content_list_remove(&s->all);
    content_list_add(&c->all, &s->all);
    if (content_list_linked(&s->held)) {
        content_list_remove(&s->held);
        content_list_add(&c->held, &s->held);
    }
}

void
content_memory_answered(struct content_seq *s, int64_t now_us)
{
    int64_t keep_us = KEEP_FACTOR * (now_us - s->restored_us);

    if (!s->restoring)
        return;
    s->restoring = false;
    s->keep_until_us = now_us + (keep_us < KEEP_MAX_US ? keep_us : KEEP_MAX_US);
}

/* ---- those that wait ---- */

enum admission { ADMITTED, LATER, BLOCKED };

bool
content_memory_too_much(struct content *c, struct content_seq *s, uint32_t n)
{
    size_t size = kv_size(c, s, n), limit = kv_limit(c, s);

    if (limit > 0 && size > limit) {
        content_seq_fail(c, s, CE_EQUOTA, 0,
                         "kv_bytes = %zu, but %u positions take %zu bytes", limit, n,
                         size);
        return true;
    }
    if (c->config.kv_budget == 0 || size <= c->config.kv_budget)
        return false;
    content_seq_fail(c, s, CE_EQUOTA, 0,
                     "%u positions take %zu bytes of KV, the server has %zu in all", n,
                     size, c->config.kv_budget);
    return true;
}

/* s may be gone afterwards. *full: no room for rows; not looked for twice. */
static enum admission
admit(struct content *c, struct content_seq *s, bool *full, int64_t now_us)
{
    bool eager;
    uint32_t target = target_of(c, s, content_wanted(c, s, &eager));
    size_t size = kv_size(c, s, target), short_of = 0;

    if (content_memory_too_much(c, s, target))
        return ADMITTED;
    if (s->lost && !*full)
        *full = !make_row_room(c, s, c->config.states_budget / 2, now_us);
    if (s->lost && *full)
        return LATER;
    if (size > s->kv_charged)
        short_of = own_shortage(c, s, size - s->kv_charged);
    if (short_of > 0 && !make_room(c, s, s->tenant, short_of, now_us))
        return LATER;
    if (size > s->kv_charged && size - s->kv_charged > kv_room(c) &&
        !make_room(c, s, NULL, size - s->kv_charged - kv_room(c), now_us))
        return BLOCKED;
    promise(c, s, target);
    s->progress_us = now_us;
    if (!s->lost) {
        content_refresh(c, s, now_us);
        return ADMITTED;
    }
    s->restoring = true;
    s->restored_us = now_us;
    content_lost(c, s->session, s->seq, s->next, now_us);
    return ADMITTED;
}

int64_t
content_settle(struct content *c, int64_t now_us)
{
    struct content_link *l;
    bool full = false;
    int pass;

    for (pass = 0; pass < 2; pass++)
        for (l = c->wants.next; l != &c->wants;) {
            struct content_seq *s = CONTENT_SEQ_OF(l, wants);
            enum admission a = LATER;

            if (pass == 1 || !over_kv_share(c, s))
                a = admit(c, s, &full, now_us);
            if (a == BLOCKED)
                return now_us + RETRY_US;
            l = a == ADMITTED ? c->wants.next : l->next;
        }
    return c->wants.next == &c->wants ? INT64_MAX : now_us + RETRY_US;
}

size_t
content_n_wants(const struct content *c)
{
    const struct content_link *l;
    size_t n = 0;

    for (l = c->wants.next; l != &c->wants; l = l->next)
        n++;
    return n;
}

size_t
content_row_bytes(const struct content *c)
{
    return c->row_bytes;
}

size_t
content_kv_bytes(const struct content *c)
{
    return c->kv;
}
