/* SPDX-License-Identifier: Apache-2.0
 * weights.c - allocate, then pack in parallel; or leave the matrices in the file.
 *
 * First a list of the matrices is made and all memory allocated, which may fail; then
 * one region of the pool fills the tiles, which cannot.
 *
 * Single decode reads every weight once per token, so page walks show: with huge pages
 * SmolLM2 decodes 8 to 20 % faster (one thread, Zen 3, machine busy).
 */
#include "engine/weights.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/log.h"
#include "common/memory.h"
#include "common/sha256.h"
#include "engine/packed_cache.h"

#define HUGE_PAGE ((size_t)2 << 20)
#define PER_BLOCK 7
#define PER_EXIT  7

/* Tiles packed at once with packing off: as many as stay near the core. */
#define ROOM_BYTES ((size_t)32 << 10)

struct loader {
    struct weights *w;
    const struct model *m;
    struct packed_matrix *matrices; /* [n_matrices], rows set, data not yet */
    int n_matrices;
    size_t matrix_bytes; /* of all packed; each is a multiple of 64 */
    size_t largest_tile;
    struct err *err;
};

static int
add_matrix(struct loader *l, struct packed *to, const struct gguf_tensor *from)
{
    int rc = packed_shape(to, from->type, from->ne[1], from->ne[0], l->err);

    if (rc != 0)
        return err_prefix(l->err, "tensor %s: ", from->name), rc;
    to->rows = from->data;
    if (to->tile_bytes > l->largest_tile)
        l->largest_tile = to->tile_bytes;
    if (__builtin_add_overflow(l->matrix_bytes, packed_bytes(to), &l->matrix_bytes))
        return err_set(l->err, CE_ENOMEM, "tensor %s: too large", from->name);
    l->matrices[l->n_matrices++] = (struct packed_matrix){ from->name, to };
    return 0;
}

static int
add_vector(struct loader *l, float **to, const struct gguf_tensor *from)
{
    *to = malloc(from->size_bytes);
    if (!*to)
        return err_set(l->err, CE_ENOMEM, "tensor %s: no memory", from->name);
    memcpy(*to, from->data, from->size_bytes);
    l->w->bytes += from->size_bytes;
    return 0;
}

/* Biases and norms of a block that only some architectures have. */
static int
add_optional(struct loader *l, struct block_weights *b, const struct model_block *mb)
{
    const struct {
        float **to;
        const struct gguf_tensor *from;
    } parts[] = {
        { &b->q_bias, mb->q_bias }, { &b->k_bias, mb->k_bias },
        { &b->v_bias, mb->v_bias }, { &b->q_norm, mb->q_norm },
        { &b->k_norm, mb->k_norm }, { &b->output_bias, mb->output_bias },
    };
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < sizeof(parts) / sizeof(parts[0]); i++) {
        if (parts[i].from)
            rc = add_vector(l, parts[i].to, parts[i].from);
    }
    return rc;
}

static int
add_block(struct loader *l, struct block_weights *b, const struct model_block *mb)
{
    int rc;

    if ((rc = add_vector(l, &b->attn_norm, mb->attn_norm)) ||
        (rc = add_optional(l, b, mb)) || (rc = add_matrix(l, &b->q, mb->q)) ||
        (rc = add_matrix(l, &b->k, mb->k)) || (rc = add_matrix(l, &b->v, mb->v)) ||
        (rc = add_matrix(l, &b->attn_output, mb->attn_output)) ||
        (rc = add_vector(l, &b->ffn_norm, mb->ffn_norm)) ||
        (rc = add_matrix(l, &b->gate, mb->gate)) || (rc = add_matrix(l, &b->up, mb->up)))
        return rc;
    return add_matrix(l, &b->down, mb->down);
}

static int
add_adapter(struct loader *l, struct exit_weights *e, const struct model_exit *me)
{
    int rc;

    e->width = (size_t)me->adapter_width;
    if (me->trust && ((rc = add_vector(l, &e->trust, me->trust)) ||
                      (rc = add_vector(l, &e->trust_bias, me->trust_bias))))
        return rc;
    if ((rc = add_vector(l, &e->map_bias, me->map_bias)) ||
        (rc = add_matrix(l, &e->map, me->map)) || !me->gate)
        return rc;
    if ((rc = add_matrix(l, &e->gate, me->gate)) || (rc = add_matrix(l, &e->up, me->up)))
        return rc;
    return add_matrix(l, &e->down, me->down);
}

static int
add_exit(struct loader *l, const struct model_exit *me)
{
    struct exit_weights *e = &l->w->exits[l->w->n_exits++];
    int rc;

    e->layer = me->layer;
    e->kind = me->kind;
    e->n_candidates = me->n_candidates;
    if (me->kind == MODEL_EXIT_MLP && (rc = add_adapter(l, e, me)) != 0)
        return rc;
    if (me->kind == MODEL_EXIT_OWN && ((rc = add_vector(l, &e->norm, me->norm)) ||
                                       (rc = add_matrix(l, &e->output, me->output))))
        return rc;
    if (me->n_candidates == 0)
        return 0;
    if ((rc = add_matrix(l, &e->screen_down, me->screen_down)))
        return rc;
    return add_matrix(l, &e->screen_up, me->screen_up);
}

static int
add_heads(struct loader *l, bool final, bool exits)
{
    const struct model *m = l->m;
    struct weights *w = l->w;
    bool shared = final; /* does a head read the model's norm and matrix? */
    int rc;

    for (int i = 0; exits && i < m->n_exits; i++) {
        const struct model_exit *me = &m->exits[i];

        if (me->layer <= w->layer_from || me->layer > w->layer_to)
            continue;
        if ((rc = add_exit(l, me)))
            return rc;
        shared |= me->kind != MODEL_EXIT_OWN;
    }
    if (!shared)
        return 0;
    if (!m->output || !m->output_norm)
        return err_set(
            l->err, CE_EINVAL,
            "%s: a head is asked for, but the file has no output norm or matrix",
            gguf_path(m->file));
    if ((rc = add_vector(l, &w->output_norm, m->output_norm)))
        return rc;
    return add_matrix(l, &w->output, m->output);
}

/* Map memory for all matrices, at a huge page's boundary, and deal it out. */
static int
map_arena(struct loader *l)
{
    struct weights *w = l->w;
    uint8_t *at;

    if (__builtin_add_overflow(l->matrix_bytes, HUGE_PAGE, &w->arena_bytes))
        return err_set(l->err, CE_ENOMEM, "weights too large");
    w->arena = mmap(NULL, w->arena_bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (w->arena == MAP_FAILED) {
        w->arena = NULL;
        return err_set(l->err, CE_ENOMEM, "%zu bytes for weights", l->matrix_bytes);
    }
    if (l->matrix_bytes >= HUGE_PAGE)
        madvise(w->arena, w->arena_bytes, MADV_HUGEPAGE); /* a wish */
    at = (uint8_t *)(((uintptr_t)w->arena + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1));
    for (int i = 0; i < l->n_matrices; i++) {
        l->matrices[i].w->data = at;
        at += packed_bytes(l->matrices[i].w);
    }
    return 0;
}

/* One room for each thread of the pool, instead of packed matrices. */
static int
make_rooms(struct loader *l, int n_threads)
{
    struct weights *w = l->w;

    w->room_bytes = l->largest_tile > ROOM_BYTES ? l->largest_tile : ROOM_BYTES;
    w->rooms = mem_aligned_alloc((size_t)n_threads, w->room_bytes);
    if (!w->rooms)
        return err_set(l->err, CE_ENOMEM, "%d times %zu bytes for tiles", n_threads,
                       w->room_bytes);
    w->bytes += (size_t)n_threads * w->room_bytes;
    return 0;
}

static void
pack_all(void *arg, int tid, int n_threads)
{
    const struct loader *l = arg;

    for (int i = 0; i < l->n_matrices; i++) {
        struct packed *to = l->matrices[i].w;
        size_t from, past;

        threads_share(to->n_tiles, 1, tid, n_threads, &from, &past);
        packed_fill(to, to->rows, from, past);
    }
}

static int
pack_in_memory(struct loader *l, struct threads *pool)
{
    int rc = map_arena(l);

    if (rc == 0)
        threads_run(pool, pack_all, l);
    return rc;
}

/* ---- the folder of packed weights ---- */

#define ID_BYTES   32
#define NAME_BYTES 80

/* What tells a file from all others, and its name: model, blocks, and all of it. */
static int
cache_name(struct loader *l, const struct weights_config *c, uint8_t id[ID_BYTES],
           char name[NAME_BYTES])
{
    char text[SHA256_TEXT], model[SHA256_TEXT], what[SHA256_TEXT + 64];
    int rc = model_identity(l->m, c->exits, id, l->err);

    if (rc != 0)
        return rc;
    sha256_text(id, text);
    snprintf(what, sizeof(what), "%s blocks %d to %d final %d exits %d", text,
             c->layer_from, c->layer_to, c->final, c->exits);
    if ((rc = sha256_bytes(what, strlen(what), id, l->err)))
        return rc;
    sha256_text(id, text);
    model_fingerprint_text(l->m, model);
    snprintf(name, NAME_BYTES, "%.16s-%d-%d-%.16s.packed", model, c->layer_from,
             c->layer_to, text);
    return 0;
}

/* Map the file; make it first if need be. What the folder does wrong is a warning. */
static int
load_cached(struct loader *l, const struct weights_config *c, struct threads *pool)
{
    struct weights *w = l->w;
    char name[NAME_BYTES];
    uint8_t id[ID_BYTES];
    struct packed_cache cache = { c->packing_cache, name, id, l->matrices,
                                  l->n_matrices };
    struct err why = { 0 };
    void *packed, *arena;
    size_t arena_bytes;
    int rc;

    if ((rc = cache_name(l, c, id, name)))
        return rc;
    rc = packed_cache_map(&cache, pool, &w->arena, &w->arena_bytes, &why);
    if (rc == 0)
        return 0;
    if (rc != CE_ENOTFOUND)
        log_warn("packing cache: %s; packing again", why.text);
    if ((rc = pack_in_memory(l, pool)))
        return rc;
    packed = l->matrices[0].w->data;
    if (packed_cache_write(&cache, packed, pool, &why) != 0 ||
        packed_cache_map(&cache, pool, &arena, &arena_bytes, &why) != 0) {
        log_warn("packing cache: %s; going on without it", why.text);
        return 0;
    }
    munmap(w->arena, w->arena_bytes); /* the file's copy is the one to share */
    w->arena = arena;
    w->arena_bytes = arena_bytes;
    return 0;
}

static int
load_matrices(struct loader *l, const struct weights_config *c, struct threads *pool)
{
    if (c->packing_off)
        return make_rooms(l, threads_count(pool));
    l->w->bytes += l->matrix_bytes;
    if (c->packing_cache && c->packing_cache[0])
        return load_cached(l, c, pool);
    return pack_in_memory(l, pool);
}

int
weights_load(struct weights *w, const struct model *m, const struct weights_config *c,
             struct threads *pool, struct err *err)
{
    struct loader l = { .w = w, .m = m, .err = err };
    size_t n = (size_t)(c->layer_to - c->layer_from);
    int rc = 0;

    memset(w, 0, sizeof(*w));
    w->layer_from = c->layer_from;
    w->layer_to = c->layer_to;
    w->blocks = calloc(n, sizeof(*w->blocks));
    l.matrices =
        calloc(n * PER_BLOCK + MODEL_MAX_EXITS * PER_EXIT + 1, sizeof(*l.matrices));
    if (!w->blocks || !l.matrices)
        rc = err_set(err, CE_ENOMEM, "no memory for %zu blocks", n);
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = add_block(&l, &w->blocks[i], &m->blocks[(size_t)c->layer_from + i]);
    if (rc == 0)
        rc = add_heads(&l, c->final, c->exits);
    if (rc == 0)
        rc = load_matrices(&l, c, pool);
    if (rc != 0)
        weights_free(w);
    free(l.matrices);
    return rc;
}

void
weights_free(struct weights *w)
{
    for (int i = 0; w->blocks && i < w->layer_to - w->layer_from; i++) {
        struct block_weights *b = &w->blocks[i];

        free(b->attn_norm);
        free(b->ffn_norm);
        free(b->q_bias);
        free(b->k_bias);
        free(b->v_bias);
        free(b->q_norm);
        free(b->k_norm);
        free(b->output_bias);
    }
    for (int i = 0; i < w->n_exits; i++) {
        free(w->exits[i].map_bias);
        free(w->exits[i].trust);
        free(w->exits[i].trust_bias);
        free(w->exits[i].norm);
    }
    free(w->blocks);
    free(w->output_norm);
    mem_free(w->rooms);
    if (w->arena)
        munmap(w->arena, w->arena_bytes);
    memset(w, 0, sizeof(*w));
}
