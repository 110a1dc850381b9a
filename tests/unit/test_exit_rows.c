/* SPDX-License-Identifier: Apache-2.0
 * test_exit_rows.c - rows come back as they went in, sums are what they should be, rows
 * without meaning are left out, and files that are not whole are refused.
 */
#include "tools/exit_rows.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/half.h"

#define D     24
#define TOP   5
#define VOCAB 100
#define N     150 /* more than two of the sums' blocks */
#define HEAD  256

struct row {
    float states[2][D], last[D];
    struct head_result final;
    bool held_out;
};

static const struct exit_rows_shape shape = { .n_exits = 2,
                                              .layers = { 2, 5 },
                                              .d_model = D,
                                              .n_vocab = VOCAB,
                                              .n_top = TOP,
                                              .fingerprint = { 1, 2, 3 },
                                              .recipe = { 4, 5, 6 } };
static char path[64];

static int
setup(void **state)
{
    (void)state;
    snprintf(path, sizeof(path), "/tmp/test_exit_rows.%ld", (long)getpid());
    return 0;
}

static int
teardown(void **state)
{
    (void)state;
    unlink(path);
    return 0;
}

static float
draw(uint64_t *random)
{
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    return (float)(*random >> 40) * 0x1p-23f - 1.0f;
}

static struct row
make_row(size_t i)
{
    struct row r = { .held_out = i % 7 == 3 };
    uint64_t random = i;

    for (size_t j = 0; j < D; j++) {
        r.states[0][j] = draw(&random);
        r.states[1][j] = 3 * draw(&random);
        r.last[j] = 10 * draw(&random);
    }
    r.final =
        (struct head_result){ .argmax = (int32_t)(i % VOCAB), .lse = 2, .n_top = TOP };
    for (int t = 0; t < TOP; t++) {
        r.final.top[t].id = (int32_t)((i + (size_t)t) % VOCAB);
        r.final.top[t].logit = 1 - (float)t;
    }
    return r;
}

static int
add(struct exit_rows *rows, const struct row *r)
{
    return exit_rows_add(rows, (const float *const[]){ r->states[0], r->states[1] },
                         r->last, &r->final, r->held_out, NULL);
}

static struct exit_rows *
write_rows(size_t n)
{
    struct exit_rows *rows;

    assert_int_equal(exit_rows_create(&rows, path, &shape, NULL), 0);
    for (size_t i = 0; i < n; i++) {
        struct row r = make_row(i);

        assert_int_equal(add(rows, &r), 0);
    }
    assert_int_equal(exit_rows_written(rows), n);
    assert_int_equal(exit_rows_finish(rows, NULL), 0);
    return rows;
}

/* Row i of the kind is what make_row(number) gave. */
static void
check_row(const struct exit_rows *rows, bool held_out, size_t i, size_t number)
{
    struct row r = make_row(number);
    float a[D], b[D], logp[TOP];
    int32_t ids[TOP];

    assert_int_equal(
        exit_rows_read(rows, held_out, i, (float *const[]){ a, b }, ids, logp, NULL), 0);
    for (size_t j = 0; j < D; j++) {
        assert_true(a[j] == half_to_float(half_from_float(r.states[0][j])));
        assert_true(b[j] == half_to_float(half_from_float(r.states[1][j])));
    }
    for (int t = 0; t < TOP; t++) {
        assert_int_equal(ids[t], r.final.top[t].id);
        assert_true(logp[t] == r.final.top[t].logit - r.final.lse);
    }
}

static void
check_all(const struct exit_rows *rows)
{
    size_t at[2] = { 0, 0 };

    assert_memory_equal(exit_rows_shape(rows), &shape, sizeof(shape));
    for (size_t i = 0; i < N; i++) {
        bool held_out = i % 7 == 3;

        check_row(rows, held_out, at[held_out]++, i);
    }
    assert_int_equal(exit_rows_count(rows, false), at[0]);
    assert_int_equal(exit_rows_count(rows, true), at[1]);
}

static void
rows_come_back(void **state)
{
    struct exit_rows *rows = write_rows(N);

    (void)state;
    check_all(rows);
    exit_rows_close(rows);
    assert_int_equal(exit_rows_open(&rows, path, NULL), 0);
    check_all(rows);
    exit_rows_close(rows);
}

static void
states_not_wanted_are_not_read(void **state)
{
    struct exit_rows *rows = write_rows(3);
    struct row r = make_row(1);
    float b[D], logp[TOP];
    int32_t ids[TOP];

    (void)state;
    assert_int_equal(
        exit_rows_read(rows, false, 1, (float *const[]){ NULL, b }, ids, logp, NULL), 0);
    assert_true(b[0] == half_to_float(half_from_float(r.states[1][0])));
    exit_rows_close(rows);
}

static void
sums_are_of_training_rows(void **state)
{
    struct exit_rows *rows = write_rows(N);
    const double *xx, *xy;
    double want_xx = 0, want_one = 0, want_xy = 0;
    size_t n;

    (void)state;
    exit_rows_close(rows);
    assert_int_equal(exit_rows_open(&rows, path, NULL), 0);
    exit_rows_sums(rows, 1, &xx, &xy, &n);
    assert_int_equal(n, exit_rows_count(rows, false));
    for (size_t i = 0; i < N; i++) {
        struct row r = make_row(i);
        double square = 0;

        if (r.held_out)
            continue;
        for (size_t j = 0; j < D; j++)
            square += (double)r.last[j] * (double)r.last[j];
        want_xx += (double)r.states[1][3] * (double)r.states[1][7];
        want_one += (double)r.states[1][7];
        want_xy += (double)r.states[1][3] * (double)r.last[9] / sqrt(square / D);
    }
    assert_true(fabs(xx[3 * (D + 1) + 7] - want_xx) < 1e-3);
    assert_true(xx[7 * (D + 1) + 3] == xx[3 * (D + 1) + 7]);
    assert_true(fabs(xx[D * (D + 1) + 7] - want_one) < 1e-3);
    assert_true(fabs(xx[D * (D + 1) + D] - (double)n) < 1e-9);
    assert_true(fabs(xy[3 * D + 9] - want_xy) < 1e-3);
    exit_rows_close(rows);
}

static void
rows_without_meaning_are_left_out(void **state)
{
    struct exit_rows *rows;
    struct row r = make_row(1);
    float a[D], b[D], logp[TOP];
    int32_t ids[TOP];

    (void)state;
    assert_int_equal(exit_rows_create(&rows, path, &shape, NULL), 0);
    r.states[1][4] = NAN;
    assert_int_equal(add(rows, &r), 0);
    r = make_row(1);
    r.last[0] = INFINITY;
    assert_int_equal(add(rows, &r), 0);
    r = make_row(1);
    r.final.argmax = -1;
    assert_int_equal(add(rows, &r), 0);
    assert_int_equal(exit_rows_written(rows), 0);
    r = make_row(1);
    r.states[0][0] = 1e9f; /* beyond half floats, but a number */
    assert_int_equal(add(rows, &r), 0);
    assert_int_equal(exit_rows_finish(rows, NULL), 0);
    assert_int_equal(exit_rows_count(rows, false), 1);
    assert_int_equal(
        exit_rows_read(rows, false, 0, (float *const[]){ a, b }, ids, logp, NULL), 0);
    assert_true(a[0] == 65504.0f);
    exit_rows_close(rows);
}

static void
unfinished_files_go(void **state)
{
    struct exit_rows *rows;
    char tmp[80];

    (void)state;
    exit_rows_close(write_rows(5));
    assert_int_equal(exit_rows_create(&rows, path, &shape, NULL), 0);
    snprintf(tmp, sizeof(tmp), "%s.tmp", path);
    assert_int_equal(access(tmp, F_OK), 0);
    exit_rows_close(rows);
    assert_int_not_equal(access(tmp, F_OK), 0);
    assert_int_equal(exit_rows_open(&rows, path, NULL), 0); /* the earlier one */
    exit_rows_close(rows);
}

/* The file's bytes; *n how many. */
static unsigned char *
slurp(size_t *n)
{
    FILE *f = fopen(path, "rbe");
    unsigned char *bytes = malloc(1 << 20);

    assert_non_null(f);
    assert_non_null(bytes);
    *n = fread(bytes, 1, 1 << 20, f);
    fclose(f);
    return bytes;
}

static int
open_bytes(const unsigned char *bytes, size_t n)
{
    FILE *f = fopen(path, "wbe");
    struct exit_rows *rows;
    struct err err = { 0 };
    int rc;

    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
    rc = exit_rows_open(&rows, path, &err);
    assert_true(rc == 0 || strstr(err.text, path) != NULL);
    exit_rows_close(rows);
    return rc;
}

static void
damaged_files_are_refused(void **state)
{
    unsigned char *bytes;
    size_t n;

    (void)state;
    exit_rows_close(write_rows(20));
    bytes = slurp(&n);
    assert_int_equal(open_bytes(bytes, n), 0);
    for (size_t cut = 0; cut < n; cut += cut < HEAD ? 1 : 97)
        assert_int_equal(open_bytes(bytes, cut), CE_EFORMAT);
    assert_int_equal(open_bytes(bytes, n + 1), CE_EFORMAT);
    /* Layers and the vocabulary's size may be others, digests too; the rest is fixed. */
    for (size_t at = 0; at < HEAD; at++) {
        bool free_bytes = (at >= 20 && at < 84) || (at >= 88 && at < 92) ||
                          (at >= 96 && at < 160) || at >= 168;

        bytes[at] ^= 0xff;
        if (!free_bytes)
            assert_int_not_equal(open_bytes(bytes, n), 0);
        bytes[at] ^= 0xff;
    }
    free(bytes);
}

static void
rows_are_checked_when_read(void **state)
{
    size_t n, row_bytes = 2 * D * 2 + TOP * 8;
    unsigned char *bytes;
    float a[D], b[D], logp[TOP];
    struct exit_rows *rows;
    int32_t ids[TOP];

    (void)state;
    exit_rows_close(write_rows(3));
    bytes = slurp(&n);
    bytes[HEAD + 1] = 0x7c;                         /* not finite */
    bytes[HEAD + row_bytes + 2 * D * 2 + 3] = 0x80; /* an id below 0 */
    assert_int_equal(open_bytes(bytes, n), 0);
    assert_int_equal(exit_rows_open(&rows, path, NULL), 0);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(
            exit_rows_read(rows, false, i, (float *const[]){ a, b }, ids, logp, NULL),
            i < 2 ? CE_EFORMAT : 0);
    exit_rows_close(rows);
    free(bytes);
}

static void
shapes_that_make_no_sense(void **state)
{
    struct exit_rows_shape s = shape;
    struct exit_rows *rows;

    (void)state;
    s.layers[1] = 2;
    assert_int_equal(exit_rows_create(&rows, path, &s, NULL), CE_EINVAL);
    s = shape;
    s.n_top = VOCAB + 1;
    assert_int_equal(exit_rows_create(&rows, path, &s, NULL), CE_EINVAL);
    assert_int_equal(exit_rows_open(&rows, "/nonexistent/rows", NULL), CE_ENOTFOUND);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_come_back),
        cmocka_unit_test(states_not_wanted_are_not_read),
        cmocka_unit_test(sums_are_of_training_rows),
        cmocka_unit_test(rows_without_meaning_are_left_out),
        cmocka_unit_test(unfinished_files_go),
        cmocka_unit_test(damaged_files_are_refused),
        cmocka_unit_test(rows_are_checked_when_read),
        cmocka_unit_test(shapes_that_make_no_sense),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
