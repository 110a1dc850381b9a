/* SPDX-License-Identifier: Apache-2.0
 * test_synth.c - synthesised models: complete, the same bytes each time, and with
 * weights of the size that was asked for.
 */
#include "engine/synth.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/sha256.h"
#include "engine/quant.h"

#define MODEL "test_synth.model.gguf"
#define EXITS "test_synth.exits.gguf"

static void
test_every_format(void **state)
{
    static const uint32_t types[] = { GGUF_F32, GGUF_F16, GGUF_Q8_0, GGUF_Q4_0,
                                      GGUF_Q4_1 };
    const struct gguf_tensor *t;
    struct synth_params p;
    struct gguf *g;
    struct err err;
    float row[64];
    double sum;
    int i, r, c;

    (void)state;
    for (i = 0; i < 5; i++) {
        synth_params_init(&p);
        p.type = types[i];
        p.tied = i % 2 == 0;
        p.n_vocab = 400;
        assert_int_equal(synth_model(&p, MODEL, &err), 0);
        assert_int_equal(gguf_open(&g, MODEL, &err), 0);
        assert_int_equal(gguf_n_tensors(g), 2 + 9 * 4 + (p.tied ? 0 : 1));
        t = gguf_find_tensor(g, "token_embd.weight");
        assert_non_null(t);
        assert_int_equal(t->type, types[i]);
        assert_int_equal(t->ne[0], 64);
        assert_int_equal(t->ne[1], 400);
        for (sum = 0, r = 0; r < 400; r++) {
            assert_int_equal(quant_dequantise_row(t->type,
                                                  (const char *)t->data +
                                                      (size_t)r * (t->size_bytes / 400),
                                                  row, 64),
                             0);
            for (c = 0; c < 64; c++)
                sum += (double)row[c] * (double)row[c];
        }
        /* rows of norm 4, give or take the draw and the rounding */
        assert_true(fabs(sqrt(sum / 400) - 4) < 0.1);
        gguf_close(g);
    }
    unlink(MODEL);
}

static void
test_same_bytes(void **state)
{
    struct synth_params p;
    uint8_t a[SHA256_BYTES], b[SHA256_BYTES];
    char text[SHA256_TEXT];
    struct err err;

    (void)state;
    synth_params_init(&p);
    assert_int_equal(synth_model(&p, MODEL, &err), 0);
    assert_int_equal(sha256_file(MODEL, a, &err), 0);
    /* On any machine. Changes with the vocabulary, the scales or the keys: then
     * write the new one here. */
    sha256_text(a, text);
    assert_string_equal(
        text, "fb14562947c25e1fa04acf3c0f8567d73d1e3c98ffba7ee10aae9bc9bddc41e2");
    assert_int_equal(synth_model(&p, MODEL, &err), 0);
    assert_int_equal(sha256_file(MODEL, b, &err), 0);
    assert_memory_equal(a, b, SHA256_BYTES);
    p.seed = 2;
    assert_int_equal(synth_model(&p, MODEL, &err), 0);
    assert_int_equal(sha256_file(MODEL, b, &err), 0);
    assert_memory_not_equal(a, b, SHA256_BYTES);
    unlink(MODEL);
}

static void
test_exits_are_bound(void **state)
{
    static const int layers[] = { 1, 3 };
    struct synth_params p;
    uint8_t digest[SHA256_BYTES], bound[SHA256_BYTES];
    const struct gguf_tensor *t;
    struct gguf_str s;
    struct gguf *g;
    struct err err;
    int64_t v;

    (void)state;
    synth_params_init(&p);
    assert_int_equal(synth_model(&p, MODEL, &err), 0);
    assert_int_equal(synth_exits(&p, MODEL, layers, 2, 96, EXITS, &err), 0);
    assert_int_equal(sha256_file(MODEL, digest, &err), 0);
    assert_int_equal(gguf_open(&g, EXITS, &err), 0);
    assert_int_equal(gguf_get_str(g, "cecollm.exit.model_file_sha256", &s, &err), 0);
    assert_int_equal(sha256_parse(s.data, s.len, bound), 0);
    assert_memory_equal(bound, digest, SHA256_BYTES);
    assert_int_equal(gguf_array_i64(g, "cecollm.exit.layers", 1, &v), 0);
    assert_int_equal(v, 3);
    assert_int_equal(gguf_n_tensors(g), 10);
    t = gguf_find_tensor(g, "exit.3.down.weight");
    assert_non_null(t);
    assert_int_equal(t->ne[0], 96);
    assert_int_equal(t->ne[1], 64);
    gguf_close(g);
    assert_int_equal(synth_exits(&p, MODEL, (int[]){ 3, 3 }, 2, 96, EXITS, &err),
                     CE_EINVAL);
    assert_int_equal(synth_exits(&p, MODEL, (int[]){ 4 }, 1, 96, EXITS, &err), CE_EINVAL);
    unlink(MODEL);
    unlink(EXITS);
}

static void
test_impossible_shapes(void **state)
{
    struct synth_params p;
    struct err err;

    (void)state;
    synth_params_init(&p);
    p.type = GGUF_Q8_0;
    p.d_ff = 100;
    assert_int_equal(synth_model(&p, MODEL, &err), CE_EINVAL);
    assert_non_null(strstr(err.text, "ffn_down"));
    synth_params_init(&p);
    p.n_kv_heads = 3;
    assert_int_equal(synth_model(&p, MODEL, &err), CE_EINVAL);
    synth_params_init(&p);
    p.n_vocab = 319;
    assert_int_equal(synth_model(&p, MODEL, &err), CE_EINVAL);
    assert_non_null(strstr(err.text, "n_vocab"));
    synth_params_init(&p);
    p.type = GGUF_I32;
    assert_int_equal(synth_model(&p, MODEL, &err), CE_EUNSUPPORTED);
    assert_int_not_equal(access(MODEL, F_OK), 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_format),
        cmocka_unit_test(test_same_bytes),
        cmocka_unit_test(test_exits_are_bound),
        cmocka_unit_test(test_impossible_shapes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
