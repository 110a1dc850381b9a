/* SPDX-License-Identifier: Apache-2.0
 * frame_fields.c - every key of every frame, once.
 *
 * The encoder, the decoder and the one-line rendering all walk this table, so
 * a key cannot be written under one number and read under another.
 */
#include "common/frame_fields.h"

#define U32_MAX  4294967295.0
#define U64_MAX  18446744073709551615.0
#define F32_MAX  3.4028234663852886e38
#define AT(path) offsetof(struct frame, u.path)

/* clang-format off */
#define U32(k, frame, field) \
    { #field, k, FIELD_U32, false, false, false, AT(frame.field), 0, 0, 0, U32_MAX }
#define U32_IN(k, frame, field, low, high) \
    { #field, k, FIELD_U32, false, false, false, AT(frame.field), 0, 0, low, high }
#define U32_OPTIONAL(k, frame, field) \
    { #field, k, FIELD_U32, true, false, false, AT(frame.field), 0, 0, 0, U32_MAX }
#define U32_HAS(k, frame, field, hidden) \
    { #field, k, FIELD_U32, true, hidden, false, AT(frame.field), AT(frame.has_##field), 0, \
      0, U32_MAX }
#define U32_SECRET(k, frame, field) \
    { #field, k, FIELD_U32, false, true, false, AT(frame.field), 0, 0, 0, U32_MAX }
#define U64(k, frame, field) \
    { #field, k, FIELD_U64, false, false, false, AT(frame.field), 0, 0, 0, U64_MAX }
#define U64_HAS(k, frame, field) \
    { #field, k, FIELD_U64, true, true, false, AT(frame.field), AT(frame.has_##field), 0, \
      0, U64_MAX }
#define F32(k, frame, field) \
    { #field, k, FIELD_F32, false, false, false, AT(frame.field), 0, 0, -F32_MAX, F32_MAX }
#define F32_IN(k, frame, field, optional, low, high) \
    { #field, k, FIELD_F32, optional, false, false, AT(frame.field), 0, 0, low, high }
#define FLAG(k, frame, field, absent) \
    { #field, k, FIELD_BOOL, true, false, absent, AT(frame.field), 0, 0, 0, 0 }
#define BOOL(k, frame, field) \
    { #field, k, FIELD_BOOL, false, false, false, AT(frame.field), 0, 0, 0, 0 }
#define STR(k, frame, field) \
    { #field, k, FIELD_STR, false, false, false, AT(frame.field), 0, 0, 0, FRAME_MAX_TEXT }
#define BLOB_SECRET(k, frame, field) \
    { #field, k, FIELD_BLOB, true, true, false, AT(frame.field), 0, 0, 0, FRAME_MAX_TEXT }
#define BIN(k, frame, field, size, hidden) \
    { #field, k, FIELD_BIN, false, hidden, false, AT(frame.field), 0, 0, size, size }
#define CODECS(k, frame) \
    { "codecs", k, FIELD_STRS, false, false, false, AT(frame.n_codecs), 0, \
      AT(frame.codecs), 0, FRAME_MAX_TEXT }

static const struct frame_field hello[] = {
    U32(0, hello, proto), U32(1, hello, epoch), BIN(2, hello, fingerprint, 32, false),
    U32(3, hello, layer_from), U32(4, hello, n_layers), U32_IN(5, hello, d_model, 1, 16384),
    U32(6, hello, n_vocab), CODECS(7, hello), STR(8, hello, numerics), STR(9, hello, agent),
    BLOB_SECRET(10, hello, token), FLAG(11, hello, whole_model, false),
};
static const struct frame_field welcome[] = {
    U32(0, welcome, proto), BIN(1, welcome, session, 16, true),
    BIN(2, welcome, secret, 16, true), STR(3, welcome, node), U32(4, welcome, max_seqs),
    U32(5, welcome, window), U32(6, welcome, n_ctx), STR(7, welcome, numerics),
    STR(8, welcome, server), BOOL(9, welcome, whole_model), CODECS(10, welcome),
    U32(11, welcome, idle_ms),
};
static const struct frame_field attach[] = {
    BIN(0, attach, session, 16, true), U32(1, attach, epoch),
    BIN(2, attach, secret, 16, true),
};
static const struct frame_field open[] = {
    U32(0, open, epoch), U32(1, open, seq), STR(2, open, codec), U32(3, open, max_pos),
    FLAG(4, open, keep_kv, true),
};
static const struct frame_field states[] = {
    U32(0, states, epoch), U32(1, states, seq), U32(2, states, branch), U32(3, states, id),
    U32(4, states, pos), U32_IN(5, states, n, 1, FRAME_MAX_STATES),
};
static const struct frame_field infer[] = {
    U32(0, infer, epoch), U32(1, infer, seq), U32(2, infer, branch), U32(3, infer, pos),
    U32_HAS(4, infer, draft, true), U32(5, infer, deadline_ms),
    U32_IN(6, infer, n_top, 0, FRAME_MAX_TOP), FLAG(7, infer, want_hash, false),
};
static const struct frame_field token[] = {
    U32(0, token, epoch), U32(1, token, seq), U32(2, token, branch), U32(3, token, pos),
    U32_SECRET(4, token, token), F32(5, token, confidence), F32(6, token, lse),
    F32(7, token, logit), U64_HAS(8, token, hash), U32(9, token, queue_us),
    U32(10, token, compute_us), U32(11, token, rows), FLAG(12, token, last, false),
};
static const struct frame_field truncate[] = {
    U32(0, truncate, epoch), U32(1, truncate, seq), U32(2, truncate, branch),
    U32(3, truncate, pos),
};
static const struct frame_field close[] = { U32(0, close, epoch), U32(1, close, seq) };
static const struct frame_field need[] = {
    U32(0, need, epoch), U32(1, need, seq), U32(2, need, branch), U32(3, need, pos),
    U32(4, need, id), U32(5, need, limit),
};
static const struct frame_field credit[] = {
    U32(0, credit, epoch), U32(1, credit, seq), U32(2, credit, limit),
};
static const struct frame_field cancel[] = {
    U32(0, cancel, epoch), U32(1, cancel, seq), U32(2, cancel, pos),
};
static const struct frame_field generate[] = {
    U32(0, generate, epoch), U32(1, generate, seq), U32(2, generate, max_tokens),
    F32_IN(3, generate, temperature, false, 0, F32_MAX), U32(4, generate, top_k),
    F32_IN(5, generate, top_p, false, 0, 1), U64(6, generate, seed),
    F32_IN(7, generate, min_p, true, 0, 1), U32(8, generate, deadline_ms),
    FLAG(9, generate, want_hash, false),
};
static const struct frame_field ping[] = { U64(0, ping, nonce) };
static const struct frame_field goaway[] = {
    U32(0, goaway, deadline_ms), STR(1, goaway, reason),
    U32_OPTIONAL(2, goaway, retry_ms),
};
static const struct frame_field error[] = {
    U32(0, error, code), STR(1, error, text), U32_HAS(2, error, seq, false),
    U32_OPTIONAL(3, error, retry_ms),
};

#define TYPE(type, fields, payload) \
    [FRAME_##type] = { #type, fields, sizeof(fields) / sizeof((fields)[0]), payload }

const struct frame_type_info frame_types[FRAME_N_TYPES] = {
    TYPE(HELLO, hello, 0),
    TYPE(WELCOME, welcome, 0),
    TYPE(ATTACH, attach, 0),
    [FRAME_ATTACHED] = { "ATTACHED", NULL, 0, 0 },
    TYPE(OPEN, open, 0),
    TYPE(STATES, states, FRAME_MAX_STATES),
    TYPE(INFER, infer, 0),
    TYPE(TOKEN, token, FRAME_MAX_TOP * 8),
    TYPE(TRUNCATE, truncate, 0),
    TYPE(CLOSE, close, 0),
    TYPE(NEED, need, 0),
    TYPE(CREDIT, credit, 0),
    TYPE(CANCEL, cancel, 0),
    TYPE(GENERATE, generate, FRAME_MAX_PROMPT * 4),
    TYPE(PING, ping, 0),
    TYPE(PONG, ping, 0),
    TYPE(GOAWAY, goaway, 0),
    TYPE(ERROR, error, 0),
    [FRAME_BYE] = { "BYE", NULL, 0, 0 },
};
/* clang-format on */

bool
frame_field_present(const struct frame_field *field, const struct frame *f)
{
    const void *at = frame_field_in(f, field->offset);

    if (!field->optional)
        return true;
    if (field->has != 0)
        return *(const bool *)frame_field_in(f, field->has);
    switch (field->kind) {
    case FIELD_BOOL:
        return *(const bool *)at != field->bool_value;
    case FIELD_U32:
        return *(const uint32_t *)at != 0;
    case FIELD_F32:
        return *(const float *)at != 0;
    default:
        return ((const struct frame_str *)at)->len != 0;
    }
}
