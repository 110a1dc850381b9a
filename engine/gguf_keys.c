/* SPDX-License-Identifier: Apache-2.0
 * gguf_keys.c - typed reads of a GGUF file's keys, and the tables of types.
 *
 * Everything read here lies inside the file: gguf.c checked it. What is left
 * to check is whether the stored type can hold what the caller asks for.
 * Thread: any; the struct is immutable.
 */
#include "engine/gguf.h"

#include <stdio.h>
#include <string.h>

#include "engine/gguf_internal.h"

/* ---- types ---- */

static const struct {
    uint32_t type;
    const char *name;
    size_t elems, bytes; /* of one block */
} types[] = {
    { GGUF_F32, "F32", 1, 4 },       { GGUF_F16, "F16", 1, 2 },
    { GGUF_Q4_0, "Q4_0", 32, 18 },   { GGUF_Q4_1, "Q4_1", 32, 20 },
    { GGUF_Q5_0, "Q5_0", 32, 22 },   { GGUF_Q5_1, "Q5_1", 32, 24 },
    { GGUF_Q8_0, "Q8_0", 32, 34 },   { GGUF_Q2_K, "Q2_K", 256, 84 },
    { GGUF_Q3_K, "Q3_K", 256, 110 }, { GGUF_Q4_K, "Q4_K", 256, 144 },
    { GGUF_Q5_K, "Q5_K", 256, 176 }, { GGUF_Q6_K, "Q6_K", 256, 210 },
    { GGUF_I32, "I32", 1, 4 },       { GGUF_BF16, "BF16", 1, 2 },
};

#define N_TYPES (sizeof(types) / sizeof(types[0]))

size_t
gguf_block_elems(uint32_t type)
{
    size_t i;

    for (i = 0; i < N_TYPES; i++)
        if (types[i].type == type)
            return types[i].elems;
    return 0;
}

size_t
gguf_block_bytes(uint32_t type)
{
    size_t i;

    for (i = 0; i < N_TYPES; i++)
        if (types[i].type == type)
            return types[i].bytes;
    return 0;
}

const char *
gguf_type_name(uint32_t type)
{
    static _Thread_local char unknown[24];
    size_t i;

    for (i = 0; i < N_TYPES; i++)
        if (types[i].type == type)
            return types[i].name;
    snprintf(unknown, sizeof(unknown), "type %u", type);
    return unknown;
}

size_t
gguf_value_bytes(uint32_t value_type)
{
    switch (value_type) {
    case GGUF_VAL_U8:
    case GGUF_VAL_I8:
    case GGUF_VAL_BOOL:
        return 1;
    case GGUF_VAL_U16:
    case GGUF_VAL_I16:
        return 2;
    case GGUF_VAL_U32:
    case GGUF_VAL_I32:
    case GGUF_VAL_F32:
        return 4;
    case GGUF_VAL_U64:
    case GGUF_VAL_I64:
    case GGUF_VAL_F64:
        return 8;
    default:
        return 0;
    }
}

static const char *
value_name(uint32_t value_type)
{
    static const char *const names[] = { "u8",  "i8",  "u16",  "i16",    "u32",
                                         "i32", "f32", "bool", "string", "array",
                                         "u64", "i64", "f64" };

    return value_type < sizeof(names) / sizeof(names[0]) ? names[value_type] : "unknown";
}

/* ---- one number, wherever it stands ---- */

/* A decoded number; `kind` says which member holds it. */
struct number {
    enum { NUMBER_NONE, NUMBER_SIGNED, NUMBER_UNSIGNED, NUMBER_FLOAT, NUMBER_BOOL } kind;
    int64_t i;
    uint64_t u;
    double f;
};

#define LOAD(ctype, member, kind_)                                                       \
    do {                                                                                 \
        ctype v;                                                                         \
        memcpy(&v, p, sizeof(v));                                                        \
        out.member = v;                                                                  \
        out.kind = kind_;                                                                \
    } while (0)

static struct number
load_number(const unsigned char *p, uint32_t value_type)
{
    struct number out = { .kind = NUMBER_NONE };

    switch (value_type) {
    case GGUF_VAL_U8:
        LOAD(uint8_t, u, NUMBER_UNSIGNED);
        break;
    case GGUF_VAL_I8:
        out.i = (int64_t)(*p ^ 0x80) - 0x80; /* two's complement */
        out.kind = NUMBER_SIGNED;
        break;
    case GGUF_VAL_U16:
        LOAD(uint16_t, u, NUMBER_UNSIGNED);
        break;
    case GGUF_VAL_I16:
        LOAD(int16_t, i, NUMBER_SIGNED);
        break;
    case GGUF_VAL_U32:
        LOAD(uint32_t, u, NUMBER_UNSIGNED);
        break;
    case GGUF_VAL_I32:
        LOAD(int32_t, i, NUMBER_SIGNED);
        break;
    case GGUF_VAL_U64:
        LOAD(uint64_t, u, NUMBER_UNSIGNED);
        break;
    case GGUF_VAL_I64:
        LOAD(int64_t, i, NUMBER_SIGNED);
        break;
    case GGUF_VAL_F32:
        LOAD(float, f, NUMBER_FLOAT);
        break;
    case GGUF_VAL_F64:
        LOAD(double, f, NUMBER_FLOAT);
        break;
    case GGUF_VAL_BOOL:
        LOAD(uint8_t, u, NUMBER_BOOL);
        break;
    default:
        break;
    }
    return out;
}

/* ---- keys by name ---- */

int
gguf_n_keys(const struct gguf *g)
{
    return g->n_keys;
}

const char *
gguf_key_name(const struct gguf *g, int i)
{
    return i >= 0 && i < g->n_keys ? g->keys[i].name : NULL;
}

uint32_t
gguf_key_type(const struct gguf *g, int i)
{
    return i >= 0 && i < g->n_keys ? g->keys[i].type : UINT32_MAX;
}

int
gguf_find_key(const struct gguf *g, const char *name)
{
    int lo = 0, hi = g->n_keys, mid, order;

    while (lo < hi) {
        mid = lo + (hi - lo) / 2;
        order = strcmp(name, g->keys[g->keys_sorted[mid]].name);
        if (order == 0)
            return g->keys_sorted[mid];
        if (order < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return -1;
}

static const struct gguf_key *
find(const struct gguf *g, const char *name)
{
    int i = gguf_find_key(g, name);

    return i < 0 ? NULL : &g->keys[i];
}

static int
wrong_type(const struct gguf *g, const struct gguf_key *k, const char *wanted,
           struct err *err)
{
    return err_set(err, CE_EFORMAT, "%s: key %s: %s where %s is expected", g->path,
                   k->name, value_name(k->type), wanted);
}

int
gguf_get_u64(const struct gguf *g, const char *name, uint64_t *out, struct err *err)
{
    const struct gguf_key *k = find(g, name);
    struct number v;

    if (k == NULL)
        return CE_ENOTFOUND;
    v = load_number(g->base + k->data_at, k->type);
    if (v.kind == NUMBER_UNSIGNED)
        *out = v.u;
    else if (v.kind == NUMBER_SIGNED && v.i >= 0)
        *out = (uint64_t)v.i;
    else if (v.kind == NUMBER_SIGNED)
        return err_set(err, CE_EFORMAT, "%s: key %s: %lld is negative", g->path, name,
                       (long long)v.i);
    else
        return wrong_type(g, k, "an integer", err);
    return 0;
}

int
gguf_get_f64(const struct gguf *g, const char *name, double *out, struct err *err)
{
    const struct gguf_key *k = find(g, name);
    struct number v;

    if (k == NULL)
        return CE_ENOTFOUND;
    v = load_number(g->base + k->data_at, k->type);
    if (v.kind != NUMBER_FLOAT)
        return wrong_type(g, k, "a floating-point number", err);
    *out = v.f;
    return 0;
}

int
gguf_get_bool(const struct gguf *g, const char *name, bool *out, struct err *err)
{
    const struct gguf_key *k = find(g, name);

    if (k == NULL)
        return CE_ENOTFOUND;
    if (k->type != GGUF_VAL_BOOL)
        return wrong_type(g, k, "a bool", err);
    *out = g->base[k->data_at] != 0;
    return 0;
}

static struct gguf_str
string_at(const struct gguf *g, size_t at)
{
    uint64_t len;

    memcpy(&len, g->base + at, sizeof(len));
    return (struct gguf_str){ (const char *)g->base + at + sizeof(len), (size_t)len };
}

int
gguf_get_str(const struct gguf *g, const char *name, struct gguf_str *out,
             struct err *err)
{
    const struct gguf_key *k = find(g, name);

    if (k == NULL)
        return CE_ENOTFOUND;
    if (k->type != GGUF_VAL_STRING)
        return wrong_type(g, k, "a string", err);
    *out = string_at(g, k->data_at);
    return 0;
}

int
gguf_get_array(const struct gguf *g, const char *name, uint32_t *elem_type, size_t *n,
               struct err *err)
{
    const struct gguf_key *k = find(g, name);

    if (k == NULL)
        return CE_ENOTFOUND;
    if (k->type != GGUF_VAL_ARRAY)
        return wrong_type(g, k, "an array", err);
    *elem_type = k->elem_type;
    *n = k->n;
    return 0;
}

/* Element i of an array of numbers or bools. */
static struct number
array_number(const struct gguf *g, const char *name, size_t i)
{
    const struct gguf_key *k = find(g, name);

    if (k == NULL || k->type != GGUF_VAL_ARRAY || i >= k->n)
        return (struct number){ .kind = NUMBER_NONE };
    return load_number(g->base + k->data_at + i * gguf_value_bytes(k->elem_type),
                       k->elem_type);
}

int
gguf_array_str(const struct gguf *g, const char *name, size_t i, struct gguf_str *out)
{
    const struct gguf_key *k = find(g, name);

    if (k == NULL)
        return CE_ENOTFOUND;
    if (k->type != GGUF_VAL_ARRAY || k->elem_type != GGUF_VAL_STRING || i >= k->n)
        return CE_EFORMAT;
    *out = string_at(g, k->str_at[i]);
    return 0;
}

int
gguf_array_f64(const struct gguf *g, const char *name, size_t i, double *out)
{
    struct number v = array_number(g, name, i);

    if (v.kind != NUMBER_FLOAT)
        return CE_EFORMAT;
    *out = v.f;
    return 0;
}

int
gguf_array_i64(const struct gguf *g, const char *name, size_t i, int64_t *out)
{
    struct number v = array_number(g, name, i);

    if (v.kind == NUMBER_SIGNED)
        *out = v.i;
    else if (v.kind == NUMBER_UNSIGNED && v.u <= INT64_MAX)
        *out = (int64_t)v.u;
    else
        return CE_EFORMAT;
    return 0;
}
