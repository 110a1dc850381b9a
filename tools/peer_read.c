/* SPDX-License-Identifier: Apache-2.0
 * peer_read.c - the figures in what llama.cpp's programs print; see peer.h.
 */
#include "tools/peer.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "tools/median.h"

#define MAX_SAMPLES 100

static void
add_figure(struct peer *p, const char *kind, int n, double tokens_per_second)
{
    struct peer_figure *f = &p->figures[p->n_figures];

    if (p->n_figures == PEER_MAX_FIGURES)
        return;
    snprintf(f->name, sizeof(f->name), "%s_%d", kind, n);
    f->tokens_per_second = tokens_per_second;
    if (peer_find(p, f->name) == 0)
        p->n_figures++;
}

double
peer_find(const struct peer *p, const char *name)
{
    for (int i = 0; i < p->n_figures; i++) {
        if (strcmp(p->figures[i].name, name) == 0)
            return p->figures[i].tokens_per_second;
    }
    return 0;
}

static double
median_of(const json_t *samples)
{
    double v[MAX_SAMPLES];
    size_t n = json_array_size(samples);

    if (n > MAX_SAMPLES)
        n = MAX_SAMPLES;
    for (size_t i = 0; i < n; i++)
        v[i] = json_number_value(json_array_get(samples, i));
    return median(v, n);
}

int
peer_read_bench(struct peer *p, const char *text, struct err *err)
{
    json_error_t at;
    json_t *all = json_loads(text, 0, &at), *test;
    int before = p->n_figures;
    size_t i;

    json_array_foreach(all, i, test)
    {
        json_int_t n_prompt = json_integer_value(json_object_get(test, "n_prompt"));
        json_int_t n_gen = json_integer_value(json_object_get(test, "n_gen"));
        double speed = median_of(json_object_get(test, "samples_ts"));
        const char *commit = json_string_value(json_object_get(test, "build_commit"));

        if (commit)
            snprintf(p->build, sizeof(p->build), "llama.cpp %.40s", commit);
        if (n_prompt > 0 && n_gen == 0 && speed > 0)
            add_figure(p, "prefill", (int)n_prompt, speed);
        if (n_prompt == 0 && n_gen > 0 && speed > 0)
            add_figure(p, "decode", 1, speed);
    }
    json_decref(all);
    if (p->n_figures == before)
        return err_set(err, CE_EFORMAT, "no figures in llama-bench's output");
    return 0;
}

int
peer_read_batched(struct peer *p, const char *text, struct err *err)
{
    int before = p->n_figures;

    while (*text != '\0') {
        size_t len = strcspn(text, "\n");
        json_t *line = json_loadb(text, len, 0, NULL); /* other lines are chatter */
        json_int_t n = json_integer_value(json_object_get(line, "pl"));
        double speed = json_number_value(json_object_get(line, "speed_tg"));

        if (n > 1 && n < 1000 && speed > 0)
            add_figure(p, "decode", (int)n, speed);
        json_decref(line);
        text += len + (text[len] == '\n');
    }
    if (p->n_figures == before)
        return err_set(err, CE_EFORMAT, "no figures in llama-batched-bench's output");
    return 0;
}
