/* SPDX-License-Identifier: Apache-2.0
 * test_bytebuf.c - byte order, the maximum, sticky errors, running out of
 * memory, and a stream that is consumed while it is written.
 */
#include "common/bytebuf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/memory.h"

static void
test_round_trip(void **state)
{
    static const uint8_t wire[] = { 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd,
                                    0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07,
                                    0x08, 0x3f, 0x80, 0,    0,    'h',  'i' };
    struct bytebuf b;
    struct bytereader r;

    (void)state;
    bytebuf_init(&b, 100);
    bytebuf_put_u8(&b, 0x01);
    bytebuf_put_u16(&b, 0x2345);
    bytebuf_put_u32(&b, 0x6789abcd);
    bytebuf_put_u64(&b, 0x0102030405060708);
    bytebuf_put_f32(&b, 1.0f);
    bytebuf_put_bytes(&b, "hi", 2);
    bytebuf_put_bytes(&b, NULL, 0);
    assert_int_equal(bytebuf_status(&b), 0);
    assert_int_equal(bytebuf_len(&b), sizeof(wire));
    assert_memory_equal(bytebuf_data(&b), wire, sizeof(wire));

    bytereader_init(&r, wire, sizeof(wire));
    assert_int_equal(bytereader_u8(&r), 0x01);
    assert_int_equal(bytereader_u16(&r), 0x2345);
    assert_int_equal(bytereader_u32(&r), 0x6789abcd);
    assert_true(bytereader_u64(&r) == 0x0102030405060708);
    assert_true(bytereader_f32(&r) == 1.0f);
    assert_memory_equal(bytereader_bytes(&r, 2), "hi", 2);
    assert_int_equal(bytereader_left(&r), 0);
    assert_int_equal(r.status, 0);
    bytebuf_fini(&b);
}

static void
test_maximum_is_sticky(void **state)
{
    struct bytebuf b;

    (void)state;
    bytebuf_init(&b, 5);
    bytebuf_put_u32(&b, 1);
    bytebuf_put_u16(&b, 2);
    assert_int_equal(bytebuf_status(&b), CE_EQUOTA);
    bytebuf_put_u8(&b, 3); /* would fit, but something is missing before it */
    assert_int_equal(bytebuf_len(&b), 4);
    assert_null(bytebuf_extend(&b, 0));
    bytebuf_reset(&b);
    assert_int_equal(bytebuf_status(&b), 0);
    bytebuf_put_bytes(&b, "12345", 5);
    assert_int_equal(bytebuf_status(&b), 0);
    bytebuf_put_bytes(&b, "", SIZE_MAX);
    assert_int_equal(bytebuf_status(&b), CE_EQUOTA);
    bytebuf_fini(&b);
}

static void
test_reader_stops_at_the_end(void **state)
{
    static const uint8_t wire[] = { 1, 2, 3 };
    struct bytereader r;

    (void)state;
    bytereader_init(&r, wire, sizeof(wire));
    assert_int_equal(bytereader_u32(&r), 0);
    assert_int_equal(r.status, CE_EFORMAT);
    assert_int_equal(bytereader_u8(&r), 0);
    assert_null(bytereader_bytes(&r, 0));
    assert_int_equal(bytereader_left(&r), 3);

    bytereader_init(&r, wire, sizeof(wire));
    assert_null(bytereader_bytes(&r, SIZE_MAX));
    bytereader_init(&r, NULL, 0);
    assert_int_equal(bytereader_u8(&r), 0);
    assert_int_equal(r.status, CE_EFORMAT);
}

static void
test_out_of_memory(void **state)
{
    struct bytebuf b;

    (void)state;
    bytebuf_init(&b, 1000);
    bytebuf_put_u8(&b, 7);
    mem_test_fail_from(1);
    assert_null(bytebuf_extend(&b, 500));
    mem_test_fail_from(0);
    assert_int_equal(bytebuf_status(&b), CE_ENOMEM);
    assert_int_equal(bytebuf_data(&b)[0], 7);
    bytebuf_fini(&b);
    assert_int_equal(mem_used_bytes(), 0);
}

/* Memory stays small when a reader keeps up, and bytes keep their order. */
static void
test_stream(void **state)
{
    struct bytebuf b;
    uint32_t in = 0, out = 0;
    uint32_t random = 1;

    (void)state;
    bytebuf_init(&b, 4096);
    for (int turn = 0; turn < 2000; turn++) {
        random = random * 1664525 + 1013904223;
        for (uint32_t n = random >> 28; n > 0 && bytebuf_len(&b) < 400; n--)
            bytebuf_put_u32(&b, in++);
        for (uint32_t n = random >> 24 & 15; n > 0 && bytebuf_len(&b) > 0; n--) {
            struct bytereader r;

            bytereader_init(&r, bytebuf_data(&b), bytebuf_len(&b));
            assert_int_equal(bytereader_u32(&r), out);
            out++;
            bytebuf_consume(&b, 4);
        }
    }
    assert_int_equal(bytebuf_status(&b), 0);
    assert_true(out > 1000 && b.cap <= 2048);
    bytebuf_truncate(&b, 0);
    bytebuf_consume(&b, 10);
    assert_int_equal(bytebuf_len(&b), 0);
    bytebuf_fini(&b);
}

static void
test_printf(void **state)
{
    struct bytebuf b;

    (void)state;
    bytebuf_init(&b, 20);
    bytebuf_printf(&b, "%s=%d ", "n", 12);
    bytebuf_printf(&b, "%s", "x");
    assert_int_equal(bytebuf_len(&b), 6);
    assert_memory_equal(bytebuf_data(&b), "n=12 x", 6);
    bytebuf_printf(&b, "%s", "much longer than the rest");
    assert_int_equal(bytebuf_status(&b), CE_EQUOTA);
    bytebuf_fini(&b);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_maximum_is_sticky),
        cmocka_unit_test(test_reader_stops_at_the_end),
        cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_stream),
        cmocka_unit_test(test_printf),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
