/* SPDX-License-Identifier: Apache-2.0
 * frame.h - the protocol's frames as structs: encoding and decoding, no sockets.
 *
 * The layout is doc/PROTOCOL.md's; change that page first. Decoding is in two
 * steps, so that nothing is allocated or waited for before it is checked: the
 * 12-byte header (frame_header_decode, then frame_allowed), then the body once
 * it is complete (frame_decode).
 *
 * Strings and binaries of a decoded frame point into the buffer that was
 * decoded; they live as long as it does. Encoding appends to a bytebuf.
 *
 * Thread: any; pure functions.
 */
#ifndef CE_COMMON_FRAME_H
#define CE_COMMON_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/bytebuf.h"
#include "common/error.h"

#define FRAME_MAGIC       0x4345
#define FRAME_VERSION     1
#define FRAME_HEADER_SIZE 12
#define FRAME_MAX_MAP     4096
#define FRAME_MAX_STATES  (65536 + 64)
#define FRAME_MAX_TOP     128
#define FRAME_MAX_PROMPT  1048576 /* token ids in GENERATE */
#define FRAME_MAX_CODECS  8
#define FRAME_MAX_TEXT    400 /* longest string in a frame */

/* Fixed by hand, as on the wire; never renumber. */
enum frame_type {
    FRAME_HELLO = 1,
    FRAME_WELCOME = 2,
    FRAME_ATTACH = 3,
    FRAME_ATTACHED = 4,
    FRAME_OPEN = 5,
    FRAME_STATES = 6,
    FRAME_INFER = 7,
    FRAME_TOKEN = 8,
    FRAME_TRUNCATE = 9,
    FRAME_CLOSE = 10,
    FRAME_NEED = 11,
    FRAME_CREDIT = 12,
    FRAME_CANCEL = 13,
    FRAME_GENERATE = 14,
    FRAME_PING = 15,
    FRAME_PONG = 16,
    FRAME_GOAWAY = 17,
    FRAME_ERROR = 18,
    FRAME_BYE = 19,
};

/* Who reads, on which channel, how far the handshake is. A connection accepted
 * by the cloud starts as FRAME_AT_CLOUD_NEW and becomes INFER or UPLOAD by its
 * first frame; the agent knows which one it opened. */
enum frame_place {
    FRAME_AT_CLOUD_NEW,
    FRAME_AT_CLOUD_INFER,
    FRAME_AT_CLOUD_UPLOAD,
    FRAME_AT_AGENT_INFER_NEW,
    FRAME_AT_AGENT_INFER,
    FRAME_AT_AGENT_UPLOAD_NEW,
    FRAME_AT_AGENT_UPLOAD,
};

struct frame_str { /* borrowed; not NUL-terminated */
    const char *data;
    size_t len;
};

struct frame_hello {
    uint32_t proto, epoch;
    uint8_t fingerprint[32];
    uint32_t layer_from, n_layers, d_model, n_vocab;
    int n_codecs;
    struct frame_str codecs[FRAME_MAX_CODECS];
    struct frame_str numerics, agent;
    struct frame_str token; /* bearer token; len 0 when absent */
    bool whole_model;
};

struct frame_welcome {
    uint32_t proto;
    uint8_t session[16], secret[16];
    struct frame_str node;
    uint32_t max_seqs, window, n_ctx;
    struct frame_str numerics, server;
    bool whole_model;
    int n_codecs;
    struct frame_str codecs[FRAME_MAX_CODECS];
    uint32_t idle_ms;
};

struct frame_attach {
    uint8_t session[16];
    uint32_t epoch;
    uint8_t secret[16];
};

struct frame_open {
    uint32_t epoch, seq;
    struct frame_str codec;
    uint32_t max_pos;
    bool keep_kv; /* true when absent */
};

struct frame_states {
    uint32_t epoch, seq, branch, id, pos, n;
    const uint8_t *rows; /* n rows in the sequence's codec */
    size_t rows_size;
};

struct frame_infer {
    uint32_t epoch, seq, branch, pos;
    bool has_draft;
    uint32_t draft;
    uint32_t deadline_ms; /* 0: none */
    uint32_t n_top;       /* 0 to FRAME_MAX_TOP */
    bool want_hash;
};

struct frame_top {
    uint32_t id;
    float logit;
};

struct frame_token {
    uint32_t epoch, seq, branch, pos, token;
    float confidence, lse, logit;
    bool has_hash;
    uint64_t hash;
    uint32_t queue_us, compute_us, rows;
    bool last;
    int n_top;
    struct frame_top top[FRAME_MAX_TOP];
};

struct frame_truncate {
    uint32_t epoch, seq, branch, pos;
};

struct frame_close {
    uint32_t epoch, seq;
};

struct frame_need {
    uint32_t epoch, seq, branch, pos, id, limit;
};

struct frame_credit {
    uint32_t epoch, seq, limit;
};

struct frame_cancel {
    uint32_t epoch, seq, pos;
};

struct frame_generate {
    uint32_t epoch, seq, max_tokens;
    float temperature;
    uint32_t top_k;
    float top_p;
    uint64_t seed;
    float min_p;
    uint32_t deadline_ms;
    bool want_hash;
    const uint8_t *ids; /* n_ids little-endian uint32; read with frame_id_at */
    size_t n_ids;
};

struct frame_ping { /* PING and PONG */
    uint64_t nonce;
};

struct frame_goaway {
    uint32_t deadline_ms;
    struct frame_str reason;
    uint32_t retry_ms; /* 0: nothing said */
};

struct frame_error {
    uint32_t code; /* positive value of a CE_E* number */
    struct frame_str text;
    bool has_seq;
    uint32_t seq;
    uint32_t retry_ms;
};

struct frame {
    enum frame_type type;
    union {
        struct frame_hello hello;
        struct frame_welcome welcome;
        struct frame_attach attach;
        struct frame_open open;
        struct frame_states states;
        struct frame_infer infer;
        struct frame_token token;
        struct frame_truncate truncate;
        struct frame_close close;
        struct frame_need need;
        struct frame_credit credit;
        struct frame_cancel cancel;
        struct frame_generate generate;
        struct frame_ping ping;
        struct frame_goaway goaway;
        struct frame_error error;
    } u;
};

struct frame_header {
    uint8_t version, type;
    uint16_t flags, map_size;
    uint32_t payload_size;
};

/* Read a header from the first FRAME_HEADER_SIZE bytes. CE_EAGAIN when `size` is
 * less; CE_EFORMAT on a wrong magic, flags, unknown type or a length above the
 * type's limit; CE_EUNSUPPORTED on another version. Nothing beyond the header is
 * looked at. */
int frame_header_decode(struct frame_header *h, const uint8_t *data, size_t size,
                        struct err *err) CE_MUSTCHECK;

/* Bytes after the header. */
static inline size_t
frame_body_size(const struct frame_header *h)
{
    return (size_t)h->map_size + h->payload_size;
}

/* May this type arrive here, now? CE_EPROTO with a text when not. */
int frame_allowed(const struct frame_header *h, enum frame_place place,
                  struct err *err) CE_MUSTCHECK;

/* Decode a complete body of frame_body_size(h) bytes. CE_EFORMAT names the frame
 * and key. *f borrows from `body`. */
int frame_decode(struct frame *f, const struct frame_header *h, const uint8_t *body,
                 struct err *err) CE_MUSTCHECK;

/* Append a whole frame to `out`. A field outside the protocol's bounds is a
 * programming error (assert); a full buffer sets the bytebuf's sticky error. */
void frame_encode(struct bytebuf *out, const struct frame *f);

/* The i-th id of a GENERATE payload. */
uint32_t frame_id_at(const struct frame_generate *g, size_t i);

const char *frame_type_name(int type); /* "HELLO"; "type 77" is "UNKNOWN" */

static inline struct frame_str
frame_str_of(const char *data, size_t len)
{
    struct frame_str s = { data, len };
    return s;
}

bool frame_str_equal(struct frame_str a, const char *b);

/* One line for debug logs, in frame_text.c: type and fields, never hidden states,
 * tokens' text, secrets or token values. Returns the length written (truncated). */
size_t frame_text(const struct frame *f, char *out, size_t size);

#endif
