/* SPDX-License-Identifier: Apache-2.0
 * content_internal.h - the content manager's structs, for its own four files:
 * content.c (sequences and control frames), content_rows.c (hidden states),
 * content_run.c (what to compute, and the answers), content_lists.c (who is
 * runnable, deadlines).
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

/* Invariants: consumed <= next <= max_pos; chunks hold exactly rows consumed ..
 * next-1 in order; pending is ascending by pos and all >= consumed; the KV
 * cache has exactly `consumed` positions. */
struct content_seq {
    struct content_link all, ready, waiting;
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
};

struct content {
    struct content_config config;
    struct content_hooks hooks;
    struct content_link all, ready, waiting;
    struct content_seq **buckets;
    size_t n_buckets; /* power of two */
    size_t n_seqs, n_ready;
    size_t bytes, rows;
};

#define CONTENT_SEQ_OF(link, member)                                                     \
    ((struct content_seq *)((char *)(link)-offsetof(struct content_seq, member)))

/* content.c */
/* Send ERROR for the sequence and free it. */
void content_seq_fail(struct content *c, struct content_seq *s, int code,
                      uint32_t retry_ms, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
struct content_seq *content_seq_find(struct content *c, uint64_t session, uint32_t seq);
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
void content_rows_drop_parked(struct content *c, struct content_seq *s);
int content_rows_decode(const struct content *c, const struct content_seq *s, uint32_t n,
                        float *out) CE_MUSTCHECK;
/* The branch has just been raised: rows parked for it arrive now. May end s:
 * returns false then. */
bool content_rows_unpark(struct content *c, struct content_seq *s, int64_t now_us);
uint32_t content_live_below(const struct content_seq *s, uint32_t branch);

/* content_run.c */
/* One past the last row that should be computed now; == consumed: nothing. *eager:
 * nobody asked for it, nor does the window need it. */
uint32_t content_goal(const struct content *c, const struct content_seq *s, bool *eager);

#endif
