/* SPDX-License-Identifier: Apache-2.0
 * test_content_races.c - STATES, INFER and TRUNCATE of several branches in every
 * order that two in-order channels allow.
 *
 * First exhaustively: scripts of up to 12 frames, all interleavings of the two
 * channels, times when the backend runs (after every frame, one row at a time,
 * at odd frames, only at the end), times when the cloud loses its rows. Then at
 * random: an agent that speculates, truncates, obeys credit and replays, against
 * a cloud that loses rows, over channels with delays of their own.
 *
 * Always: each TOKEN is the hash of the text of the branch that it names, each
 * INFER that is still live in the end was answered exactly once, and nothing is
 * left in memory.
 */
#include "tests/unit/content_agent.h"

#include <stdio.h>
#include <stdlib.h>

#define WINDOW 32

/* ---- exhaustive ---- */

struct script {
    const char *name;
    int n;
    struct step steps[12]; /* in the order the agent sends */
    uint32_t length;       /* of the final text */
};

static const struct script scripts[] = {
    { "plain", 4, { { S, 0, 0, 4 }, { I, 0, 3, 0 }, { S, 0, 4, 2 }, { I, 0, 5, 0 } }, 6 },
    { "one draft wrong",
      7,
      { { S, 0, 0, 4 },
        { I, 0, 3, 0 },
        { S, 0, 4, 2 },
        { I, 0, 5, 0 },
        { T, 1, 4, 0 },
        { S, 1, 4, 3 },
        { I, 1, 6, 0 } },
      7 },
    { "two truncations before any delivery, the second lower",
      10,
      { { S, 0, 0, 6 },
        { I, 0, 3, 0 },
        { I, 0, 5, 0 },
        { T, 1, 4, 0 },
        { S, 1, 4, 4 },
        { I, 1, 7, 0 },
        { T, 2, 2, 0 },
        { S, 2, 2, 2 },
        { I, 2, 3, 0 },
        { S, 2, 4, 1 } },
      5 },
    { "two truncations, the second higher",
      10,
      { { S, 0, 0, 8 },
        { I, 0, 2, 0 },
        { T, 1, 3, 0 },
        { S, 1, 3, 4 },
        { I, 1, 4, 0 },
        { I, 1, 6, 0 },
        { T, 2, 6, 0 },
        { S, 2, 6, 1 },
        { S, 2, 7, 2 },
        { I, 2, 8, 0 } },
      9 },
    { "truncation above what has come: late rows of the lower branch count",
      8,
      { { S, 0, 0, 3 },
        { S, 0, 3, 3 },
        { S, 0, 6, 2 },
        { T, 1, 6, 0 },
        { S, 1, 6, 1 },
        { I, 1, 5, 0 },
        { S, 1, 7, 1 },
        { I, 1, 7, 0 } },
      8 },
    { "four branches, single rows",
      12,
      { { S, 0, 0, 3 },
        { I, 0, 2, 0 },
        { T, 1, 1, 0 },
        { S, 1, 1, 1 },
        { T, 2, 2, 0 },
        { S, 2, 2, 2 },
        { T, 3, 3, 0 },
        { S, 3, 3, 1 },
        { I, 3, 3, 0 },
        { T, 4, 0, 0 },
        { S, 4, 0, 2 },
        { I, 4, 1, 0 } },
      2 },
    { "the same cut again and again",
      11,
      { { S, 0, 0, 2 },
        { I, 0, 1, 0 },
        { S, 0, 2, 1 },
        { T, 1, 2, 0 },
        { S, 1, 2, 1 },
        { I, 1, 2, 0 },
        { T, 2, 2, 0 },
        { T, 3, 2, 0 },
        { S, 3, 2, 1 },
        { I, 3, 2, 0 },
        { S, 3, 3, 1 } },
      4 },
};

struct outcome {
    uint32_t cuts[8], n_branches;
};

/* Check the replies; `count` gets how often each step's INFER was answered. */
static void
check_tokens(const struct double_state *d, const struct script *script,
             const struct outcome *o, int *count)
{
    int i, j;

    memset(count, 0, 12 * sizeof(*count));
    for (i = 0; i < d->n_answers; i++) {
        const struct answer *a = &d->answers[i];

        if (a->type == FRAME_ERROR)
            fail_msg("%s: ERROR %d", script->name, a->code);
        if (a->type != FRAME_TOKEN)
            continue;
        assert_int_equal(a->token, text_token(o->cuts, a->branch, a->pos));
        for (j = script->n - 1; j >= 0; j--) { /* the latest that it can answer */
            const struct step *s = &script->steps[j];

            if (s->kind == I && s->pos == a->pos && s->branch <= a->branch &&
                count[j] == 0) {
                count[j]++;
                break;
            }
        }
    }
}

/* Is this INFER live in the end? */
static bool
lives(const struct script *script, int step)
{
    int j;

    for (j = step + 1; j < script->n; j++)
        if (script->steps[j].kind == T && script->steps[j].pos <= script->steps[step].pos)
            return false;
    return true;
}

static void
deliver(struct double_state *d, const struct outcome *o, const struct step *s)
{
    uint32_t values[MAX_POS], i;

    switch (s->kind) {
    case S:
        for (i = 0; i < s->n; i++)
            values[i] = text_value(o->cuts, s->branch, s->pos + i);
        put_states(d, 1, s->branch, 0, s->pos, values, s->n);
        break;
    case I:
        put_infer(d, 1, s->branch, s->pos);
        break;
    case T:
        put_truncate(d, 1, s->branch, s->pos);
        break;
    }
}

/* The agent, having sent everything, hears of every NEED and replays. */
static void
replay(struct double_state *d, const struct script *script, const struct outcome *o)
{
    uint32_t values[MAX_POS], from = 0, id = 0, i;
    int k;

    for (k = 0; k < d->n_answers; k++)
        if (d->answers[k].type == FRAME_NEED) {
            from = d->answers[k].pos;
            id = d->answers[k].id;
        }
    if (id == 0 || from >= script->length)
        return;
    for (i = from; i < script->length; i++)
        values[i - from] = text_value(o->cuts, o->n_branches, i);
    put_states(d, 1, o->n_branches, id, from, values, script->length - from);
}

/* order: bit i says that the i-th delivery comes from the upload channel. */
static void
play(const struct script *script, uint32_t order, int run_mode, int lose_at,
     uint32_t lose_pos)
{
    static struct double_state state, *d = &state;
    struct outcome o = { { 0 }, 0 };
    int next[2] = { 0, 0 }, count[12], i, j;

    for (i = 0; i < script->n; i++)
        if (script->steps[i].kind == T)
            o.cuts[++o.n_branches] = script->steps[i].pos;
    double_init(d, WINDOW);
    put_open(d, 1, 64, true);
    for (i = 0; i < script->n; i++) {
        bool upload = order >> i & 1;
        int *at = &next[upload];

        while ((script->steps[*at].kind == S) != upload)
            ++*at;
        deliver(d, &o, &script->steps[(*at)++]);
        if (i == lose_at)
            content_lost(d->content, SESSION, 1, lose_pos, d->now_us);
        if (run_mode == 1 || (run_mode == 2 && i % 2))
            double_drain(d, MAX_POS);
        else if (run_mode == 3)
            double_step(d, 1);
    }
    replay(d, script, &o);
    double_drain(d, run_mode == 3 ? 1 : MAX_POS);
    check_tokens(d, script, &o, count);
    for (j = 0; j < script->n; j++)
        if (script->steps[j].kind == I && lives(script, j) && count[j] != 1)
            fail_msg("%s: order %x mode %d lost %d@%u: step %d answered %d times",
                     script->name, order, run_mode, lose_at, lose_pos, j, count[j]);
    content_close(d->content, SESSION, 1);
    assert_int_equal(content_bytes(d->content), 0);
    assert_int_equal(content_rows(d->content), 0);
    double_fini(d);
}

static int
n_uploads(const struct script *script)
{
    int i, n = 0;

    for (i = 0; i < script->n; i++)
        n += script->steps[i].kind == S;
    return n;
}

static long
play_all(const struct script *script, bool with_loss)
{
    static const uint32_t lose_pos[] = { 0, 1, 3, 6 };
    int uploads = n_uploads(script), mode, at;
    uint32_t order, p;
    long played = 0;

    for (order = 0; order < 1u << script->n; order++) {
        if (__builtin_popcount(order) != uploads)
            continue;
        for (mode = 0; mode < 4; mode++) {
            if (!with_loss) {
                play(script, order, mode, -1, 0);
                played++;
                continue;
            }
            for (at = mode % 2; at < script->n; at += 2)
                for (p = 0; p < 4; p++, played++)
                    play(script, order, mode, at, lose_pos[p]);
        }
    }
    return played;
}

static void
test_every_order(void **state)
{
    size_t before = mem_used_bytes(), i;

    (void)state;
    for (i = 0; i < sizeof(scripts) / sizeof(scripts[0]); i++)
        assert_true(play_all(&scripts[i], false) > 0);
    assert_int_equal(mem_used_bytes(), before);
}

static void
test_every_order_with_replays(void **state)
{
    size_t before = mem_used_bytes(), i;

    (void)state;
    for (i = 0; i < sizeof(scripts) / sizeof(scripts[0]); i++)
        assert_true(play_all(&scripts[i], true) > 0);
    assert_int_equal(mem_used_bytes(), before);
}

/* ---- random, with an agent that listens ---- */

/* One event of the world. */
static void
world_turn(struct double_state *d, struct agent *a, uint64_t *seed, uint32_t length,
           bool losing)
{
    switch (rnd(seed, 6)) {
    case 0:
        if (a->up_head < a->up_tail)
            wire_deliver(d, a, &a->up[a->up_head++]);
        break;
    case 1:
        if (a->ask_head < a->ask_tail)
            wire_deliver(d, a, &a->ask[a->ask_head++]);
        break;
    case 2:
        if (a->heard < d->n_answers)
            agent_hear(a, &d->answers[a->heard++]);
        break;
    case 3:
        double_step(d, 1 + rnd(seed, 9));
        break;
    case 4:
        if (losing && rnd(seed, 12) == 0)
            content_lost(d->content, SESSION, 1, rnd(seed, length), d->now_us);
        break;
    default:
        agent_act(a, seed, length);
    }
}

/* Everything arrives, everything is heard, until nothing moves. */
static void
world_settle(struct double_state *d, struct agent *a)
{
    bool moved = true;

    while (moved) {
        moved = false;
        while (a->up_head < a->up_tail)
            wire_deliver(d, a, &a->up[a->up_head++]);
        while (a->ask_head < a->ask_tail)
            wire_deliver(d, a, &a->ask[a->ask_head++]);
        moved |= double_step(d, 5) > 0;
        while (a->heard < d->n_answers) {
            agent_hear(a, &d->answers[a->heard++]);
            moved = true;
        }
        if (a->sent < a->length && a->sent < a->limit) {
            agent_send_rows(a, 16);
            moved = true;
        }
    }
    assert_int_equal(a->sent, a->length); /* credit never ran dry for good */
    assert_int_equal(a->n_asked, 0);
}

static void
test_random_worlds(void **state)
{
    size_t before = mem_used_bytes();
    long answers = 0;
    int world;

    (void)state;
    for (world = 0; world < 1500; world++) {
        static struct double_state double_state, *d = &double_state;
        struct agent *a = test_calloc(1, sizeof(*a));
        uint64_t seed = (uint64_t)world * 7919 + 1;
        uint32_t length = world % 3 == 0 ? 40 : 220;
        int turn;

        a->seq = 1;
        a->window = CONTENT_MIN_WINDOW * (1 + (uint32_t)world % 3);
        double_eager = (enum content_eager)(world / 2 % 3);
        double_init(d, a->window);
        put_open(d, 1, MAX_POS, true);
        for (turn = 0; turn < 1500; turn++)
            world_turn(d, a, &seed, length, world % 2);
        world_settle(d, a);
        answers += a->answers;
        content_close(d->content, SESSION, 1);
        assert_int_equal(content_bytes(d->content), 0);
        double_fini(d);
        test_free(a);
    }
    double_eager = CONTENT_EAGER_NEVER;
    assert_true(answers > 10000);
    assert_int_equal(mem_used_bytes(), before);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_order),
        cmocka_unit_test(test_every_order_with_replays),
        cmocka_unit_test(test_random_worlds),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
