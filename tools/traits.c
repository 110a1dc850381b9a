/* SPDX-License-Identifier: Apache-2.0
 * traits.c - see traits.h.
 */
#include "tools/traits.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/chat_template.h"

/* An architecture's key, such as "llama.rope.scaling.factor"; NULL when too long. */
static const char *
arch_key(const struct model *m, const char *suffix, char out[160])
{
    snprintf(out, 160, "%s.%s", m->config.arch, suffix);
    return out;
}

static double
number(const struct model *m, const char *suffix)
{
    char key[160];
    uint64_t u;
    double v;

    arch_key(m, suffix, key);
    if (gguf_get_f64(m->file, key, &v, NULL) == 0)
        return v;
    return gguf_get_u64(m->file, key, &u, NULL) == 0 ? (double)u : 0;
}

/* Does some block have this tensor? (A part has not all blocks.) */
static bool
has_block_tensor(const struct model *m, const char *name)
{
    char full[80];

    snprintf(full, sizeof(full), "blk.%d.%s", m->layer_from, name);
    return gguf_find_tensor(m->file, full) != NULL;
}

static void
read_scaling(struct traits *t, const struct model *m)
{
    struct gguf_str s;
    char key[160];

    if (gguf_get_str(m->file, arch_key(m, "rope.scaling.type", key), &s, NULL) == 0 &&
        s.len > 0 && !(s.len == 4 && memcmp(s.data, "none", 4) == 0)) {
        size_t n = 0;

        while (n < s.len && n < sizeof(t->rope_scaling) - 1) {
            char c = s.data[n];

            t->rope_scaling[n++] = c > ' ' && c < 0x7f ? c : '?';
        }
    }
    if (gguf_find_tensor(m->file, "rope_freqs.weight"))
        snprintf(t->rope_scaling, sizeof(t->rope_scaling), "llama3");
    t->rope_factor = number(m, "rope.scaling.factor");
    t->rope_original_context = number(m, "rope.scaling.original_context_length");
    if (t->rope_scaling[0] == '\0' && t->rope_factor > 1)
        snprintf(t->rope_scaling, sizeof(t->rope_scaling), "linear");
}

void
traits_read(struct traits *t, const struct model *m)
{
    const struct chat_template *template = NULL;

    memset(t, 0, sizeof(*t));
    /* Converters reorder llama's rows for neighbours; the others keep theirs. */
    t->rope_halves = strcmp(m->config.arch, "llama") != 0;
    read_scaling(t, m);
    t->biases = has_block_tensor(m, "attn_q.bias");
    t->qk_norm = has_block_tensor(m, "attn_q_norm.weight");
    t->has_chat_template = gguf_find_key(m->file, "tokenizer.chat_template") >= 0;
    if (chat_template_find(&template, m->file, NULL, NULL) == 0)
        snprintf(t->chat_template, sizeof(t->chat_template), "%s",
                 chat_template_name(template));
}

static void __attribute__((format(printf, 4, 5)))
append(char *out, size_t cap, size_t *len, const char *fmt, ...)
{
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(out + *len, cap - *len, fmt, ap);
    va_end(ap);
    if (n > 0)
        *len += (size_t)n < cap - *len ? (size_t)n : cap - *len - 1;
}

char *
traits_text(char *out, size_t cap, const struct traits *t, const struct model *m)
{
    const struct model_config *c = &m->config;
    size_t len = 0;

    append(out, cap, &len, "rope turns %s of %d dimensions, base %g",
           t->rope_halves ? "halves" : "neighbours", c->n_rot, (double)c->rope_base);
    if (t->rope_scaling[0] != '\0') {
        append(out, cap, &len, ", %s scaling", t->rope_scaling);
        if (t->rope_factor > 0)
            append(out, cap, &len, " by %g", t->rope_factor);
        if (t->rope_original_context > 0)
            append(out, cap, &len, " from %g positions", t->rope_original_context);
    }
    append(out, cap, &len, "; %s on q, k, v; %s", t->biases ? "biases" : "no biases",
           t->qk_norm ? "norms of q and k heads" : "no norm of q and k");
    return out;
}
