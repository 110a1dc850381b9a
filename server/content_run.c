/* SPDX-License-Identifier: Apache-2.0
 * content_run.c - what of a sequence to compute next, and what came of it.
 *
 * The goal is the furthest pending INFER whose rows are there. Several answers
 * come out of one run: the rows from the first to the last asked one go through
 * the head, so a few unasked rows between them cost a head product each; past
 * GAP of them the rest waits for the next step.
 *
 * A greedy answer that differs from its INFER's draft makes the later requests
 * of the same branch dead, and they are dropped: the agent is about to truncate.
 * When top logits were asked for, the agent samples and only it knows.
 *
 * Eager rows end below what an INFER may ask for: below a pending one, or EAGER_KEEP
 * rows behind the newest. They are worth a step from EAGER_MIN on.
 *
 * GENERATE is the same with token ids: the prompt in chunks, then one by one.
 */
#include "server/content_internal.h"

#include <string.h>

#include "common/memory.h"

#define GAP       4  /* unasked rows between two asked ones, at most */
#define MAX_HEADS 64 /* rows through the head in one run */

#define EAGER_KEEP 8
#define EAGER_MIN  16

/* Rows that may be computed though nobody waits for them. */
static uint32_t
eager_goal(const struct content *c, const struct content_seq *s)
{
    uint32_t end = s->next > EAGER_KEEP ? s->next - EAGER_KEEP : 0;

    if (c->config.eager == CONTENT_EAGER_NEVER || !s->keep_kv ||
        (c->config.eager == CONTENT_EAGER_PROMPT && s->answered > 0))
        return s->consumed;
    if (s->n_pending)
        end = s->pending[0].pos < s->next ? s->pending[0].pos : s->next;
    return end >= s->consumed + EAGER_MIN ? end : s->consumed;
}

uint32_t
content_wanted(const struct content *c, const struct content_seq *s, bool *eager)
{
    uint32_t window = c->config.window;
    uint32_t goal = s->consumed, first = 0;
    int i;

    *eager = false;
    if (s->gen)
        return (uint32_t)s->gen->n_ids;
    for (i = 0; i < s->n_pending && s->pending[i].pos < s->next; i++) {
        uint32_t pos = s->pending[i].pos;

        if (i == 0)
            first = pos;
        else if (pos - goal > GAP || pos - first >= MAX_HEADS)
            break;
        goal = pos + 1;
    }
    if (goal > s->consumed)
        return goal;
    if (s->next - s->consumed < window - window / 4 && !(s->n_pending && s->hurry)) {
        *eager = true;
        return eager_goal(c, s);
    }
    /* Full, and nothing can be answered. Rows below a pending INFER can all be
     * computed; otherwise half a window stays for an INFER that is on its way. */
    return s->n_pending ? s->next : s->next - window / 2;
}

uint32_t
content_goal(const struct content *c, const struct content_seq *s, bool *eager)
{
    uint32_t wanted = content_wanted(c, s, eager);

    return wanted < s->promised ? wanted : s->promised;
}

static void
begin_tokens(struct content_seq *s, uint32_t n, int32_t *tokens, struct content_run *run)
{
    struct content_gen *g = s->gen;

    memcpy(tokens, g->ids + s->consumed, n * sizeof(*tokens));
    run->is_tokens = true;
    run->layer_from = 0;
    run->n_rows = n;
    run->head_rows = s->consumed + n == g->n_ids;
    run->n_top = g->how.temperature > 0 ? BACKEND_MAX_TOP : 0;
    run->want_hash = g->want_hash;
}

int
content_run_begin(struct content *c, struct content_seq *s, uint32_t max_rows,
                  float *hidden, int32_t *tokens, struct content_run *run)
{
    bool eager;
    uint32_t n = content_goal(c, s, &eager) - s->consumed;
    uint32_t first_asked = 0, last_asked = 0;
    int i, rc, n_asked = 0;

    if (n > max_rows)
        n = max_rows;
    memset(run, 0, sizeof(*run));
    run->seq = s;
    run->session = s->session;
    run->kv = s->kv;
    run->layer_from = s->layer_from;
    run->pos = s->consumed;
    if (s->gen) {
        begin_tokens(s, n, tokens, run);
        return 0;
    }
    for (i = 0; i < s->n_pending && s->pending[i].pos - s->consumed < n; i++) {
        const struct content_pending *p = &s->pending[i];

        if (n_asked++ == 0)
            first_asked = p->pos;
        last_asked = p->pos;
        if (p->n_top > run->n_top)
            run->n_top = p->n_top;
        run->want_hash |= p->want_hash;
    }
    if (n_asked) { /* end at a head row: none is computed for nothing */
        n = last_asked + 1 - s->consumed;
        run->head_rows = last_asked + 1 - first_asked;
    }
    run->n_rows = n;
    rc = content_rows_decode(c, s, n, hidden);
    if (rc < 0)
        content_seq_fail(c, s, rc, 0, "STATES: a row has a value that is not finite");
    return rc;
}

static uint32_t
us_between(int64_t from, int64_t to)
{
    return to <= from ? 0 : to - from > UINT32_MAX ? UINT32_MAX : (uint32_t)(to - from);
}

static void
token_init(struct frame *f, const struct content_run *run, uint32_t pos,
           const struct head_result *r, int64_t start_us, int64_t now_us)
{
    memset(f, 0, offsetof(struct frame, u.token.top));
    f->type = FRAME_TOKEN;
    f->u.token.epoch = run->seq->epoch;
    f->u.token.seq = run->seq->seq;
    f->u.token.branch = run->seq->branch;
    f->u.token.pos = pos;
    f->u.token.token = (uint32_t)r->argmax;
    f->u.token.confidence = r->confidence;
    f->u.token.lse = r->lse;
    f->u.token.logit = r->max_logit;
    f->u.token.hash = r->hash;
    f->u.token.compute_us = us_between(start_us, now_us);
    f->u.token.rows = run->n_rows;
}

/* Answer one INFER. Returns false when what follows on its branch is dead. */
static bool
answer(struct content *c, const struct content_run *run, const struct content_pending *p,
       const struct head_result *r, int64_t start_us, int64_t now_us)
{
    struct frame f;
    int i, n_top = p->n_top < r->n_top ? p->n_top : r->n_top;

    token_init(&f, run, p->pos, r, start_us, now_us);
    f.u.token.has_hash = p->want_hash;
    f.u.token.queue_us = us_between(p->ready_us, start_us);
    f.u.token.n_top = n_top;
    for (i = 0; i < n_top; i++) {
        f.u.token.top[i].id = (uint32_t)r->top[i].id;
        f.u.token.top[i].logit = r->top[i].logit;
    }
    if (c->hooks.answered)
        c->hooks.answered(c->hooks.arg, p->asked_us, p->ready_us, start_us, now_us);
    c->hooks.reply(c->hooks.arg, run->seq->session, &f);
    return p->n_top > 0 || !p->has_draft || p->draft == (uint32_t)r->argmax;
}

/* Drop pending INFERs of `branch`. */
static void
drop_branch(struct content_seq *s, uint32_t branch)
{
    int i, kept = 0;

    for (i = 0; i < s->n_pending; i++)
        if (s->pending[i].branch != branch)
            s->pending[kept++] = s->pending[i];
    s->n_pending = kept;
}

static void
infer_done(struct content *c, const struct content_run *run,
           const struct head_result *results, int64_t start_us, int64_t now_us)
{
    struct content_seq *s = run->seq;
    uint32_t end = run->pos + run->n_rows;
    bool answered = false;

    content_rows_consume(c, s, run->n_rows);
    while (s->n_pending && s->pending[0].pos < end) {
        struct content_pending p = s->pending[0];

        s->n_pending--;
        memmove(&s->pending[0], &s->pending[1],
                (size_t)s->n_pending * sizeof(s->pending[0]));
        answered = true;
        s->answered = p.pos + 1;
        if (!answer(c, run, &p, &results[p.pos - (end - run->head_rows)], start_us,
                    now_us))
            drop_branch(s, p.branch);
    }
    content_grant(c, s, false);
    if (answered)
        content_memory_answered(s, now_us);
    if (answered && !s->keep_kv) {
        content_rows_drop_from(c, s, 0);
        s->consumed = s->next = s->answered = 0;
        c->hooks.kv_truncate(c->hooks.arg, s->kv, 0);
    }
}

static void
generate_done(struct content *c, const struct content_run *run,
              const struct head_result *r, int64_t start_us, int64_t now_us)
{
    struct content_seq *s = run->seq;
    struct content_gen *g = s->gen;
    struct frame f;
    bool end = false;
    int32_t id;

    s->consumed += run->n_rows;
    s->next = s->consumed;
    if (!run->head_rows)
        return;
    id = c->hooks.pick(c->hooks.arg, &g->how, r, g->ids, g->n_ids, &end);
    token_init(&f, run, s->consumed - 1, r, start_us, now_us);
    f.u.token.token = (uint32_t)id;
    f.u.token.has_hash = g->want_hash;
    f.u.token.queue_us = us_between(g->ready_us, start_us);
    if (c->hooks.answered)
        c->hooks.answered(c->hooks.arg, g->ready_us, g->ready_us, start_us, now_us);
    g->ids[g->n_ids++] = id;
    g->left--;
    g->ready_us = now_us;
    f.u.token.last = end || g->left == 0;
    if (f.u.token.last) {
        c->bytes -= sizeof(*g) + g->cap_ids * sizeof(int32_t);
        mem_free(g);
        s->gen = NULL;
    }
    c->hooks.reply(c->hooks.arg, s->session, &f);
}

void
content_run_done(struct content *c, const struct content_run *run,
                 const struct head_result *results, int64_t start_us, int64_t now_us)
{
    if (run->is_tokens)
        generate_done(c, run, results, start_us, now_us);
    else
        infer_done(c, run, results, start_us, now_us);
    run->seq->since_us = run->seq->progress_us = now_us;
    content_memory_used(c, run->seq, now_us);
    content_refresh(c, run->seq, now_us);
}

void
content_run_failed(struct content *c, const struct content_run *run, int code,
                   const char *text, uint32_t retry_ms)
{
    content_seq_fail(c, run->seq, code, retry_ms, "%s", text);
}
