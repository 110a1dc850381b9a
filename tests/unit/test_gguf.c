/* SPDX-License-Identifier: Apache-2.0
 * test_gguf.c - what is written is read back; what is broken is refused with a
 * text that says where.
 *
 * One broken file of each kind, made by hand. By chance: test_gguf_mutations.c.
 */
#include "engine/gguf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/synth.h"

struct file {
    unsigned char *data;
    size_t size;
};

static struct file
read_whole(const char *path)
{
    struct file f = { 0 };
    FILE *in = fopen(path, "rb");

    assert_non_null(in);
    fseek(in, 0, SEEK_END);
    f.size = (size_t)ftell(in);
    rewind(in);
    f.data = malloc(f.size);
    assert_non_null(f.data);
    assert_int_equal(fread(f.data, 1, f.size, in), f.size);
    fclose(in);
    return f;
}

/* A small model as bytes; the same for every test. */
static struct file
small_model(void)
{
    const char path[] = "test_gguf.model.gguf";
    struct synth_params p;
    struct err err;
    struct file f;

    synth_params_init(&p);
    p.n_layers = 1;
    p.d_model = p.d_ff = 32;
    p.n_heads = p.n_kv_heads = 1;
    p.head_dim = 32;
    p.type = GGUF_Q4_1;
    assert_int_equal(synth_model(&p, path, &err), 0);
    f = read_whole(path);
    unlink(path);
    return f;
}

/* ---- reading back ---- */

static void
write_sample(const char *path)
{
    static const float data[2][64] = { { 1 }, { 2 } };
    struct gguf_str names[2] = { { "ab", 2 }, { "", 0 } };
    struct gguf_writer *w;
    struct err err;

    assert_int_equal(gguf_writer_new(&w, &err), 0);
    gguf_writer_u32(w, "u", 7);
    gguf_writer_f32(w, "f", 0.5f);
    gguf_writer_bool(w, "b", true);
    gguf_writer_str(w, "s", "x\0y", 3);
    gguf_writer_str_array(w, "strings", names, 2);
    gguf_writer_i32_array(w, "ints", (int32_t[]){ -1, 2 }, 2);
    gguf_writer_f32_array(w, "floats", (float[]){ 1.5f }, 1);
    gguf_writer_tensor(w, "second", GGUF_F32, 2, (size_t[]){ 3, 5 }, data[1]);
    gguf_writer_tensor(w, "first", GGUF_F32, 1, (size_t[]){ 64 }, data[0]);
    assert_int_equal(gguf_writer_finish(w, path, &err), 0);
    gguf_writer_free(w);
}

static void
test_round_trip(void **state)
{
    const char path[] = "test_gguf.sample.gguf";
    const struct gguf_tensor *t;
    struct gguf_str s;
    struct gguf *g;
    struct err err;
    uint32_t elem;
    uint64_t u;
    int64_t v;
    double f;
    size_t n;
    bool b;

    (void)state;
    write_sample(path);
    assert_int_equal(gguf_open(&g, path, &err), 0);
    assert_string_equal(gguf_path(g), path);
    assert_int_equal(gguf_n_keys(g), 7);
    assert_int_equal(gguf_get_u64(g, "u", &u, &err), 0);
    assert_int_equal(u, 7);
    assert_int_equal(gguf_get_f64(g, "f", &f, &err), 0);
    assert_true(f == 0.5);
    assert_int_equal(gguf_get_bool(g, "b", &b, &err), 0);
    assert_true(b);
    assert_int_equal(gguf_get_str(g, "s", &s, &err), 0);
    assert_int_equal(s.len, 3);
    assert_memory_equal(s.data, "x\0y", 3);
    assert_int_equal(gguf_get_array(g, "strings", &elem, &n, &err), 0);
    assert_int_equal(n, 2);
    assert_int_equal(gguf_array_str(g, "strings", 1, &s), 0);
    assert_int_equal(s.len, 0);
    assert_int_equal(gguf_array_i64(g, "ints", 0, &v), 0);
    assert_int_equal(v, -1);
    assert_int_equal(gguf_array_i64(g, "ints", 2, &v), CE_EFORMAT);
    assert_int_equal(gguf_array_f64(g, "floats", 0, &f), 0);
    assert_true(f == 1.5);

    assert_int_equal(gguf_get_u64(g, "nothing", &u, &err), CE_ENOTFOUND);
    assert_int_equal(gguf_get_u64(g, "f", &u, &err), CE_EFORMAT);
    assert_non_null(strstr(err.text, "key f"));
    assert_int_equal(gguf_get_bool(g, "u", &b, &err), CE_EFORMAT);
    assert_int_equal(gguf_array_str(g, "ints", 0, &s), CE_EFORMAT);

    assert_int_equal(gguf_n_tensors(g), 2);
    t = gguf_find_tensor(g, "second");
    assert_non_null(t);
    assert_int_equal(t->n_dims, 2);
    assert_int_equal(t->ne[0], 3);
    assert_int_equal(t->ne[1], 5);
    assert_int_equal(t->ne[2], 1);
    assert_int_equal(t->size_bytes, 60);
    assert_true(*(const float *)t->data == 2.0f);
    t = gguf_find_tensor(g, "first");
    assert_non_null(t);
    assert_true(*(const float *)t->data == 1.0f);
    assert_null(gguf_find_tensor(g, "third"));
    gguf_close(g);
    unlink(path);
}

static void
test_copied_keys_are_equal(void **state)
{
    const char path[] = "test_gguf.copy.gguf";
    struct file from = small_model(), to;
    struct gguf_writer *w;
    struct gguf *g, *h;
    struct err err;
    int i;

    (void)state;
    assert_int_equal(gguf_open_memory(&g, from.data, from.size, "model", &err), 0);
    assert_int_equal(gguf_writer_new(&w, &err), 0);
    for (i = 0; i < gguf_n_keys(g); i++)
        gguf_writer_copy_key(w, g, i);
    assert_int_equal(gguf_writer_finish(w, path, &err), 0);
    gguf_writer_free(w);
    to = read_whole(path);
    assert_int_equal(gguf_open_memory(&h, to.data, to.size, "copy", &err), 0);
    assert_int_equal(gguf_n_keys(h), gguf_n_keys(g));
    assert_int_equal(gguf_n_tensors(h), 0);
    /* Behind the header, keys are the same bytes in the same order. */
    assert_memory_equal(to.data + 24, from.data + 24, to.size - 24 - 32);
    gguf_close(g);
    gguf_close(h);
    free(from.data);
    free(to.data);
    unlink(path);
}

static void
test_writer_refuses(void **state)
{
    struct gguf_writer *w;
    struct err err;

    (void)state;
    assert_int_equal(gguf_writer_new(&w, &err), 0);
    gguf_writer_u32(w, "twice", 1);
    gguf_writer_u32(w, "twice", 2);
    assert_int_equal(gguf_writer_finish(w, "test_gguf.no.gguf", &err), CE_EINVAL);
    assert_non_null(strstr(err.text, "twice"));
    gguf_writer_free(w);

    assert_int_equal(gguf_writer_new(&w, &err), 0);
    gguf_writer_tensor(w, "odd", GGUF_Q8_0, 1, (size_t[]){ 33 }, "");
    gguf_writer_u32(w, "later", 1);
    assert_int_equal(gguf_writer_finish(w, "test_gguf.no.gguf", &err), CE_EINVAL);
    assert_non_null(strstr(err.text, "odd"));
    gguf_writer_free(w);
    assert_int_not_equal(access("test_gguf.no.gguf", F_OK), 0);

    assert_int_equal(gguf_writer_new(&w, &err), 0);
    assert_int_equal(gguf_writer_finish(w, "/nonexistent/x.gguf", &err), CE_EIO);
    gguf_writer_free(w);
}

/* ---- broken by hand ---- */

/* A file under construction. */
struct maker {
    unsigned char data[1024];
    size_t size;
};

static void
add(struct maker *m, const void *data, size_t len)
{
    assert_true(len <= sizeof(m->data) - m->size);
    memcpy(m->data + m->size, data, len);
    m->size += len;
}

static void
add_u32(struct maker *m, uint32_t v)
{
    add(m, &v, sizeof(v));
}

static void
add_u64(struct maker *m, uint64_t v)
{
    add(m, &v, sizeof(v));
}

static void
add_str(struct maker *m, const char *s)
{
    add_u64(m, strlen(s));
    add(m, s, strlen(s));
}

static struct maker
header(uint32_t version, uint64_t n_tensors, uint64_t n_keys)
{
    struct maker m = { .size = 0 };

    add(&m, "GGUF", 4);
    add_u32(&m, version);
    add_u64(&m, n_tensors);
    add_u64(&m, n_keys);
    return m;
}

static void
add_tensor(struct maker *m, const char *name, uint64_t ne0, uint64_t ne1, uint32_t type,
           uint64_t at)
{
    add_str(m, name);
    add_u32(m, 2);
    add_u64(m, ne0);
    add_u64(m, ne1);
    add_u32(m, type);
    add_u64(m, at);
}

/* Pad the header to 32 and add a data section. */
static void
add_data(struct maker *m, size_t size)
{
    m->size = (m->size + 31) & ~(size_t)31;
    assert_true(m->size + size <= sizeof(m->data));
    m->size += size;
}

static void
refused(const struct maker *m, const char *text)
{
    struct err err = { 0 };
    struct gguf *g;

    assert_int_equal(gguf_open_memory(&g, m->data, m->size, "bad.gguf", &err),
                     CE_EFORMAT);
    assert_null(g);
    assert_non_null(strstr(err.text, "bad.gguf"));
    if (strstr(err.text, text) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", err.text, text);
}

static void
test_header_is_checked(void **state)
{
    struct maker m = header(3, 0, 0);
    struct gguf *g;
    struct err err;

    (void)state;
    assert_int_equal(gguf_open_memory(&g, m.data, m.size, "ok", &err), 0);
    gguf_close(g);
    m.data[0] = 'X';
    refused(&m, "offset 0");
    m = header(1, 0, 0);
    refused(&m, "version 1");
    m = header(0x03000000, 0, 0);
    refused(&m, "big-endian");
    m = header(3, (uint64_t)1 << 60, 0);
    refused(&m, "tensors cannot fit");
    m = header(3, 0, (uint64_t)1 << 60);
    refused(&m, "keys cannot fit");
    m = header(3, 0, 1);
    refused(&m, "keys cannot fit");
    m.size = 11;
    refused(&m, "offset 8");
    m.size = 0;
    refused(&m, "offset 0");
}

static struct maker
one_key(const char *name, uint32_t type)
{
    struct maker m = header(2, 0, 1);

    add_str(&m, name);
    add_u32(&m, type);
    return m;
}

static void
test_keys_are_checked(void **state)
{
    struct maker m;

    (void)state;
    m = one_key("k", 13);
    add_u64(&m, 0);
    refused(&m, "key k: unknown value type 13");
    m = one_key("k", GGUF_VAL_BOOL);
    add(&m, "\2padding", 8);
    refused(&m, "key k: a bool of value 2");
    m = one_key("k", GGUF_VAL_STRING);
    add_u64(&m, UINT64_MAX);
    refused(&m, "string value needs 18446744073709551615 bytes");
    m = one_key("k", GGUF_VAL_ARRAY);
    add_u32(&m, GGUF_VAL_ARRAY);
    add_u64(&m, 0);
    refused(&m, "arrays of type 9");
    m = one_key("k", GGUF_VAL_ARRAY);
    add_u32(&m, GGUF_VAL_U64);
    add_u64(&m, ((uint64_t)1 << 61) + 1);
    refused(&m, "elements cannot fit");
    m = one_key("k", GGUF_VAL_ARRAY);
    add_u32(&m, GGUF_VAL_STRING);
    add_u64(&m, 1);
    add_u64(&m, 1);
    refused(&m, "string in an array");
    m = header(3, 0, 1);
    add_u64(&m, 257);
    add_data(&m, 512);
    refused(&m, "key name of 257 bytes");
    m = header(3, 0, 2);
    add_str(&m, "k");
    add_u32(&m, GGUF_VAL_U64);
    add_u64(&m, 1);
    add_str(&m, "k");
    add_u32(&m, GGUF_VAL_U64);
    add_u64(&m, 2);
    refused(&m, "key k appears twice");
    m = header(3, 0, 1);
    add_u64(&m, 3);
    add(&m, "a\0b", 3);
    add_u32(&m, GGUF_VAL_U64);
    add_u64(&m, 2);
    refused(&m, "zero byte");
}

static void
refused_tensor(uint64_t ne0, uint64_t ne1, uint32_t type, uint64_t at, const char *text)
{
    struct maker m = header(3, 1, 0);

    add_tensor(&m, "t", ne0, ne1, type, at);
    add_data(&m, 128);
    refused(&m, text);
}

static void
test_tensors_are_checked(void **state)
{
    struct maker m;

    (void)state;
    refused_tensor(0, 1, GGUF_F32, 0, "dimension 0 is zero");
    refused_tensor((uint64_t)1 << 33, (uint64_t)1 << 33, GGUF_F32, 0, "overflow");
    refused_tensor((uint64_t)1 << 62, 1, GGUF_F32, 0, "size overflows");
    refused_tensor(33, 1, GGUF_Q4_1, 0, "not whole Q4_1 blocks");
    refused_tensor(32, 1, 77, 0, "type 77");
    refused_tensor(33, 1, GGUF_F32, 0, "past the end");
    refused_tensor(8, 1, GGUF_F32, 128, "past the end");
    refused_tensor(8, 1, GGUF_F32, UINT64_MAX - 31, "past the end");
    refused_tensor(8, 1, GGUF_F32, 16, "not a multiple of 32");

    m = header(3, 1, 0);
    add_str(&m, "t");
    add_u32(&m, 5);
    add_data(&m, 128);
    refused(&m, "5 dimensions");
    m = header(3, 2, 0);
    add_tensor(&m, "t", 8, 1, GGUF_F32, 0);
    add_tensor(&m, "t", 8, 1, GGUF_F32, 32);
    add_data(&m, 128);
    refused(&m, "tensor t appears twice");
    m = header(3, 2, 0);
    add_tensor(&m, "s", 8, 2, GGUF_F32, 0);
    add_tensor(&m, "t", 8, 1, GGUF_F32, 32);
    add_data(&m, 128);
    refused(&m, "overlap");
}

static void
test_alignment_is_checked(void **state)
{
    static const uint32_t bad[] = { 0, 1, 4, 24, 131072, 0x80000000 };
    struct maker m;
    size_t i;

    (void)state;
    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        m = header(3, 1, 1);
        add_str(&m, "general.alignment");
        add_u32(&m, GGUF_VAL_U32);
        add_u32(&m, bad[i]);
        add_tensor(&m, "t", 8, 1, GGUF_F32, 0);
        add_data(&m, 64);
        refused(&m, "general.alignment");
    }
}

static void
test_files_that_are_none(void **state)
{
    struct gguf *g;
    struct err err;
    FILE *f;

    (void)state;
    assert_int_equal(gguf_open(&g, "test_gguf.absent.gguf", &err), CE_EIO);
    assert_non_null(strstr(err.text, "test_gguf.absent.gguf"));
    assert_null(g);
    assert_int_equal(gguf_open(&g, ".", &err), CE_EIO);
    assert_non_null(strstr(err.text, "not a regular file"));
    f = fopen("test_gguf.empty.gguf", "wb");
    assert_non_null(f);
    fclose(f);
    assert_int_equal(gguf_open(&g, "test_gguf.empty.gguf", &err), CE_EFORMAT);
    unlink("test_gguf.empty.gguf");
}

/* Every width of integer and float, alone and in arrays; what does not fit is
 * refused by name. */
static void
test_numbers_of_every_width(void **state)
{
    static const struct {
        const char *name;
        uint32_t type;
        size_t bytes;
        uint64_t raw;
        int64_t value; /* -1: negative, so not for u64 */
    } numbers[] = {
        { "u8", GGUF_VAL_U8, 1, 200, 200 },
        { "i8", GGUF_VAL_I8, 1, 100, 100 },
        { "i8-", GGUF_VAL_I8, 1, 0xff, -1 },
        { "u16", GGUF_VAL_U16, 2, 60000, 60000 },
        { "i16-", GGUF_VAL_I16, 2, 0xffff, -1 },
        { "u32", GGUF_VAL_U32, 4, 4000000000, 4000000000 },
        { "i32-", GGUF_VAL_I32, 4, 0xffffffff, -1 },
        { "u64", GGUF_VAL_U64, 8, INT64_MAX, INT64_MAX },
        { "i64-", GGUF_VAL_I64, 8, UINT64_MAX, -1 },
    };
    size_t n = sizeof(numbers) / sizeof(numbers[0]), i;
    struct maker m = header(3, 0, 2 * n + 2);
    struct gguf *g;
    struct err err;
    char array[16];
    uint64_t u;
    int64_t v;
    double f;

    (void)state;
    for (i = 0; i < n; i++) {
        add_str(&m, numbers[i].name);
        add_u32(&m, numbers[i].type);
        add(&m, &numbers[i].raw, numbers[i].bytes);
        snprintf(array, sizeof(array), "%s[]", numbers[i].name);
        add_str(&m, array);
        add_u32(&m, GGUF_VAL_ARRAY);
        add_u32(&m, numbers[i].type);
        add_u64(&m, 1);
        add(&m, &numbers[i].raw, numbers[i].bytes);
    }
    add_str(&m, "f64");
    add_u32(&m, GGUF_VAL_F64);
    add(&m, &(double){ 0.1 }, 8);
    add_str(&m, "u64 beyond[]");
    add_u32(&m, GGUF_VAL_ARRAY);
    add_u32(&m, GGUF_VAL_U64);
    add_u64(&m, 1);
    add_u64(&m, UINT64_MAX);

    assert_int_equal(gguf_open_memory(&g, m.data, m.size, "numbers", &err), 0);
    for (i = 0; i < n; i++) {
        if (numbers[i].value >= 0) {
            assert_int_equal(gguf_get_u64(g, numbers[i].name, &u, &err), 0);
            assert_true(u == (uint64_t)numbers[i].value);
        } else {
            assert_int_equal(gguf_get_u64(g, numbers[i].name, &u, &err), CE_EFORMAT);
            assert_non_null(strstr(err.text, numbers[i].name));
            assert_non_null(strstr(err.text, "negative"));
        }
        snprintf(array, sizeof(array), "%s[]", numbers[i].name);
        assert_int_equal(gguf_array_i64(g, array, 0, &v), 0);
        assert_true(v == numbers[i].value);
        assert_int_equal(gguf_array_f64(g, array, 0, &f), CE_EFORMAT);
    }
    assert_int_equal(gguf_get_f64(g, "f64", &f, &err), 0);
    assert_true(f == 0.1);
    assert_int_equal(gguf_array_i64(g, "u64 beyond[]", 0, &v), CE_EFORMAT);
    assert_int_equal(gguf_key_type(g, 0), GGUF_VAL_U8);
    assert_null(gguf_key_name(g, gguf_n_keys(g)));
    assert_int_equal(gguf_size_bytes(g), m.size);
    gguf_close(g);
}

static void
test_wider_alignment(void **state)
{
    struct maker m = header(3, 2, 1);
    const unsigned char *data;
    struct gguf *g;
    struct err err;

    (void)state;
    add_str(&m, "general.alignment");
    add_u32(&m, GGUF_VAL_U32);
    add_u32(&m, 64);
    add_tensor(&m, "s", 4, 1, GGUF_F32, 0);
    add_tensor(&m, "t", 4, 1, GGUF_F32, 64);
    m.size = (m.size + 63) & ~(size_t)63;
    data = m.data + m.size;
    m.size += 64 + 16;
    assert_int_equal(gguf_open_memory(&g, m.data, m.size, "aligned", &err), 0);
    assert_ptr_equal(gguf_find_tensor(g, "s")->data, data);
    assert_ptr_equal(gguf_find_tensor(g, "t")->data, data + 64);
    gguf_close(g);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_copied_keys_are_equal),
        cmocka_unit_test(test_writer_refuses),
        cmocka_unit_test(test_header_is_checked),
        cmocka_unit_test(test_keys_are_checked),
        cmocka_unit_test(test_tensors_are_checked),
        cmocka_unit_test(test_alignment_is_checked),
        cmocka_unit_test(test_files_that_are_none),
        cmocka_unit_test(test_numbers_of_every_width),
        cmocka_unit_test(test_wider_alignment),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
