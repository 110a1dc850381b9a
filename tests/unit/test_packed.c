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
    { GGUF_Q4_0, 100, 96 }, { GGUF_Q4_1, 33, 64 }, { GGUF_Q8_0, 47, 160 },
    { GGUF_F16, 50, 75 },   { GGUF_F32, 39, 37 },
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
        "0531fb32650479529ea5fdc48808c409d1981f5241ed9d7a9768b161dbcf54b8"
    };

    (void)state;
    assert_int_equal(PACKED_LAYOUT, 1);
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
