/* SPDX-License-Identifier: Apache-2.0
 * swarm_engine.c - cecollm-swarm engine: recorded traffic through the bare engine.
 *
 * What a cloudd could deliver if sockets, TLS, queues and bookkeeping cost nothing: as
 * many sequences side by side as sessions would have, each step the rows up to the next
 * request of every one of them, as a server's step is when all requests are there at
 * once. Counted is the time inside the engine alone. Every token is checked, so this is
 * also a check of the recording.
 */
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "bench/swarm_commands.h"
#include "bench/swarm_traffic.h"
#include "common/clock.h"
#include "common/memory.h"
#include "tools/progress.h"

#define MAX_ACTIVE 1024

struct lane {
    uint32_t index; /* of its sequence */
    uint32_t next_request, next_row;
    int kv;
    bool answered; /* at least once */
};

struct bare {
    struct traffic traffic;
    struct loaded loaded;
    int active, step_rows, seconds;
    struct lane *lanes;          /* [active] */
    struct batch_item *items;    /* [active] */
    struct lane **who;           /* [active] */
    struct head_result *results; /* [active] */
    float *hidden;               /* [step_rows, d_model] */
    int n_items, turn, n_answered;
    uint64_t n_steps, n_tokens, n_rows;
    int64_t inside_ns;
    size_t kv_peak; /* most bytes of KV pages after a step */
};

/* The same fingerprint is the same model; but the file may be a part of it, and the
 * recording made by hand. */
static bool
fits(const struct bare *b)
{
    const struct backend_info *info = &b->loaded.backend->info;
    const struct traffic_model *m = &b->traffic.model;

    return m->d_model == (uint32_t)info->d_model &&
           m->n_layers == (uint32_t)info->n_layers &&
           m->layer_from >= (uint32_t)info->layer_from &&
           info->layer_to == info->n_layers && info->has_final_head;
}

static int
load(struct bare *b, const char *model, const char *traffic, struct engine_options *e,
     struct err *err)
{
    struct backend_options o = { .final_head = true, .max_seqs = b->active };
    size_t n = (size_t)b->active, d;
    int rc = traffic_read(&b->traffic, traffic, err);

    if (rc == 0)
        rc = command_load(&b->loaded, model, e, &o, NULL, err);
    if (rc != 0)
        return rc;
    if (memcmp(b->loaded.model->fingerprint, b->traffic.model.fingerprint, 32) != 0)
        return err_set(err, CE_EMISMATCH, "%s was recorded with another model than %s",
                       traffic, model);
    if (!fits(b))
        return err_set(err, CE_EMISMATCH, "%s does not hold the layers of %s", model,
                       traffic);
    d = (size_t)b->loaded.backend->info.d_model;
    b->lanes = mem_array_alloc(n, sizeof(*b->lanes));
    b->items = mem_array_alloc(n, sizeof(*b->items));
    b->who = mem_array_alloc(n, sizeof(struct lane *));
    b->results = mem_array_alloc(n, sizeof(*b->results));
    b->hidden = mem_array_alloc((size_t)b->step_rows, d * sizeof(float));
    if (!b->lanes || !b->items || !b->who || !b->results || !b->hidden)
        return err_set(err, CE_ENOMEM, "no memory for %d sequences", b->active);
    for (int i = 0; rc == 0 && i < b->active; i++) {
        b->lanes[i].index = (uint32_t)i % b->traffic.n;
        b->lanes[i].next_request = traffic_stagger(&b->traffic, (uint32_t)i);
        rc = backend_seq_open(b->loaded.backend, &b->lanes[i].kv, err);
    }
    return rc;
}

/* Rows of lane l, up to its next request; returns how many. */
static int
add_lane(struct bare *b, struct lane *l, int row)
{
    const struct traffic *t = &b->traffic;
    const struct traffic_seq *s = &t->seqs[l->index];
    size_t d = t->model.d_model;
    uint32_t want = s->requests[l->next_request].pos + 1 - l->next_row;
    uint32_t room = (uint32_t)(b->step_rows - row), n = want < room ? want : room;
    struct batch_item *item = &b->items[b->n_items];

    *item = (struct batch_item){ .seq = l->kv,
                                 .pos = (int32_t)l->next_row,
                                 .n_rows = (int)n,
                                 .hidden = b->hidden + (size_t)row * d,
                                 .head_rows = n == want };
    if (n == want)
        item->results = &b->results[b->n_items];
    if (states_decode(t->model.codec, s->rows + l->next_row * t->row_bytes, n, d,
                      b->hidden + (size_t)row * d) < 0)
        memset(b->hidden + (size_t)row * d, 0, n * d * sizeof(float)); /* found out */
    b->who[b->n_items++] = l;
    return (int)n;
}

static int
take(struct bare *b, int i, struct err *err)
{
    struct lane *l = b->who[i];
    const struct traffic_seq *s = &b->traffic.seqs[l->index];
    const struct traffic_request *q = &s->requests[l->next_request];

    l->next_row += (uint32_t)b->items[i].n_rows;
    if (b->items[i].head_rows == 0)
        return 0;
    if (b->results[i].argmax != (int32_t)q->token)
        return err_set(err, CE_EMISMATCH,
                       "sequence %u position %u: token %d, expected %u", l->index, q->pos,
                       b->results[i].argmax, q->token);
    b->n_tokens++;
    b->n_answered += !l->answered;
    l->answered = true;
    if (++l->next_request < s->n_requests)
        return 0;
    backend_truncate(b->loaded.backend, l->kv, 0);
    l->index = traffic_next(&b->traffic, (uint32_t)(l - b->lanes), l->index);
    l->next_request = l->next_row = 0;
    return 0;
}

/* Lanes take turns at being first, so that a full step starves none. */
static int
step(struct bare *b, struct err *err)
{
    const struct backend_info *info = &b->loaded.backend->info;
    struct batch batch = { .layer_from = (int)b->traffic.model.layer_from,
                           .layer_to = info->n_layers,
                           .head = HEAD_NONE,
                           .items = b->items };
    int row = 0, rc;
    int64_t start;

    b->n_items = 0;
    for (int i = 0; i < b->active && row < b->step_rows; i++) {
        row += add_lane(b, &b->lanes[(b->turn + i) % b->active], row);
        if (b->items[b->n_items - 1].head_rows > 0)
            batch.head = HEAD_FINAL;
    }
    b->turn = (b->turn + b->n_items) % b->active;
    batch.n_items = b->n_items;
    start = clock_ns();
    rc = backend_run(b->loaded.backend, &batch, err);
    b->inside_ns += clock_ns() - start;
    if (backend_kv_bytes(b->loaded.backend, -1) > b->kv_peak)
        b->kv_peak = backend_kv_bytes(b->loaded.backend, -1);
    b->n_rows += (uint64_t)row;
    b->n_steps++;
    for (int i = 0; rc == 0 && i < b->n_items; i++)
        rc = take(b, i, err);
    return rc;
}

/* Everyone somewhere in the middle of a sequence, as in a server that has been running;
 * not counted. */
static int
warm_up(struct bare *b, struct err *err)
{
    int rc = 0;

    while (rc == 0 && b->n_answered < b->active)
        rc = step(b, err);
    b->n_steps = b->n_tokens = b->n_rows = 0;
    b->inside_ns = 0;
    return rc;
}

static int
measure(struct bare *b, struct err *err)
{
    struct progress p;
    int rc = warm_up(b, err);
    int64_t end = clock_us() + (int64_t)b->seconds * 1000000;

    progress_start(&p, "bare engine", (size_t)b->seconds * 10);
    while (rc == 0 && clock_us() < end) {
        rc = step(b, err);
        progress_set(&p,
                     (size_t)b->seconds * 10 - (size_t)((end - clock_us()) / 100000 + 1),
                     NULL);
    }
    progress_end(&p);
    return rc;
}

static int
report(const struct bare *b, bool as_json, struct err *err)
{
    double s = (double)b->inside_ns * 1e-9;
    double steps = (double)b->n_steps;

    if (as_json)
        return command_print_json(
            json_pack("{s:i,s:i,s:f,s:I,s:I,s:I,s:f,s:f,s:f,s:I}", "active", b->active,
                      "step_rows", b->step_rows, "seconds", s, "steps",
                      (json_int_t)b->n_steps, "tokens", (json_int_t)b->n_tokens, "rows",
                      (json_int_t)b->n_rows, "tokens_per_second", (double)b->n_tokens / s,
                      "rows_per_second", (double)b->n_rows / s, "rows_per_step",
                      (double)b->n_rows / steps, "kv_peak_bytes", (json_int_t)b->kv_peak),
            true, err);
    printf("bare engine, %d sequences: %.0f tokens/s, %.0f rows/s, %.1f rows a step; "
           "%llu tokens, all right\n",
           b->active, (double)b->n_tokens / s, (double)b->n_rows / s,
           (double)b->n_rows / steps, (unsigned long long)b->n_tokens);
    return 0;
}

int
swarm_engine(int argc, char **argv)
{
    struct bare b = { .active = 64, .step_rows = 512, .seconds = 10 };
    struct engine_options engine = { 0 };
    struct err err = { 0 };
    bool as_json = false;
    int n, status, rc;
    const struct option_spec specs[] = {
        { "active", 0, OPTIONS_INT, &b.active, "N", "sequences side by side (default 64)",
          1, MAX_ACTIVE },
        { "step-rows", 0, OPTIONS_INT, &b.step_rows, "N",
          "most rows of a step (default 512)", 1, 16384 },
        { "seconds", 0, OPTIONS_INT, &b.seconds, "S", "how long (default 10)", 1, 86400 },
        COMMAND_ENGINE_OPTIONS(&engine),
        { "json", 0, OPTIONS_FLAG, &as_json, NULL, "for programs", 0, 0 },
        { 0 }
    };
    const struct options_page page = {
        "engine MODEL TRAFFIC [--active N] [--seconds S] [--json]",
        "Run recorded traffic through the bare engine, check every token, and say how\n"
        "fast that is: what a server could reach at most.",
        specs, 2, 2
    };

    if (!command_options(&page, argc, argv, &n, &status))
        return status;
    engine.exits = "none";
    if ((rc = load(&b, argv[1], argv[2], &engine, &err)) == 0 &&
        (rc = measure(&b, &err)) == 0)
        rc = report(&b, as_json, &err);
    mem_free(b.lanes);
    mem_free(b.items);
    mem_free(b.who);
    mem_free(b.results);
    mem_free(b.hidden);
    command_unload(&b.loaded);
    traffic_free(&b.traffic);
    return rc == 0 ? COMMAND_OK : command_failed("engine", &err);
}
