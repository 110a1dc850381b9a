/* SPDX-License-Identifier: Apache-2.0
 * test_frame.c - frames against the protocol page: bytes on the wire, round
 * trips, cuts at every byte, wrong kinds, duplicate keys, msgpack bombs, noise.
 */
#include "common/frame.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include <cmocka.h>

#include "tests/unit/frame_samples.h"

static void
encode_sample(struct bytebuf *out, int type, bool full)
{
    struct frame f;

    sample_frame(&f, (enum frame_type)type, full);
    bytebuf_init(out, 1 << 20);
    frame_encode(out, &f);
    assert_int_equal(bytebuf_status(out), 0);
}

/* Decode header and body of one complete frame. */
static int
decode(struct frame *f, const uint8_t *data, size_t size, struct err *err)
{
    struct frame_header h;
    int rc = frame_header_decode(&h, data, size, err);

    if (rc != CE_OK)
        return rc;
    if (size < FRAME_HEADER_SIZE + frame_body_size(&h))
        return CE_EAGAIN;
    return frame_decode(f, &h, data + FRAME_HEADER_SIZE, err);
}

/* Decode a frame of `type` with this map and payload. */
static int
decode_map(int type, const char *map, size_t map_size, const void *payload,
           size_t payload_size, struct err *err)
{
    struct frame_header h = { FRAME_VERSION, (uint8_t)type, 0, (uint16_t)map_size,
                              (uint32_t)payload_size };
    uint8_t *body = malloc(map_size + payload_size + 1); /* exact: sanitizers watch */
    struct frame f;
    int rc;

    assert_non_null(body);
    memcpy(body, map, map_size);
    if (payload_size > 0)
        memcpy(body + map_size, payload, payload_size);
    body = realloc(body, map_size + payload_size + (map_size + payload_size == 0));
    rc = frame_decode(&f, &h, body, err);
    free(body);
    return rc;
}

static bool
same_str(struct frame_str a, struct frame_str b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

static void
compare_texts(const struct frame *a, const struct frame *b)
{
    const struct frame_hello *h = &a->u.hello, *i = &b->u.hello;
    const struct frame_welcome *w = &a->u.welcome, *x = &b->u.welcome;

    switch (a->type) {
    case FRAME_HELLO:
        assert_memory_equal(h, i, offsetof(struct frame_hello, n_codecs));
        assert_int_equal(h->n_codecs, i->n_codecs);
        for (int c = 0; c < h->n_codecs; c++)
            assert_true(same_str(h->codecs[c], i->codecs[c]));
        assert_true(same_str(h->numerics, i->numerics) && same_str(h->agent, i->agent));
        assert_true(same_str(h->token, i->token) && h->whole_model == i->whole_model);
        break;
    case FRAME_WELCOME:
        assert_int_equal(w->proto, x->proto);
        assert_memory_equal(w->session, x->session, 16);
        assert_memory_equal(w->secret, x->secret, 16);
        assert_true(same_str(w->node, x->node) && same_str(w->numerics, x->numerics));
        assert_true(same_str(w->server, x->server) && w->whole_model == x->whole_model);
        assert_int_equal(w->max_seqs, x->max_seqs);
        assert_int_equal(w->window, x->window);
        assert_int_equal(w->n_ctx, x->n_ctx);
        assert_int_equal(w->n_codecs, x->n_codecs);
        assert_true(same_str(w->codecs[0], x->codecs[0]));
        assert_int_equal(w->idle_ms, x->idle_ms);
        break;
    case FRAME_OPEN:
        assert_memory_equal(&a->u.open, &b->u.open, 8);
        assert_true(same_str(a->u.open.codec, b->u.open.codec));
        assert_int_equal(a->u.open.max_pos, b->u.open.max_pos);
        assert_int_equal(a->u.open.keep_kv, b->u.open.keep_kv);
        break;
    case FRAME_STATES:
        assert_memory_equal(&a->u.states, &b->u.states, 24);
        assert_int_equal(a->u.states.rows_size, b->u.states.rows_size);
        assert_memory_equal(a->u.states.rows, b->u.states.rows, a->u.states.rows_size);
        break;
    case FRAME_GENERATE:
        assert_memory_equal(&a->u.generate, &b->u.generate,
                            offsetof(struct frame_generate, want_hash) + 1);
        assert_int_equal(a->u.generate.n_ids, b->u.generate.n_ids);
        for (size_t k = 0; k < a->u.generate.n_ids; k++)
            assert_int_equal(frame_id_at(&a->u.generate, k),
                             frame_id_at(&b->u.generate, k));
        break;
    case FRAME_GOAWAY:
        assert_int_equal(a->u.goaway.deadline_ms, b->u.goaway.deadline_ms);
        assert_true(same_str(a->u.goaway.reason, b->u.goaway.reason));
        assert_int_equal(a->u.goaway.retry_ms, b->u.goaway.retry_ms);
        break;
    case FRAME_ERROR:
        assert_int_equal(a->u.error.code, b->u.error.code);
        assert_true(same_str(a->u.error.text, b->u.error.text));
        assert_int_equal(a->u.error.has_seq, b->u.error.has_seq);
        assert_int_equal(a->u.error.seq, b->u.error.seq);
        assert_int_equal(a->u.error.retry_ms, b->u.error.retry_ms);
        break;
    default: /* numbers only */
        assert_memory_equal(&a->u, &b->u, sizeof(a->u));
        break;
    }
}

static void
test_every_frame_returns(void **state)
{
    (void)state;
    for (int type = FRAME_HELLO; type <= FRAME_BYE; type++) {
        for (int full = 0; full < 2; full++) {
            struct frame f, back;
            struct bytebuf wire, again;
            struct err err = { 0 };

            sample_frame(&f, (enum frame_type)type, full);
            encode_sample(&wire, type, full);
            if (decode(&back, bytebuf_data(&wire), bytebuf_len(&wire), &err) != 0)
                fail_msg("%s", err.text);
            assert_int_equal(back.type, type);
            compare_texts(&f, &back);
            bytebuf_init(&again, 1 << 20);
            frame_encode(&again, &back);
            assert_int_equal(bytebuf_len(&again), bytebuf_len(&wire));
            assert_memory_equal(bytebuf_data(&again), bytebuf_data(&wire),
                                bytebuf_len(&wire));
            bytebuf_fini(&again);
            bytebuf_fini(&wire);
        }
    }
}

static void
expect_wire(const struct frame *f, const char *bytes, size_t size)
{
    struct bytebuf out;

    bytebuf_init(&out, 4096);
    frame_encode(&out, f);
    assert_int_equal(bytebuf_len(&out), size);
    assert_memory_equal(bytebuf_data(&out), bytes, size);
    bytebuf_fini(&out);
}

/* Written by hand from doc/PROTOCOL.md, not from the code. */
static void
test_bytes_on_the_wire(void **state)
{
    static const char infer[] = "CE\x01\x07\0\0\0\x12\0\0\0\0"
                                "\x88\0\x01\x01\x02\x02\x03\x03\x04\x04\x05"
                                "\x05\x06\x06\xcc\x80\x07\xc3";
    static const char states[] = "CE\x01\x06\0\0\0\x0d\0\0\0\x30"
                                 "\x86\0\x01\x01\x02\x02\x03\x03\x04\x04\x05\x05\x06"
                                 "0123456789abcdef0123456789abcdef0123456789abcdef";
    static const char bye[] = "CE\x01\x13\0\0\0\x01\0\0\0\0\x80";
    static const char error[] = "CE\x01\x12\0\0\0\x09\0\0\0\0"
                                "\x83\0\x0a\x01\xa2no\x02\x07";
    static const char token[] =
        "CE\x01\x08\0\0\0\x2d\0\0\0\x08"
        "\x8c\0\x01\x01\x02\x02\x03\x03\x04\x04\x05\x05\xca\x3f\0\0\0"
        "\x06\xca\xc0\xc8\0\0\x07\xca\x3f\x80\0\0\x08\xcf\x01\x02\x03\x04\x05\x06\x07\x08"
        "\x09\x07\x0a\x08\x0b\x09"
        "\x2a\0\0\0\0\0\x80\xbf";
    struct frame f;

    (void)state;
    sample_frame(&f, FRAME_INFER, true);
    expect_wire(&f, infer, sizeof(infer) - 1);
    sample_frame(&f, FRAME_STATES, true);
    expect_wire(&f, states, sizeof(states) - 1);
    sample_frame(&f, FRAME_BYE, true);
    expect_wire(&f, bye, sizeof(bye) - 1);
    sample_frame(&f, FRAME_ERROR, true);
    f.u.error.text = frame_str_of("no", 2);
    f.u.error.retry_ms = 0;
    expect_wire(&f, error, sizeof(error) - 1);
    sample_frame(&f, FRAME_TOKEN, false);
    f.u.token.logit = 1.0f;
    f.u.token.has_hash = true;
    f.u.token.hash = 0x0102030405060708;
    f.u.token.compute_us = 8;
    f.u.token.rows = 9;
    f.u.token.n_top = 1;
    f.u.token.top[0] = (struct frame_top){ 42, -1.0f };
    expect_wire(&f, token, sizeof(token) - 1);
}

/* A buffer that ends anywhere is "come back", a body that is shorter than its
 * map says is malformed; nothing is read past the end (sanitizers watch). */
static void
test_every_truncation(void **state)
{
    (void)state;
    for (int type = FRAME_HELLO; type <= FRAME_BYE; type++) {
        struct bytebuf wire;
        struct frame_header h;
        struct frame f;
        struct err err;

        encode_sample(&wire, type, true);
        for (size_t cut = 0; cut < bytebuf_len(&wire); cut++) {
            uint8_t *part = malloc(cut > 0 ? cut : 1);

            assert_non_null(part);
            memcpy(part, bytebuf_data(&wire), cut);
            assert_int_equal(decode(&f, part, cut, &err), CE_EAGAIN);
            free(part);
        }
        assert_int_equal(frame_header_decode(&h, bytebuf_data(&wire), 12, &err), 0);
        for (uint16_t size = 0; size < h.map_size; size++) {
            assert_int_equal(decode_map(type, (const char *)bytebuf_data(&wire) + 12,
                                        size, NULL, 0, &err),
                             CE_EFORMAT);
            assert_memory_equal(err.text, frame_type_name(type),
                                strlen(frame_type_name(type)));
        }
        bytebuf_fini(&wire);
    }
}

static void
test_header(void **state)
{
    static const struct {
        const char *bytes;
        int rc;
        const char *error;
    } cases[] = {
        { "XE\x01\x0f\0\0\0\x03\0\0\0\0", CE_EFORMAT,
          "not a frame: it begins with 0x5845" },
        { "CE\x02\x0f\0\0\0\x03\0\0\0\0", CE_EUNSUPPORTED,
          "the peer speaks protocol version 2, this side version 1" },
        { "CE\x01\0\0\0\0\x03\0\0\0\0", CE_EFORMAT, "frame type 0 is unknown" },
        { "CE\x01\x14\0\0\0\x03\0\0\0\0", CE_EFORMAT, "frame type 20 is unknown" },
        { "CE\x01\xff\0\0\0\x03\0\0\0\0", CE_EFORMAT, "frame type 255 is unknown" },
        { "CE\x01\x0f\0\x01\0\x03\0\0\0\0", CE_EFORMAT,
          "PING: flags 0x0001 are unknown" },
        { "CE\x01\x0f\0\0\x10\x01\0\0\0\0", CE_EFORMAT,
          "PING: a map of 4097 bytes, 4096 are allowed" },
        { "CE\x01\x0f\0\0\0\x03\0\0\0\x01", CE_EFORMAT,
          "PING: a payload of 1 bytes, 0 are allowed" },
        { "CE\x01\x06\0\0\0\x03\0\x01\0\x41", CE_EFORMAT,
          "STATES: a payload of 65601 bytes, 65600 are allowed" },
        { "CE\x01\x06\0\0\0\x03\xff\xff\xff\xff", CE_EFORMAT,
          "STATES: a payload of 4294967295 bytes, 65600 are allowed" },
        { "CE\x01\x08\0\0\0\x03\0\0\x04\x08", CE_EFORMAT,
          "TOKEN: a payload of 1032 bytes, 1024 are allowed" },
        { "CE\x01\x06\0\0\x10\0\0\x01\0\x40", 0, NULL },
        { "CE\x01\x0e\0\0\0\x03\0\x40\0\0", 0, NULL },
    };
    struct frame_header h;
    struct err err;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int rc = frame_header_decode(&h, (const uint8_t *)cases[i].bytes, 12, &err);

        assert_int_equal(rc, cases[i].rc);
        if (rc != 0)
            assert_string_equal(err.text, cases[i].error);
    }
    assert_int_equal(frame_body_size(&h), 3 + 4194304);
    assert_string_equal(frame_type_name(FRAME_GOAWAY), "GOAWAY");
    assert_string_equal(frame_type_name(0), "UNKNOWN");
    assert_string_equal(frame_type_name(-1), "UNKNOWN");
    assert_string_equal(frame_type_name(77), "UNKNOWN");
}

/* The table of section 4, column "who, where": one letter a type, from 1. */
static void
test_who_may_say_what(void **state)
{
    static const struct {
        enum frame_place place;
        const char *allowed;
    } cases[] = {
        /*                          hwaAoSItTcnCxgPpGEB */
        { FRAME_AT_CLOUD_NEW, /* */ "1.1................" },
        { FRAME_AT_CLOUD_INFER, /**/ "....111.11..1111.11" },
        { FRAME_AT_CLOUD_UPLOAD, ".....1........11.11" },
        { FRAME_AT_AGENT_INFER_NEW, ".1...............11" },
        { FRAME_AT_AGENT_INFER, ".......1..11..11111" },
        { FRAME_AT_AGENT_UPLOAD_NEW, "...1.............11" },
        { FRAME_AT_AGENT_UPLOAD, "..............11.11" },
    };
    struct err err;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (int type = FRAME_HELLO; type <= FRAME_BYE; type++) {
            struct frame_header h = { .type = (uint8_t)type };
            int want = cases[i].allowed[type - 1] == '1' ? 0 : CE_EPROTO;

            assert_int_equal(frame_allowed(&h, cases[i].place, &err), want);
        }
    }
    assert_int_equal(frame_allowed(&(struct frame_header){ .type = FRAME_TOKEN },
                                   FRAME_AT_CLOUD_UPLOAD, &err),
                     CE_EPROTO);
    assert_string_equal(err.text, "TOKEN may not come on the upload channel");
}

/* A map as text, sizes included: MAP("\x80"). */
#define MAP(s) s, sizeof(s) - 1

static void
test_wrong_maps(void **state)
{
    static const struct {
        int type;
        const char *map;
        size_t size;
        const char *error;
    } cases[] = {
        { FRAME_PING, MAP(""), "PING: map offset 0: ends too early" },
        { FRAME_PING, MAP("\x90"), "PING: map offset 1: not a map" },
        { FRAME_PING, MAP("\x80"), "PING: key 0 (nonce): missing" },
        { FRAME_PING, MAP("\x81\0\xa1x"),
          "PING: key 0 (nonce): not an unsigned integer" },
        { FRAME_PING, MAP("\x81\0\xff"),
          "PING: map offset 3: a value of a kind that frames do not have" },
        { FRAME_PING, MAP("\x81\0\xc0"),
          "PING: map offset 3: a value of a kind that frames do not have" },
        { FRAME_PING, MAP("\x81\0\xd4\x01\x01"),
          "PING: map offset 3: a value of a kind that frames do not have" },
        { FRAME_PING, MAP("\x81\0\xc1"),
          "PING: map offset 3: a value of a kind that frames do not have" },
        { FRAME_PING, MAP("\x82\0\x01\0\x01"),
          "PING: map offset 4: a key that was there before" },
        { FRAME_PING, MAP("\x82\0\x01\xcc\0\x01"),
          "PING: map offset 5: a key that was there before" },
        { FRAME_PING, MAP("\x82\0\x01\x40\x01"),
          "PING: map offset 4: a key that is not 0 to 63" },
        { FRAME_PING, MAP("\x82\0\x01\xa1k\x01"),
          "PING: map offset 5: a key that is not 0 to 63" },
        { FRAME_PING, MAP("\x82\0\x01\xff\x01"),
          "PING: map offset 4: a key that is not 0 to 63" },
        { FRAME_PING, MAP("\x81\0\x01\x00"), "PING: map offset 3: bytes after the map" },
        { FRAME_PING, MAP("\x81\0\x80"), "PING: map offset 3: a map inside a map" },
        { FRAME_PING, MAP("\x81\0\x91\x90"),
          "PING: map offset 4: only integers and strings may be in an array" },
        { FRAME_PING, MAP("\x81\0\x91\xc3"),
          "PING: map offset 4: only integers and strings may be in an array" },
        { FRAME_CREDIT, MAP("\x83\0\x01\x01\x02\x02\xcf\0\0\0\x01\0\0\0\0"),
          "CREDIT: key 2 (limit): out of range" },
        { FRAME_INFER, MAP("\x86\0\1\1\2\2\3\3\4\5\6\6\xcc\x81"),
          "INFER: key 6 (n_top): out of range" },
        { FRAME_INFER, MAP("\x87\0\1\1\2\2\3\3\4\5\6\6\1\7\1"),
          "INFER: key 7 (want_hash): not a boolean" },
        { FRAME_GOAWAY, MAP("\x82\0\1\1\xc4\1x"),
          "GOAWAY: key 1 (reason): not a string" },
        { FRAME_ATTACH, MAP("\x83\0\xc4\x0f---------------\1\1\2\xc4\0"),
          "ATTACH: key 0 (session): of a wrong length" },
        { FRAME_ATTACH, MAP("\x83\0\xaf---------------\1\1\2\xc4\0"),
          "ATTACH: key 0 (session): not a binary" },
        { FRAME_STATES, MAP("\x86\0\1\1\2\2\3\3\4\4\5\5\0"),
          "STATES: key 5 (n): out of range" },
        { FRAME_GENERATE, MAP("\x88\0\1\1\2\2\3\3\4\4\5\5\xca\0\0\0\0\6\7\x08\x09"),
          "GENERATE: key 3 (temperature): not a float" },
        { FRAME_GENERATE,
          MAP("\x88\0\1\1\2\2\3\3\xca\xbf\x80\0\0\4\5\5\xca\0\0\0\0\6\7\x08\x09"),
          "GENERATE: key 3 (temperature): out of range" },
        { FRAME_GENERATE,
          MAP("\x88\0\1\1\2\2\3\3\xca\x7f\xc0\0\0\4\5\5\xca\0\0\0\0\6\7\x08\x09"),
          "GENERATE: key 3 (temperature): out of range" },
        { FRAME_GENERATE,
          MAP("\x88\0\1\1\2\2\3\3\xca\0\0\0\0\4\5\5\xca\x3f\x80\0\x01\6\7\x08\x09"),
          "GENERATE: key 5 (top_p): out of range" },
        { FRAME_GENERATE,
          MAP("\x88\0\1\1\2\2\3\3\xca\0\0\0\0\4\5\5\xcb\x7f\xef\xff\xff\xff\xff\xff\xff"
              "\6\7\x08\x09"),
          "GENERATE: key 5 (top_p): out of range" },
    };
    struct err err;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int rc = decode_map(cases[i].type, cases[i].map, cases[i].size, NULL, 0, &err);

        assert_int_equal(rc, CE_EFORMAT);
        assert_string_equal(err.text, cases[i].error);
    }
}

static void
test_wrong_payloads(void **state)
{
    static const char states[] = "\x86\0\1\1\2\2\3\3\4\4\5\5\3";
    static const char states_end[] = "\x86\0\1\1\2\2\3\3\4\4\xce\xff\xff\xff\xfe\5\3";
    static const char generate[] = "\x88\0\1\1\2\2\3\3\xca\0\0\0\0\4\5\5\xca\0\0\0\0\6\7"
                                   "\x08\x09";
    static const char token[] = "\x8b\0\1\1\2\2\3\3\4\4\5\5\xca\0\0\0\0\6\xca\0\0\0\0"
                                "\7\xca\0\0\0\0\x09\1\x0a\2\x0b\3";
    struct err err;

    (void)state;
    assert_int_equal(decode_map(FRAME_STATES, MAP(states), "", 0, &err), CE_EFORMAT);
    assert_string_equal(err.text, "STATES: a payload of 0 bytes for 3 rows");
    assert_int_equal(decode_map(FRAME_STATES, MAP(states), "1234", 4, &err), CE_EFORMAT);
    assert_int_equal(decode_map(FRAME_STATES, MAP(states), "123456", 6, &err), 0);
    assert_int_equal(decode_map(FRAME_STATES, MAP(states_end), "123", 3, &err),
                     CE_EFORMAT);
    assert_string_equal(err.text, "STATES: position out of range");
    assert_int_equal(decode_map(FRAME_GENERATE, MAP(generate), "", 0, &err), CE_EFORMAT);
    assert_int_equal(decode_map(FRAME_GENERATE, MAP(generate), "12345", 5, &err),
                     CE_EFORMAT);
    assert_int_equal(decode_map(FRAME_GENERATE, MAP(generate), "1234", 4, &err), 0);
    assert_int_equal(decode_map(FRAME_TOKEN, MAP(token), "", 0, &err), 0);
    assert_int_equal(decode_map(FRAME_TOKEN, MAP(token), "1234567", 7, &err), CE_EFORMAT);
    assert_int_equal(decode_map(FRAME_TOKEN, MAP(token), "\1\0\0\0\0\0\xc0\x7f", 8, &err),
                     CE_EFORMAT);
    assert_string_equal(err.text, "TOKEN: top logit 0 is not finite");
}

/* Keys in any order, unknown ones of any kind between them, wider integers and
 * floats than needed. */
static void
test_tolerated_maps(void **state)
{
    static const char credit[] =
        "\x8b\x02\xcf\0\0\0\0\0\0\0\x07\x3f\xc3\x3e\xcb\0\0\0\0\0\0\0\0"
        "\x3d\x93\1\xcd\1\1\xce\0\0\0\1\x3c\x92\xa1x\xd9\0\x3b\xc5\0\1x"
        "\x3a\xda\0\1x\x39\xdc\0\0\x38\xc6\0\0\0\0\0\xcd\0\x09\1\xcc\5";
    struct frame_header h = { 1, FRAME_CREDIT, 0, sizeof(credit) - 1, 0 };
    struct frame f;
    struct err err = { 0 };

    (void)state;
    if (frame_decode(&f, &h, (const uint8_t *)credit, &err) != 0)
        fail_msg("%s", err.text);
    assert_int_equal(f.u.credit.limit, 7);
    assert_int_equal(f.u.credit.epoch, 9);
    assert_int_equal(f.u.credit.seq, 5);
}

/* Small inputs that ask a msgpack library for huge memory. The limit makes the
 * test fail loudly if one of them is believed. */
static void
test_bombs(void **state)
{
    static const struct {
        const char *map;
        size_t size;
    } bombs[] = {
        { MAP("\xdf\xdf\xdf\x0a\x0a") },         { MAP("\xdd\xff\xff\xff\xff") },
        { MAP("\x81\0\xdd\xff\xff\xff\xff") },   { MAP("\x81\0\xdf\xff\xff\xff\xff") },
        { MAP("\x81\0\xdb\xff\xff\xff\xff") },   { MAP("\x81\0\xc6\xff\xff\xff\xff") },
        { MAP("\x81\0\xc9\xff\xff\xff\xff\1") }, { MAP("\xde\xff\xff\0\0") },
        { MAP("\xdf\0\0\0\x41\0\0") },
    };
    struct rlimit old, tight;
    char nested[155], wide[4096];
    struct err err;

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_AS, &old), 0);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    tight = old;
    tight.rlim_cur = (rlim_t)1 << 30;
    assert_int_equal(setrlimit(RLIMIT_AS, &tight), 0);
#else
    (void)tight;
#endif
    for (size_t i = 0; i < sizeof(bombs) / sizeof(bombs[0]); i++)
        assert_int_equal(
            decode_map(FRAME_PING, bombs[i].map, bombs[i].size, NULL, 0, &err),
            CE_EFORMAT);
    memset(nested, '\xdd', sizeof(nested));
    assert_int_equal(decode_map(FRAME_PING, nested, sizeof(nested), NULL, 0, &err),
                     CE_EFORMAT);
    memcpy(nested, "\x81\0", 2);
    assert_int_equal(decode_map(FRAME_PING, nested, sizeof(nested), NULL, 0, &err),
                     CE_EFORMAT);
    memset(nested + 2, '\x91', sizeof(nested) - 2);
    assert_int_equal(decode_map(FRAME_PING, nested, sizeof(nested), NULL, 0, &err),
                     CE_EFORMAT);
    memset(wide, 0, sizeof(wide)); /* the widest array that fits is harmless */
    memcpy(wide, "\x82\0\1\1\xdc\x0f\xf9", 7);
    assert_int_equal(decode_map(FRAME_PING, wide, sizeof(wide), NULL, 0, &err), 0);
    setrlimit(RLIMIT_AS, &old);
}

/* Noise, and frames with a few bytes changed: decoded or refused, and what is
 * decoded can be encoded again. */
static void
test_random_bytes(void **state)
{
    uint32_t random = 20240229;
    int accepted = 0;

    (void)state;
    for (int turn = 0; turn < 60000; turn++) {
        struct bytebuf wire, again;
        struct frame f;
        struct err err;
        uint8_t *bytes;
        size_t size;

        encode_sample(&wire, 1 + turn % FRAME_BYE, turn & 64);
        size = bytebuf_len(&wire);
        bytes = malloc(size);
        assert_non_null(bytes);
        memcpy(bytes, bytebuf_data(&wire), size);
        for (int i = 0; i < 1 + turn % 5; i++) {
            random = random * 1664525 + 1013904223;
            bytes[(random >> 8) % size] = (uint8_t)(random >> 24);
        }
        if (decode(&f, bytes, size, &err) == 0) {
            char text[200];

            accepted++;
            assert_true(frame_text(&f, text, sizeof(text)) < sizeof(text));
            bytebuf_init(&again, 1 << 20);
            frame_encode(&again, &f);
            assert_int_equal(bytebuf_status(&again), 0);
            bytebuf_fini(&again);
        }
        free(bytes);
        bytebuf_fini(&wire);
    }
    assert_true(accepted > 1000 && accepted < 59000);
}

/* A full buffer leaves the frames before it whole. */
static void
test_full_buffer(void **state)
{
    struct bytebuf out;
    struct frame f;

    (void)state;
    bytebuf_init(&out, 30);
    sample_frame(&f, FRAME_CREDIT, true);
    frame_encode(&out, &f);
    assert_int_equal(bytebuf_len(&out), 19);
    frame_encode(&out, &f);
    assert_int_equal(bytebuf_status(&out), CE_EQUOTA);
    assert_int_equal(bytebuf_len(&out), 19);
    bytebuf_fini(&out);
}

static void
test_text(void **state)
{
    char text[2000];
    struct frame f;

    (void)state;
    sample_frame(&f, FRAME_STATES, true);
    frame_text(&f, text, sizeof(text));
    assert_string_equal(text, "STATES epoch=1 seq=2 branch=3 id=4 pos=5 n=6 bytes=48");
    sample_frame(&f, FRAME_INFER, true);
    frame_text(&f, text, sizeof(text));
    assert_string_equal(text, "INFER epoch=1 seq=2 branch=3 pos=4 draft=* deadline_ms=6 "
                              "n_top=128 want_hash=yes");
    sample_frame(&f, FRAME_TOKEN, true);
    frame_text(&f, text, sizeof(text));
    assert_string_equal(text, "TOKEN epoch=1 seq=2 branch=3 pos=4 token=* confidence=0.5 "
                              "lse=-6.25 logit=1e+30 hash=* queue_us=7 compute_us=70000 "
                              "rows=8 last=yes n_top=128");
    sample_frame(&f, FRAME_HELLO, true);
    frame_text(&f, text, sizeof(text));
    assert_string_equal(text, "HELLO proto=1 epoch=2 fingerprint=abababab layer_from=3 "
                              "n_layers=4 d_model=16384 n_vocab=49152 codecs=f32,f16 "
                              "numerics=ce1-q8 agent=\"cecollm-agent 0.1.0\" token=* "
                              "whole_model=yes");
    sample_frame(&f, FRAME_WELCOME, true);
    frame_text(&f, text, sizeof(text));
    assert_null(strstr(text, "efef")); /* the secret */
    assert_null(strstr(text, "cdcd"));
    sample_frame(&f, FRAME_ERROR, false);
    f.u.error.text = frame_str_of("a\nb", 3);
    frame_text(&f, text, sizeof(text));
    assert_string_equal(text, "ERROR code=10 text=\"a\\x0ab\"");
    for (size_t size = 1; size <= strlen("ERROR code=10 text=\"a\\x0ab\""); size++) {
        char cut[40];

        assert_int_equal(frame_text(&f, cut, size), size - 1);
        assert_int_equal(strlen(cut), size - 1);
        assert_memory_equal(cut, text, size - 1);
    }
    assert_int_equal(frame_text(&f, text, 0), 0);
    assert_true(frame_str_equal(frame_str_of("f16", 3), "f16"));
    assert_false(frame_str_equal(frame_str_of("f16", 2), "f16"));
    assert_true(frame_str_equal(frame_str_of(NULL, 0), ""));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_frame_returns),
        cmocka_unit_test(test_bytes_on_the_wire),
        cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_header),
        cmocka_unit_test(test_who_may_say_what),
        cmocka_unit_test(test_wrong_maps),
        cmocka_unit_test(test_wrong_payloads),
        cmocka_unit_test(test_tolerated_maps),
        cmocka_unit_test(test_bombs),
        cmocka_unit_test(test_random_bytes),
        cmocka_unit_test(test_full_buffer),
        cmocka_unit_test(test_text),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
