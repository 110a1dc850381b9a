/* SPDX-License-Identifier: Apache-2.0
 * quantise_plan.c - which format each tensor of a model gets (quantise.h).
 *
 * K formats have blocks of 256; a model whose width is another multiple of 32 gets the
 * nearest format with blocks of 32 that has no fewer bits, and half precision at last.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/quant.h"
#include "tools/quantise.h"

#define ONE_STEP 1.15 /* bits: Q4_1 is 5.0, Q4_0 4.5, Q5_0 5.5 */

static double
bits(uint32_t type)
{
    return 8.0 * (double)gguf_block_bytes(type) / (double)gguf_block_elems(type);
}

uint32_t
quantise_output_type(uint32_t type)
{
    return bits(type) < 8 ? GGUF_Q8_0 : type;
}

/* What to try when a row of n elements is not whole blocks of `type`. */
static uint32_t
next_type(uint32_t type)
{
    switch (type) {
    case GGUF_Q2_K:
    case GGUF_Q3_K:
        return GGUF_Q4_0;
    case GGUF_Q4_K:
        return GGUF_Q5_0;
    case GGUF_Q5_0:
    case GGUF_Q5_K:
        return GGUF_Q5_1;
    case GGUF_Q5_1:
    case GGUF_Q6_K:
        return GGUF_Q8_0;
    default:
        return GGUF_F16;
    }
}

static uint32_t
fitting_type(uint32_t type, size_t n)
{
    while (n % gguf_block_elems(type) != 0)
        type = next_type(type);
    return type;
}

static bool
is_vocabulary(const char *name)
{
    return strcmp(name, "token_embd.weight") == 0 || strcmp(name, "output.weight") == 0;
}

/* A matrix that is multiplied, of the model itself: an exit head's were trained for it
 * and are small. */
static bool
is_matrix(const struct gguf_tensor *t)
{
    size_t len = strlen(t->name), suffix = strlen(".weight");

    return t->n_dims >= 2 && t->ne[1] > 1 && len > suffix &&
           strcmp(t->name + len - suffix, ".weight") == 0 &&
           strncmp(t->name, "exit.", 5) != 0 && !strstr(t->name, "norm");
}

static bool
is_plain(uint32_t type)
{
    return type == GGUF_F32 || type == GGUF_F16 || type == GGUF_BF16 || type == GGUF_Q8_0;
}

static bool
is_sensitive(const char *name)
{
    return strncmp(name, "blk.", 4) == 0 &&
           (strstr(name, ".attn_") || strstr(name, ".ffn_down."));
}

/* Is it better to keep a matrix that has few bits already? A fallback with no fewer
 * bits would only lose; a format with about as many bits and without minima loses much
 * where it matters (Q4_K takes Q4_1's blocks with a fifth of Q4_0's error). */
static bool
keep(const struct quantise_plan *plan, const struct quantise_item *it)
{
    double from = bits(it->from->type), to = bits(it->type);

    if (plan->all || is_plain(it->from->type) || gguf_block_elems(it->type) == 1)
        return false;
    if (it->fell_back)
        return from <= to;
    return (it->type == GGUF_Q4_0 || it->type == GGUF_Q5_0) &&
           is_sensitive(it->from->name) && from <= to * ONE_STEP && to <= from * ONE_STEP;
}

static int
plan_item(struct quantise_plan *plan, struct quantise_item *it, struct err *err)
{
    const struct gguf_tensor *t = it->from;
    uint32_t asked = is_vocabulary(t->name) ? plan->output_type : plan->type;

    it->type = t->type;
    it->copied = true;
    if (!is_matrix(t))
        return 0;
    if (quant_row_bytes(t->type, t->ne[0]) == 0)
        return err_set(err, CE_EUNSUPPORTED, "%s: tensor %s: format %s cannot be decoded",
                       gguf_path(plan->file), t->name, gguf_type_name(t->type));
    it->type = fitting_type(asked, t->ne[0]);
    it->fell_back = it->type != asked;
    it->kept = it->type != t->type && keep(plan, it);
    if (it->kept) {
        it->type = t->type;
        it->fell_back = false;
    }
    it->copied = it->type == t->type;
    if (!it->copied && !is_plain(t->type) && gguf_block_elems(it->type) > 1)
        plan->twice = true;
    return 0;
}

int
quantise_plan_make(struct quantise_plan *plan, const struct gguf *file, uint32_t type,
                   uint32_t output_type, bool all, struct err *err)
{
    int rc = 0;

    *plan = (struct quantise_plan){ .file = file,
                                    .type = type,
                                    .output_type = output_type,
                                    .n = gguf_n_tensors(file),
                                    .all = all };
    plan->items = calloc((size_t)plan->n + 1, sizeof(*plan->items));
    if (!plan->items)
        return err_set(err, CE_ENOMEM, "%s: no memory", gguf_path(file));
    for (int i = 0; i < plan->n && rc == 0; i++) {
        plan->items[i].from = gguf_tensor_at(file, i);
        rc = plan_item(plan, &plan->items[i], err);
    }
    if (rc != 0)
        quantise_plan_free(plan);
    return rc;
}

void
quantise_plan_free(struct quantise_plan *plan)
{
    free(plan->items);
    *plan = (struct quantise_plan){ 0 };
}
