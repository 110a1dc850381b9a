/* SPDX-License-Identifier: Apache-2.0
 * tenant.c - see tenant.h.
 *
 * Names are hashed into buckets, so that finding one among thousands, once for each
 * session, looks at few. References are counted by any thread, but freeing is left to
 * the I/O thread's sweep, so a bucket's list has one writer.
 */
#include "server/tenant.h"

#include <stdio.h>
#include <string.h>

#include "common/memory.h"

#define GRANTS_PER_SECOND 20 /* CREDIT frames for a sequence held back by a rate */

static size_t
bucket_of(enum tenant_kind kind, const char *name)
{
    uint32_t h = 2166136261u ^ (uint32_t)kind;

    for (; *name; name++)
        h = (h ^ (uint8_t)*name) * 16777619u;
    return (h ^ h >> 15) % TENANT_N_BUCKETS;
}

/* What the table says of it. */
static void
configure(struct tenant *t, const struct tenants *table, const struct tenants_member *m)
{
    static const struct limits none = { .burst_us = 1000000 };

    t->limits = m ? m->limits : table ? table->limits : none;
    atomic_store_explicit(&t->weight,
                          (uint32_t)(m       ? m->weight
                                     : table ? table->weight
                                             : 1),
                          memory_order_relaxed);
    atomic_store_explicit(&t->kv_bytes, (size_t)t->limits.kv_bytes, memory_order_relaxed);
    t->gone = false;
}

static struct tenant *
find(const struct tenant_registry *r, enum tenant_kind kind, const char *name)
{
    struct tenant *t = r->buckets[bucket_of(kind, name)];

    while (t && (t->kind != kind || strcmp(t->name, name) != 0))
        t = t->next;
    return t;
}

struct tenant *
tenant_get(struct tenant_registry *r, const struct tenants *table,
           const struct tenants_member *m, const char *cert_name)
{
    enum tenant_kind kind = !table                            ? TENANT_SUBJECT
                            : m                               ? TENANT_NAMED
                            : table->unknown == TENANTS_SHARE ? TENANT_SHARED
                                                              : TENANT_OWN;
    char name[USAGE_NAME_SIZE], full[USAGE_NAME_SIZE + 8];
    struct tenant *t, **bucket;

    snprintf(full, sizeof(full), "%s%s", kind == TENANT_OWN ? "cert:" : "",
             kind == TENANT_NAMED    ? m->name
             : kind == TENANT_SHARED ? TENANTS_SHARED
                                     : cert_name);
    usage_name(name, full);
    t = find(r, kind, name);
    if (!t) {
        t = mem_array_alloc(1, sizeof(*t));
        if (!t)
            return NULL;
        t->kind = kind;
        memcpy(t->name, name, sizeof(t->name));
        t->number = ++r->next_number;
        bucket = &r->buckets[bucket_of(kind, name)];
        t->next = *bucket;
        *bucket = t;
        r->n++;
    }
    configure(t, table, m);
    return tenant_ref(t);
}

struct tenant *
tenant_ref(struct tenant *t)
{
    atomic_fetch_add_explicit(&t->refs, 1, memory_order_relaxed);
    return t;
}

void
tenant_unref(struct tenant *t)
{
    if (t)
        atomic_fetch_sub_explicit(&t->refs, 1, memory_order_release);
}

void
tenant_apply(struct tenant_registry *r, const struct tenants *table)
{
    struct tenant *t;
    size_t i;

    for (i = 0; i < TENANT_N_BUCKETS; i++)
        for (t = r->buckets[i]; t; t = t->next) {
            const struct tenants_member *m =
                table && t->kind == TENANT_NAMED ? tenants_named(table, t->name) : NULL;
            bool stays = t->kind == TENANT_SUBJECT ? !table
                         : t->kind == TENANT_NAMED ? m != NULL
                         : t->kind == TENANT_SHARED
                             ? table && table->unknown == TENANTS_SHARE
                             : table && table->unknown == TENANTS_OWN;

            if (stays)
                configure(t, table, m);
            t->gone = !stays;
        }
}

static bool
is_full(struct limits_bucket *b, int64_t rate, int64_t burst_us, int64_t now_us)
{
    struct limits_bucket full = { 0 };

    return rate == 0 || !b->begun ||
           limits_bucket_level(b, rate, burst_us, now_us) >=
               limits_bucket_level(&full, rate, burst_us, now_us);
}

static bool
is_forgotten(struct tenant *t, int64_t now_us)
{
    const struct limits *l = &t->limits;

    return atomic_load_explicit(&t->refs, memory_order_acquire) == 0 &&
           (t->gone || (is_full(&t->rows, l->rows_per_second, l->burst_us, now_us) &&
                        is_full(&t->bytes, l->bytes_per_second, l->burst_us, now_us)));
}

void
tenant_sweep(struct tenant_registry *r, int64_t now_us)
{
    size_t i;

    for (i = 0; i < TENANT_N_BUCKETS; i++) {
        struct tenant **at = &r->buckets[i], *t;

        while ((t = *at) != NULL) {
            if (!is_forgotten(t, now_us)) {
                at = &t->next;
                continue;
            }
            *at = t->next;
            r->n--;
            mem_free(t);
        }
    }
}

void
tenant_free_all(struct tenant_registry *r)
{
    size_t i;

    for (i = 0; i < TENANT_N_BUCKETS; i++)
        while (r->buckets[i]) {
            struct tenant *t = r->buckets[i];

            r->buckets[i] = t->next;
            mem_free(t);
        }
    r->n = 0;
}

/* ---- rates ---- */

void
tenant_took(struct tenant *t, int64_t rows, int64_t bytes, int64_t now_us)
{
    const struct limits *l = &t->limits;

    if (l->rows_per_second && rows)
        limits_bucket_take(&t->rows, l->rows_per_second, l->burst_us, rows, now_us);
    if (l->bytes_per_second && bytes)
        limits_bucket_take(&t->bytes, l->bytes_per_second, l->burst_us, bytes, now_us);
}

static bool
in_debt(struct limits_bucket *b, int64_t rate, int64_t burst_us, int64_t now_us)
{
    return rate && limits_bucket_level(b, rate, burst_us, now_us) < 0;
}

bool
tenant_rows_debt(struct tenant *t, int64_t now_us)
{
    return in_debt(&t->rows, t->limits.rows_per_second, t->limits.burst_us, now_us);
}

bool
tenant_bytes_debt(struct tenant *t, int64_t now_us)
{
    return in_debt(&t->bytes, t->limits.bytes_per_second, t->limits.burst_us, now_us);
}

/* A part of the level for one of n sequences, in units; 0 while that is less than what
 * comes between two grants. */
static int64_t
part(struct limits_bucket *b, int64_t rate, int64_t burst_us, int64_t unit, uint32_t n,
     int64_t now_us)
{
    struct limits_bucket full = { 0 };
    int64_t level = limits_bucket_level(b, rate, burst_us, now_us);
    int64_t least = rate / GRANTS_PER_SECOND;
    int64_t most = limits_bucket_level(&full, rate, burst_us, now_us);
    int64_t units;

    if (least > most / 2)
        least = most / 2;
    if (level <= 0 || level < least)
        return 0;
    units = level / unit / (n > 0 ? n : 1);
    return units > 0 ? units : 1; /* the debt that one makes is paid later */
}

uint32_t
tenant_allowance(struct tenant *t, size_t row_bytes, int64_t now_us)
{
    const struct limits *l = &t->limits;
    int64_t rows = UINT32_MAX, most;

    if (l->rows_per_second) {
        most = part(&t->rows, l->rows_per_second, l->burst_us, 1, t->n_seqs, now_us);
        rows = most < rows ? most : rows;
    }
    if (l->bytes_per_second) {
        most = part(&t->bytes, l->bytes_per_second, l->burst_us, (int64_t)row_bytes,
                    t->n_seqs, now_us);
        rows = most < rows ? most : rows;
    }
    return (uint32_t)rows;
}

uint32_t
tenant_wait_ms(struct tenant *t, int64_t now_us)
{
    const struct limits *l = &t->limits;
    uint32_t rows = 0, bytes = 0;

    if (l->rows_per_second) {
        limits_bucket_fill(&t->rows, l->rows_per_second, l->burst_us, now_us);
        rows = limits_bucket_wait_ms(&t->rows, l->rows_per_second);
    }
    if (l->bytes_per_second) {
        limits_bucket_fill(&t->bytes, l->bytes_per_second, l->burst_us, now_us);
        bytes = limits_bucket_wait_ms(&t->bytes, l->bytes_per_second);
    }
    return rows > bytes ? rows : bytes;
}
