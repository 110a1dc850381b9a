/* SPDX-License-Identifier: Apache-2.0
 * kv_cache.c - page pool, free list, page tables.
 *
 * Pages are wiped when they are released, not when they are handed out: after a
 * sequence has ended nothing of it is left in memory, whether or not anybody comes
 * to use its pages. It costs a memset of what was written, once per response.
 *
 * Reserving is in two parts so that it cannot fail half-way: first everything that
 * may fail (page tables grown, slabs taken until the free list is long enough), which
 * changes nothing a caller can see; then pages move from the free list to the tables.
 */
#include "engine/kv_cache.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/kernels.h"

#define SLAB_BYTES ((size_t)4 << 20) /* about; at least one page */

struct kv_layer {
    int32_t n_past;
    int n_pages, capacity;
    uint16_t **pages; /* [capacity], the first n_pages held */
};

struct kv_seq {
    bool open;
    size_t n_pages;          /* of all layers */
    struct kv_layer *layers; /* [n_layers], NULL when closed */
};

struct kv_slab {
    struct kv_slab *next;
    void *map;
    size_t size;
};

struct kv_cache {
    struct kv_config config;
    int n_layers;
    size_t max_pages; /* SIZE_MAX: no limit */
    size_t n_pages;   /* in slabs */
    size_t n_held;    /* by sequences */
    uint16_t **free;  /* [n_pages] stack, n_pages - n_held of them free */
    struct kv_slab *slabs;
    struct kv_seq *seqs; /* [max_seqs] */
};

/* ---- pool ---- */

static size_t
pool_free_pages(const struct kv_cache *kv)
{
    return kv->n_pages - kv->n_held;
}

/* Take one more slab from the system: zero pages, wanted or a slab's worth. */
static int
pool_grow(struct kv_cache *kv)
{
    size_t page = kv->config.page_bytes, n = SLAB_BYTES / page;
    struct kv_slab *slab;
    uint16_t **stack;

    if (n == 0)
        n = 1;
    if (n > kv->max_pages - kv->n_pages)
        n = kv->max_pages - kv->n_pages;
    if (n == 0)
        return CE_ENOMEM;
    if (kv->n_pages + n > SIZE_MAX / sizeof(*stack))
        return CE_ENOMEM;
    stack = realloc(kv->free, (kv->n_pages + n) * sizeof(*stack));
    if (!stack)
        return CE_ENOMEM;
    kv->free = stack;
    slab = malloc(sizeof(*slab));
    if (!slab)
        return CE_ENOMEM;
    slab->size = n * page;
    slab->map = mmap(NULL, slab->size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (slab->map == MAP_FAILED) {
        free(slab);
        return CE_ENOMEM;
    }
    slab->next = kv->slabs;
    kv->slabs = slab;
    for (size_t i = 0; i < n; i++) /* the slab's first page on top */
        stack[pool_free_pages(kv) + i] =
            (uint16_t *)((char *)slab->map + (n - 1 - i) * page);
    kv->n_pages += n;
    return 0;
}

static uint16_t *
pool_take(struct kv_cache *kv)
{
    uint16_t *page = kv->free[pool_free_pages(kv) - 1];

    kv->n_held++;
    return page;
}

static void
pool_give(struct kv_cache *kv, uint16_t *page)
{
    memset(page, 0, kv->config.page_bytes);
    kv->free[pool_free_pages(kv)] = page;
    kv->n_held--;
}

/* ---- life ---- */

int
kv_cache_new(struct kv_cache **out, const struct kv_config *config, struct err *err)
{
    struct kv_cache *kv;

    *out = NULL;
    if (config->layer_from < 0 || config->layer_to < config->layer_from ||
        config->max_seqs < 1 || config->page_bytes == 0 || config->page_bytes % 64 != 0)
        return err_set(err, CE_EINVAL, "KV cache: bad configuration");
    kv = calloc(1, sizeof(*kv));
    if (!kv)
        return err_set(err, CE_ENOMEM, "KV cache: no memory");
    kv->config = *config;
    kv->n_layers = config->layer_to - config->layer_from;
    kv->max_pages =
        config->budget_bytes == 0 ? SIZE_MAX : config->budget_bytes / config->page_bytes;
    kv->seqs = calloc((size_t)config->max_seqs, sizeof(*kv->seqs));
    if (!kv->seqs) {
        free(kv);
        return err_set(err, CE_ENOMEM, "KV cache: no memory for %d sequences",
                       config->max_seqs);
    }
    *out = kv;
    return 0;
}

void
kv_cache_free(struct kv_cache *kv)
{
    if (!kv)
        return;
    for (int i = 0; i < kv->config.max_seqs; i++)
        kv_cache_close(kv, i);
    while (kv->slabs) {
        struct kv_slab *slab = kv->slabs;

        kv->slabs = slab->next;
        munmap(slab->map, slab->size);
        free(slab);
    }
    free(kv->free);
    free(kv->seqs);
    free(kv);
}

/* ---- sequences ---- */

int
kv_cache_open(struct kv_cache *kv, int *seq)
{
    for (int i = 0; i < kv->config.max_seqs; i++) {
        struct kv_seq *s = &kv->seqs[i];

        if (s->open)
            continue;
        s->layers = calloc((size_t)kv->n_layers + 1, sizeof(*s->layers));
        if (!s->layers)
            return CE_ENOMEM;
        s->open = true;
        s->n_pages = 0;
        *seq = i;
        return 0;
    }
    return CE_ENOMEM;
}

bool
kv_cache_is_open(const struct kv_cache *kv, int seq)
{
    return seq >= 0 && seq < kv->config.max_seqs && kv->seqs[seq].open;
}

/* Keep what n positions need. */
static void
layer_shrink(struct kv_cache *kv, struct kv_seq *s, struct kv_layer *l, int32_t n)
{
    int keep = (int)(((int64_t)n + KV_PAGE - 1) / KV_PAGE);

    while (l->n_pages > keep) {
        pool_give(kv, l->pages[--l->n_pages]);
        s->n_pages--;
    }
    if (l->n_past > n)
        l->n_past = n;
}

int
kv_cache_truncate(struct kv_cache *kv, int seq, int32_t n)
{
    if (!kv_cache_is_open(kv, seq))
        return CE_ENOTFOUND;
    if (n < 0)
        return CE_EINVAL;
    for (int i = 0; i < kv->n_layers; i++)
        layer_shrink(kv, &kv->seqs[seq], &kv->seqs[seq].layers[i], n);
    return 0;
}

void
kv_cache_close(struct kv_cache *kv, int seq)
{
    struct kv_seq *s;

    if (kv_cache_truncate(kv, seq, 0) != 0)
        return;
    s = &kv->seqs[seq];
    for (int i = 0; i < kv->n_layers; i++)
        free(s->layers[i].pages);
    free(s->layers);
    memset(s, 0, sizeof(*s));
}

/* The block's entry, or NULL when the sequence or the block is not there. */
static struct kv_layer *
find_layer(const struct kv_cache *kv, int seq, int layer)
{
    if (!kv_cache_is_open(kv, seq) || layer < kv->config.layer_from ||
        layer >= kv->config.layer_to)
        return NULL;
    return &kv->seqs[seq].layers[layer - kv->config.layer_from];
}

int32_t
kv_cache_n_past(const struct kv_cache *kv, int seq, int layer)
{
    const struct kv_layer *l = find_layer(kv, seq, layer);

    return l ? l->n_past : CE_ENOTFOUND;
}

size_t
kv_cache_bytes(const struct kv_cache *kv, int seq)
{
    if (seq == -1)
        return kv->n_held * kv->config.page_bytes;
    return kv_cache_is_open(kv, seq) ? kv->seqs[seq].n_pages * kv->config.page_bytes : 0;
}

uint16_t *const *
kv_cache_pages(const struct kv_cache *kv, int seq, int layer)
{
    const struct kv_layer *l = find_layer(kv, seq, layer);

    return l ? l->pages : NULL;
}

/* ---- room for a step ---- */

/* Pages that the block lacks for n_rows more positions; -1 when there are too many
 * positions to count. */
static int
layer_lacks(const struct kv_layer *l, int n_rows)
{
    int64_t end = (int64_t)l->n_past + n_rows;
    int64_t pages = (end + KV_PAGE - 1) / KV_PAGE;

    if (end > INT32_MAX)
        return -1;
    return pages > l->n_pages ? (int)(pages - l->n_pages) : 0;
}

static int
layer_grow_table(struct kv_layer *l, int n_more)
{
    int want = l->n_pages + n_more, capacity = l->capacity ? l->capacity : 4;
    uint16_t **pages;

    if (want <= l->capacity)
        return 0;
    while (capacity < want)
        capacity *= 2;
    pages = realloc(l->pages, (size_t)capacity * sizeof(*pages));
    if (!pages)
        return CE_ENOMEM;
    l->pages = pages;
    l->capacity = capacity;
    return 0;
}

int
kv_cache_reserve(struct kv_cache *kv, const struct kv_need *needs, int n_needs,
                 int layer_from, int layer_to)
{
    size_t total = 0;

    for (int i = 0; i < n_needs; i++) {
        for (int j = layer_from; j < layer_to; j++) {
            struct kv_layer *l = find_layer(kv, needs[i].seq, j);
            int lacks = l ? layer_lacks(l, needs[i].n_rows) : -1;

            if (lacks < 0)
                return l ? CE_ENOMEM : CE_ENOTFOUND;
            if (layer_grow_table(l, lacks) != 0)
                return CE_ENOMEM;
            total += (size_t)lacks;
        }
    }
    if (total > kv->max_pages - kv->n_held)
        return CE_ENOMEM;
    while (pool_free_pages(kv) < total) {
        if (pool_grow(kv) != 0)
            return CE_ENOMEM;
    }
    for (int i = 0; i < n_needs; i++) {
        struct kv_seq *s = &kv->seqs[needs[i].seq];

        for (int j = layer_from; j < layer_to; j++) {
            struct kv_layer *l = find_layer(kv, needs[i].seq, j);

            for (int lacks = layer_lacks(l, needs[i].n_rows); lacks > 0; lacks--) {
                l->pages[l->n_pages++] = pool_take(kv);
                s->n_pages++;
            }
        }
    }
    return 0;
}

void
kv_cache_advance(struct kv_cache *kv, const struct kv_need *needs, int n_needs,
                 int layer_from, int layer_to)
{
    for (int i = 0; i < n_needs; i++) {
        for (int j = layer_from; j < layer_to; j++)
            find_layer(kv, needs[i].seq, j)->n_past += needs[i].n_rows;
    }
}
