/* SPDX-License-Identifier: Apache-2.0
 * swarm_traffic.h - recorded traffic: what agents uploaded and asked, and the right
 * answers.
 *
 * A file of traffic belongs to one model and one cut. Of each sequence it holds the
 * hidden states in their form on the wire (doc/PROTOCOL.md section 7), the positions
 * that were asked for, in order, and the token that the whole model gives behind each.
 * Rows behind the last request are not kept.
 *
 * The file: "CESWARM1", the model's fingerprint (32 bytes); big-endian u32 layer_from,
 * n_layers, d_model, n_vocab, codec, the length of the numerics id and its text, the
 * number of sequences; for each u32 rows and requests, a pair of u32 (position, token)
 * for each request, then the rows; at the end the SHA-256 of everything before it.
 *
 * Thread: a traffic is constant once read; any thread may use it.
 */
#ifndef CE_BENCH_SWARM_TRAFFIC_H
#define CE_BENCH_SWARM_TRAFFIC_H

#include <stddef.h>
#include <stdint.h>

#include "common/bytebuf.h"
#include "common/error.h"
#include "common/states.h"

#define TRAFFIC_MAX_SIZE ((size_t)2 << 30)
#define TRAFFIC_MAX_SEQS 100000

struct traffic_request {
    uint32_t pos, token;
};

struct traffic_seq {
    uint32_t n_rows;                  /* >= 1; the last request's position + 1 */
    uint32_t n_requests;              /* >= 1 */
    struct traffic_request *requests; /* [n_requests] ascending; owned */
    const uint8_t *rows;              /* [n_rows, row_bytes]; of the mapped file */
};

struct traffic_model {
    uint8_t fingerprint[32];
    uint32_t layer_from, n_layers, d_model, n_vocab;
    enum states_codec codec;
    char numerics[128];
};

struct traffic {
    struct traffic_model model;
    size_t row_bytes;
    struct traffic_seq *seqs; /* [n] */
    uint32_t n;
    uint64_t n_rows, n_requests; /* of all sequences */
    const uint8_t *map;          /* the file */
    size_t map_size;
};

/* Read the file at `path`. Errors name it: CE_EIO; CE_EFORMAT, not such a file or
 * damaged; CE_ENOMEM. */
int traffic_read(struct traffic *t, const char *path, struct err *err) CE_MUSTCHECK;

/* The request that agent `number`, whose first sequence is number % n, begins with, so
 * that many who begin together are not all at the same place. */
uint32_t traffic_stagger(const struct traffic *t, uint32_t number);

/* The sequence that agent `number` takes after sequence `index`: agents go through them
 * in steps of their own, so that each of them is taken as often. */
uint32_t traffic_next(const struct traffic *t, uint32_t number, uint32_t index);

void traffic_free(struct traffic *t); /* accepts a zeroed one */

/* ---- writing ---- */

/* Begin a file in `out` (initialised with TRAFFIC_MAX_SIZE) for n sequences, then add
 * them, then write it. The buffer's error is sticky and told by traffic_write. */
void traffic_begin(struct bytebuf *out, const struct traffic_model *m, uint32_t n);
void traffic_add(struct bytebuf *out, const struct traffic_seq *s, size_t row_bytes);
int traffic_write(struct bytebuf *out, const char *path, struct err *err) CE_MUSTCHECK;

#endif
