/* SPDX-License-Identifier: Apache-2.0
 * report.c - see report.h.
 */
#include "agent/report.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

void
report_init(struct report *r, const struct edge_model *model, bool hash)
{
    memset(r, 0, sizeof(*r));
    r->model = model;
    r->hash = hash;
}

void
report_fini(struct report *r)
{
    json_decref(r->ids);
    json_decref(r->tokens);
    if (r->text_file != NULL)
        fclose(r->text_file);
    free(r->text);
    r->ids = r->tokens = NULL;
    r->text_file = NULL;
    r->text = NULL;
}

void
report_begin(struct report *r)
{
    report_fini(r);
    r->ids = json_array();
    r->tokens = json_array();
    r->text_file = open_memstream(&r->text, &r->text_len);
}

static json_t *
hash_text(uint64_t hash)
{
    char text[17];

    snprintf(text, sizeof(text), "%016" PRIx64, hash);
    return json_string(text);
}

static json_t *
cells(const struct reply_token *t)
{
    json_t *a = json_array();

    for (int i = 0; i < t->n_cells; i++) {
        const struct reply_cell *c = &t->cells[i];
        json_array_append_new(a,
                              json_pack("{s:i, s:i, s:f}", "layer", c->layer, "id",
                                        (int)c->id, "confidence", (double)c->confidence));
    }
    return a;
}

void
report_token(struct report *r, const struct reply_token *t)
{
    json_t *o = json_pack(
        "{s:i, s:i, s:s%, s:s, s:f, s:I, s:I, s:I}", "id", (int)t->id, "pos", (int)t->pos,
        "text", t->text, t->text_len, "origin", reply_origin_name(t->origin),
        "confidence", (double)t->confidence, "edge_us", (json_int_t)t->edge_us,
        "cloud_us", (json_int_t)t->cloud_us, "wire_us", (json_int_t)t->wire_us);

    if (t->layer > 0)
        json_object_set_new(o, "layer", json_integer(t->layer));
    if (t->request > 0)
        json_object_set_new(o, "request", json_integer(t->request));
    if (r->hash && t->has_hash)
        json_object_set_new(o, "hash", hash_text(t->hash));
    if (t->n_cells > 0)
        json_object_set_new(o, "heads", cells(t));
    json_array_append_new(r->tokens, o);
    json_array_append_new(r->ids, json_integer(t->id));
    if (r->text_file != NULL)
        fwrite(t->text, 1, t->text_len, r->text_file);
}

static json_t *
by_exit(const struct report *r, const struct decode_result *result)
{
    json_t *o = json_object();

    for (int k = 0; k < r->model->policy.n_exits; k++) {
        char layer[12];
        snprintf(layer, sizeof(layer), "%d", r->model->exit_layers[k]);
        json_object_set_new(o, layer, json_integer(result->by_exit[k]));
    }
    return o;
}

static void
add_result(const struct report *r, json_t *o, const struct decode_result *d)
{
    json_object_set_new(o, "end", json_string(decode_end_name(d->end)));
    json_object_set_new(o, "prompt_tokens", json_integer((json_int_t)d->n_prompt));
    json_object_set_new(o, "counts",
                        json_pack("{s:i, s:o, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i}",
                                  "tokens", d->n_tokens, "exits", by_exit(r, d), "cloud",
                                  d->by_cloud, "full", d->by_full, "fallback",
                                  d->by_fallback, "requests", d->requests, "stalls",
                                  d->stalls, "probes", d->probes, "screened", d->screened,
                                  "moves", d->moves));
    json_object_set_new(o, "bytes_up", json_integer((json_int_t)d->bytes_up));
    json_object_set_new(
        o, "us",
        json_pack("{s:I, s:I, s:I, s:I, s:I}", "total", (json_int_t)d->total_us,
                  "first_token", (json_int_t)d->prefill_us, "edge",
                  (json_int_t)d->edge_us, "cloud", (json_int_t)d->cloud_us, "wire",
                  (json_int_t)d->wire_us));
    if (d->cloud_lost)
        json_object_set_new(o, "cloud_lost", json_string(d->loss.text));
}

void
report_end(struct report *r, FILE *out, const json_t *id,
           const struct decode_result *result, const struct err *err)
{
    json_t *o = json_object();

    if (id != NULL)
        json_object_set(o, "id", (json_t *)id);
    json_object_set_new(o, "mode", json_string(policy_mode_names[r->model->policy.mode]));
    if (err != NULL)
        json_object_set_new(o, "error", json_string(err->text));
    if (r->text_file != NULL) {
        fflush(r->text_file);
        json_object_set_new(o, "text", json_stringn(r->text, r->text_len));
    }
    json_object_set(o, "ids", r->ids);
    add_result(r, o, result);
    json_object_set(o, "tokens", r->tokens);
    json_dumpf(o, out, JSON_COMPACT);
    putc('\n', out);
    fflush(out);
    json_decref(o);
}
