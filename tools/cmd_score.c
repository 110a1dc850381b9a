/* SPDX-License-Identifier: Apache-2.0
 * cmd_score.c - cecollm-model score: what the model would have said at every place
 * of given answers.
 *
 * Input and output are JSON lines. A line has prompt_ids and output_ids; the model
 * reads both as they are ("teacher forcing") and for each output position the result
 * line says which token it would have chosen (argmax), by how much (margin: the
 * largest logit less the second) and how sure it was (confidence: the largest
 * softmax probability). With --all-exits the same is told of every exit head, as
 * argmax_18 and so on, and with --logits the whole rows, for comparisons.
 *
 * All heads come from one pass: blocks are run from head to head, the states in
 * between kept for ROWS positions.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "tools/command.h"
#include "tools/progress.h"

#define ROWS      64
#define MAX_INPUT ((size_t)256 << 20) /* bytes of the file of ids */

/* What one head says at each output position of a line. */
struct head_track {
    char suffix[16]; /* "" for the final head, "_18" for the exit after block 18 */
    int layer;       /* after this many blocks */
    int head;        /* HEAD_* */
    int32_t *argmax; /* [n_output] */
    float *margin, *confidence;
    float *logits; /* [n_output, n_vocab] with --logits, else NULL */
};

struct score {
    struct loaded loaded;
    const char *path; /* of the ids */
    struct head_track tracks[MODEL_MAX_EXITS + 1];
    int n_tracks; /* ascending by layer; the final head last */
    bool logits;
    int32_t *ids; /* prompt then output; [n_ids] */
    int n_ids, n_prompt, n_output;
    int cap;                     /* of ids and of the tracks' arrays */
    float *hidden[2];            /* [ROWS, d_model] each: in and out of a range */
    struct head_result *results; /* [ROWS] */
    size_t n_scored, n_agree;    /* of the final head, over all lines */
};

/* ---- set-up ---- */

static void
add_track(struct score *s, int layer, int head, const char *suffix)
{
    struct head_track *t = &s->tracks[s->n_tracks++];

    *t = (struct head_track){ .layer = layer, .head = head };
    snprintf(t->suffix, sizeof(t->suffix), "%s", suffix);
}

static int
prepare(struct score *s, bool all_exits, struct err *err)
{
    const struct backend_info *info = &s->loaded.backend->info;
    size_t row = (size_t)info->d_model * sizeof(float);

    for (int i = 0; all_exits && i < info->n_exits; i++) {
        char suffix[16];

        snprintf(suffix, sizeof(suffix), "_%d", info->exit_layers[i]);
        add_track(s, info->exit_layers[i], HEAD_EXIT(i), suffix);
    }
    add_track(s, info->n_layers, HEAD_FINAL, "");
    s->hidden[0] = mem_array_alloc(ROWS, row);
    s->hidden[1] = mem_array_alloc(ROWS, row);
    s->results = mem_array_alloc(ROWS, sizeof(*s->results));
    if (!s->hidden[0] || !s->hidden[1] || !s->results)
        return err_set(err, CE_ENOMEM, "no memory for %d rows", ROWS);
    return 0;
}

static void
release(struct score *s)
{
    for (int i = 0; i < s->n_tracks; i++) {
        mem_free(s->tracks[i].argmax);
        mem_free(s->tracks[i].margin);
        mem_free(s->tracks[i].confidence);
        mem_free(s->tracks[i].logits);
    }
    mem_free(s->ids);
    mem_free(s->hidden[0]);
    mem_free(s->hidden[1]);
    mem_free(s->results);
    command_unload(&s->loaded);
}

/* Room for n ids and as many results. */
static int
reserve(struct score *s, int n, struct err *err)
{
    size_t room = (size_t)n;
    size_t row = (size_t)s->loaded.backend->info.n_vocab * sizeof(float);

    if (n <= s->cap)
        return 0;
    s->cap = 0;
    mem_free(s->ids);
    s->ids = mem_array_alloc(room, sizeof(*s->ids));
    if (!s->ids)
        return err_set(err, CE_ENOMEM, "no memory for %d ids", n);
    for (int i = 0; i < s->n_tracks; i++) {
        struct head_track *t = &s->tracks[i];

        mem_free(t->argmax);
        mem_free(t->margin);
        mem_free(t->confidence);
        t->argmax = mem_array_alloc(room, sizeof(*t->argmax));
        t->margin = mem_array_alloc(room, sizeof(*t->margin));
        t->confidence = mem_array_alloc(room, sizeof(*t->confidence));
        mem_free(t->logits);
        t->logits = s->logits ? mem_array_alloc(room, row) : NULL;
        if (!t->argmax || !t->margin || !t->confidence || (s->logits && !t->logits))
            return err_set(err, CE_ENOMEM, "no memory for %d ids", n);
    }
    s->cap = n;
    return 0;
}

/* ---- input ---- */

static int
copy_ids(struct score *s, const json_t *array, const char *key, int at, struct err *err)
{
    int n_vocab = s->loaded.backend->info.n_vocab;

    for (size_t i = 0; i < json_array_size(array); i++) {
        const json_t *v = json_array_get(array, i);
        json_int_t id = json_integer_value(v);

        if (!json_is_integer(v) || id < 0 || id >= n_vocab)
            return err_set(err, CE_EINVAL, "%s[%zu] is not a token id from 0 to %d", key,
                           i, n_vocab - 1);
        s->ids[at + (int)i] = (int32_t)id;
    }
    return 0;
}

static int
parse_line(struct score *s, const char *text, size_t len, struct err *err)
{
    json_error_t at;
    json_t *line = json_loadb(text, len, 0, &at);
    const json_t *prompt = json_object_get(line, "prompt_ids");
    const json_t *output = json_object_get(line, "output_ids");
    size_t n_prompt = json_array_size(prompt), n_output = json_array_size(output);
    int n_ctx = s->loaded.backend->info.n_ctx, rc;

    if (!line)
        rc = err_set(err, CE_EFORMAT, "column %d: %s", at.column, at.text);
    else if (!json_is_array(prompt) || !json_is_array(output) || n_prompt == 0)
        rc = err_set(
            err, CE_EFORMAT,
            "expected an object with lists prompt_ids (not empty) and output_ids");
    else if (n_prompt + n_output > (size_t)n_ctx)
        rc = err_set(err, CE_ECONTEXT, "%zu ids are longer than the context of %d",
                     n_prompt + n_output, n_ctx);
    else
        rc = reserve(s, (int)(n_prompt + n_output), err);
    if (rc == 0)
        rc = copy_ids(s, prompt, "prompt_ids", 0, err);
    if (rc == 0)
        rc = copy_ids(s, output, "output_ids", (int)n_prompt, err);
    s->n_prompt = (int)n_prompt;
    s->n_output = (int)n_output;
    s->n_ids = s->n_prompt + s->n_output;
    json_decref(line);
    return rc;
}

/* ---- scoring ---- */

static void
keep_results(const struct score *s, struct head_track *t, int first_output, int n)
{
    for (int i = 0; i < n; i++) {
        const struct head_result *r = &s->results[i];

        t->argmax[first_output + i] = r->argmax;
        t->confidence[first_output + i] = r->confidence;
        t->margin[first_output + i] =
            r->n_top > 1 ? r->top[0].logit - r->top[1].logit : 0;
    }
}

/* Positions pos .. pos+n-1 through all blocks, from head to head. The last n_heads
 * of them go through every head: those that predict an output token. */
static int
run_rows(struct score *s, int seq, int pos, int n, int n_heads, struct err *err)
{
    struct backend *b = s->loaded.backend;
    int first_output = pos + n - n_heads - (s->n_prompt - 1), rc = 0;

    for (int i = 0; rc == 0 && i < s->n_tracks; i++) {
        struct head_track *t = &s->tracks[i];
        struct batch_item item = { .seq = seq,
                                   .pos = pos,
                                   .n_rows = n,
                                   .tokens = i == 0 ? s->ids + pos : NULL,
                                   .hidden = i == 0 ? NULL : s->hidden[i % 2],
                                   .hidden_out = i + 1 < s->n_tracks
                                                     ? s->hidden[(i + 1) % 2]
                                                     : NULL,
                                   .head_rows = n_heads,
                                   .results = n_heads > 0 ? s->results : NULL };
        struct batch batch = { .layer_from = i == 0 ? 0 : s->tracks[i - 1].layer,
                               .layer_to = t->layer,
                               .head = n_heads > 0 ? t->head : HEAD_NONE,
                               .n_top = 2,
                               .n_items = 1,
                               .items = &item };

        if (t->logits && n_heads > 0)
            item.logits = t->logits + (size_t)first_output * (size_t)b->info.n_vocab;
        rc = backend_run(b, &batch, err);
        if (rc == 0)
            keep_results(s, t, first_output, n_heads);
    }
    return rc;
}

static int
score_line(struct score *s, struct err *err)
{
    struct backend *b = s->loaded.backend;
    int last = s->n_ids - 1; /* the last id predicts nothing that is asked for */
    int first_head = s->n_prompt - 1, seq, rc;

    if (s->n_output == 0)
        return 0;
    if ((rc = backend_seq_open(b, &seq, err)))
        return rc;
    for (int pos = 0; rc == 0 && pos < last; pos += ROWS) {
        int n = last - pos < ROWS ? last - pos : ROWS;
        int heads = pos + n - (first_head > pos ? first_head : pos);

        rc = run_rows(s, seq, pos, n, heads > 0 ? heads : 0, err);
    }
    backend_seq_close(b, seq);
    for (int i = 0; rc == 0 && i < s->n_output; i++)
        s->n_agree += s->tracks[s->n_tracks - 1].argmax[i] == s->ids[s->n_prompt + i];
    s->n_scored += (size_t)s->n_output;
    return rc;
}

/* ---- output ---- */

static void
set_list(json_t *line, const char *name, const char *suffix, json_t *list)
{
    char key[40];

    snprintf(key, sizeof(key), "%s%s", name, suffix);
    json_object_set_new(line, key, list);
}

/* A list of rows. */
static json_t *
logits_list(const struct score *s, const struct head_track *t)
{
    size_t n_vocab = (size_t)s->loaded.backend->info.n_vocab;
    json_t *rows = json_array();

    for (size_t j = 0; j < (size_t)s->n_output; j++) {
        json_t *row = json_array();

        for (size_t i = 0; i < n_vocab; i++)
            json_array_append_new(row, json_real((double)t->logits[j * n_vocab + i]));
        json_array_append_new(rows, row);
    }
    return rows;
}

static int
print_line(const struct score *s, size_t index, struct err *err)
{
    json_t *line = json_pack("{s:I}", "line", (json_int_t)index);
    char *text;

    for (int i = 0; i < s->n_tracks; i++) {
        const struct head_track *t = &s->tracks[i];
        json_t *argmax = json_array(), *margin = json_array(), *conf = json_array();

        for (int j = 0; j < s->n_output; j++) {
            json_array_append_new(argmax, json_integer(t->argmax[j]));
            json_array_append_new(margin, json_real((double)t->margin[j]));
            json_array_append_new(conf, json_real((double)t->confidence[j]));
        }
        set_list(line, "argmax", t->suffix, argmax);
        set_list(line, "margin", t->suffix, margin);
        set_list(line, "confidence", t->suffix, conf);
        if (t->logits)
            set_list(line, "logits", t->suffix, logits_list(s, t));
    }
    text = json_dumps(line, JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(6));
    json_decref(line);
    if (!text)
        return err_set(err, CE_ENOMEM, "no memory for JSON");
    puts(text);
    free(text);
    return 0;
}

static size_t
count_lines(const char *text, size_t len)
{
    size_t n = 0;

    for (size_t i = 0; i < len; i++)
        n += text[i] == '\n';
    return n > 0 ? n : 1;
}

static int
score_file(struct score *s, struct err *err)
{
    struct progress progress;
    char *text = NULL;
    size_t len, index = 0;
    int rc;

    if ((rc = command_read_text(s->path, MAX_INPUT, &text, &len, err)))
        return rc;
    progress_start(&progress, "scoring", count_lines(text, len));
    for (size_t at = 0; rc == 0 && at < len; index++) {
        const char *end = memchr(text + at, '\n', len - at);
        size_t n = end ? (size_t)(end - text) - at : len - at;

        if (strspn(text + at, " \t\r") < n) {
            if ((rc = parse_line(s, text + at, n, err)) == 0 &&
                (rc = score_line(s, err)) == 0)
                rc = print_line(s, index, err);
            if (rc != 0)
                err_prefix(err, "%s: line %zu", s->path, index + 1);
        }
        at += n + 1;
        progress_set(&progress, index + 1, NULL);
    }
    progress_end(&progress);
    free(text);
    return rc;
}

int
cmd_score(int argc, char **argv)
{
    struct score s = { 0 };
    struct engine_options engine = { 0 };
    struct backend_options opt = { .final_head = true, .max_seqs = 1 };
    struct err err = { 0 };
    bool all_exits = false;
    int n, status, rc;
    const struct option_spec specs[] = { { "all-exits", 0, OPTIONS_FLAG, &all_exits, NULL,
                                           "also ask every exit head", 0, 0 },
                                         { "logits", 0, OPTIONS_FLAG, &s.logits, NULL,
                                           "also print every row of logits", 0, 0 },
                                         COMMAND_EXITS_OPTION(&engine.exits),
                                         COMMAND_EXIT_LAYERS_OPTION(&engine.exit_layers),
                                         COMMAND_ENGINE_OPTIONS(&engine),
                                         { 0 } };
    const struct options_page page = {
        "score FILE IDS.jsonl [--all-exits] [--logits]",
        "For each line {\"prompt_ids\": [...], \"output_ids\": [...]} (-: from stdin) "
        "print\n"
        "a line with the model's argmax, margin and confidence at every output position.",
        specs, 2, 2
    };

    if (!command_options(&page, argc, argv, &n, &status))
        return status;
    s.path = argv[2];
    opt.exit_heads = all_exits;
    rc = command_load(&s.loaded, argv[1], &engine, &opt, "scoring", &err);
    if (rc == 0)
        rc = prepare(&s, all_exits, &err);
    if (rc == 0)
        rc = score_file(&s, &err);
    if (rc == 0 && s.n_scored > 0)
        fprintf(stderr, "%zu of %zu output ids are the model's own choice (%.2f %%)\n",
                s.n_agree, s.n_scored, 100.0 * (double)s.n_agree / (double)s.n_scored);
    release(&s);
    return rc == 0 ? COMMAND_OK : command_failed("score", &err);
}
