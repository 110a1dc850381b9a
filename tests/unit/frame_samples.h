/* SPDX-License-Identifier: Apache-2.0
 * frame_samples.h - one full and one sparse frame of every type, for tests.
 *
 * Every number in a frame is different from the others, so that two fields
 * that change places are seen.
 */
#ifndef CE_TESTS_FRAME_SAMPLES_H
#define CE_TESTS_FRAME_SAMPLES_H

#include <string.h>

#include "common/frame.h"

#define SAMPLE(s) frame_str_of(s, sizeof(s) - 1)

static const uint8_t sample_rows[48] = "0123456789abcdef0123456789abcdef0123456789abcdef";

/* Frames whose fields are all numbers; `full` fills the optional ones. */
static inline void
sample_numbers(struct frame *f, bool full)
{
    switch (f->type) {
    case FRAME_STATES:
        f->u.states = (struct frame_states){ 1, 2, 3, 4, 5, 6, sample_rows, 48 };
        break;
    case FRAME_INFER:
        f->u.infer = (struct frame_infer){ 1, 2, 3, 4, full, full ? 5 : 0, 6, 128, full };
        break;
    case FRAME_TOKEN:
        f->u.token = (struct frame_token){ .epoch = 1,
                                           .seq = 2,
                                           .branch = 3,
                                           .pos = 4,
                                           .token = 5,
                                           .confidence = 0.5f,
                                           .lse = -6.25f,
                                           .logit = 1e30f,
                                           .has_hash = full,
                                           .hash = full ? 0xfedcba9876543210 : 0,
                                           .queue_us = 7,
                                           .compute_us = 70000,
                                           .rows = 8,
                                           .last = full,
                                           .n_top = full ? FRAME_MAX_TOP : 0 };
        for (int i = 0; i < f->u.token.n_top; i++)
            f->u.token.top[i] = (struct frame_top){ 1000000u + (uint32_t)i, 0.5f * i };
        break;
    case FRAME_TRUNCATE:
        f->u.truncate = (struct frame_truncate){ 1, 2, 3, UINT32_MAX };
        break;
    case FRAME_CLOSE:
        f->u.close = (struct frame_close){ 1, 2 };
        break;
    case FRAME_NEED:
        f->u.need = (struct frame_need){ 1, 2, 3, 4, 5, 6 };
        break;
    case FRAME_CREDIT:
        f->u.credit = (struct frame_credit){ 1, 2, 3 };
        break;
    case FRAME_CANCEL:
        f->u.cancel = (struct frame_cancel){ 1, 2, 3 };
        break;
    case FRAME_GENERATE:
        f->u.generate =
            (struct frame_generate){ 1, 2,      3,           0.75f,
                                     4, 0.875f, UINT64_MAX,  full ? 0.125f : 0,
                                     5, full,   sample_rows, full ? 12 : 1 };
        break;
    case FRAME_PING:
    case FRAME_PONG:
        f->u.ping.nonce = full ? UINT64_MAX : 0;
        break;
    default:
        break;
    }
}

static inline void
sample_handshake(struct frame *f, bool full)
{
    struct frame_hello *h = &f->u.hello;
    struct frame_welcome *w = &f->u.welcome;

    if (f->type == FRAME_HELLO) {
        *h = (struct frame_hello){
            .proto = 1, .epoch = 2, .layer_from = 3, .n_layers = 4
        };
        h->d_model = 16384;
        h->n_vocab = 49152;
        memset(h->fingerprint, 0xab, 32);
        h->n_codecs = full ? 2 : 0;
        h->codecs[0] = full ? SAMPLE("f32") : frame_str_of(NULL, 0);
        h->codecs[1] = full ? SAMPLE("f16") : frame_str_of(NULL, 0);
        h->numerics = SAMPLE("ce1-q8");
        h->agent = full ? SAMPLE("cecollm-agent 0.1.0") : SAMPLE("");
        h->token = full ? SAMPLE("t\0ken") : frame_str_of(NULL, 0);
        h->whole_model = full;
    } else {
        *w = (struct frame_welcome){ .proto = 1, .max_seqs = 2, .window = 3, .n_ctx = 4 };
        memset(w->session, 0xcd, 16);
        memset(w->secret, 0xef, 16);
        w->node = full ? SAMPLE("node-3.example") : SAMPLE("");
        w->numerics = SAMPLE("ce1-q8");
        w->server = SAMPLE("cecollm-cloudd 0.1.0");
        w->whole_model = full;
        w->n_codecs = 1;
        w->codecs[0] = SAMPLE("f32");
        w->idle_ms = 60000;
    }
}

static inline void
sample_frame(struct frame *f, enum frame_type type, bool full)
{
    memset(f, 0, sizeof(*f));
    f->type = type;
    switch (type) {
    case FRAME_HELLO:
    case FRAME_WELCOME:
        sample_handshake(f, full);
        break;
    case FRAME_ATTACH:
        memset(f->u.attach.session, 0xcd, 16);
        memset(f->u.attach.secret, 0xef, 16);
        f->u.attach.epoch = 9;
        break;
    case FRAME_OPEN:
        f->u.open = (struct frame_open){ 1, 2, SAMPLE("f16"), 3, full };
        break;
    case FRAME_GOAWAY:
        f->u.goaway.deadline_ms = 30000;
        f->u.goaway.reason = SAMPLE("maintenance");
        f->u.goaway.retry_ms = full ? 700 : 0;
        break;
    case FRAME_ERROR:
        f->u.error.code = 10;
        f->u.error.text = SAMPLE("too many sequences");
        f->u.error.has_seq = full;
        f->u.error.seq = full ? 7 : 0;
        f->u.error.retry_ms = full ? 500 : 0;
        break;
    default:
        sample_numbers(f, full);
        break;
    }
}

#endif
