/* SPDX-License-Identifier: Apache-2.0
 * decode.c - the decode loop; see decode.h.
 *
 * Why:    a token's way in one place, in the order of the paper's section 4.4:
 *         embed, blocks to l_ee1, states handed to the upload, exit 1; catch up,
 *         exit 2; ...; ask the cloud. One more token, and again.
 * Differs from the paper in that an exit which lets nothing out (theta >= 1) is
 *         not computed: the tokens are the same, the time is saved, and exact
 *         catch-up makes it possible later, e.g. when the cloud is lost.
 * Positions: the prompt takes 0 .. n-1; the token chosen at position p takes p+1.
 * Thread: the decode worker; decode_interrupt from any.
 */
#include "agent/decode.h"

#include <string.h>

#include "agent/edge.h"
#include "agent/exits.h"
#include "agent/pick.h"
#include "common/clock.h"
#include "common/memory.h"

struct decoder {
    struct decode_setup setup;
    struct policy policy;
    struct decode_hooks hooks;
    struct edge *edge; /* NULL in mode cloud */
    struct reply *reply;
    atomic_bool interrupted;

    /* of the current answer */
    const struct decode_request *request;
    struct decode_result *result;
    struct cloud_port *port; /* NULL in a mode without a cloud */
    bool alone;              /* the cloud is lost, for now */
    bool for_good;           /* and will not come back for this answer */
    int n_top;               /* logits that sampling needs */

    /* of the current position */
    struct exits exits;
    int64_t edge_us, cloud_us, wire_us;
};

/* What a position came to. */
struct choice {
    enum reply_origin origin;
    int layer;
    int request;
    struct head_result head;
};

const char *
decode_end_name(enum decode_end e)
{
    static const char *const names[] = {
        [DECODE_END_EOG] = "end",       [DECODE_END_LENGTH] = "length",
        [DECODE_END_STOP] = "stop",     [DECODE_END_CONTEXT] = "context",
        [DECODE_END_FORCED] = "forced", [DECODE_END_INTERRUPT] = "interrupted",
        [DECODE_END_ERROR] = "error",
    };
    return names[e];
}

/* ---- setting up ---- */

static int
on_rows(void *ctx, int32_t pos, int n, const float *rows, struct err *err)
{
    struct decoder *d = ctx;
    struct cloud_port *port = d->port;

    if (d->for_good)
        return 0;
    int rc = port->ops->put_states(port, pos, n, rows, err);
    if (rc < 0)
        return rc;
    /* Rows of the prompt but its last, which is a position like any other. */
    int32_t n_prompt = (int32_t)d->request->n_prompt;
    int32_t end = pos + n < n_prompt ? pos + n : n_prompt - 1;
    if (policy_release(&d->policy, true, false, 0) && end > pos)
        port->ops->release(port, end);
    if (policy_release(&d->policy, false, false, 0))
        port->ops->release(port, pos + n);
    return 0;
}

static void
on_progress(void *ctx, int32_t done, int32_t total)
{
    struct decoder *d = ctx;

    if (d->hooks.prefill != NULL)
        d->hooks.prefill(d->hooks.ctx, done, total);
}

/* The stages that the policy needs; returns how many. */
static int
plan_stages(const struct decoder *d, const struct policy *p,
            struct edge_stage stages[EDGE_MAX_STAGES])
{
    bool full = p->mode == POLICY_EDGE_FULL;
    int n = 0, wanted = d->setup.trace ? p->n_exits : full ? 0 : policy_n_stages(p);

    for (int k = 0; k < wanted && k < p->n_exits; k++)
        stages[n++] = (struct edge_stage){ d->setup.exit_layers[k], HEAD_EXIT(k) };
    if (full)
        stages[n++] = (struct edge_stage){ d->setup.n_layers, HEAD_FINAL };
    if (n == 0) /* no exits: what lies below the cut */
        stages[n++] = (struct edge_stage){ d->setup.cut_layer, HEAD_NONE };
    return n;
}

int
decode_set_policy(struct decoder *d, const struct policy *policy, struct err *err)
{
    struct edge_stage stages[EDGE_MAX_STAGES];
    struct edge_hooks hooks = { on_rows, on_progress, d, &d->interrupted };
    struct edge *edge = NULL;

    if (policy_uses_cloud(policy) && d->setup.port == NULL)
        return err_set(err, CE_EINVAL, "mode %s needs a cloud",
                       policy_mode_names[policy->mode]);
    if (policy->mode == POLICY_STANDALONE && policy->n_exits == 0)
        return err_set(err, CE_EINVAL, "mode standalone needs a model with exits");
    if (policy_uses_edge(policy)) {
        if (d->setup.backend == NULL)
            return err_set(err, CE_EINVAL, "mode %s needs the model's weights here",
                           policy_mode_names[policy->mode]);
        if (!policy_uses_cloud(policy))
            hooks.rows = NULL;
        int n = plan_stages(d, policy, stages);
        int rc = edge_new(&edge, d->setup.backend, stages, n, d->setup.prefill_chunk,
                          &hooks, err);
        if (rc < 0)
            return rc;
    }
    edge_free(d->edge);
    d->edge = edge;
    d->policy = *policy;
    return 0;
}

int
decode_new(struct decoder **out, const struct decode_setup *setup,
           const struct policy *policy, const struct decode_hooks *hooks, struct err *err)
{
    struct decoder *d = mem_array_alloc(1, sizeof(*d));

    *out = NULL;
    if (d == NULL)
        return err_set(err, CE_ENOMEM, "decoder: out of memory");
    d->setup = *setup;
    d->hooks = *hooks;
    atomic_init(&d->interrupted, false);
    int rc = decode_set_policy(d, policy, err);
    if (rc < 0) {
        decode_free(d);
        return rc;
    }
    *out = d;
    return 0;
}

void
decode_free(struct decoder *d)
{
    if (d == NULL)
        return;
    edge_free(d->edge);
    reply_free(d->reply);
    mem_free(d);
}

void
decode_interrupt(struct decoder *d)
{
    atomic_store(&d->interrupted, true);
}

const struct reply *
decode_reply(const struct decoder *d)
{
    return d->reply;
}

int64_t
decode_rows_run(const struct decoder *d, int stage)
{
    return edge_rows_run(d->edge, stage);
}

/* ---- one position ---- */

/* All of a head's result. */
static struct edge_want
want_all(const struct decoder *d)
{
    return (struct edge_want){ .n_top = d->n_top, .hash = d->request->want_hash };
}

/* Stage `stage` up to the newest position, its time counted; the head if res. */
static int
run_edge(struct decoder *d, int stage, struct head_result *res, struct err *err)
{
    struct edge_want want = want_all(d);
    int64_t t = clock_us();
    int rc = edge_advance(d->edge, stage, res, &want, err);

    d->edge_us += clock_us() - t;
    return rc;
}

/* The result of exit k at the newest position, computed once; by its screen where only
 * the decision counts. A trace shows what every exit says, and hashes are for comparing
 * runs, which a screen's mistake would part. */
static int
exit_result(struct decoder *d, int k, const struct head_result **res, struct err *err)
{
    struct edge_want want = want_all(d);
    int64_t t = clock_us();

    if (!d->setup.trace && !want.hash)
        want.screen_theta = (float)policy_screen(&d->policy, d->alone, k);
    int rc = exits_get(&d->exits, d->edge, k, &want, res, err);
    d->edge_us += clock_us() - t;
    return rc;
}

/* Have the wait of `us` counted: what the cloud says it took, the rest on the wire. */
static void
count_wait(struct decoder *d, int64_t us, const struct cloud_answer *a)
{
    int64_t cloud = (int64_t)a->queue_us + a->compute_us;

    if (cloud > us)
        cloud = us;
    d->cloud_us += cloud;
    d->wire_us += us - cloud;
}

static int
ask_cloud(struct decoder *d, int32_t pos, struct cloud_answer *a, struct err *err)
{
    struct cloud_port *port = d->port;
    struct cloud_want want = { d->n_top, d->request->want_hash, d->request->deadline_ms };
    int64_t t = clock_us();
    int rc = port->ops->infer(port, pos, &want, a, err);

    if (rc == 0)
        count_wait(d, clock_us() - t, a);
    else
        d->wire_us += clock_us() - t;
    return rc;
}

/* The cloud failed: end the answer, or go on without as the policy says. */
static int
lose_cloud(struct decoder *d, int rc, const struct err *why, struct err *err)
{
    if (rc == CE_EAGAIN || d->policy.on_loss == POLICY_LOSS_FAIL ||
        d->policy.mode != POLICY_COLLABORATIVE || d->policy.n_exits == 0) {
        if (err != NULL)
            *err = *why;
        return rc;
    }
    d->alone = true;
    d->for_good = d->port->ops->back == NULL;
    d->result->cloud_lost = true;
    d->result->loss = *why;
    return 0;
}

/* Alone so far: is the cloud there again? It gets the rows made meanwhile. */
static void
look_for_cloud(struct decoder *d)
{
    int back = d->for_good ? -1 : d->port->ops->back(d->port);

    d->alone = back != 1;
    d->for_good = back < 0;
}

/* What the exits say: c is filled on POLICY_EMIT and POLICY_FALLBACK; POLICY_ASK
 * means that they have no say. Negative: an error. */
static int
choose_at_edge(struct decoder *d, int32_t pos, struct choice *c, struct err *err)
{
    const struct head_result *res;
    int k = 0;
    enum policy_step step = policy_begin(&d->policy, d->alone, &k);

    while (step == POLICY_DEEPER) {
        int done = k, rc = exit_result(d, k, &res, err);
        if (rc < 0)
            return rc;
        /* A screen's "below" is an answer; the confidence beside it is not exact. */
        double confidence = res->below ? 0 : (double)res->confidence;
        if (done == 0 && d->port != NULL && !d->alone &&
            policy_release(&d->policy, false, true, confidence))
            d->port->ops->release(d->port, pos + 1);
        step = policy_next(&d->policy, d->alone, done, confidence, &k);
        if (step != POLICY_EMIT && step != POLICY_FALLBACK)
            continue;
        c->origin = step == POLICY_EMIT ? REPLY_EXIT : REPLY_FALLBACK;
        c->layer = d->setup.exit_layers[done];
        c->head = *res;
        if (step == POLICY_EMIT)
            d->result->by_exit[done]++;
        else
            d->result->by_fallback++;
    }
    return step;
}

static int
choose_by_cloud(struct decoder *d, int32_t pos, struct choice *c, struct err *err)
{
    struct cloud_answer a;

    d->result->requests++;
    d->result->stalls++;
    int rc = ask_cloud(d, pos, &a, err);
    if (rc < 0)
        return rc;
    d->result->by_cloud++;
    c->origin = REPLY_CLOUD;
    c->layer = 0;
    c->request = d->result->requests;
    c->head = a.head;
    return 0;
}

/* Where the token after position pos comes from. */
static int
choose(struct decoder *d, int32_t pos, struct choice *c, struct err *err)
{
    struct err why = { 0 };
    int rc;

    if (d->policy.mode == POLICY_EDGE_FULL) {
        c->origin = REPLY_FULL;
        d->result->by_full++;
        return run_edge(d, edge_n_stages(d->edge) - 1, &c->head, err);
    }
    if (d->alone)
        look_for_cloud(d);
    /* Blocks up to l_ee1 always run, and their states go up, whoever decides. */
    int first;
    if (policy_begin(&d->policy, d->alone, &first) == POLICY_ASK) {
        rc = run_edge(d, 0, NULL, err);
        if (rc < 0)
            return rc;
    }
    rc = choose_at_edge(d, pos, c, err);
    if (rc != POLICY_ASK)
        return rc < 0 ? rc : 0;
    rc = choose_by_cloud(d, pos, c, &why);
    if (rc == 0)
        return 0;
    rc = lose_cloud(d, rc, &why, err);
    if (rc < 0)
        return rc;
    rc = choose_at_edge(d, pos, c, err);
    return rc < 0 ? rc : 0;
}

/* ---- the trace ---- */

static void
add_cell(struct reply_token *t, int layer, const struct head_result *h)
{
    struct reply_cell *cell = &t->cells[t->n_cells++];

    cell->layer = layer;
    cell->id = h->argmax;
    cell->confidence = h->confidence;
}

/* What every head says at this position, whoever was chosen. */
static int
trace(struct decoder *d, int32_t pos, const struct choice *c, struct reply_token *t,
      struct err *err)
{
    const struct head_result *res;
    int rc;

    for (int k = 0; k < d->policy.n_exits; k++) {
        rc = exit_result(d, k, &res, err);
        if (rc < 0)
            return rc;
        add_cell(t, d->setup.exit_layers[k], res);
    }
    if (c->origin == REPLY_CLOUD || c->origin == REPLY_FULL) {
        add_cell(t, 0, &c->head);
    } else if (d->policy.mode == POLICY_COLLABORATIVE && !d->alone) {
        struct cloud_answer a;
        d->result->probes++;
        rc = ask_cloud(d, pos, &a, err);
        if (rc < 0)
            return rc;
        add_cell(t, 0, &a.head);
    }
    return 0;
}

/* ---- the answer ---- */

/* Add the token to the answer and its times to the sum. Returns 1 when the answer
 * is complete, and why in result->end. */
static int
emit(struct decoder *d, struct reply_token *t, struct err *err)
{
    struct decode_result *r = d->result;

    t->edge_us = d->edge_us;
    t->cloud_us = d->cloud_us;
    t->wire_us = d->wire_us;
    r->edge_us += d->edge_us;
    r->cloud_us += d->cloud_us;
    r->wire_us += d->wire_us;
    d->edge_us = d->cloud_us = d->wire_us = 0;
    r->n_tokens++;
    int rc = reply_add(d->reply, t, err);
    if (rc < 0)
        return rc;
    if (d->request->n_forced > 0) {
        r->end = DECODE_END_FORCED;
        return r->n_tokens == d->request->n_forced;
    }
    r->end = rc == 1 ? DECODE_END_STOP : DECODE_END_EOG;
    if (rc == 1 || d->setup.vocab.ends(d->setup.vocab.ctx, t->id))
        return 1;
    r->end = DECODE_END_LENGTH;
    return r->n_tokens >= d->request->max_tokens;
}

/* The loop: everything the edge takes part in. */
static int
decode_loop(struct decoder *d, struct err *err)
{
    const struct decode_request *q = d->request;
    int64_t start = clock_us();
    int rc = edge_push(d->edge, q->prompt, (int)q->n_prompt, err);

    while (rc == 0) {
        struct choice c = { 0 };
        int32_t pos = edge_n_positions(d->edge) - 1;
        exits_forget(&d->exits);
        rc = choose(d, pos, &c, err);
        if (rc < 0)
            return rc;
        if (d->result->n_tokens == 0)
            d->result->prefill_us = clock_us() - start;
        struct reply_token t = {
            .id = pick_token(&q->sampling, &c.head, pos + 1),
            .pos = pos + 1,
            .origin = c.origin,
            .layer = c.layer,
            .confidence = c.head.confidence,
            .has_hash = q->want_hash,
            .hash = c.head.hash,
            .request = c.request,
        };
        if (d->setup.trace) {
            rc = trace(d, pos, &c, &t, err);
            if (rc < 0)
                return rc;
        }
        d->result->screened += exits_n_below(&d->exits);
        rc = emit(d, &t, err);
        if (rc != 0)
            return rc < 0 ? rc : 0;
        if (pos + 1 >= d->setup.n_ctx) {
            d->result->end = DECODE_END_CONTEXT;
            return 0;
        }
        int32_t next = q->n_forced > 0 ? q->forced[d->result->n_tokens - 1] : t.id;
        rc = edge_push(d->edge, &next, 1, err);
    }
    return rc;
}

/* Baseline: the cloud runs the whole model and sends its tokens. */
static int
cloud_loop(struct decoder *d, struct err *err)
{
    const struct decode_request *q = d->request;
    struct cloud_port *port = d->port;
    struct cloud_want want = { d->n_top, q->want_hash, q->deadline_ms };
    struct cloud_answer a = { 0 };
    int64_t start = clock_us();
    int rc = port->ops->generate(port, q->prompt, q->n_prompt, q->max_tokens,
                                 &q->sampling, &want, err);

    if (rc < 0)
        return rc;
    d->result->requests = d->result->stalls = 1;
    while (!a.last) {
        int64_t t0 = clock_us();
        if (atomic_load(&d->interrupted))
            return err_set(err, CE_EAGAIN, "interrupted");
        rc = port->ops->next(port, &a, err);
        if (rc < 0)
            return rc;
        count_wait(d, clock_us() - t0, &a);
        if (d->result->n_tokens == 0)
            d->result->prefill_us = clock_us() - start;
        d->result->by_cloud++;
        struct reply_token t = {
            .id = a.token,
            .pos = a.pos + 1,
            .origin = REPLY_CLOUD,
            .confidence = a.head.confidence,
            .has_hash = q->want_hash,
            .hash = a.head.hash,
            .request = 1,
        };
        rc = emit(d, &t, err);
        if (rc != 0)
            return rc < 0 ? rc : 0;
    }
    d->result->end = DECODE_END_CONTEXT;
    return 0;
}

static int
check_request(const struct decoder *d, const struct decode_request *q, struct err *err)
{
    if (q->n_prompt == 0)
        return err_set(err, CE_EINVAL, "the prompt is empty");
    if (q->n_prompt > (size_t)d->setup.n_ctx)
        return err_set(err, CE_ECONTEXT,
                       "the prompt has %zu tokens, the context holds %d", q->n_prompt,
                       d->setup.n_ctx);
    if (q->n_forced > 0 && d->policy.mode == POLICY_CLOUD)
        return err_set(err, CE_EINVAL, "ids cannot be forced on mode cloud");
    return sampler_check(&q->sampling, err);
}

/* Open what the answer needs: KV here, a sequence there. */
static int
begin(struct decoder *d, struct err *err)
{
    const struct decode_request *q = d->request;
    int n_new = q->n_forced > 0 ? q->n_forced : q->max_tokens;
    size_t max_pos = q->n_prompt + (size_t)n_new;
    int rc = 0;

    if (max_pos > (size_t)d->setup.n_ctx)
        max_pos = (size_t)d->setup.n_ctx;
    if (d->edge != NULL)
        rc = edge_begin(d->edge, err);
    if (rc == 0 && d->port != NULL) {
        struct err why = { 0 };
        rc = d->port->ops->open(d->port, (int32_t)max_pos, &why);
        if (rc < 0) {
            rc = lose_cloud(d, rc, &why, err);
            d->for_good = true; /* there is no sequence to come back to */
        }
    }
    return rc;
}

static int
count_moves(const struct cloud_port *port)
{
    return port != NULL && port->ops->n_moves != NULL ? port->ops->n_moves(port) : 0;
}

int
decode_answer(struct decoder *d, const struct decode_request *request,
              struct decode_result *result, struct err *err)
{
    struct cloud_port *port = policy_uses_cloud(&d->policy) ? d->setup.port : NULL;
    const struct sampler_params *s = &request->sampling;
    int64_t start = clock_us();

    memset(result, 0, sizeof(*result));
    result->end = DECODE_END_ERROR;
    result->n_prompt = request->n_prompt;
    d->request = request;
    d->result = result;
    d->port = port;
    d->alone = d->for_good = false;
    d->n_top = s->temperature > 0 ? BACKEND_MAX_TOP : 0;
    reply_free(d->reply);
    int rc = reply_new(&d->reply, &d->setup.vocab, request->stops, request->n_stops,
                       d->hooks.token, d->hooks.ctx, err);
    if (rc == 0)
        rc = check_request(d, request, err);
    if (rc < 0)
        return rc;
    uint64_t bytes = port != NULL ? port->ops->bytes_up(port) : 0;
    int moves = count_moves(port);
    rc = begin(d, err);
    if (rc == 0)
        rc = d->edge != NULL ? decode_loop(d, err) : cloud_loop(d, err);
    if (rc == CE_EAGAIN) {
        result->end = DECODE_END_INTERRUPT;
        rc = 0;
    } else if (rc < 0) {
        result->end = DECODE_END_ERROR;
    }
    if (reply_finish(d->reply, rc == 0 ? err : NULL) < 0 && rc == 0)
        rc = CE_ENOMEM;
    if (d->edge != NULL)
        edge_end(d->edge);
    if (port != NULL) {
        port->ops->close(port);
        result->bytes_up = port->ops->bytes_up(port) - bytes;
        result->moves = count_moves(port) - moves;
    }
    atomic_store(&d->interrupted, false);
    result->total_us = clock_us() - start;
    return rc;
}
