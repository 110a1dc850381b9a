/* SPDX-License-Identifier: Apache-2.0
 * cases.c - see cases.h.
 *
 * Tokens are pseudo-random: what they are costs nothing. States for catch-up and
 * exits are real ones, from running the blocks before, because magnitudes decide
 * which branches exponentials take.
 *
 * The edge cases find out what an exit's check costs where it is made: between blocks,
 * whose weights have meanwhile pushed the output matrix out of the caches. They run the
 * same stages, so that their difference is the checks and nothing else.
 */
#include "tools/cases.h"

#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/memory.h"

#define PREFILL_ROWS  512
#define DECODE_STEPS  32
#define LONE_STEPS    128 /* of decode_1, from an empty cache */
#define PROMPT        128 /* before decode_N */
#define CATCH_UP_ROWS 16
#define EXIT_STEPS    16
#define EDGE_STEPS    64
#define EVERY_ROW     2 /* a screen's threshold: no confidence reaches it */

struct cases_run {
    struct bench_case c;
    struct backend *b;
    int seqs[CASES_MAX_BATCH];
    int n_seqs;
    int32_t start;   /* positions that every sequence has before a sample */
    int32_t *tokens; /* [max(PREFILL_ROWS, PROMPT)] */
    float *hidden;   /* [CATCH_UP_ROWS, d_model]; catch-up, exits, edge */
    struct head_result results[CASES_MAX_BATCH];
};

/* ---- the list and its costs ---- */

static double
elements(const struct gguf_tensor *t)
{
    return t ? (double)t->ne[0] * (double)t->ne[1] : 0;
}

/* Add tensor t, read once and multiplied by `rows` rows. */
static void
add_cost(struct bench_case *c, const struct gguf_tensor *t, double rows)
{
    if (!t)
        return;
    c->bytes += (double)t->size_bytes;
    c->macs += elements(t) * rows;
}

static void
add_blocks(struct bench_case *c, const struct model *m, int from, int to, double rows)
{
    for (int i = from; i < to; i++) {
        const struct model_block *k = &m->blocks[i];
        const struct gguf_tensor *parts[] = { k->q,    k->k,  k->v,   k->attn_output,
                                              k->gate, k->up, k->down };

        for (size_t j = 0; j < sizeof(parts) / sizeof(parts[0]); j++)
            add_cost(c, parts[j], rows);
    }
}

/* What an exit has of its own. */
static void
add_exit(struct bench_case *c, const struct model_exit *e, double rows)
{
    add_cost(c, e->map, rows);
    if (e->adapter_width == 0)
        return;
    add_cost(c, e->gate, rows);
    add_cost(c, e->up, rows);
    add_cost(c, e->down, rows);
}

/* What an exit's logits come from. */
static const struct gguf_tensor *
exit_output(const struct model *m, const struct model_exit *e)
{
    return e->output ? e->output : m->output;
}

static void
add_head(struct bench_case *c, const struct model *m, double rows)
{
    if (c->head > HEAD_FINAL) {
        const struct model_exit *e = &m->exits[c->head - HEAD_EXIT(0)];

        add_cost(c, exit_output(m, e), rows);
        add_exit(c, e, rows);
    } else {
        add_cost(c, m->output, rows);
    }
}

/* One row turned away by the screen: of the output matrix, the candidates' rows. */
static void
add_screen(struct bench_case *c, const struct model *m, const struct model_exit *e)
{
    double share = (double)e->n_candidates / (double)m->config.n_vocab;

    add_exit(c, e, 1);
    add_cost(c, e->screen_down, 1);
    add_cost(c, e->screen_up, 1);
    c->bytes += share * (double)m->output->size_bytes;
    c->macs += share * elements(m->output);
}

static bool
is_edge(enum cases_kind kind)
{
    return kind >= CASES_EDGE_BLOCKS;
}

/* Is exit i checked in this edge case? */
static bool
checked(enum cases_kind kind, const struct backend_info *info, int i)
{
    return kind == CASES_EDGE_CHECKS ||
           (kind == CASES_EDGE_SCREENED && info->exit_screens[i]);
}

static void
add_edge(struct bench_case *c, const struct model *m, const struct backend_info *info)
{
    add_blocks(c, m, 0, c->layer_to, 1);
    for (int i = 0; i < info->n_exits; i++) {
        if (!checked(c->kind, info, i))
            continue;
        if (c->kind == CASES_EDGE_SCREENED) {
            add_screen(c, m, &m->exits[i]);
        } else {
            add_cost(c, exit_output(m, &m->exits[i]), 1);
            add_exit(c, &m->exits[i], 1);
        }
    }
}

static void
set_costs(struct bench_case *c, const struct model *m, const struct backend_info *info)
{
    double head_rows = c->kind == CASES_DECODE ? c->n : 1;

    c->tokens = (size_t)c->n * (size_t)c->steps;
    if (is_edge(c->kind)) {
        add_edge(c, m, info);
    } else {
        if (c->kind != CASES_EXIT)
            add_blocks(c, m, c->layer_from, m->config.n_layers, c->n);
        add_head(c, m, head_rows);
    }
    c->bytes *= c->steps;
    c->macs *= c->steps;
}

/* The edge cases that the exits allow; returns how many. */
static int
list_edge(struct bench_case *out, const struct backend_info *info)
{
    int n = 0;

    for (int kind = CASES_EDGE_BLOCKS; kind <= CASES_EDGE_SCREENED; kind++) {
        struct bench_case c = { .kind = (enum cases_kind)kind, .n = 1 };

        for (int i = 0; i < info->n_exits; i++)
            c.n_checks += checked(c.kind, info, i);
        if (info->n_exits == 0 || (kind != CASES_EDGE_BLOCKS && c.n_checks == 0))
            continue;
        c.layer_to = info->exit_layers[info->n_exits - 1];
        c.steps = info->n_ctx < EDGE_STEPS ? info->n_ctx : EDGE_STEPS;
        out[n++] = c;
    }
    return n;
}

int
cases_list(struct bench_case out[CASES_MAX], const struct model *m,
           const struct backend *b)
{
    static const int batches[] = { 1, 2, 4, 8, 16, 32, 64 };
    int n_ctx = b->info.n_ctx, split = m->config.n_layers * 2 / 3, n = 0;

    if (b->info.n_exits > 0)
        split = b->info.exit_layers[0];
    memset(out, 0, CASES_MAX * sizeof(*out));
    out[n].kind = CASES_PREFILL;
    out[n].n = n_ctx < PREFILL_ROWS ? n_ctx : PREFILL_ROWS;
    out[n++].steps = 1;
    for (size_t i = 0; i < sizeof(batches) / sizeof(batches[0]); i++) {
        int steps = batches[i] == 1 ? LONE_STEPS : DECODE_STEPS;

        out[n].kind = CASES_DECODE;
        out[n].n = batches[i];
        out[n++].steps = steps < n_ctx ? steps : n_ctx;
    }
    out[n].kind = CASES_CATCH_UP;
    out[n].n = n_ctx < CATCH_UP_ROWS ? n_ctx : CATCH_UP_ROWS;
    out[n].layer_from = split;
    out[n++].steps = 1;
    for (int i = 0; i < b->info.n_exits; i++) {
        out[n].kind = CASES_EXIT;
        out[n].n = 1;
        out[n].layer_from = b->info.exit_layers[i];
        out[n].head = HEAD_EXIT(i);
        out[n++].steps = EXIT_STEPS;
    }
    n += list_edge(&out[n], &b->info);
    for (int i = 0; i < n; i++) {
        static const char *const names[] = { "prefill",      "decode",      "catch_up",
                                             "exit_check",   "edge_blocks", "edge_checks",
                                             "edge_screened" };
        int size = out[i].kind == CASES_EXIT ? out[i].layer_from
                   : is_edge(out[i].kind)    ? out[i].layer_to
                                             : out[i].n;

        snprintf(out[i].name, sizeof(out[i].name), "%s_%d", names[out[i].kind], size);
        set_costs(&out[i], m, &b->info);
    }
    return n;
}

/* ---- running ---- */

static void
fill_tokens(struct cases_run *r, int n)
{
    uint64_t x = 88172645463325252u; /* xorshift */

    for (int i = 0; i < n; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        r->tokens[i] = (int32_t)(x % (uint64_t)r->b->info.n_vocab);
    }
}

/* A step of one sequence. */
struct lone_step {
    int seq;
    int from, to; /* blocks */
    int head;     /* of the last row, or HEAD_NONE */
    int rows;
    float *hidden_out;
};

/* From position 0; of tokens when it starts at block 0, else of r->hidden. */
static int
run_lone(struct cases_run *r, const struct lone_step *s, struct err *err)
{
    bool with_head = s->head != HEAD_NONE;
    struct batch_item item = { .seq = s->seq,
                               .n_rows = s->rows,
                               .tokens = s->from == 0 ? r->tokens : NULL,
                               .hidden = s->from == 0 ? NULL : r->hidden,
                               .hidden_out = s->hidden_out,
                               .head_rows = with_head ? 1 : 0,
                               .results = with_head ? r->results : NULL };
    struct batch batch = { .layer_from = s->from,
                           .layer_to = s->to,
                           .head = s->head,
                           .n_items = 1,
                           .items = &item };

    return backend_run(r->b, &batch, err);
}

static int
decode_step(struct cases_run *r, int32_t pos, struct err *err)
{
    struct batch_item items[CASES_MAX_BATCH] = { 0 };
    struct batch batch = { .layer_to = r->b->info.n_layers,
                           .head = HEAD_FINAL,
                           .n_items = r->n_seqs,
                           .items = items };

    for (int i = 0; i < r->n_seqs; i++) {
        items[i].seq = r->seqs[i];
        items[i].pos = pos;
        items[i].n_rows = 1;
        items[i].tokens = &r->tokens[(pos + 7 * i) % PREFILL_ROWS];
        items[i].head_rows = 1;
        items[i].results = &r->results[i];
    }
    return backend_run(r->b, &batch, err);
}

/* A token through the blocks in stages that end at exits, as agent/edge.c runs them. */
static int
edge_step(struct cases_run *r, int32_t pos, struct err *err)
{
    const struct backend_info *info = &r->b->info;
    int rc = 0;

    for (int i = 0; rc == 0 && i < info->n_exits; i++) {
        bool check = checked(r->c.kind, info, i);
        struct batch_item item = {
            .seq = r->seqs[0],
            .pos = pos,
            .n_rows = 1,
            .tokens = i == 0 ? &r->tokens[pos] : NULL,
            .hidden = i == 0 ? NULL : r->hidden + ((i + 1) % 2) * info->d_model,
            .hidden_out = r->hidden + (i % 2) * info->d_model,
            .head_rows = check ? 1 : 0,
            .results = check ? r->results : NULL,
        };
        struct batch batch = {
            .layer_from = i == 0 ? 0 : info->exit_layers[i - 1],
            .layer_to = info->exit_layers[i],
            .head = check ? HEAD_EXIT(i) : HEAD_NONE,
            .screen_theta = r->c.kind == CASES_EDGE_SCREENED ? EVERY_ROW : 0,
            .n_items = 1,
            .items = &item,
        };

        rc = backend_run(r->b, &batch, err);
    }
    return rc;
}

/* Give every sequence of a decode case its prompt; a lone one starts empty. */
static int
run_prompts(struct cases_run *r, struct err *err)
{
    int room = r->b->info.n_ctx - r->c.steps, rc = 0;

    r->start = r->n_seqs == 1 ? 0 : room < PROMPT ? room : PROMPT;
    for (int i = 0; rc == 0 && r->start > 0 && i < r->n_seqs; i++) {
        struct lone_step s = { .seq = r->seqs[i],
                               .to = r->b->info.n_layers,
                               .head = HEAD_NONE,
                               .rows = r->start };

        rc = run_lone(r, &s, err);
    }
    return rc;
}

static int
prepare_state(struct cases_run *r, struct err *err)
{
    struct lone_step s = { .seq = r->seqs[0],
                           .to = r->c.layer_from,
                           .head = HEAD_NONE,
                           .rows = r->c.n,
                           .hidden_out = r->hidden };

    if (r->c.kind == CASES_DECODE)
        return run_prompts(r, err);
    if (r->c.kind == CASES_PREFILL || is_edge(r->c.kind))
        return 0;
    return run_lone(r, &s, err);
}

int
cases_prepare(struct cases_run **out, const struct bench_case *c, struct backend *b,
              struct err *err)
{
    struct cases_run *r = mem_array_alloc(1, sizeof(*r));
    int want = c->kind == CASES_DECODE ? c->n : 1, rc = 0;

    *out = NULL;
    if (!r)
        return err_set(err, CE_ENOMEM, "no memory");
    r->c = *c;
    r->b = b;
    r->tokens = mem_array_alloc(PREFILL_ROWS, sizeof(*r->tokens));
    r->hidden =
        mem_array_alloc((size_t)b->info.d_model * CATCH_UP_ROWS, sizeof(*r->hidden));
    if (!r->tokens || !r->hidden) {
        cases_finish(r);
        return err_set(err, CE_ENOMEM, "no memory for tokens and states");
    }
    fill_tokens(r, PREFILL_ROWS);
    while (rc == 0 && r->n_seqs < want) {
        rc = backend_seq_open(b, &r->seqs[r->n_seqs], err);
        r->n_seqs += rc == 0;
    }
    if (rc == 0)
        rc = prepare_state(r, err);
    if (rc != 0) {
        cases_finish(r);
        return rc;
    }
    *out = r;
    return 0;
}

static int
work(struct cases_run *r, struct err *err)
{
    struct lone_step s = { .seq = r->seqs[0],
                           .from = r->c.layer_from,
                           .to = r->b->info.n_layers,
                           .head = r->c.head,
                           .rows = r->c.n };
    int rc = 0;

    if (r->c.kind == CASES_EXIT)
        s.to = s.from;
    for (int i = 0; rc == 0 && i < r->c.steps; i++) {
        if (r->c.kind == CASES_DECODE)
            rc = decode_step(r, r->start + i, err);
        else if (is_edge(r->c.kind))
            rc = edge_step(r, i, err);
        else
            rc = run_lone(r, &s, err);
    }
    return rc;
}

int
cases_sample(struct cases_run *r, double *seconds, struct err *err)
{
    int64_t begin;
    int rc;

    for (int i = 0; i < r->n_seqs; i++)
        backend_truncate(r->b, r->seqs[i], r->start);
    begin = clock_ns();
    rc = work(r, err);
    *seconds = (double)(clock_ns() - begin) * 1e-9;
    return rc;
}

void
cases_finish(struct cases_run *r)
{
    if (!r)
        return;
    for (int i = 0; i < r->n_seqs; i++)
        backend_seq_close(r->b, r->seqs[i]);
    mem_free(r->tokens);
    mem_free(r->hidden);
    mem_free(r);
}
