/* SPDX-License-Identifier: Apache-2.0
 * content.h - the content manager: what the cloud holds of every sequence, and
 * the truth of the protocol about it (doc/PROTOCOL.md section 6; the paper's
 * section 4.3).
 *
 * Per sequence: epoch, branch and id with the histories that decide which rows
 * are live; the hidden states received and not yet computed; rows parked for
 * branches not yet announced; the pending INFERs; how far the KV cache is; the
 * credit. Frames go in through one function each; replies, KV calls and
 * sampling go out through hooks; what could be computed now is a list to pick
 * from. It knows no sockets, threads, clocks or models, so every order of
 * frames that two channels allow can be played through it in a test.
 *
 * Consumption: rows wait until an INFER asks (the paper's way). When they fill
 * three quarters of the window and nothing asks, the older part is computed, so
 * that a prompt longer than the window gets through. With `eager` rows may also be
 * computed ahead when nobody waits for anything. An INFER that comes too late, for
 * a position computed unasked, is answered all the same: NEED asks for its rows
 * again. Rows are freed as soon as they are computed, everything else of a
 * sequence when it ends.
 *
 * Memory: pages and rows have budgets; content_memory.c says who goes when they are
 * full, and that everybody is answered all the same.
 *
 * Whatever a peer sends ends at worst its own sequence: an ERROR frame goes to
 * the reply hook and the sequence is gone. No memory does the same.
 *
 * Thread: one at a time (the backend thread's), except content_chunk_*.
 */
#ifndef CE_SERVER_CONTENT_H
#define CE_SERVER_CONTENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/frame.h"
#include "common/states.h"
#include "engine/backend.h"

#define CONTENT_MIN_WINDOW  16 /* rows; below it the pressure rule has no room */
#define CONTENT_MAX_PENDING 64 /* INFERs of one sequence */
#define CONTENT_HISTORY     64 /* branches and ids remembered */

struct content;
struct content_seq;

/* Rows of one STATES frame, copied out of it. Owned by whoever holds it. */
struct content_chunk;

/* Any thread. Copies the rows; NULL without memory. f->n >= 1. */
struct content_chunk *content_chunk_new(const struct frame_states *f);
void content_chunk_free(struct content_chunk *chunk); /* accepts NULL */

/* Which rows may be computed before anybody asks. */
enum content_eager {
    CONTENT_EAGER_NEVER,  /* the paper's way */
    CONTENT_EAGER_PROMPT, /* until a sequence's first answer */
    CONTENT_EAGER_ALWAYS,
};

struct content_config {
    size_t d_model;
    uint32_t n_vocab;
    uint32_t n_ctx;  /* most positions of a sequence */
    uint32_t window; /* most rows that may wait, >= CONTENT_MIN_WINDOW */
    int n_layers;    /* sequences run layer_from .. n_layers */
    enum content_eager eager;
    size_t kv_page_bytes; /* of one block's page of BACKEND_PAGE positions */
    size_t kv_budget;     /* most bytes of pages; 0: no limit */
    size_t states_budget; /* most bytes of rows waiting and parked; 0: no limit */
    int64_t seq_idle_us;  /* a sequence that is silent for so long ends; 0: never */
};

/* Why something of a sequence was given up; it comes back by NEED. */
enum content_eviction {
    CONTENT_EVICTED_IDLE,    /* pages of one that had asked for nothing */
    CONTENT_EVICTED_WAITING, /* of one that waited itself, or whose rows did not come */
    CONTENT_EVICTED_ROWS,    /* rows, for want of room for rows */
    CONTENT_N_EVICTIONS,
};

/* How GENERATE wants its tokens. */
struct content_sampling {
    float temperature, top_p, min_p;
    uint32_t top_k;
    uint64_t seed;
};

/* Called from inside content_*; must not call back into it. */
struct content_hooks {
    void *arg;
    /* Send to the session's infer channel. *f is borrowed for the call. An
     * ERROR with has_seq: that sequence is gone. Without: the whole session is
     * to end, and content_session_gone should follow. */
    void (*reply)(void *arg, uint64_t session, const struct frame *f);
    int (*kv_open)(void *arg, int *kv, struct err *err);
    void (*kv_truncate)(void *arg, int kv, uint32_t n_positions);
    void (*kv_close)(void *arg, int kv);
    /* Choose the token after the n ids; *end when generation ends with it. */
    int32_t (*pick)(void *arg, const struct content_sampling *how,
                    const struct head_result *row, const int32_t *ids, size_t n,
                    bool *end);
    /* A request was answered: when it came (content_infer, or the token before it), when
     * its rows were there, when its step began and ended. May be NULL. */
    void (*answered)(void *arg, int64_t asked_us, int64_t ready_us, int64_t start_us,
                     int64_t now_us);
    /* Who pays for a session, and its weight, 1 or more. NULL: all are one. */
    uint64_t (*tenant)(void *arg, uint64_t session, uint32_t *weight);
    /* Bytes of pages and of rows charged to a session, or given back. May be NULL. */
    void (*charged)(void *arg, uint64_t session, int64_t kv, int64_t rows);
    /* Something of a sequence was given up. May be NULL. */
    void (*evicted)(void *arg, uint64_t session, enum content_eviction why);
    /* Most bytes of pages that the session's tenant may have, of all its sessions, now;
     * 0: no limit of its own. May be NULL. */
    size_t (*kv_limit)(void *arg, uint64_t session);
};

int content_new(struct content **out, const struct content_config *config,
                const struct content_hooks *hooks, struct err *err) CE_MUSTCHECK;
void content_free(struct content *c); /* accepts NULL; closes every sequence silently */

/* ---- frames in; `session` is the server's own number of a session ----
 * Unknown sequences are ignored: they may have just ended. */
void content_open(struct content *c, uint64_t session, const struct frame_open *f,
                  int layer_from, int64_t now_us);
/* Takes the chunk. */
void content_states(struct content *c, uint64_t session, struct content_chunk *chunk,
                    int64_t now_us);
void content_infer(struct content *c, uint64_t session, const struct frame_infer *f,
                   int64_t now_us);
void content_truncate(struct content *c, uint64_t session, const struct frame_truncate *f,
                      int64_t now_us);
void content_cancel(struct content *c, uint64_t session, const struct frame_cancel *f,
                    int64_t now_us);
void content_close(struct content *c, uint64_t session, uint32_t seq);
void content_generate(struct content *c, uint64_t session, const struct frame_generate *f,
                      int64_t now_us);

/* The session is over: all its sequences end without a word. */
void content_session_gone(struct content *c, uint64_t session);

/* Rows and KV from `pos` on are lost: NEED goes out, pending INFERs stay. */
void content_lost(struct content *c, uint64_t session, uint32_t seq, uint32_t pos,
                  int64_t now_us);

/* End what is past its deadline, or silent too long. Returns the next deadline, or
 * INT64_MAX. */
int64_t content_expire(struct content *c, int64_t now_us);

/* Find memory for those that wait for it, by evicting others. To be called after frames
 * and after runs, before content_runnable. Returns when to call again, if nothing
 * happens before; INT64_MAX when nobody waits. */
int64_t content_settle(struct content *c, int64_t now_us);

/* ---- work out ---- */

/* A sequence that has something to compute now. */
struct content_work {
    struct content_seq *seq; /* valid until it ends */
    uint64_t session;
    int64_t since_us;    /* when it became so, or last got a share */
    int64_t deadline_us; /* of its requests, the nearest; INT64_MAX: none */
    uint32_t pos;        /* of the first row */
    uint32_t n_rows;     /* rows up to its goal, >= 1 */
    bool eager;          /* nobody asked for them yet */
};

/* Fill up to `cap` entries, in no particular order; returns how many. */
size_t content_runnable(const struct content *c, struct content_work *out, size_t cap);
size_t content_n_runnable(const struct content *c);

/* What a run of one sequence is. */
struct content_run {
    struct content_seq *seq;
    int kv;
    int layer_from;
    uint64_t session;
    uint32_t pos, n_rows; /* n_rows may be less than asked for: it ends at a head row */
    uint32_t head_rows;   /* the last ones */
    int n_top;
    bool want_hash;
    bool is_tokens; /* token ids instead of hidden states */
};

/* Describe the next rows, at most max_rows (>= 1), of a runnable sequence.
 * hidden: [max_rows, d_model], tokens: [max_rows]; one of them is filled.
 * An error has ended the sequence. Nothing else may be called between this and
 * content_run_done or content_run_failed of the same sequence, except begins of
 * other sequences. */
int content_run_begin(struct content *c, struct content_seq *seq, uint32_t max_rows,
                      float *hidden, int32_t *tokens,
                      struct content_run *run) CE_MUSTCHECK;

/* The rows were computed; results: [head_rows]. Answers, frees, grants credit. */
void content_run_done(struct content *c, const struct content_run *run,
                      const struct head_result *results, int64_t start_us,
                      int64_t now_us);

/* They could not be: the sequence ends with ERROR. */
void content_run_failed(struct content *c, const struct content_run *run, int code,
                        const char *text, uint32_t retry_ms);

/* ---- figures ---- */
size_t content_bytes(const struct content *c); /* everything held */
size_t content_rows(const struct content *c);  /* waiting and parked */
size_t content_n_seqs(const struct content *c);
size_t content_n_wants(const struct content *c);   /* sequences waiting for memory */
size_t content_kv_bytes(const struct content *c);  /* of pages used or promised */
size_t content_row_bytes(const struct content *c); /* of rows, within content_bytes */

#endif
