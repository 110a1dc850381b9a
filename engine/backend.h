/* SPDX-License-Identifier: Apache-2.0
 * backend.h - the one interface to whatever computes: a layer range, its KV
 * cache, ragged batches.
 *
 * A backend holds one model's blocks [layer_from, layer_to) and heads. Callers
 * open KV sequences, then run steps: each step takes rows (consecutive positions
 * of one sequence) of any number of sequences through a range of blocks and,
 * where asked, through a head. Results do not depend on what else is in the step
 * (doc/NUMERICS.md).
 *
 * The paper's edge partition runs 0..l_ee1, then l_ee1..l_ee2 when needed; the
 * cloud partition runs l_ee1..L (sections 4.1, 4.2). Positions that a deeper
 * range has not seen yet are simply more rows of the same item: catch-up.
 *
 * Thread: one owner thread per backend for every call. It may use threads of
 * its own inside.
 */
#ifndef CE_ENGINE_BACKEND_H
#define CE_ENGINE_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define BACKEND_MAX_TOP 128 /* most logits a row result carries (design 4) */
#define BACKEND_PAGE    64  /* positions per KV page, as the attention tile */

/* Heads. HEAD_EXIT(i) is the i-th exit that is loaded (backend_info.exit_layers[i]),
 * i from 0, shallowest first. */
#define HEAD_NONE    (-1)
#define HEAD_FINAL   0
#define HEAD_EXIT(i) (1 + (i))

/* What one row's logits came to. Plain data, no pointers. */
struct head_result {
    int32_t argmax; /* -1 when the row's logits were not finite; the rest is then 0 */
    float max_logit;
    float lse;        /* log-sum-exp of the whole row */
    float confidence; /* largest softmax probability; of an exit with a trust how likely
                         the final head says the same (trust.h) */
    bool below;       /* the exit's screen found the row below batch.screen_theta: argmax,
                         max_logit, lse and confidence are of its candidates alone, hash
                         and n_top are 0 */
    uint64_t hash;    /* of the row's bits when asked for, else 0 */
    int n_top;        /* entries of top[] filled: 0 to BACKEND_MAX_TOP */
    struct {
        int32_t id;
        float logit;
    } top[BACKEND_MAX_TOP]; /* logit descending, then id ascending */
};

/* One sequence's share of a step. All pointers are borrowed for the call. */
struct batch_item {
    int seq;               /* from backend_seq_open */
    int32_t pos;           /* position of the first row; must equal what every block of
                              the range has for this sequence (else CE_EGAP) */
    int n_rows;            /* >= 1 */
    const int32_t *tokens; /* [n_rows] ids when the step starts at block 0, else NULL */
    const float *hidden; /* [n_rows, d_model] residual stream, float, when it does not */
    float *hidden_out;   /* [n_rows, d_model] after the last block of the step, or NULL */
    float *head_in;      /* [head_rows, d_model] what the head's output matrix reads, or
                            NULL; for tools that fit a screen */
    int head_rows;       /* the last head_rows rows go through the step's head */
    struct head_result *results; /* [head_rows], or NULL when head_rows is 0 */
    float *logits;               /* [head_rows, n_vocab] whole rows, or NULL */
};

struct batch {
    int layer_from, layer_to; /* blocks run, within the backend's own range; equal
                                 bounds run the head alone on `hidden` */
    int head;                 /* HEAD_*; must belong to layer_to */
    int n_top;                /* top logits wanted per row, 0 to BACKEND_MAX_TOP */
    bool want_hash;
    float screen_theta; /* > 0: of a row that the exit's screen finds below it, not all
                           logits are computed (head_result.below; doc/EXITS.md). Rows
                           with `logits` are not screened. 0: no screen */
    int n_items;
    const struct batch_item *items; /* [n_items], each sequence at most once */
};

/* What a caller may want to know of the loaded model; constant. */
struct backend_info {
    const char *name;         /* "cpu/avx2" */
    const char *numerics_id;  /* "cecollm-1/cpu/kv-f16" */
    int layer_from, layer_to; /* blocks loaded */
    int n_layers;             /* blocks of the whole model */
    int d_model;
    int n_vocab;
    int n_ctx;                /* most positions a sequence can have */
    int n_exits;              /* exit heads loaded; 0 when none */
    const int *exit_layers;   /* [n_exits] ascending */
    const bool *exit_screens; /* [n_exits] does it have a screen? */
    bool has_final_head;
    size_t weight_bytes;    /* resident, packed; not what stays in the model's file */
    size_t kv_page_bytes;   /* of one page: 64 positions of one block, K and V */
    size_t kv_budget_bytes; /* most bytes of pages; 0 = no limit */
};

/* Where the time of all steps since open went. */
struct backend_times {
    double run_seconds;       /* inside backend_run */
    double attention_seconds; /* of it, queries against the cache; neither projections
                                 nor rope */
};

struct backend;

struct backend_ops {
    int (*seq_open)(struct backend *b, int *seq, struct err *err);
    void (*seq_close)(struct backend *b, int seq);
    int (*truncate)(struct backend *b, int seq, int32_t n_positions);
    int32_t (*n_past)(const struct backend *b, int seq, int layer);
    size_t (*kv_bytes)(const struct backend *b, int seq);
    int (*run)(struct backend *b, const struct batch *batch, struct err *err);
    struct backend_times (*times)(const struct backend *b); /* optional */
    void (*close)(struct backend *b);
};

/* First member of every implementation. */
struct backend {
    const struct backend_ops *ops;
    struct backend_info info;
};

/* Open a KV sequence with no positions. The handle is small, >= 0, and reused
 * after close. CE_ENOMEM when the table is full. */
static inline int
backend_seq_open(struct backend *b, int *seq, struct err *err)
{
    return b->ops->seq_open(b, seq, err);
}

/* Give all pages back; they are wiped before another sequence can read them. */
static inline void
backend_seq_close(struct backend *b, int seq)
{
    b->ops->seq_close(b, seq);
}

/* Keep positions 0 .. n_positions-1 in every block that has more; pages that
 * become empty are freed. Never fails for an open sequence and n >= 0. */
static inline int
backend_truncate(struct backend *b, int seq, int32_t n_positions)
{
    return b->ops->truncate(b, seq, n_positions);
}

/* Positions of the sequence in block `layer`'s cache. */
static inline int32_t
backend_n_past(const struct backend *b, int seq, int layer)
{
    return b->ops->n_past(b, seq, layer);
}

/* Bytes of KV pages held by one sequence; seq = -1: by all. */
static inline size_t
backend_kv_bytes(const struct backend *b, int seq)
{
    return b->ops->kv_bytes(b, seq);
}

/* Run one ragged step. All or nothing: on error no position was added to any
 * sequence. CE_EGAP: an item's pos is not the next one; CE_ECONTEXT: past n_ctx;
 * CE_ENOMEM: KV budget; CE_EINVAL: a token id out of range or a bad range or head;
 * CE_EINTERNAL: some row's logits are not finite: the positions are added, that row's
 * argmax is -1, and all other rows' results are good. */
static inline int
backend_run(struct backend *b, const struct batch *batch, struct err *err)
{
    return b->ops->run(b, batch, err);
}

/* All zeros from a backend that does not keep them. */
static inline struct backend_times
backend_times(const struct backend *b)
{
    return b->ops->times ? b->ops->times(b) : (struct backend_times){ 0, 0 };
}

static inline void
backend_close(struct backend *b)
{
    if (b)
        b->ops->close(b);
}

/* What every constructor needs. Zero-initialise, then set. */
struct backend_options {
    int n_threads;          /* 0: cores allowed by affinity and cgroup */
    const char *cpu;        /* NULL or "auto", "scalar", "avx2", "avxvnni", "avx512",
                               "neon", "neon-dotprod", "neon-i8mm" */
    int layer_from;         /* blocks to load: [layer_from, layer_to) */
    int layer_to;           /* 0: to the last block of the file */
    bool final_head;        /* load output norm and matrix for HEAD_FINAL */
    bool exit_heads;        /* load exits at layers within (layer_from, layer_to] */
    int n_ctx;              /* 0: the model's own */
    int max_seqs;           /* most open sequences; 0: 256 */
    size_t kv_budget_bytes; /* 0: no limit */
    bool packing_off;       /* CPU: pack tiles when they are read, keep none; the same
                               bits, less memory, slower */
    /* CPU: folder where packed weights are kept and shared; NULL or "": none. Trouble
     * with it is a warning. */
    const char *packing_cache;
};

struct model;

/* The CPU implementation, always built. `m` is borrowed until backend_close. */
int backend_cpu_open(struct backend **out, const struct model *m,
                     const struct backend_options *opt, struct err *err) CE_MUSTCHECK;

#endif
