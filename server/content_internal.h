/* SPDX-License-Identifier: Apache-2.0
 * content_internal.h - the content manager's structs, for its own five files:
 * content.c (sequences and control frames), content_rows.c (hidden states),
 * content_run.c (what to compute, and the answers), content_lists.c (who is
 * runnable, deadlines), content_memory.c (who may hold how much).
 */
#ifndef CE_SERVER_CONTENT_INTERNAL_H
#define CE_SERVER_CONTENT_INTERNAL_H

#include "server/content.h"

/* Rows pos .. pos+n-1; their bytes begin at data + skip. */
struct content_chunk {
    struct content_chunk *next;
    uint32_t seq, branch, id, pos, n;
    size_t skip, size; /* of data, in bytes */
    uint8_t data[];
};

struct content_pending {
    uint32_t pos, branch;
    bool has_draft, want_hash;
    uint32_t draft;
    int n_top;
    int64_t deadline_us; /* INT64_MAX: none */
    int64_t asked_us;    /* when it came */
    int64_t ready_us;    /* when its rows were there; 0 while they are not */
};

/* A GENERATE under way: the prompt and what came of it. */
struct content_gen {
    struct content_sampling how;
    size_t n_ids, cap_ids;
    uint32_t left; /* tokens still allowed */
    bool want_hash;
    int64_t deadline_us, ready_us;
    int32_t ids[];
};

struct content_link { /* of a circular list; itself when outside */
    struct content_link *prev, *next;
};

/* Who is charged, while it has sequences. */
struct content_tenant {
    struct content_tenant *next;
    uint64_t id;
    uint32_t weight;
    size_t n_seqs;
    size_t kv, rows; /* bytes */
};

/* Invariants: consumed <= next <= max_pos; chunks hold exactly rows consumed ..
 * next-1 in order; pending is ascending by pos and all >= consumed; the KV
 * cache has exactly `consumed` positions, and consumed <= promised. */
struct content_seq {
    struct content_link all, ready, waiting, wants, held;
    struct content_seq *bucket_next;
    uint64_t session;
    uint32_t seq, epoch;
    enum states_codec codec;
    size_t row_bytes;
    int layer_from;
    uint32_t max_pos;
    bool keep_kv;

    uint32_t branch, id;
    uint32_t cut[CONTENT_HISTORY];     /* cut[b % 64]: where branch b began */
    uint32_t need_at[CONTENT_HISTORY]; /* need_at[i % 64]: what NEED i asked from */

    uint32_t consumed, next, limit;
    struct content_chunk *first, *last; /* rows consumed .. next-1 */
    struct content_chunk *parked, *parked_last;
    uint32_t n_parked; /* rows */

    int n_pending;
    struct content_pending pending[CONTENT_MAX_PENDING];
    uint32_t answered; /* no INFER below it is right: it had an answer, or is past */
    int64_t since_us;  /* runnable since, or the last share */
    bool eager;        /* what is runnable was not asked for */
    int kv;
    struct content_gen *gen; /* NULL unless generating */
    bool generated;          /* a GENERATE ran: no rows, no INFER any more */

    /* memory (content_memory.c) */
    struct content_tenant *tenant;
    uint32_t promised;     /* positions that have pages, or will */
    size_t kv_charged;     /* bytes of them */
    bool lost;             /* rows from `next` on are dropped until NEED has gone out */
    bool begs;             /* lost, and the agent can send no more without a word */
    bool hurry;            /* rows are short: compute what can be, below an INFER */
    uint32_t gap_branch;   /* rows of branches up to it were dropped while parked */
    bool restoring;        /* NEED went out for what was lost; no answer since */
    int64_t seen_us;       /* last frame or run */
    int64_t progress_us;   /* last rows, run or promise */
    int64_t restored_us;   /* when it became `restoring` */
    int64_t keep_until_us; /* not evicted before */
};

struct content {
    struct content_config config;
    struct content_hooks hooks;
    struct content_link all;     /* least recently used first */
    struct content_link ready;   /* something to compute */
    struct content_link waiting; /* a deadline */
    struct content_link wants;   /* no pages for what it asks; first come first */
    struct content_link held;    /* with pages or rows; least recently used first */
    struct content_seq **buckets;
    size_t n_buckets; /* power of two */
    size_t n_seqs, n_ready;
    size_t bytes, rows;
    size_t kv, row_bytes; /* promised; of rows waiting and parked */
    struct content_tenant *tenants;
    uint64_t weights; /* of all tenants */
};

#define CONTENT_SEQ_OF(link, member)                                                     \
    ((struct content_seq *)((char *)(link)-offsetof(struct content_seq, member)))

/* content.c */
/* Send ERROR for the sequence and free it. */
void content_seq_fail(struct content *c, struct content_seq *s, int code,
                      uint32_t retry_ms, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
struct content_seq *content_seq_find(struct content *c, uint64_t session, uint32_t seq);
/* Everything from pos on is forgotten: rows, KV. */
void content_forget_from(struct content *c, struct content_seq *s, uint32_t pos);
/* Grant credit when enough has been consumed (always, with `force`). */
void content_grant(struct content *c, struct content_seq *s, bool force);

/* content_lists.c */
void content_list_init(struct content_link *l);
bool content_list_linked(const struct content_link *l);
void content_list_add(struct content_link *head, struct content_link *l);
void content_list_remove(struct content_link *l);
/* Bring the ready and waiting lists up to date after any change. */
void content_refresh(struct content *c, struct content_seq *s, int64_t now_us);

/* content_rows.c */
void content_rows_drop_from(struct content *c, struct content_seq *s, uint32_t pos);
void content_rows_consume(struct content *c, struct content_seq *s, uint32_t n);
/* Those from `from` on. */
void content_rows_drop_parked(struct content *c, struct content_seq *s, uint32_t from);
int content_rows_decode(const struct content *c, const struct content_seq *s, uint32_t n,
                        float *out) CE_MUSTCHECK;
/* The branch has just been raised: rows parked for it arrive now. May end s:
 * returns false then. */
bool content_rows_unpark(struct content *c, struct content_seq *s, int64_t now_us);
uint32_t content_live_below(const struct content_seq *s, uint32_t branch);

/* content_memory.c */
/* CE_ENOMEM. Left by content_memory_free. */
int content_tenant_join(struct content *c, struct content_seq *s) CE_MUSTCHECK;
void content_charge(struct content *c, struct content_seq *s, int64_t kv, int64_t rows);
/* For content_refresh: `wanted` is content_wanted's. */
void content_memory_refresh(struct content *c, struct content_seq *s, uint32_t wanted,
                            bool eager);
void content_memory_used(struct content *c, struct content_seq *s, int64_t now_us);
void content_memory_answered(struct content_seq *s, int64_t now_us);
/* May `bytes` of rows more be held for s? false: they must be dropped. */
bool content_memory_rows(struct content *c, struct content_seq *s, size_t bytes,
                         int64_t now_us);
/* Do n positions alone need more than the budget? Then s has been ended. */
bool content_memory_too_much(struct content *c, struct content_seq *s, uint32_t n);
/* Half of the rows' budget is used. */
bool content_memory_pressed(const struct content *c);
void content_memory_free(struct content *c, struct content_seq *s);

/* content_run.c */
/* One past the last row that should be computed now; == consumed: nothing. *eager:
 * nobody asked for it, nor does the window need it. content_goal is the part of it
 * that has pages. */
uint32_t content_wanted(const struct content *c, const struct content_seq *s,
                        bool *eager);
uint32_t content_goal(const struct content *c, const struct content_seq *s, bool *eager);

#endif
