/* SPDX-License-Identifier: Apache-2.0
 * cloud_port.h - what the decode loop may ask of a cloud, and nothing about how.
 *
 * The loop hands over hidden states as they come into being, asks for a token
 * where the edge is not sure, and waits for the answer. Sockets, TLS, frames,
 * credit and replay live behind the port (remote.c); tests put a fake there.
 *
 * One port serves one sequence at a time: open, any calls, close.
 *
 * Thread: the decode worker only.
 */
#ifndef CE_AGENT_CLOUD_PORT_H
#define CE_AGENT_CLOUD_PORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "engine/backend.h"
#include "engine/sampler.h"

/* What an answer should carry. */
struct cloud_want {
    int n_top; /* top logits, 0 to BACKEND_MAX_TOP; 0 is enough for greedy decoding */
    bool want_hash;
    uint32_t deadline_ms; /* most time to wait; 0: no limit */
};

struct cloud_answer {
    int32_t pos;                   /* the token follows this position */
    struct head_result head;       /* of the final head; n_top as asked for */
    int32_t token;                 /* argmax, or what GENERATE's sampling chose */
    uint32_t queue_us, compute_us; /* as the cloud measured them */
    uint32_t rows;                 /* positions its step computed for us */
    bool last;                     /* GENERATE: nothing follows */
};

struct cloud_port;

/* Every int result: 0, or
 *   CE_EAGAIN    cloud_port_interrupt was called while waiting; the sequence lives
 *   CE_ETIMEOUT  the deadline passed; the sequence is gone
 *   others       the cloud is gone or refused, *err has its words; the sequence is
 *                gone. A cloud that comes back in time is none of the caller's
 *                business: the port waits for it and goes on there. */
struct cloud_port_ops {
    /* Begin a sequence of at most max_pos positions. Does not wait. */
    int (*open)(struct cloud_port *c, int32_t max_pos, struct err *err);

    /* Rows of positions pos .. pos+n-1, in order, without holes.
     * rows: [n, d_model] float, borrowed for the call. Does not wait. */
    int (*put_states)(struct cloud_port *c, int32_t pos, int n, const float *rows,
                      struct err *err);

    /* Rows of positions below n_positions may travel now; others are held back. */
    void (*release)(struct cloud_port *c, int32_t n_positions);

    /* The token that follows position pos. Releases rows up to it. Waits. */
    int (*infer)(struct cloud_port *c, int32_t pos, const struct cloud_want *want,
                 struct cloud_answer *out, struct err *err);

    /* Have the cloud run the whole model on ids ([n]), at most max_tokens tokens;
     * then `next` gives them one by one, waiting, until one is `last`. */
    int (*generate)(struct cloud_port *c, const int32_t *ids, size_t n, int max_tokens,
                    const struct sampler_params *sampling, const struct cloud_want *want,
                    struct err *err);
    int (*next)(struct cloud_port *c, struct cloud_answer *out, struct err *err);

    /* Keep positions 0 .. n_positions-1 on a new branch. */
    int (*truncate)(struct cloud_port *c, int32_t n_positions, struct err *err);

    /* End the sequence, whatever is pending. Harmless without one. */
    void (*close)(struct cloud_port *c);

    /* After infer failed: 1 when the cloud and the sequence are there again, so that it
     * may be asked again; 0 not yet; -1 it will not be. Rows that were put meanwhile
     * count. Does not wait. NULL: never. */
    int (*back)(struct cloud_port *c);

    /* Bytes written to the network since the port was made. */
    uint64_t (*bytes_up)(const struct cloud_port *c);

    /* Times that a sequence was begun again in another session, since the port was
     * made. NULL: never. */
    int (*n_moves)(const struct cloud_port *c);
};

/* First member of every implementation. */
struct cloud_port {
    const struct cloud_port_ops *ops;
};

#endif
