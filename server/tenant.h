/* SPDX-License-Identifier: Apache-2.0
 * tenant.h - a tenant as it is now: what it has open, how fast it was, its limits.
 *
 * A tenant is here from its first session until nothing remembers it: no session, no
 * message under way, no debt of its rates (so that coming again does not pay it). What
 * it may have comes from the tenants file (tenants.h), or there is no file and every
 * name is a tenant without limits. A reload changes the limits of those that are here
 * and marks the others `gone`; the sessions of those are ended by tenants_reload.c.
 *
 * Thread: the I/O thread's, but for the atomic members and tenant_ref, tenant_unref.
 */
#ifndef CE_SERVER_TENANT_H
#define CE_SERVER_TENANT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/limits.h"
#include "server/tenants.h"
#include "server/usage.h"

/* Tenants of two kinds never are the same, whatever their names. */
enum tenant_kind {
    TENANT_SUBJECT, /* no tenants file: a certificate's name */
    TENANT_NAMED,   /* a section's */
    TENANT_SHARED,  /* "default", of unknown = shared */
    TENANT_OWN,     /* "cert:NAME", of unknown = own */
};

struct tenant {
    struct tenant *next; /* in its bucket */
    _Atomic uint32_t refs;
    enum tenant_kind kind;
    char name[USAGE_NAME_SIZE]; /* printable */
    uint64_t number;            /* never given again */
    _Atomic uint32_t weight;
    _Atomic size_t kv_bytes; /* the limit; 0: none */
    struct limits limits;
    bool gone; /* by a reload; its sessions are to end */
    uint32_t n_sessions, n_seqs;
    int64_t hidden_bytes; /* that the open sequences may have waiting */
    struct limits_bucket rows, bytes;
};

#define TENANT_N_BUCKETS 256

/* Zero at start. */
struct tenant_registry {
    struct tenant *buckets[TENANT_N_BUCKETS];
    size_t n;
    uint64_t next_number;
};

/* The tenant that a section is, or that a certificate's name is where there is none.
 * t: the file's table, or NULL without a file; m: from tenants_find. With a reference
 * for the caller; NULL without memory. */
struct tenant *tenant_get(struct tenant_registry *r, const struct tenants *t,
                          const struct tenants_member *m, const char *cert_name);

struct tenant *tenant_ref(struct tenant *t);
void tenant_unref(struct tenant *t); /* accepts NULL; tenant_sweep frees */

/* Another table counts from now on: limits and weights of those that are here, `gone`
 * for those that are not in it. */
void tenant_apply(struct tenant_registry *r, const struct tenants *t);

/* Forget those whom nothing remembers; about twice a second. */
void tenant_sweep(struct tenant_registry *r, int64_t now_us);

/* Everything; no reference is left. */
void tenant_free_all(struct tenant_registry *r);

/* Its share of the computing; any thread. */
static inline uint32_t
tenant_weight(const struct tenant *t)
{
    return atomic_load_explicit(&t->weight, memory_order_relaxed);
}

/* Most bytes of its KV caches, 0: no limit; any thread. */
static inline size_t
tenant_kv_bytes(const struct tenant *t)
{
    return atomic_load_explicit(&t->kv_bytes, memory_order_relaxed);
}

/* ---- rates ---- */

/* Charge what arrived. */
void tenant_took(struct tenant *t, int64_t rows, int64_t bytes, int64_t now_us);

/* Has it taken more than its rate of rows, of bytes, allows? */
bool tenant_rows_debt(struct tenant *t, int64_t now_us);
bool tenant_bytes_debt(struct tenant *t, int64_t now_us);

/* Rows of row_bytes each that one of its sequences may be granted beyond those that it
 * sent; 0: none now. UINT32_MAX without a rate. Comes in pieces that are worth a frame.
 */
uint32_t tenant_allowance(struct tenant *t, size_t row_bytes, int64_t now_us);

/* When the rates will be above zero again; 0: they are. */
uint32_t tenant_wait_ms(struct tenant *t, int64_t now_us);

#endif
