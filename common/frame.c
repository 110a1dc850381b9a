/* SPDX-License-Identifier: Apache-2.0
 * frame.c - frames to bytes and back, after doc/PROTOCOL.md.
 *
 * What a frame's map holds is in the table of frame_fields.c; here are the
 * header, who may say what when, the walk over the table and the three payloads.
 * A map is scanned (frame_scan.c) before msgpack-c sees it, and then unpacked
 * in one piece: its streaming unpacker has no limits. Everything that
 * frame_encode asserts is refused by frame_decode, so what was decoded can be
 * encoded again.
 */
#include "common/frame.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include <msgpack.h>

#include "common/frame_fields.h"
#include "common/frame_scan.h"

/* ---- header ---- */

int
frame_header_decode(struct frame_header *h, const uint8_t *data, size_t size,
                    struct err *err)
{
    struct bytereader r;
    unsigned magic;

    if (size < FRAME_HEADER_SIZE)
        return CE_EAGAIN;
    bytereader_init(&r, data, FRAME_HEADER_SIZE);
    magic = bytereader_u16(&r);
    h->version = bytereader_u8(&r);
    h->type = bytereader_u8(&r);
    h->flags = bytereader_u16(&r);
    h->map_size = bytereader_u16(&r);
    h->payload_size = bytereader_u32(&r);

    if (magic != FRAME_MAGIC)
        return err_set(err, CE_EFORMAT, "not a frame: it begins with 0x%04x", magic);
    if (h->version != FRAME_VERSION)
        return err_set(err, CE_EUNSUPPORTED,
                       "the peer speaks protocol version %d, this side version %d",
                       h->version, FRAME_VERSION);
    if (h->type >= FRAME_N_TYPES || frame_types[h->type].name == NULL)
        return err_set(err, CE_EFORMAT, "frame type %d is unknown", h->type);
    if (h->flags != 0)
        return err_set(err, CE_EFORMAT, "%s: flags 0x%04x are unknown",
                       frame_type_name(h->type), h->flags);
    if (h->map_size > FRAME_MAX_MAP)
        return err_set(err, CE_EFORMAT, "%s: a map of %d bytes, %d are allowed",
                       frame_type_name(h->type), h->map_size, FRAME_MAX_MAP);
    if (h->payload_size > frame_types[h->type].max_payload)
        return err_set(err, CE_EFORMAT, "%s: a payload of %u bytes, %u are allowed",
                       frame_type_name(h->type), h->payload_size,
                       frame_types[h->type].max_payload);
    return CE_OK;
}

#define BIT(type)     (1u << FRAME_##type)
#define BITS_ANY_TIME (BIT(PING) | BIT(PONG) | BIT(ERROR) | BIT(BYE))

static const struct {
    const char *name;
    uint32_t types;
} places[] = {
    [FRAME_AT_CLOUD_NEW] = { "a new connection", BIT(HELLO) | BIT(ATTACH) },
    [FRAME_AT_CLOUD_INFER] = { "the infer channel", BITS_ANY_TIME | BIT(OPEN) |
                                                        BIT(STATES) | BIT(INFER) |
                                                        BIT(TRUNCATE) | BIT(CLOSE) |
                                                        BIT(CANCEL) | BIT(GENERATE) },
    [FRAME_AT_CLOUD_UPLOAD] = { "the upload channel", BITS_ANY_TIME | BIT(STATES) },
    [FRAME_AT_AGENT_INFER_NEW] = { "the infer channel before WELCOME",
                                   BIT(WELCOME) | BIT(ERROR) | BIT(BYE) },
    [FRAME_AT_AGENT_INFER] = { "the infer channel from the cloud",
                               BITS_ANY_TIME | BIT(TOKEN) | BIT(NEED) | BIT(CREDIT) |
                                   BIT(GOAWAY) },
    [FRAME_AT_AGENT_UPLOAD_NEW] = { "the upload channel before ATTACHED",
                                    BIT(ATTACHED) | BIT(ERROR) | BIT(BYE) },
    [FRAME_AT_AGENT_UPLOAD] = { "the upload channel from the cloud", BITS_ANY_TIME },
};

int
frame_allowed(const struct frame_header *h, enum frame_place place, struct err *err)
{
    if (h->type < FRAME_N_TYPES && places[place].types >> h->type & 1)
        return CE_OK;
    return err_set(err, CE_EPROTO, "%s may not come on %s", frame_type_name(h->type),
                   places[place].name);
}

/* ---- decoding ---- */

static int
bad_field(struct err *err, int type, const struct frame_field *field, const char *what)
{
    return err_set(err, CE_EFORMAT, "%s: key %d (%s): %s", frame_type_name(type),
                   field->key, field->name, what);
}

static bool
is_float(const msgpack_object *v)
{
    return v->type == MSGPACK_OBJECT_FLOAT32 || v->type == MSGPACK_OBJECT_FLOAT64;
}

/* An array of strings into codecs[] and n_codecs; NULL, or what is wrong. */
static const char *
read_strings(const struct frame_field *field, struct frame *f, const msgpack_object *v)
{
    struct frame_str *items = frame_field_at(f, field->items);
    uint32_t n;

    if (v->type != MSGPACK_OBJECT_ARRAY)
        return "not an array";
    n = v->via.array.size;
    if (n > FRAME_MAX_CODECS)
        return "too many elements";
    for (uint32_t i = 0; i < n; i++) {
        const msgpack_object *item = &v->via.array.ptr[i];

        if (item->type != MSGPACK_OBJECT_STR)
            return "not an array of strings";
        if (item->via.str.size > field->max)
            return "a string is too long";
        items[i] = frame_str_of(item->via.str.ptr, item->via.str.size);
    }
    *(int *)frame_field_at(f, field->offset) = (int)n;
    return NULL;
}

/* Strings and binaries; NULL, or what is wrong. */
static const char *
read_bytes(const struct frame_field *field, void *at, const msgpack_object *v)
{
    bool is_str = field->kind == FIELD_STR;
    const char *data;
    size_t len;

    if (v->type != (is_str ? MSGPACK_OBJECT_STR : MSGPACK_OBJECT_BIN))
        return is_str ? "not a string" : "not a binary";
    data = is_str ? v->via.str.ptr : v->via.bin.ptr;
    len = is_str ? v->via.str.size : v->via.bin.size;
    if (len < field->min || len > field->max)
        return "of a wrong length";
    if (field->kind == FIELD_BIN)
        memcpy(at, data, len);
    else
        *(struct frame_str *)at = frame_str_of(data, len);
    return NULL;
}

/* One value into its field; NULL, or what is wrong. */
static const char *
read_value(const struct frame_field *field, struct frame *f, const msgpack_object *v)
{
    void *at = frame_field_at(f, field->offset);

    switch ((enum field_kind)field->kind) {
    case FIELD_U32:
        if (v->type != MSGPACK_OBJECT_POSITIVE_INTEGER)
            return "not an unsigned integer";
        if (v->via.u64 > UINT32_MAX || (double)v->via.u64 < field->min ||
            (double)v->via.u64 > field->max)
            return "out of range";
        *(uint32_t *)at = (uint32_t)v->via.u64;
        return NULL;
    case FIELD_U64:
        if (v->type != MSGPACK_OBJECT_POSITIVE_INTEGER)
            return "not an unsigned integer";
        *(uint64_t *)at = v->via.u64;
        return NULL;
    case FIELD_F32:
        if (!is_float(v))
            return "not a float";
        if (!isfinite(v->via.f64) || v->via.f64 < field->min || v->via.f64 > field->max)
            return "out of range";
        *(float *)at = (float)v->via.f64;
        return NULL;
    case FIELD_BOOL:
        if (v->type != MSGPACK_OBJECT_BOOLEAN)
            return "not a boolean";
        *(bool *)at = v->via.boolean;
        return NULL;
    case FIELD_STR:
    case FIELD_BLOB:
    case FIELD_BIN:
        return read_bytes(field, at, v);
    case FIELD_STRS:
        return read_strings(field, f, v);
    }
    return "of no known kind";
}

/* The unpacked map into *f: every field of the table is looked up in the map
 * (at most 13 in at most 64), keys that the table lacks are skipped. */
static int
read_map(struct frame *f, const msgpack_object_map *map, struct err *err)
{
    const struct frame_type_info *info = &frame_types[f->type];

    for (int i = 0; i < info->n_fields; i++) {
        const struct frame_field *field = &info->fields[i];
        const msgpack_object *value = NULL;
        const char *what;

        for (uint32_t k = 0; k < map->size && value == NULL; k++)
            if (map->ptr[k].key.via.u64 == field->key)
                value = &map->ptr[k].val;
        if (value == NULL) {
            if (!field->optional)
                return bad_field(err, f->type, field, "missing");
            if (field->kind == FIELD_BOOL)
                *(bool *)frame_field_at(f, field->offset) = field->bool_value;
            continue;
        }
        what = read_value(field, f, value);
        if (what != NULL)
            return bad_field(err, f->type, field, what);
        if (field->has != 0)
            *(bool *)frame_field_at(f, field->has) = true;
    }
    return CE_OK;
}

static int
read_top(struct frame_token *t, const uint8_t *payload, size_t size, struct err *err)
{
    if (size % 8 != 0)
        return err_set(err, CE_EFORMAT, "TOKEN: a payload of %zu bytes is not pairs",
                       size);
    t->n_top = (int)(size / 8);
    for (int i = 0; i < t->n_top; i++) {
        memcpy(&t->top[i].id, payload + 8 * i, 4);
        memcpy(&t->top[i].logit, payload + 8 * i + 4, 4);
        if (!isfinite(t->top[i].logit))
            return err_set(err, CE_EFORMAT, "TOKEN: top logit %d is not finite", i);
    }
    return CE_OK;
}

static int
read_payload(struct frame *f, const uint8_t *payload, size_t size, struct err *err)
{
    switch (f->type) {
    case FRAME_STATES:
        /* the exact row size depends on the sequence's codec: the session's job */
        if (size == 0 || size % f->u.states.n != 0)
            return err_set(err, CE_EFORMAT, "STATES: a payload of %zu bytes for %u rows",
                           size, f->u.states.n);
        if (f->u.states.n > UINT32_MAX - f->u.states.pos)
            return err_set(err, CE_EFORMAT, "STATES: position out of range");
        f->u.states.rows = payload;
        f->u.states.rows_size = size;
        return CE_OK;
    case FRAME_TOKEN:
        return read_top(&f->u.token, payload, size, err);
    case FRAME_GENERATE:
        if (size == 0 || size % 4 != 0)
            return err_set(err, CE_EFORMAT,
                           "GENERATE: a payload of %zu bytes is not a prompt", size);
        f->u.generate.ids = payload;
        f->u.generate.n_ids = size / 4;
        return CE_OK;
    default:
        return CE_OK; /* the header's check left no payload */
    }
}

int
frame_decode(struct frame *f, const struct frame_header *h, const uint8_t *body,
             struct err *err)
{
    msgpack_unpacked unpacked;
    msgpack_unpack_return done;
    size_t used = 0;
    int rc = frame_scan(body, h->map_size, err);

    if (rc != CE_OK) {
        err_prefix(err, "%s", frame_type_name(h->type));
        return rc;
    }
    memset(f, 0, sizeof(*f));
    f->type = (enum frame_type)h->type;
    msgpack_unpacked_init(&unpacked);
    done = msgpack_unpack_next(&unpacked, (const char *)body, h->map_size, &used);
    if (done == MSGPACK_UNPACK_SUCCESS)
        rc = read_map(f, &unpacked.data.via.map, err);
    else if (done == MSGPACK_UNPACK_NOMEM_ERROR)
        rc = err_set(err, CE_ENOMEM, "%s: %s", frame_type_name(h->type),
                     err_name(CE_ENOMEM));
    else
        rc = err_set(err, CE_EFORMAT, "%s: the map does not parse",
                     frame_type_name(h->type));
    /* strings and binaries point into `body`, not into what is freed here */
    msgpack_unpacked_destroy(&unpacked);
    if (rc == CE_OK)
        rc = read_payload(f, body + h->map_size, h->payload_size, err);
    return rc;
}

/* ---- encoding ---- */

static int
pack_write(void *arg, const char *bytes, size_t n)
{
    bytebuf_put_bytes(arg, bytes, n);
    return 0; /* the buffer's error is sticky */
}

static void
write_strings(msgpack_packer *pk, const struct frame_field *field, const struct frame *f)
{
    const struct frame_str *items = frame_field_in(f, field->items);
    int n = *(const int *)frame_field_in(f, field->offset);

    assert(n >= 0 && n <= FRAME_MAX_CODECS);
    msgpack_pack_array(pk, (size_t)n);
    for (int i = 0; i < n; i++) {
        assert(items[i].len <= field->max);
        msgpack_pack_str(pk, items[i].len);
        msgpack_pack_str_body(pk, items[i].data, items[i].len);
    }
}

static void
write_value(msgpack_packer *pk, const struct frame_field *field, const struct frame *f)
{
    const void *at = frame_field_in(f, field->offset);
    const struct frame_str *str = at;

    switch ((enum field_kind)field->kind) {
    case FIELD_U32:
        assert(*(const uint32_t *)at >= field->min &&
               *(const uint32_t *)at <= field->max);
        msgpack_pack_uint32(pk, *(const uint32_t *)at);
        break;
    case FIELD_U64:
        msgpack_pack_uint64(pk, *(const uint64_t *)at);
        break;
    case FIELD_F32:
        assert(*(const float *)at >= field->min && *(const float *)at <= field->max);
        msgpack_pack_float(pk, *(const float *)at);
        break;
    case FIELD_BOOL:
        if (*(const bool *)at)
            msgpack_pack_true(pk);
        else
            msgpack_pack_false(pk);
        break;
    case FIELD_STR:
        assert(str->len <= field->max);
        msgpack_pack_str(pk, str->len);
        msgpack_pack_str_body(pk, str->data, str->len);
        break;
    case FIELD_BLOB:
        assert(str->len <= field->max);
        msgpack_pack_bin(pk, str->len);
        msgpack_pack_bin_body(pk, str->data, str->len);
        break;
    case FIELD_BIN:
        msgpack_pack_bin(pk, (size_t)field->max);
        msgpack_pack_bin_body(pk, at, (size_t)field->max);
        break;
    case FIELD_STRS:
        write_strings(pk, field, f);
        break;
    }
}

static void
write_map(struct bytebuf *out, const struct frame *f)
{
    const struct frame_type_info *info = &frame_types[f->type];
    msgpack_packer pk;
    size_t n = 0;

    for (int i = 0; i < info->n_fields; i++)
        n += frame_field_present(&info->fields[i], f);
    msgpack_packer_init(&pk, out, pack_write);
    msgpack_pack_map(&pk, n);
    for (int i = 0; i < info->n_fields; i++) {
        if (!frame_field_present(&info->fields[i], f))
            continue;
        msgpack_pack_uint8(&pk, info->fields[i].key);
        write_value(&pk, &info->fields[i], f);
    }
}

static void
write_payload(struct bytebuf *out, const struct frame *f)
{
    switch (f->type) {
    case FRAME_STATES:
        assert(f->u.states.rows_size > 0 && f->u.states.rows_size % f->u.states.n == 0 &&
               f->u.states.n <= UINT32_MAX - f->u.states.pos);
        bytebuf_put_bytes(out, f->u.states.rows, f->u.states.rows_size);
        break;
    case FRAME_TOKEN:
        assert(f->u.token.n_top >= 0 && f->u.token.n_top <= FRAME_MAX_TOP);
        for (int i = 0; i < f->u.token.n_top; i++) { /* the machine is little-endian */
            bytebuf_put_bytes(out, &f->u.token.top[i].id, 4);
            bytebuf_put_bytes(out, &f->u.token.top[i].logit, 4);
        }
        break;
    case FRAME_GENERATE:
        assert(f->u.generate.n_ids > 0 && f->u.generate.n_ids <= FRAME_MAX_PROMPT);
        bytebuf_put_bytes(out, f->u.generate.ids, f->u.generate.n_ids * 4);
        break;
    default:
        break;
    }
}

void
frame_encode(struct bytebuf *out, const struct frame *f)
{
    size_t start = bytebuf_len(out);
    size_t map_size, payload_size;
    uint8_t *at;

    assert(f->type < FRAME_N_TYPES && frame_types[f->type].name != NULL);
    bytebuf_put_u16(out, FRAME_MAGIC);
    bytebuf_put_u8(out, FRAME_VERSION);
    bytebuf_put_u8(out, (uint8_t)f->type);
    bytebuf_put_u64(out, 0); /* flags, and the lengths filled in below */
    write_map(out, f);
    map_size = bytebuf_len(out) - start - FRAME_HEADER_SIZE;
    write_payload(out, f);
    if (bytebuf_status(out) != CE_OK) {
        bytebuf_truncate(out, start); /* no half frames */
        return;
    }
    payload_size = bytebuf_len(out) - start - FRAME_HEADER_SIZE - map_size;
    assert(map_size <= FRAME_MAX_MAP && payload_size <= frame_types[f->type].max_payload);

    at = out->mem + out->off + start + 6;
    at[0] = (uint8_t)(map_size >> 8);
    at[1] = (uint8_t)map_size;
    for (int i = 0; i < 4; i++)
        at[2 + i] = (uint8_t)(payload_size >> 8 * (3 - i));
}

/* ---- small things ---- */

uint32_t
frame_id_at(const struct frame_generate *g, size_t i)
{
    uint32_t id;

    assert(i < g->n_ids);
    memcpy(&id, g->ids + 4 * i, 4);
    return id;
}

const char *
frame_type_name(int type)
{
    if (type < 0 || type >= FRAME_N_TYPES || frame_types[type].name == NULL)
        return "UNKNOWN";
    return frame_types[type].name;
}

bool
frame_str_equal(struct frame_str a, const char *b)
{
    return a.len == strlen(b) && (a.len == 0 || memcmp(a.data, b, a.len) == 0);
}
