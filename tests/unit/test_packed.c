/* SPDX-License-Identifier: Apache-2.0
 * test_packed.c - the bytes of tiles: pieces are what the whole has there, part tiles are
 * filled with zeros, and the layout is the one that files on disk are said to have.
 * (What the tiles mean is tested by the kernels that read them.)
 */
#include "engine/packed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/memory.h"
#include "common/sha256.h"
#include "engine/gguf.h"

static const struct {
    uint32_t type;
    size_t n_out, n_in;
} shapes[] = {
    { GGUF_Q4_0, 100, 96 }, { GGUF_Q4_1, 33, 64 },  { GGUF_Q8_0, 47, 160 },
    { GGUF_F16, 50, 75 },   { GGUF_F32, 39, 37 },   { GGUF_Q5_0, 45, 96 },
    { GGUF_Q5_1, 34, 160 }, { GGUF_Q2_K, 18, 512 }, { GGUF_Q3_K, 33, 256 },
    { GGUF_Q4_K, 47, 512 }, { GGUF_Q5_K, 17, 768 }, { GGUF_Q6_K, 40, 512 },
    { GGUF_BF16, 21, 45 },
};
#define N_SHAPES (sizeof(shapes) / sizeof(shapes[0]))

/* A matrix of fixed bytes, packed whole. Its rows are to be freed. */
static struct packed
make(size_t i)
{
    size_t elems = gguf_block_elems(shapes[i].type);
    size_t n =
        shapes[i].n_out * shapes[i].n_in / elems * gguf_block_bytes(shapes[i].type);
    uint8_t *rows = malloc(n);
    uint32_t h = 1;
    struct packed w;

    assert_non_null(rows);
    for (size_t j = 0; j < n; j++) {
        h = h * 1664525 + 1013904223;
        rows[j] = (uint8_t)(h >> 24);
    }
    assert_int_equal(
        packed_init(&w, shapes[i].type, shapes[i].n_out, shapes[i].n_in, NULL), 0);
    w.rows = rows;
    memset(w.data, 0xa5, packed_bytes(&w));
    packed_fill(&w, rows, 0, w.n_tiles);
    return w;
}

static void
drop(struct packed *w)
{
    free((void *)(uintptr_t)w->rows);
    packed_free(w);
}

static void
test_pieces(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SHAPES; i++) {
        struct packed whole = make(i), w = whole, piece;
        uint8_t *room = mem_aligned_alloc(w.n_tiles + 1, w.tile_bytes);

        assert_non_null(room);
        w.data = NULL;
        for (size_t from = 0; from < w.n_tiles; from++) {
            for (size_t n = 1; n <= w.n_tiles - from; n++) {
                memset(room, 0x5a, (w.n_tiles + 1) * w.tile_bytes);
                packed_piece(&piece, &w, from, n, room);
                assert_ptr_equal(piece.data, room);
                assert_int_equal(piece.n_tiles, n);
                assert_int_equal(piece.n_out, from + n < w.n_tiles ? n * PACKED_ROWS
                                                                   : w.n_out - from * 16);
                assert_memory_equal(room, packed_tile(&whole, from), n * w.tile_bytes);
                assert_int_equal(room[n * w.tile_bytes], 0x5a);
            }
        }
        mem_free(room);
        drop(&whole);
    }
}

/* If this fails, tiles have changed: PACKED_LAYOUT becomes one more, so that no file of
 * before is read, and these are the new sums. */
static void
test_layout(void **state)
{
    static const char *const sums[N_SHAPES] = {
        "700d23ac5400288b60275a929e799ee525155dce25002f83bf63c74e7c6fac47",
        "91a9538b8521c3ed776ab1df34b7266dd523af21b658f8e3b8851198cb71d4f6",
        "469cabd431e3b660dd493cdaf900895860abb383ff42a835beecbfbffaede240",
        "030df1a1c4cda025b483f9170ae051776869d7e7a1d22b45a8a0fd1cc06fcce2",
        "0531fb32650479529ea5fdc48808c409d1981f5241ed9d7a9768b161dbcf54b8",
        "25f63b0dc08800b070bab25bb5e0a7db0f884c30d47fe8120dee52e2f6889a05",
        "1f4f98132b1213c668cc26ddda9fa5187655d7eda6c933142ffb18fd594ebec3",
        "df0b08029ced97439cfea123cfb3705eba067d1f07a6d594c08ebfdf0f1b217e",
        "98c4017d574ce14db22689fb09694ec269bbdfefa0bae04d0aa75acc2c252d5b",
        "30b12df2328c6a821daf5a6e4257688d20c490876af0772f48cc913fbc7473fe",
        "1413bba578ed6b5ee604ba6a35aa469e6b676fd4f538d47533a3849b488c1d04",
        "6cc6faec8374d0ae2ef99dcaf10bb4bf53c115aed073248086e5398746e43a07",
        "02969bc29f3892685c5ffac01df60659c83d0febc40741f138bd8f21f6c7ba4f"
    };

    (void)state;
    assert_int_equal(PACKED_LAYOUT, 2);
    for (size_t i = 0; i < N_SHAPES; i++) {
        struct packed w = make(i);
        uint8_t sum[SHA256_BYTES];
        char text[SHA256_TEXT];

        assert_int_equal(sha256_bytes(w.data, packed_bytes(&w), sum, NULL), 0);
        sha256_text(sum, text);
        assert_string_equal(text, sums[i]);
        drop(&w);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_layout),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
