/* SPDX-License-Identifier: Apache-2.0
 * content_agent.h - an agent that does everything right, at its own pace, for tests of
 * the content manager: it uploads within its credit, asks, speculates, truncates,
 * replays what NEED asks for, over two channels with delays of their own.
 *
 * Its text is a function of the branch and the position, so that each TOKEN can be
 * checked.
 */
#ifndef CE_TESTS_CONTENT_AGENT_H
#define CE_TESTS_CONTENT_AGENT_H

#include "tests/unit/content_double.h"

/* Value of position p in branch b: which branch wrote it, and p. cuts[0] makes it the
 * text of one sequence. */
static inline uint32_t
text_value(const uint32_t *cuts, uint32_t branch, uint32_t pos)
{
    while (branch > 0 && cuts[branch] > pos)
        branch--;
    return cuts[0] * 600000 + branch * 1000 + pos + 1;
}

static inline uint32_t
text_token(const uint32_t *cuts, uint32_t branch, uint32_t pos)
{
    uint32_t values[MAX_POS], i;

    for (i = 0; i <= pos; i++)
        values[i] = text_value(cuts, branch, i);
    return hash_values(values, pos + 1);
}

enum step_kind { S, I, T }; /* STATES, INFER, TRUNCATE */

struct step {
    enum step_kind kind;
    uint32_t branch, pos, n;
};

#define QUEUE 4096

struct wire_frame {
    struct step step;
    uint32_t id;
};

/* One agent's view: it does everything right, at its own pace. */
struct agent {
    uint32_t seq;
    uint32_t cuts[512], branch, length, sent, id, limit, window;
    uint32_t answered; /* positions below need not and may not be asked again */
    int n_asked;
    uint32_t asked[64]; /* positions asked and not answered, ascending */
    struct wire_frame up[QUEUE], ask[QUEUE];
    int up_head, up_tail, ask_head, ask_tail;
    int heard; /* replies read */
    long answers;
};

static inline uint32_t
rnd(uint64_t *state, uint32_t n)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33) % n;
}

static inline void
agent_send_rows(struct agent *a, uint32_t n)
{
    uint32_t end = a->length < a->limit ? a->length : a->limit;

    /* Half a window ahead of an INFER that may still be on its way, not more. */
    if (a->n_asked && end > a->asked[0] + a->window / 2)
        end = a->asked[0] + a->window / 2;
    if (a->sent + n > end)
        n = end > a->sent ? end - a->sent : 0;
    if (n == 0)
        return;
    a->up[a->up_tail++] = (struct wire_frame){ { S, a->branch, a->sent, n }, a->id };
    a->sent += n;
}

static inline void
agent_ask(struct agent *a)
{
    uint32_t pos = a->length - 1;

    if (a->length == 0 || a->n_asked >= 60 || pos < a->answered ||
        (a->n_asked && a->asked[a->n_asked - 1] >= pos))
        return;
    a->asked[a->n_asked++] = pos;
    a->ask[a->ask_tail++] = (struct wire_frame){ { I, a->branch, pos, 0 }, 0 };
}

static inline void
agent_truncate(struct agent *a, uint32_t pos)
{
    a->cuts[++a->branch] = pos;
    a->length = pos;
    if (a->sent > pos)
        a->sent = pos;
    if (a->answered > pos)
        a->answered = pos;
    while (a->n_asked && a->asked[a->n_asked - 1] >= pos)
        a->n_asked--;
    a->ask[a->ask_tail++] = (struct wire_frame){ { T, a->branch, pos, 0 }, 0 };
}

static inline void
agent_hear(struct agent *a, const struct answer *r)
{
    uint32_t p = r->pos, b;

    switch (r->type) {
    case FRAME_CREDIT:
        assert_true(r->limit >= a->limit);
        a->limit = r->limit;
        break;
    case FRAME_NEED:
        a->id = r->id;
        a->limit = r->limit;
        if (a->sent > r->pos)
            a->sent = r->pos;
        break;
    case FRAME_TOKEN:
        assert_int_equal(r->token, text_token(a->cuts, r->branch, p));
        for (b = r->branch + 1; b <= a->branch; b++)
            if (p >= a->cuts[b])
                return; /* of a text that is no more */
        assert_true(a->n_asked > 0);
        assert_int_equal(a->asked[0], p); /* in order, once */
        memmove(a->asked, a->asked + 1, (size_t)--a->n_asked * sizeof(a->asked[0]));
        a->answered = p + 1;
        a->answers++;
        break;
    default:
        fail_msg("ERROR %d", r->code);
    }
}

static inline void
agent_act(struct agent *a, uint64_t *seed, uint32_t length)
{
    switch (rnd(seed, 8)) {
    case 0:
    case 1:
        a->length += a->length + 4 < length ? 1 + rnd(seed, 4) : 0;
        break;
    case 2:
    case 3:
    case 4:
        agent_send_rows(a, 1 + rnd(seed, 6));
        break;
    case 5:
    case 6:
        agent_ask(a);
        break;
    default:
        if (a->branch < 500 && rnd(seed, 3) == 0 && a->n_asked > 0)
            agent_truncate(a, a->asked[rnd(seed, (uint32_t)a->n_asked)] + 1);
    }
}

static inline void
wire_deliver(struct double_state *d, const struct agent *a, const struct wire_frame *w)
{
    uint32_t values[MAX_POS], i;

    if (w->step.kind == S) {
        for (i = 0; i < w->step.n; i++)
            values[i] = text_value(a->cuts, w->step.branch, w->step.pos + i);
        put_states(d, a->seq, w->step.branch, w->id, w->step.pos, values, w->step.n);
    } else if (w->step.kind == I) {
        put_infer(d, a->seq, w->step.branch, w->step.pos);
    } else {
        put_truncate(d, a->seq, w->step.branch, w->step.pos);
    }
}

#endif
