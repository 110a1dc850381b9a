/* SPDX-License-Identifier: Apache-2.0
 * test_swarm_traffic.c - a file of traffic written, read, and read again with every
 * byte changed: found by the digest, or, with a digest made right, by the checks.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "bench/swarm_traffic.h"
#include "common/sha256.h"

#define D 8

static char path[64];
static uint8_t file[4096];
static size_t size;

static void
put_file(const uint8_t *bytes, size_t n)
{
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
}

static int
set_up(void **state)
{
    static uint8_t rows[9 * (4 + 2 * D)];
    struct traffic_request asked[] = { { 2, 11 }, { 5, 12 }, { 8, 13 } };
    struct traffic_seq a = { 9, 3, asked, rows }, b = { 3, 1, asked, rows };
    struct traffic_model m = { .layer_from = 2,
                               .n_layers = 4,
                               .d_model = D,
                               .n_vocab = 100,
                               .codec = STATES_F16,
                               .numerics = "test" };
    struct bytebuf out;
    struct err err;
    FILE *f;
    int fd;

    (void)state;
    snprintf(path, sizeof(path), "/tmp/swarm-traffic-XXXXXX");
    fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    bytebuf_init(&out, TRAFFIC_MAX_SIZE);
    traffic_begin(&out, &m, 2);
    traffic_add(&out, &a, 4 + 2 * D);
    traffic_add(&out, &b, 4 + 2 * D);
    assert_int_equal(traffic_write(&out, path, &err), 0);
    bytebuf_fini(&out);
    f = fopen(path, "r");
    assert_non_null(f);
    size = fread(file, 1, sizeof(file), f);
    fclose(f);
    return 0;
}

static int
tear_down(void **state)
{
    (void)state;
    unlink(path);
    return 0;
}

static void
test_there_and_back(void **state)
{
    struct traffic t;
    struct err err;

    (void)state;
    assert_int_equal(traffic_read(&t, path, &err), 0);
    assert_int_equal(t.n, 2);
    assert_int_equal(t.n_rows, 12);
    assert_int_equal(t.n_requests, 4);
    assert_int_equal(t.model.layer_from, 2);
    assert_string_equal(t.model.numerics, "test");
    assert_int_equal(t.seqs[0].requests[2].pos, 8);
    assert_int_equal(t.seqs[1].requests[0].token, 11);
    assert_true(traffic_stagger(&t, 5) < 1 + t.seqs[1].n_requests);
    traffic_free(&t);
}

static void
test_damaged(void **state)
{
    struct traffic t;
    struct err err;
    size_t i;

    (void)state;
    for (i = 0; i < size; i++) {
        file[i] ^= 0x10;
        put_file(file, size);
        assert_int_equal(traffic_read(&t, path, &err), CE_EFORMAT);
        assert_non_null(strstr(err.text, path));
        file[i] ^= 0x10;
        put_file(file, i);
        assert_int_equal(traffic_read(&t, path, &err), CE_EFORMAT);
    }
    assert_int_equal(traffic_read(&t, "/nowhere", &err), CE_EIO);
}

/* Made by someone who knows about the digest: an error or sound, never a crash. */
static void
test_made_by_hand(void **state)
{
    static const uint8_t values[] = { 0x00, 0x01, 0x7f, 0x80, 0xff };
    struct traffic t;
    struct err err;
    size_t i, v;

    (void)state;
    for (i = 0; i + SHA256_BYTES < size; i++) {
        uint8_t was = file[i];

        for (v = 0; v < sizeof(values); v++) {
            file[i] = values[v];
            assert_int_equal(
                sha256_bytes(file, size - SHA256_BYTES, file + size - SHA256_BYTES, &err),
                0);
            put_file(file, size);
            if (traffic_read(&t, path, &err) == 0) {
                assert_true(t.seqs[0].n_rows > t.seqs[0].requests[0].pos);
                assert_true(t.seqs[0].requests[0].token < t.model.n_vocab);
                traffic_free(&t);
            } else {
                assert_non_null(strstr(err.text, path));
            }
        }
        file[i] = was;
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_there_and_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_damaged, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_made_by_hand, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
