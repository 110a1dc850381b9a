/* SPDX-License-Identifier: Apache-2.0
 * swarm_record.c - cecollm-swarm record: what agents with this model and these prompts
 * would upload and ask, and what is right.
 *
 * Everything is computed here, in one process, without a server. The edge's side of a
 * sequence is its first blocks with their exits, each checked at its threshold; the
 * cloud's side is the other blocks, in a KV sequence of its own, on the states as they
 * are after the codec. Both see every position: what an agent or a cloud catches up later
 * gives the same bits (doc/NUMERICS.md). A token that no exit was sure of is a request.
 *
 * Many sequences are computed side by side; a step is a row of each that writes, and, in
 * the room left, pieces of prompts.
 */
#include <stdio.h>
#include <string.h>

#include "bench/swarm_commands.h"
#include "bench/swarm_traffic.h"
#include "common/memory.h"
#include "tools/progress.h"
#include "tools/prompt_file.h"
#include "tools/staged.h"

#define WIDTH    16  /* sequences side by side */
#define MAX_ROWS 256 /* of a step */

struct wishes {
    const char *prompts, *output, *codec;
    struct engine_options engine;
    double theta; /* 0: each exit's own */
    int limit, max_tokens, cut;
};

struct slot {
    bool busy;
    int prompt;   /* which one */
    int32_t *ids; /* [n_prompt + max_tokens]; owned */
    int n_ids, n_prompt, n_read;
    int edge, cloud; /* KV sequences */
    struct bytebuf rows;
    struct traffic_request *requests; /* [max_tokens]; owned */
    uint32_t n_requests;
};

/* One finished sequence; memory taken over from its slot. */
struct finished {
    struct traffic_request *requests;
    uint32_t n_requests;
    struct bytebuf rows;
};

struct recorder {
    struct wishes wishes;
    struct loaded loaded;
    struct tokenizer *vocab;
    struct prompt_file prompts;
    struct traffic_model model;
    size_t row_bytes;
    int n_exits; /* that may let a token out */
    double theta[MODEL_MAX_EXITS];
    struct staged edge;
    struct slot slots[WIDTH];
    struct staged_item items[WIDTH];
    struct batch_item cloud_items[WIDTH];
    struct slot *who[WIDTH];
    int n_items;
    struct head_result *answers; /* [WIDTH] */
    uint8_t *encoded;            /* [MAX_ROWS, row_bytes] */
    float *decoded;              /* [MAX_ROWS, d_model] */
    struct finished *finished;   /* [prompts.n] */
    int next_prompt, n_finished;
    uint64_t n_tokens, n_exited;
};

/* ---- what to record ---- */

static int
plan_cut(struct recorder *r, struct err *err)
{
    const struct model *m = r->loaded.model;
    int cut = r->wishes.cut;
    bool open = false;

    for (int i = 0; i < m->n_exits; i++) {
        double own = m->exits[i].theta > 0 ? (double)m->exits[i].theta : 0.9;

        r->theta[i] = r->wishes.theta > 0 ? r->wishes.theta : own;
        open = open || r->theta[i] < 1;
    }
    r->n_exits = open && cut == 0 ? m->n_exits : 0;
    if (cut == 0)
        cut = m->n_exits > 0 ? m->exits[0].layer : m->config.n_layers / 2;
    if (cut < 1 || cut >= m->config.n_layers)
        return err_set(err, CE_EINVAL, "--cut: %d is not one of layers 1 to %d", cut,
                       m->config.n_layers - 1);
    r->model.layer_from = (uint32_t)cut;
    return 0;
}

static int
describe_model(struct recorder *r, struct err *err)
{
    const struct model *m = r->loaded.model;
    const struct backend_info *info = &r->loaded.backend->info;
    struct traffic_model *t = &r->model;

    memcpy(t->fingerprint, m->fingerprint, sizeof(t->fingerprint));
    t->n_layers = (uint32_t)info->n_layers;
    t->d_model = (uint32_t)info->d_model;
    t->n_vocab = (uint32_t)info->n_vocab;
    snprintf(t->numerics, sizeof(t->numerics), "%s", info->numerics_id);
    if (states_codec_find(r->wishes.codec, strlen(r->wishes.codec), &t->codec) < 0)
        return err_set(err, CE_EINVAL, "--codec: %s is neither f16 nor f32",
                       r->wishes.codec);
    r->row_bytes = states_row_bytes(t->codec, t->d_model);
    return plan_cut(r, err);
}

static int
prepare(struct recorder *r, struct err *err)
{
    size_t d = (size_t)r->loaded.backend->info.d_model;
    struct staged_stop stops[MODEL_MAX_EXITS];
    const struct model *m = r->loaded.model;
    int n = r->n_exits;

    for (int i = 0; i < n; i++)
        stops[i] = (struct staged_stop){ m->exits[i].layer, HEAD_EXIT(i) };
    if (n == 0)
        stops[n++] = (struct staged_stop){ (int)r->model.layer_from, HEAD_NONE };
    r->answers = mem_array_alloc(WIDTH, sizeof(*r->answers));
    r->encoded = mem_array_alloc(MAX_ROWS, r->row_bytes);
    r->decoded = mem_array_alloc(MAX_ROWS, d * sizeof(float));
    r->finished = mem_array_alloc((size_t)r->prompts.n, sizeof(*r->finished));
    if (!r->answers || !r->encoded || !r->decoded || !r->finished)
        return err_set(err, CE_ENOMEM, "no memory");
    return staged_init(&r->edge, r->loaded.backend, stops, n, MAX_ROWS, WIDTH, err);
}

static int
load(struct recorder *r, const char *path, struct err *err)
{
    const struct backend_options heads = { .final_head = true,
                                           .exit_heads = true,
                                           .max_seqs = 2 * WIDTH };
    struct prompt_format format;
    int rc = command_load(&r->loaded, path, &r->wishes.engine, &heads, "record", err);

    if (rc == 0)
        rc = tokenizer_open(&r->vocab, r->loaded.model->file, err);
    if (rc != 0)
        return rc;
    format = (struct prompt_format){ .model = r->loaded.model->file,
                                     .vocab = r->vocab,
                                     .max_ids = r->loaded.backend->info.n_ctx -
                                                r->wishes.max_tokens };
    if (format.max_ids < 1)
        return err_set(err, CE_EINVAL, "--max-tokens: the context has %d positions",
                       r->loaded.backend->info.n_ctx);
    if ((rc = prompt_file_read(&r->prompts, r->wishes.prompts, r->wishes.limit, &format,
                               err)) ||
        (rc = describe_model(r, err)))
        return rc;
    return prepare(r, err);
}

/* ---- sequences ---- */

static int
slot_start(struct recorder *r, struct slot *s, struct err *err)
{
    const struct prompt *p = &r->prompts.list[r->next_prompt];
    size_t room = (size_t)p->n + (size_t)r->wishes.max_tokens;
    int rc;

    s->prompt = r->next_prompt++;
    s->n_prompt = s->n_ids = p->n;
    s->n_read = 0;
    s->n_requests = 0;
    s->ids = mem_array_alloc(room, sizeof(*s->ids));
    s->requests = mem_array_alloc((size_t)r->wishes.max_tokens, sizeof(*s->requests));
    bytebuf_init(&s->rows, TRAFFIC_MAX_SIZE);
    s->busy = true;
    s->edge = s->cloud = -1;
    if (!s->ids || !s->requests)
        return err_set(err, CE_ENOMEM, "no memory for a sequence of %zu positions", room);
    memcpy(s->ids, p->ids, (size_t)p->n * sizeof(*s->ids));
    if ((rc = backend_seq_open(r->loaded.backend, &s->edge, err)))
        return rc;
    return backend_seq_open(r->loaded.backend, &s->cloud, err);
}

static void
slot_end(struct recorder *r, struct slot *s)
{
    if (!s->busy)
        return;
    if (s->edge >= 0)
        backend_seq_close(r->loaded.backend, s->edge);
    if (s->cloud >= 0)
        backend_seq_close(r->loaded.backend, s->cloud);
    mem_free(s->ids);
    mem_free(s->requests);
    bytebuf_fini(&s->rows);
    *s = (struct slot){ 0 };
}

/* Keep what was recorded, without the rows that nobody asked for. */
static void
slot_finish(struct recorder *r, struct slot *s)
{
    struct finished *f = &r->finished[s->prompt];

    f->n_requests = s->n_requests;
    if (s->n_requests > 0) {
        size_t rows = (size_t)s->requests[s->n_requests - 1].pos + 1;

        f->requests = s->requests;
        f->rows = s->rows;
        bytebuf_truncate(&f->rows, rows * r->row_bytes);
        s->requests = NULL;
        bytebuf_init(&s->rows, 1);
        r->n_finished++;
    }
    slot_end(r, s);
}

static void
plan_item(struct recorder *r, struct slot *s, int room)
{
    int left = s->n_ids - s->n_read, n = left < room ? left : room;

    r->who[r->n_items] = s;
    r->items[r->n_items++] = (struct staged_item){ .seq = s->edge,
                                                   .pos = s->n_read,
                                                   .tokens = s->ids + s->n_read,
                                                   .n_rows = n,
                                                   .head_rows = n == left };
}

/* Writers first: each has one row. Returns the rows of the step. */
static int
plan_step(struct recorder *r)
{
    int room = MAX_ROWS;

    r->n_items = 0;
    for (int reading = 0; reading < 2; reading++) {
        for (int i = 0; i < WIDTH && room > 0; i++) {
            struct slot *s = &r->slots[i];

            if (!s->busy || (s->n_read < s->n_prompt) != reading)
                continue;
            plan_item(r, s, room);
            room -= r->items[r->n_items - 1].n_rows;
        }
    }
    return MAX_ROWS - room;
}

/* The same rows as the cloud gets them, through its blocks. */
static int
cloud_step(struct recorder *r, int n_rows, struct err *err)
{
    const struct backend_info *info = &r->loaded.backend->info;
    size_t d = (size_t)info->d_model, row = 0;
    int head = HEAD_NONE, n_heads = 0, rc;
    struct batch batch;

    states_encode(r->model.codec, r->edge.states[0], (size_t)n_rows, d, r->encoded);
    rc = states_decode(r->model.codec, r->encoded, (size_t)n_rows, d, r->decoded);
    if (rc < 0)
        return err_set(err, rc, "a hidden state is not finite");
    for (int i = 0; i < r->n_items; i++) {
        const struct staged_item *item = &r->items[i];
        struct slot *s = r->who[i];

        r->cloud_items[i] = (struct batch_item){
            .seq = s->cloud,
            .pos = item->pos,
            .n_rows = item->n_rows,
            .hidden = r->decoded + row * d,
            .head_rows = item->head_rows,
            .results = item->head_rows > 0 ? &r->answers[n_heads] : NULL,
        };
        bytebuf_put_bytes(&s->rows, r->encoded + row * r->row_bytes,
                          (size_t)item->n_rows * r->row_bytes);
        if (bytebuf_status(&s->rows) < 0)
            return err_set(err, bytebuf_status(&s->rows), "no memory for hidden states");
        row += (size_t)item->n_rows;
        n_heads += item->head_rows;
        head = item->head_rows > 0 ? HEAD_FINAL : head;
    }
    batch = (struct batch){ .layer_from = (int)r->model.layer_from,
                            .layer_to = info->n_layers,
                            .head = head,
                            .n_items = r->n_items,
                            .items = r->cloud_items };
    return backend_run(r->loaded.backend, &batch, err);
}

/* The token behind slot s's last row: the first exit that is sure of it, or else the
 * cloud's, which is a request. `result` counts rows with heads. */
static int32_t
choose(struct recorder *r, struct slot *s, int result)
{
    int32_t id = r->answers[result].argmax;

    r->n_tokens++;
    for (int i = 0; i < r->n_exits; i++) {
        const struct head_result *h = &r->edge.results[i][result];

        if (h->argmax < 0 || (double)h->confidence < r->theta[i])
            continue;
        r->n_exited++;
        return h->argmax;
    }
    s->requests[s->n_requests++] =
        (struct traffic_request){ .pos = (uint32_t)s->n_ids - 1, .token = (uint32_t)id };
    return id;
}

static int
step(struct recorder *r, struct err *err)
{
    int n_rows = plan_step(r), result = 0;
    int rc = staged_run(&r->edge, r->items, r->n_items, 0, err);

    if (rc == 0)
        rc = cloud_step(r, n_rows, err);
    for (int i = 0; rc == 0 && i < r->n_items; i++) {
        struct slot *s = r->who[i];
        int32_t id;

        s->n_read += r->items[i].n_rows;
        if (r->items[i].head_rows == 0)
            continue;
        id = choose(r, s, result++);
        if (id < 0)
            return err_set(err, CE_EINTERNAL, "the model's logits are not finite");
        s->ids[s->n_ids++] = id;
        if (s->n_ids == s->n_prompt + r->wishes.max_tokens ||
            tokenizer_is_end_of_generation(r->vocab, id))
            slot_finish(r, s);
    }
    return rc;
}

static int
record(struct recorder *r, struct err *err)
{
    struct progress p;
    int rc = 0;

    progress_start(&p, "recording", (size_t)r->prompts.n);
    while (rc == 0) {
        int busy = 0;

        for (int i = 0; rc == 0 && i < WIDTH; i++) {
            if (!r->slots[i].busy && r->next_prompt < r->prompts.n)
                rc = slot_start(r, &r->slots[i], err);
            busy += r->slots[i].busy;
        }
        if (rc != 0 || busy == 0)
            break;
        rc = step(r, err);
        progress_set(&p, (size_t)(r->next_prompt - busy), NULL);
    }
    progress_end(&p);
    for (int i = 0; i < WIDTH; i++)
        slot_end(r, &r->slots[i]);
    return rc;
}

/* ---- the command ---- */

static int
write_file(struct recorder *r, struct err *err)
{
    uint64_t n_rows = 0, n_requests = 0;
    struct bytebuf out;
    int rc;

    if (r->n_finished == 0)
        return err_set(err, CE_EINVAL,
                       "no token was asked of the cloud: nothing to record");
    bytebuf_init(&out, TRAFFIC_MAX_SIZE);
    traffic_begin(&out, &r->model, (uint32_t)r->n_finished);
    for (int i = 0; i < r->prompts.n; i++) {
        const struct finished *f = &r->finished[i];
        struct traffic_seq s = { .n_rows =
                                     (uint32_t)(bytebuf_len(&f->rows) / r->row_bytes),
                                 .n_requests = f->n_requests,
                                 .requests = f->requests,
                                 .rows = bytebuf_data(&f->rows) };

        if (f->n_requests == 0)
            continue;
        traffic_add(&out, &s, r->row_bytes);
        n_rows += s.n_rows;
        n_requests += s.n_requests;
    }
    rc = traffic_write(&out, r->wishes.output, err);
    if (rc == 0)
        printf("%s: %d sequences, %llu rows after layer %u, %llu requests; %llu of %llu "
               "tokens left at exits; %zu bytes\n",
               r->wishes.output, r->n_finished, (unsigned long long)n_rows,
               r->model.layer_from, (unsigned long long)n_requests,
               (unsigned long long)r->n_exited, (unsigned long long)r->n_tokens,
               bytebuf_len(&out) + 32);
    bytebuf_fini(&out);
    return rc;
}

static void
clean_up(struct recorder *r)
{
    for (int i = 0; r->finished && i < r->prompts.n; i++) {
        mem_free(r->finished[i].requests);
        bytebuf_fini(&r->finished[i].rows);
    }
    mem_free(r->finished);
    mem_free(r->answers);
    mem_free(r->encoded);
    mem_free(r->decoded);
    staged_fini(&r->edge);
    prompt_file_free(&r->prompts);
    tokenizer_free(r->vocab);
    command_unload(&r->loaded);
}

int
swarm_record(int argc, char **argv)
{
    struct recorder *r = mem_array_alloc(1, sizeof(*r));
    struct wishes w = { .codec = "f16", .limit = 64, .max_tokens = 64 };
    struct err err = { 0 };
    int n, status, rc;
    const struct option_spec specs[] = {
        { "prompts", 0, OPTIONS_TEXT, &w.prompts, "FILE",
          "JSON lines with \"prompt\"; - reads standard input", 0, 0 },
        { "output", 'o', OPTIONS_TEXT, &w.output, "FILE", "the traffic to write", 0, 0 },
        { "limit", 0, OPTIONS_INT, &w.limit, "N", "most prompts (default 64)", 1,
          TRAFFIC_MAX_SEQS },
        { "max-tokens", 0, OPTIONS_INT, &w.max_tokens, "N",
          "most tokens of an answer (default 64)", 1, 65536 },
        { "theta", 0, OPTIONS_REAL, &w.theta, "X",
          "of every exit; 1: ask for each token (default: the file's)", 0, 0 },
        { "cut", 0, OPTIONS_INT, &w.cut, "L",
          "upload after L blocks, without exits (default: the first exit)", 1, 1023 },
        { "codec", 0, OPTIONS_TEXT, &w.codec, "NAME", "f16 (default) or f32", 0, 0 },
        COMMAND_EXITS_OPTION(&w.engine.exits),
        COMMAND_EXIT_LAYERS_OPTION(&w.engine.exit_layers),
        COMMAND_ENGINE_OPTIONS(&w.engine),
        { 0 }
    };
    const struct options_page page = {
        "record MODEL --prompts FILE -o FILE [--theta X | --cut L] [--limit N]",
        "Run edge and cloud blocks in this process and write what agents would upload\n"
        "and ask, with the right answers.",
        specs, 1, 1
    };

    if (!command_options(&page, argc, argv, &n, &status)) {
        mem_free(r);
        return status;
    }
    if (!w.prompts || !w.output) {
        err_set(&err, CE_EINVAL, "%s is missing", w.prompts ? "--output" : "--prompts");
        mem_free(r);
        return command_usage("record", &err);
    }
    if (!r) {
        err_set(&err, CE_ENOMEM, "no memory");
        return command_failed("record", &err);
    }
    r->wishes = w;
    if ((rc = load(r, argv[1], &err)) == 0 && (rc = record(r, &err)) == 0)
        rc = write_file(r, &err);
    clean_up(r);
    mem_free(r);
    return rc == 0 ? COMMAND_OK : command_failed("record", &err);
}
