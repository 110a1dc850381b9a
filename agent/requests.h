/* SPDX-License-Identifier: Apache-2.0
 * requests.h - which questions to the cloud are out, so that an answer nobody waits
 * for any more (another branch, another sequence) is known as such.
 *
 * Owner: the infer channel.
 */
#ifndef CE_AGENT_REQUESTS_H
#define CE_AGENT_REQUESTS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/frame.h"

#define REQUESTS_MAX 64

struct requests {
    struct request {
        bool used, stream; /* stream: a GENERATE, any position */
        uint32_t seq, branch, pos;
        int64_t sent_us;
    } all[REQUESTS_MAX];
    int n; /* used ones */
};

/* False when too many are out. */
bool requests_add(struct requests *r, const struct request *one);

/* The answer's request, which is over unless it is a stream that goes on: since when
 * it was out; -1 when there is none. */
int64_t requests_answered(struct requests *r, const struct frame_token *t);

void requests_forget(struct requests *r, uint32_t seq);
void requests_clear(struct requests *r);

#endif
