/* SPDX-License-Identifier: Apache-2.0
 * test_rows.c - retained hidden states: credit, release, replay, branches.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "agent/rows.h"

enum { D = 4 };

static struct rows rows;

static int
tell(enum cloud_msg_kind kind, struct cloud_msg fields)
{
    struct cloud_msg *m = cloud_msg_new(kind, NULL, 0);

    assert_non_null(m);
    m->seq = fields.seq;
    m->branch = fields.branch;
    m->pos = fields.pos;
    m->id = fields.id;
    m->limit = fields.limit;
    m->codec = fields.codec;
    int rc = rows_take(&rows, m, NULL);
    cloud_msg_free(m);
    return rc;
}
#define TELL(kind, ...)                                                                  \
    tell(CLOUD_MSG_##kind, (struct cloud_msg){ .seq = 1, __VA_ARGS__ })

/* n rows from pos on, each holding its own position. */
static int
put(uint32_t pos, uint32_t n)
{
    struct cloud_msg *m = cloud_msg_new(CLOUD_MSG_ROWS, NULL, n * D * sizeof(float));
    float *x;

    assert_non_null(m);
    x = (float *)(void *)m->data;
    for (uint32_t i = 0; i < n * D; i++)
        x[i] = (float)(pos + i / D);
    m->seq = 1;
    m->pos = pos;
    m->n = n;
    int rc = rows_take(&rows, m, NULL);
    cloud_msg_free(m);
    return rc;
}

/* The next frame must be rows pos .. pos+n-1, holding their positions. */
static void
expect(uint32_t pos, uint32_t n, uint32_t branch, uint32_t id)
{
    struct frame f;

    assert_true(rows_next(&rows, &f));
    assert_int_equal(f.type, FRAME_STATES);
    assert_int_equal(f.u.states.epoch, rows.epoch);
    assert_int_equal(f.u.states.seq, rows.seq);
    assert_int_equal(f.u.states.pos, pos);
    assert_int_equal(f.u.states.n, n);
    assert_int_equal(f.u.states.branch, branch);
    assert_int_equal(f.u.states.id, id);
    assert_int_equal(f.u.states.rows_size, n * D * 4);
    for (uint32_t i = 0; i < n; i++) {
        float v;
        memcpy(&v, f.u.states.rows + (size_t)i * D * 4, 4);
        assert_true(v == (float)(pos + i));
    }
}

static void
expect_nothing(void)
{
    struct frame f;

    assert_false(rows_next(&rows, &f));
}

static void
begin(uint32_t max_pos)
{
    rows_init(&rows, D, 7);
    assert_int_equal(TELL(OPEN, .codec = STATES_F32, .pos = max_pos), 0);
}

static void
credit_and_release(void **state)
{
    (void)state;
    begin(100);
    assert_int_equal(put(0, 10), 0);
    expect_nothing(); /* no credit, nothing released */
    TELL(CREDIT, .limit = 6);
    expect_nothing();
    TELL(RELEASE, .pos = 4);
    expect(0, 4, 0, 0);
    TELL(RELEASE, .pos = 9);
    expect(4, 2, 0, 0); /* the limit */
    expect_nothing();
    TELL(CREDIT, .limit = 100);
    expect(6, 3, 0, 0);      /* the release */
    TELL(RELEASE, .pos = 3); /* never goes back */
    TELL(CREDIT, .limit = 2);
    expect_nothing();
    TELL(RELEASE, .pos = 50);
    expect(9, 1, 0, 0); /* what exists */
    assert_int_equal(put(10, 1), 0);
    expect(10, 1, 0, 0);
    rows_fini(&rows);
}

static void
frames_are_bounded(void **state)
{
    (void)state;
    begin(10000);
    assert_int_equal(put(0, 9000), 0);
    TELL(CREDIT, .limit = 9000);
    TELL(RELEASE, .pos = 9000);
    expect(0, 4096, 0, 0); /* 65,536 bytes */
    expect(4096, 4096, 0, 0);
    expect(8192, 808, 0, 0);
    expect_nothing();
    rows_fini(&rows);
}

static void
replay(void **state)
{
    (void)state;
    begin(100);
    assert_int_equal(put(0, 10), 0);
    TELL(RELEASE, .pos = 10);
    TELL(CREDIT, .limit = 10);
    expect(0, 10, 0, 0);
    TELL(NEED, .pos = 3, .id = 1, .limit = 8);
    expect(3, 5, 0, 1);
    expect_nothing();
    TELL(NEED, .pos = 0, .id = 1, .limit = 100); /* an old one */
    expect_nothing();
    TELL(CREDIT, .limit = 20);
    expect(8, 2, 0, 1);
    rows_rewind(&rows); /* a new channel */
    expect(0, 10, 0, 1);
    TELL(REWIND, .pos = 5); /* naive */
    expect(0, 5, 0, 1);
    expect_nothing();
    rows_fini(&rows);
}

static void
branches(void **state)
{
    (void)state;
    begin(100);
    assert_int_equal(put(0, 10), 0);
    TELL(RELEASE, .pos = 10);
    TELL(CREDIT, .limit = 100);
    expect(0, 10, 0, 0);
    TELL(TRUNCATE, .branch = 1, .pos = 6);
    expect_nothing();
    assert_int_equal(put(6, 2), 0);
    TELL(RELEASE, .pos = 8);
    expect(6, 2, 1, 0);
    TELL(NEED, .pos = 0, .id = 2, .limit = 100);
    expect(0, 8, 1, 2);
    rows_fini(&rows);
}

static void
strangers_and_holes(void **state)
{
    (void)state;
    begin(8);
    assert_int_equal(put(1, 1), CE_EINTERNAL); /* a hole */
    assert_int_equal(put(0, 9), CE_EINTERNAL); /* more than announced */
    assert_int_equal(put(0, 8), 0);
    struct cloud_msg other = { .seq = 2, .pos = 8 };
    assert_int_equal(tell(CLOUD_MSG_RELEASE, other), 0); /* another sequence */
    TELL(CREDIT, .limit = 8);
    expect_nothing();
    TELL(RELEASE, .pos = 8);
    TELL(CLOSE, .pos = 0);
    expect_nothing();
    assert_null(rows.data);
    assert_int_equal(put(0, 1), 0); /* after its end: dropped */
    assert_null(rows.data);
    rows_fini(&rows);
}

/* Another session: nothing goes before REOPEN and its credit, then everything does,
 * under the sequence's new number, without a branch's past. */
static void
another_session(void **state)
{
    (void)state;
    rows_init(&rows, D, 7);
    TELL(OPEN, .pos = 50, .codec = STATES_F32);
    assert_int_equal(put(0, 6), 0);
    TELL(RELEASE, .pos = 5);
    TELL(CREDIT, .limit = 40);
    expect(0, 5, 0, 0);
    TELL(TRUNCATE, .pos = 4, .branch = 1);
    TELL(NEED, .pos = 0, .id = 3, .limit = 40);
    rows_session(&rows, 9);
    expect_nothing();
    assert_int_equal(put(4, 2), 0); /* made meanwhile */
    TELL(RELEASE, .pos = 6);
    TELL(TRUNCATE, .pos = 5, .branch = 2);
    expect_nothing();
    assert_int_equal(tell(CLOUD_MSG_REOPEN, (struct cloud_msg){ .seq = 4 }), 0);
    TELL(CREDIT, .limit = 40); /* of the old number: nobody's */
    expect_nothing();
    assert_int_equal(tell(CLOUD_MSG_CREDIT, (struct cloud_msg){ .seq = 4, .limit = 3 }),
                     0);
    expect(0, 3, 0, 0);
    assert_int_equal(
        tell(CLOUD_MSG_NEED, (struct cloud_msg){ .seq = 4, .id = 1, .limit = 40 }), 0);
    expect(0, 5, 0, 1);
    rows_fini(&rows);
    /* Without a live sequence it changes nothing. */
    rows_init(&rows, D, 7);
    rows_session(&rows, 8);
    assert_int_equal(tell(CLOUD_MSG_REOPEN, (struct cloud_msg){ .seq = 4 }), 0);
    expect_nothing();
    assert_false(rows.open);
    rows_fini(&rows);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(another_session),    cmocka_unit_test(credit_and_release),
        cmocka_unit_test(frames_are_bounded), cmocka_unit_test(replay),
        cmocka_unit_test(branches),           cmocka_unit_test(strangers_and_holes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
