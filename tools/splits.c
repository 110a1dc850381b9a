/* SPDX-License-Identifier: Apache-2.0
 * splits.c - see splits.h.
 */
#include "tools/splits.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/states.h"
#include "tools/partition.h"
#include "tools/units.h"

#define EIGHTHS 8

int
splits_find_choice(const char *name, enum splits_choice *out, struct err *err)
{
    static const char *const names[] = { "exits", "all", "none" };

    for (int i = 0; i < 3; i++) {
        if (strcmp(name, names[i]) == 0) {
            *out = (enum splits_choice)i;
            return 0;
        }
    }
    return err_set(err, CE_EINVAL, "--splits: \"%.40s\" is none of exits, all, none",
                   name);
}

static bool
has_exit(const struct model *m, int layer)
{
    for (int i = 0; i < m->n_exits; i++) {
        if (m->exits[i].layer == layer)
            return true;
    }
    return false;
}

static void
add(struct splits *s, int cloud_from, int edge_to)
{
    const struct model *m = s->model;
    struct partition edge = { m, 0, edge_to, true };
    struct partition cloud = { m, cloud_from, m->config.n_layers, false };

    s->rows[s->n++] = (struct split_row){
        cloud_from,
        edge_to,
        has_exit(m, edge_to),
        partition_weight_bytes(&edge),
        partition_kv_bytes(&edge, SPLITS_KV_POSITIONS),
        partition_weight_bytes(&cloud),
        partition_kv_bytes(&cloud, SPLITS_KV_POSITIONS),
    };
}

static bool
is_chosen(const struct model *m, enum splits_choice choice, int layer)
{
    int n = m->config.n_layers;

    if (choice == SPLITS_ALL)
        return true;
    if (choice == SPLITS_NONE)
        return false;
    if (m->n_exits > 0)
        return has_exit(m, layer);
    for (int i = 1; i < EIGHTHS; i++) {
        if (layer == n * i / EIGHTHS)
            return true;
    }
    return n <= EIGHTHS;
}

int
splits_make(struct splits *s, const struct model *m, enum splits_choice choice, int also,
            struct err *err)
{
    int n = m->config.n_layers;

    *s = (struct splits){ .model = m };
    if (m->layer_from != 0 || m->layer_to != n)
        return 0;
    s->rows = calloc((size_t)n + 1, sizeof(*s->rows));
    if (!s->rows)
        return err_set(err, CE_ENOMEM, "%s: no memory", gguf_path(m->file));
    for (int i = 1; i < n; i++) {
        if (i == also || is_chosen(m, choice, i))
            add(s, i, i);
    }
    if (m->n_exits > 1 && choice != SPLITS_NONE)
        add(s, m->exits[0].layer, m->exits[m->n_exits - 1].layer);
    return 0;
}

void
splits_free(struct splits *s)
{
    free(s->rows);
    *s = (struct splits){ 0 };
}

size_t
splits_upload_bytes(const struct model *m)
{
    return states_row_bytes(STATES_F16, (size_t)m->config.d_model);
}

void
splits_print(const struct splits *s)
{
    char a[UNITS_TEXT], b[UNITS_TEXT], c[UNITS_TEXT], d[UNITS_TEXT];

    if (s->n == 0)
        return;
    printf("\n  Memory when split           edge: weights   KV/%d   cloud: weights   "
           "KV/%d\n",
           SPLITS_KV_POSITIONS, SPLITS_KV_POSITIONS);
    for (int i = 0; i < s->n; i++) {
        const struct split_row *r = &s->rows[i];
        char name[64];

        if (r->cloud_from == r->edge_to)
            snprintf(name, sizeof(name), "after block %d%s", r->cloud_from,
                     r->exit ? " (exit)" : "");
        else
            snprintf(name, sizeof(name), "edge to %d, cloud from %d", r->edge_to,
                     r->cloud_from);
        printf(
            "  %-24s %14s %9s %16s %9s\n", name, units_bytes(a, (double)r->edge_weights),
            units_bytes(b, (double)r->edge_kv), units_bytes(c, (double)r->cloud_weights),
            units_bytes(d, (double)r->cloud_kv));
    }
    printf("  A token's state to the cloud: %zu bytes in float16, after any block.\n",
           splits_upload_bytes(s->model));
}

json_t *
splits_json(const struct splits *s)
{
    json_t *a = json_array();

    for (int i = 0; i < s->n; i++) {
        const struct split_row *r = &s->rows[i];

        json_array_append_new(
            a, json_pack("{s:i, s:i, s:b, s:I, s:I, s:I, s:I, s:I}", "cloud_from",
                         r->cloud_from, "edge_to", r->edge_to, "exit", (int)r->exit,
                         "edge_weight_bytes", (json_int_t)r->edge_weights,
                         "edge_kv_bytes_per_1000", (json_int_t)r->edge_kv,
                         "cloud_weight_bytes", (json_int_t)r->cloud_weights,
                         "cloud_kv_bytes_per_1000", (json_int_t)r->cloud_kv,
                         "upload_bytes_per_token",
                         (json_int_t)splits_upload_bytes(s->model)));
    }
    return a;
}
