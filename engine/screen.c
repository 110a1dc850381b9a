/* SPDX-License-Identifier: Apache-2.0
 * screen.c - see screen.h.
 *
 * The stages of a run, and what the threads take in each:
 *
 *   down         tiles       row of norm to `rank` numbers, then their int8 form
 *   up           chunks      approximate logits of all ids
 *   choose       rows        ids of the candidates, ascending
 *   exact        tiles       their rows of the output matrix, picked and multiplied
 *   judge        rows        the largest probability among them
 *
 * Rows are picked from the model's file, where a row's bytes lie together; in the packed
 * matrix each would cost a whole tile.
 */
#include "engine/screen.h"

#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "engine/kernels.h"
#include "engine/trust.h"

_Static_assert(MODEL_MAX_CANDIDATES <= LOGIT_CHUNK, "candidates are summed as one chunk");

struct screen {
    size_t n_vocab;
    size_t n_most;     /* most candidates of an exit, rounded up to whole tiles */
    struct act_rows v; /* [max_rows, rank] */
    int32_t *ids;      /* [max_rows, n_most] */
    float *exact;      /* [max_rows, n_most] */
    struct screen_verdict *verdicts; /* [max_rows] */
    struct logit_entry *heaps;       /* [n_threads, n_most] */
    uint64_t *marks;                 /* [n_threads, n_vocab / 64, rounded up] all zero */
    uint8_t *rooms;                  /* [n_threads, room_bytes] */
    size_t room_bytes;
};

int
screen_new(struct screen **out, const struct weights *w, size_t max_rows, int n_threads)
{
    size_t rank = 0, most = 0, threads = (size_t)n_threads;
    struct screen *s;

    *out = NULL;
    for (int i = 0; i < w->n_exits; i++) {
        const struct exit_weights *e = &w->exits[i];

        most = (size_t)e->n_candidates > most ? (size_t)e->n_candidates : most;
        if (e->n_candidates > 0 && e->screen_down.n_out > rank)
            rank = e->screen_down.n_out;
    }
    if (most == 0)
        return 0;
    s = calloc(1, sizeof(*s));
    if (!s)
        return CE_ENOMEM;
    s->n_vocab = w->output.n_out;
    s->n_most = (most + PACKED_ROWS - 1) / PACKED_ROWS * PACKED_ROWS;
    s->room_bytes = packed_pick_bytes(&w->output);
    s->ids = mem_array_alloc(max_rows * s->n_most, sizeof(*s->ids));
    s->exact = mem_array_alloc(max_rows * s->n_most, sizeof(*s->exact));
    s->verdicts = mem_array_alloc(max_rows, sizeof(*s->verdicts));
    s->heaps = mem_array_alloc(threads * s->n_most, sizeof(*s->heaps));
    s->marks = mem_array_alloc(threads * (s->n_vocab / 64 + 1), sizeof(*s->marks));
    s->rooms = mem_aligned_alloc(threads, s->room_bytes);
    if (!s->ids || !s->exact || !s->verdicts || !s->heaps || !s->marks || !s->rooms ||
        act_rows_init(&s->v, max_rows, rank) != 0) {
        screen_free(s);
        return CE_ENOMEM;
    }
    *out = s;
    return 0;
}

void
screen_free(struct screen *s)
{
    if (!s)
        return;
    act_rows_fini(&s->v);
    mem_free(s->rooms);
    mem_free(s->marks);
    mem_free(s->heaps);
    mem_free(s->verdicts);
    mem_free(s->exact);
    mem_free(s->ids);
    free(s);
}

/* ---- stages ---- */

static void
project(const struct kernels *k, struct worker_id id, const struct exit_weights *e,
        const struct activations *norm, const struct act_rows *v)
{
    struct linear_job down = { &e->screen_down, v->x };
    size_t from, to;

    linear_many(k, id, &down, 1, norm);
    while (v->quantised && worker_take(id, norm->n_rows, 1, &from, &to)) {
        for (size_t r = from; r < to; r++)
            act_rows_quantise(k, v, r, 0, v->n);
    }
}

/* Ids of the n largest approximate logits of row r, in ascending order. */
static void
choose(const struct screen *s, const struct kernels *k, int tid,
       const struct logit_rows *room, size_t r, size_t n)
{
    struct logit_entry *heap = s->heaps + (size_t)tid * s->n_most;
    uint64_t *marks = s->marks + (size_t)tid * (s->n_vocab / 64 + 1);
    int32_t *ids = s->ids + r * s->n_most;

    logits_largest(k, heap, (int)n, logit_rows_at(room, r), s->n_vocab);
    for (size_t i = 0; i < n; i++)
        marks[heap[i].id / 64] |= (uint64_t)1 << (heap[i].id % 64);
    for (size_t word = 0; word <= s->n_vocab / 64; word++) {
        for (; marks[word] != 0; marks[word] &= marks[word] - 1)
            *ids++ = (int32_t)(word * 64) + __builtin_ctzll(marks[word]);
    }
}

/* Exact logits of candidates 16 t .. 16 t + 15 of row r, whose ids are in order. */
static void
exact_tile(const struct screen *s, const struct kernels *k, int tid,
           const struct packed *output, const struct activations *norm, size_t r,
           size_t t, size_t n)
{
    size_t first = t * PACKED_ROWS,
           count = n - first < PACKED_ROWS ? n - first : PACKED_ROWS;
    const int32_t *ids = s->ids + r * s->n_most + first;
    struct activations row = { norm->groups, norm->x, 1 };
    struct packed picked;

    if (row.groups)
        row.groups += r * (output->n_in / ACT_GROUP);
    if (row.x)
        row.x += r * output->n_in;
    if (first + PACKED_ROWS < n)
        packed_ask(output, ids + PACKED_ROWS, n - first - PACKED_ROWS);
    packed_pick(&picked, output, ids, count, s->rooms + (size_t)tid * s->room_bytes);
    k->matmul[output->format](s->exact + r * s->n_most + first, s->n_most, &picked, 0, 1,
                              &row);
}

static void
judge(const struct screen *s, const struct kernels *k, const struct exit_weights *e,
      size_t r, float lean, float theta)
{
    struct screen_verdict *v = &s->verdicts[r];
    size_t n = (size_t)e->n_candidates;
    struct logit_chunk chunk;
    int rc;

    k->logit_chunk(&chunk, s->exact + r * s->n_most, n);
    rc = logits_merge(&v->candidates, &chunk, 1);
    if (rc == 0 && e->trust)
        v->candidates.confidence =
            trust_confidence(e->trust_bias, lean, v->candidates.confidence);
    v->below = rc == 0 && v->candidates.confidence < theta;
    v->candidates.argmax = s->ids[r * s->n_most + (size_t)v->candidates.argmax];
}

void
screen_run(struct screen *s, const struct kernels *k, struct worker_id id,
           const struct exit_weights *e, const struct packed *output,
           const struct activations *norm, const float *leans,
           const struct logit_rows *room, float theta,
           const struct screen_verdict **verdicts)
{
    size_t n = (size_t)e->n_candidates, tiles = (n + PACKED_ROWS - 1) / PACKED_ROWS;
    struct act_rows v = s->v; /* a copy of this thread, with this exit's rank */
    struct activations a;
    size_t from, to;

    v.n = e->screen_down.n_out;
    v.quantised = packed_is_quantised(&e->screen_up);
    a = act_rows_view(&v, norm->n_rows);
    project(k, id, e, norm, &v);
    logit_rows_product(room, k, id, &e->screen_up, &a, false);
    while (worker_take(id, norm->n_rows, 1, &from, &to)) {
        for (size_t r = from; r < to; r++)
            choose(s, k, id.tid, room, r, n);
    }
    while (worker_take(id, norm->n_rows * tiles, 1, &from, &to)) {
        for (size_t u = from; u < to; u++)
            exact_tile(s, k, id.tid, output, norm, u / tiles, u % tiles, n);
    }
    while (worker_take(id, norm->n_rows, 1, &from, &to)) {
        for (size_t r = from; r < to; r++)
            judge(s, k, e, r, e->trust ? leans[r] : 0, theta);
    }
    *verdicts = s->verdicts;
}
