/* SPDX-License-Identifier: Apache-2.0
 * test_gguf_mutations.c - 1,500 seeded mutations of a small model: cut, bytes taken
 * out, bits flipped, bytes and 64-bit words replaced.
 *
 * A mutation may give a file that is still valid; then every key, element and tensor
 * byte is read, which the address sanitizer watches. What lies above the container:
 * test_model_mutations.c.
 */
#include "engine/gguf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/synth.h"

#define MUTATIONS 1500

static void
open_model(struct gguf **g)
{
    const char path[] = "test_gguf_mutations.gguf";
    struct synth_params p;
    struct err err;

    synth_params_init(&p);
    p.n_layers = 1;
    p.d_model = p.d_ff = 32;
    p.n_heads = p.n_kv_heads = 1;
    p.head_dim = 32;
    p.type = GGUF_Q4_1;
    assert_int_equal(synth_model(&p, path, &err), 0);
    assert_int_equal(gguf_open(g, path, &err), 0);
    unlink(path);
}

/* Read everything that an open file offers; returns a sum nobody looks at, so
 * that no read is optimised away. */
static unsigned
touch_key(const struct gguf *g, int i)
{
    const char *name = gguf_key_name(g, i);
    struct gguf_str s;
    uint32_t elem;
    unsigned sum = 0;
    uint64_t u;
    int64_t v;
    double f;
    size_t n, k;
    bool b;

    assert_int_equal(gguf_find_key(g, name), i);
    sum += (unsigned)gguf_get_u64(g, name, &u, NULL) +
           (unsigned)gguf_get_f64(g, name, &f, NULL);
    sum += (unsigned)gguf_get_bool(g, name, &b, NULL);
    if (gguf_get_str(g, name, &s, NULL) == 0 && s.len > 0)
        sum += (unsigned)s.data[0] + (unsigned)s.data[s.len - 1];
    if (gguf_get_array(g, name, &elem, &n, NULL) != 0)
        return sum;
    for (k = 0; k < n; k++) {
        if (gguf_array_str(g, name, k, &s) == 0 && s.len > 0)
            sum += (unsigned)s.data[0] + (unsigned)s.data[s.len - 1];
        sum += (unsigned)gguf_array_f64(g, name, k, &f) +
               (unsigned)gguf_array_i64(g, name, k, &v);
    }
    assert_int_not_equal(gguf_array_i64(g, name, n, &v), 0);
    return sum;
}

static unsigned
touch_all(const struct gguf *g)
{
    const struct gguf_tensor *t;
    unsigned sum = 0;
    size_t k;
    int i;

    for (i = 0; i < gguf_n_keys(g); i++)
        sum += touch_key(g, i);
    for (i = 0; i < gguf_n_tensors(g); i++) {
        t = gguf_tensor_at(g, i);
        assert_ptr_equal(gguf_find_tensor(g, t->name), t);
        for (k = 0; k < t->size_bytes; k++)
            sum += ((const unsigned char *)t->data)[k];
    }
    return sum;
}

/* ---- mutations ---- */

static uint32_t
rnd(uint32_t *s)
{
    *s = *s * 1664525u + 1013904223u;
    return *s >> 8;
}

/* Where to strike: mostly in header, keys and directory, where it matters. */
static size_t
place(uint32_t *s, size_t size, size_t head)
{
    size_t limit = rnd(s) % 8 != 0 && head < size ? head : size;

    return ((size_t)rnd(s) << 16 ^ rnd(s)) % limit;
}

static size_t
mutate(unsigned char *data, size_t size, size_t head, uint32_t *s)
{
    static const uint64_t words[] = { 0,          1,          UINT64_MAX, INT64_MAX,
                                      1ull << 63, 1ull << 61, 1ull << 32, UINT32_MAX };
    uint32_t kind = rnd(s) % 5, n = 1 + rnd(s) % 4;
    size_t at;

    if (kind == 0)
        return place(s, size, head); /* cut */
    if (kind == 1) {                 /* a hole: the rest moves */
        at = place(s, size, head);
        n = rnd(s) % 64;
        if (n > size - at)
            n = (uint32_t)(size - at);
        memmove(data + at, data + at + n, size - at - n);
        return size - n;
    }
    while (n-- > 0) {
        at = place(s, size, head);
        if (kind == 2)
            data[at] ^= (unsigned char)(1u << rnd(s) % 8);
        else if (kind == 3)
            data[at] = (unsigned char)rnd(s);
        else if (size - at >= 8)
            memcpy(data + at, &words[rnd(s) % 8], 8);
    }
    return size;
}

static void
test_mutations(void **state)
{
    unsigned n_refused = 0, n_open = 0, sum = 0;
    uint32_t seed = 20240607;
    unsigned char *copy, *whole, *work;
    struct gguf *g;
    struct err err;
    size_t whole_size, size, head;
    int i;

    (void)state;
    open_model(&g);
    whole_size = gguf_size_bytes(g);
    whole = malloc(whole_size);
    work = malloc(whole_size);
    assert_non_null(whole);
    assert_non_null(work);
    memcpy(whole, gguf_bytes(g), whole_size);
    head = (size_t)((const unsigned char *)gguf_tensor_at(g, 0)->data -
                    (const unsigned char *)gguf_bytes(g));
    sum += touch_all(g);
    gguf_close(g);
    for (i = 0; i < MUTATIONS; i++) {
        memcpy(work, whole, whole_size);
        size = mutate(work, whole_size, head, &seed);
        /* an exact block, so that reading behind the end is seen */
        copy = malloc(size > 0 ? size : 1);
        assert_non_null(copy);
        memcpy(copy, work, size);
        err.code = 0;
        if (gguf_open_memory(&g, copy, size, "mutant", &err) == 0) {
            sum += touch_all(g);
            gguf_close(g);
            n_open++;
        } else {
            assert_null(g);
            assert_int_equal(err.code, CE_EFORMAT);
            assert_non_null(strstr(err.text, "mutant: "));
            n_refused++;
        }
        free(copy);
    }
    print_message("%u mutations refused, %u still valid (%x)\n", n_refused, n_open, sum);
    assert_true(n_refused >= 500);
    free(work);
    free(whole);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mutations),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
