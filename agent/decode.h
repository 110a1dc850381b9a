/* SPDX-License-Identifier: Apache-2.0
 * decode.h - one answer: prefill, then token after token from the exits or the
 * cloud (the paper's section 4.4 and Algorithm 1; design section 4).
 *
 * A decoder joins the edge partition (edge.h), a cloud behind a port
 * (cloud_port.h) and the rules (policy.h). It knows no sockets, no terminal and no
 * JSON: tokens leave through a callback as they are made, numbers in the result.
 *
 * Thread: the decode worker, which owns edge, port and backend.
 */
#ifndef CE_AGENT_DECODE_H
#define CE_AGENT_DECODE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/cloud_port.h"
#include "agent/policy.h"
#include "agent/reply.h"
#include "common/error.h"
#include "engine/backend.h"
#include "engine/sampler.h"

/* What stays the same for all answers. Pointers are borrowed. */
struct decode_setup {
    struct backend *backend; /* NULL in mode cloud */
    struct cloud_port *port; /* NULL in the modes without a cloud */
    struct reply_vocab vocab;
    const int *exit_layers; /* [policy.n_exits] */
    int cut_layer;          /* states after so many blocks go up; the first exit's */
    int n_layers;
    int n_ctx; /* most positions, of edge and cloud */
    int prefill_chunk;
    bool trace; /* compute every head at every token */
};

/* What is asked of one answer. Pointers are borrowed for the call. */
struct decode_request {
    const int32_t *prompt; /* [n_prompt] ids */
    size_t n_prompt;
    int max_tokens;
    struct sampler_params sampling;
    const char *const *stops; /* [n_stops] */
    int n_stops;
    const int32_t *forced; /* [n_forced]: whatever is chosen, these ids go on */
    int n_forced;          /* 0: not forced */
    bool want_hash;
    uint32_t deadline_ms; /* per request to the cloud; 0: none */
};

enum decode_end {
    DECODE_END_EOG,    /* the model ended its answer */
    DECODE_END_LENGTH, /* max_tokens */
    DECODE_END_STOP,   /* a stop string */
    DECODE_END_CONTEXT,
    DECODE_END_FORCED, /* all forced ids are used */
    DECODE_END_INTERRUPT,
    DECODE_END_ERROR,
};

/* "end", "length", "stop", "context", "forced", "interrupted", "error". */
const char *decode_end_name(enum decode_end e);

struct decode_result {
    enum decode_end end;
    size_t n_prompt;
    int n_tokens;
    int by_exit[MODEL_MAX_EXITS]; /* tokens that left at each exit */
    int by_cloud, by_full, by_fallback;
    int requests; /* INFER sent (or GENERATE: one) */
    int stalls;   /* times the loop stood still for the cloud */
    int probes;   /* requests made only for the trace, not counted above */
    int screened; /* exit checks that a screen ended */
    int moves;    /* times the sequence began again in another session */
    uint64_t bytes_up;
    int64_t prefill_us; /* until the first token was known, of total */
    int64_t total_us, edge_us, cloud_us, wire_us;
    bool cloud_lost; /* and gone on without, as the policy says */
    struct err loss; /* why */
};

struct decode_hooks {
    reply_token_fn *token;
    void (*prefill)(void *ctx, int32_t done, int32_t total); /* or NULL */
    void *ctx;
};

struct decoder;

int decode_new(struct decoder **out, const struct decode_setup *setup,
               const struct policy *policy, const struct decode_hooks *hooks,
               struct err *err) CE_MUSTCHECK;
void decode_free(struct decoder *d); /* accepts NULL */

/* Other thresholds or another mode from the next answer on. The policy is copied.
 * CE_EINVAL when it needs what the setup does not have. */
int decode_set_policy(struct decoder *d, const struct policy *policy, struct err *err);

/* Produce one answer. What happened stands in *result also when it fails; an
 * interrupt is an end, not a failure. */
int decode_answer(struct decoder *d, const struct decode_request *request,
                  struct decode_result *result, struct err *err) CE_MUSTCHECK;

/* End the current answer soon. From any thread. */
void decode_interrupt(struct decoder *d);

/* Ids and text of the last answer, until the next one begins. */
const struct reply *decode_reply(const struct decoder *d);

/* Rows that stage k of the edge has run, for tests. */
int64_t decode_rows_run(const struct decoder *d, int stage);

#endif
