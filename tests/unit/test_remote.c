/* SPDX-License-Identifier: Apache-2.0
 * test_remote.c - the port to the cloud when sessions come and go: what it tells the
 * channels, in which order, and what its caller sees of it. The channels are two
 * mailboxes that a second thread reads where the port waits.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "agent/cloud_msg.h"
#include "agent/remote.h"
#include "common/clock.h"

enum { D = 4, N_ROWS = 3 };

static struct mailbox *channel, *rows_box;
static struct cloud_port *port;
static const float some_rows[N_ROWS * D];

/* ---- the channels' side ---- */

static struct mailbox_msg *channel_taken, *rows_taken;

static struct cloud_msg *
next_of(struct mailbox *box, struct mailbox_msg **taken, int64_t wait_us)
{
    if (*taken == NULL)
        *taken = mailbox_wait(box, wait_us);
    struct mailbox_msg *m = *taken;
    if (m != NULL)
        *taken = m->next;
    return m != NULL ? cloud_msg_of(m) : NULL;
}

/* The next message to the infer channel, by value. */
static struct cloud_msg
said(void)
{
    struct cloud_msg *m = next_of(channel, &channel_taken, 20000000), copy;

    assert_non_null(m);
    copy = *m; /* without its data */
    cloud_msg_free(m);
    return copy;
}

static void
expect_frame(enum frame_type type, uint32_t epoch, uint32_t seq)
{
    struct cloud_msg m = said();

    assert_int_equal(m.kind, CLOUD_MSG_FRAME);
    assert_int_equal(m.frame.type, type);
    assert_int_equal(m.epoch, epoch);
    assert_int_equal(m.seq, seq);
    if (type == FRAME_OPEN) {
        assert_int_equal(m.frame.u.open.epoch, epoch);
        assert_int_equal(m.frame.u.open.seq, seq);
        assert_int_equal(m.frame.u.open.max_pos, 100);
    }
}

static struct cloud_msg
expect_rejoin(uint32_t epoch, uint32_t n)
{
    struct cloud_msg m = said();

    assert_int_equal(m.kind, CLOUD_MSG_REJOIN);
    assert_int_equal(m.epoch, epoch);
    assert_int_equal(m.n, n);
    return m;
}

static void
expect_rows(enum cloud_msg_kind kind, uint32_t seq, uint32_t pos)
{
    struct cloud_msg *m = next_of(rows_box, &rows_taken, 0);

    assert_non_null(m);
    assert_int_equal(m->kind, kind);
    assert_int_equal(m->seq, seq);
    assert_int_equal(m->pos, pos);
    cloud_msg_free(m);
}

static void
expect_silence(void)
{
    assert_null(next_of(channel, &channel_taken, 0));
    assert_null(next_of(rows_box, &rows_taken, 0));
}

static void
tell(struct cloud_msg fields)
{
    struct cloud_msg *m = cloud_msg_new(fields.kind, NULL, 0);

    assert_non_null(m);
    m->epoch = fields.epoch;
    m->seq = fields.seq;
    m->branch = fields.branch;
    m->pos = fields.pos;
    m->again = fields.again;
    m->retry_ms = fields.retry_ms;
    m->err = fields.err;
    m->frame.type = FRAME_TOKEN;
    m->frame.u.token.pos = fields.pos;
    m->frame.u.token.token = fields.n;
    m->frame.u.token.last = fields.limit;
    cloud_msg_post(remote_inbox(port), m);
}
#define TELL(what, ...) tell((struct cloud_msg){ .kind = CLOUD_MSG_##what, __VA_ARGS__ })
#define WHY(c)          .err = { c, "why" }

/* ---- the caller's side ---- */

static void
start(bool wait)
{
    struct remote_config config = { .link = channel,
                                    .rows = rows_box,
                                    .epoch = 1,
                                    .wait = wait,
                                    .d_model = D,
                                    .codec = STATES_F16,
                                    .retain_bytes = 1 << 20 };

    assert_int_equal(remote_new(&port, NULL), 0);
    remote_connect(port, &config);
}

static int
begin(void **state)
{
    (void)state;
    start(true);
    return 0;
}

static int
end(void **state)
{
    (void)state;
    while (channel_taken != NULL || rows_taken != NULL) {
        cloud_msg_free(next_of(channel, &channel_taken, 0));
        cloud_msg_free(next_of(rows_box, &rows_taken, 0));
    }
    cloud_msg_drop_all(channel);
    cloud_msg_drop_all(rows_box);
    remote_free(port);
    port = NULL;
    return 0;
}

static int
open_sequence(struct err *err)
{
    return port->ops->open(port, 100, err);
}

/* A sequence with three rows, in session 1 as number 1. */
static void
with_rows(void)
{
    assert_int_equal(open_sequence(NULL), 0);
    expect_rows(CLOUD_MSG_OPEN, 1, 100);
    expect_frame(FRAME_OPEN, 1, 1);
    assert_int_equal(port->ops->put_states(port, 0, N_ROWS, some_rows, NULL), 0);
    expect_rows(CLOUD_MSG_ROWS, 1, 0);
}

struct asking {
    pthread_t thread;
    uint32_t deadline_ms;
    struct cloud_answer answer;
    struct err err;
    int rc;
};

static void *
ask(void *arg)
{
    struct asking *a = arg;
    struct cloud_want want = { .deadline_ms = a->deadline_ms };

    a->rc = port->ops->infer(port, N_ROWS - 1, &want, &a->answer, &a->err);
    return NULL;
}

static void
begin_asking(struct asking *a)
{
    memset(&a->answer, 0, sizeof(a->answer));
    memset(&a->err, 0, sizeof(a->err));
    assert_int_equal(pthread_create(&a->thread, NULL, ask, a), 0);
}

static int
end_asking(struct asking *a)
{
    assert_int_equal(pthread_join(a->thread, NULL), 0);
    return a->rc;
}

/* ---- tests ---- */

static void
a_lost_session_is_replaced(void **state)
{
    struct asking a = { .deadline_ms = 20000 };

    (void)state;
    with_rows();
    begin_asking(&a);
    expect_frame(FRAME_INFER, 1, 1);
    expect_rows(CLOUD_MSG_RELEASE, 1, N_ROWS);
    TELL(SEQ_ERROR, .seq = 1, .again = true, WHY(CE_EIO)); /* the upload channel first */
    expect_rejoin(1, 0);
    TELL(LOST, .epoch = 1, WHY(CE_ECLOSED)); /* once is enough */
    TELL(LOST, .epoch = 2, WHY(CE_ECLOSED)); /* a try that failed */
    TELL(UP, .epoch = 3);
    expect_frame(FRAME_OPEN, 3, 2);
    struct cloud_msg m = said();
    assert_int_equal(m.frame.type, FRAME_INFER);
    assert_int_equal(m.frame.u.infer.pos, N_ROWS - 1);
    assert_int_equal(m.frame.u.infer.epoch, 3);
    assert_in_range(m.frame.u.infer.deadline_ms, 1, 20000);
    expect_rows(CLOUD_MSG_REOPEN, 2, 0);
    expect_rows(CLOUD_MSG_RELEASE, 2, N_ROWS);
    TELL(SEQ_ERROR, .seq = 1, .again = true, WHY(CE_EIO));         /* late */
    TELL(ANSWER, .epoch = 1, .seq = 1, .pos = N_ROWS - 1, .n = 5); /* late */
    TELL(ANSWER, .epoch = 3, .seq = 2, .pos = N_ROWS - 1, .n = 6);
    assert_int_equal(end_asking(&a), 0);
    assert_int_equal(a.answer.token, 6);
    assert_int_equal(port->ops->n_moves(port), 1);
    expect_silence();
    port->ops->close(port);
    expect_rows(CLOUD_MSG_CLOSE, 2, 0);
    expect_frame(FRAME_CLOSE, 3, 2);
}

/* Lost while the edge computes: replaced meanwhile, nothing is asked again. */
static void
lost_between_questions(void **state)
{
    struct asking a = { 0 };

    (void)state;
    with_rows();
    TELL(LOST, .epoch = 1, WHY(CE_ECLOSED));
    assert_int_equal(port->ops->put_states(port, N_ROWS, 1, some_rows, NULL), 0);
    expect_rejoin(1, 0);
    expect_rows(CLOUD_MSG_ROWS, 1, N_ROWS);
    assert_int_equal(port->ops->truncate(port, N_ROWS, NULL), 0);
    expect_rows(CLOUD_MSG_TRUNCATE, 1, N_ROWS);
    expect_frame(FRAME_TRUNCATE, 1, 1); /* which the channel drops */
    TELL(UP, .epoch = 2);
    begin_asking(&a);
    expect_frame(FRAME_OPEN, 2, 2);
    struct cloud_msg m = said();
    assert_int_equal(m.frame.type, FRAME_INFER);
    assert_int_equal(m.frame.u.infer.branch, 0); /* a new sequence has had none */
    assert_int_equal(m.frame.u.infer.deadline_ms, 0);
    TELL(ANSWER, .epoch = 2, .seq = 2, .pos = N_ROWS - 1, .n = 6);
    assert_int_equal(end_asking(&a), 0);
    expect_rows(CLOUD_MSG_REOPEN, 2, 0);
    expect_rows(CLOUD_MSG_RELEASE, 2, N_ROWS);
    expect_silence();
}

/* An idle agent stays quiet; the next sequence finds a session, and may begin before
 * it is there. */
static void
lost_while_idle(void **state)
{
    struct asking a = { .deadline_ms = 20000 };

    (void)state;
    TELL(LOST, .epoch = 1, WHY(CE_ECLOSED));
    assert_int_equal(open_sequence(NULL), 0);
    expect_rejoin(1, 0);
    expect_rows(CLOUD_MSG_OPEN, 1, 100);
    expect_silence();
    assert_int_equal(port->ops->put_states(port, 0, N_ROWS, some_rows, NULL), 0);
    expect_rows(CLOUD_MSG_ROWS, 1, 0);
    begin_asking(&a);
    TELL(UP, .epoch = 2);
    expect_frame(FRAME_OPEN, 2, 2);
    expect_frame(FRAME_INFER, 2, 2);
    TELL(ANSWER, .epoch = 2, .seq = 2, .pos = N_ROWS - 1);
    assert_int_equal(end_asking(&a), 0);
    assert_int_equal(port->ops->n_moves(port), 0); /* it was nowhere else before */
}

/* GOAWAY: the running sequence ends where it is, the next one goes elsewhere. */
static void
draining(void **state)
{
    struct asking a = { .deadline_ms = 20000 };

    (void)state;
    with_rows();
    TELL(DRAIN, .epoch = 1, WHY(CE_ECLOSED));
    begin_asking(&a);
    expect_frame(FRAME_INFER, 1, 1);
    TELL(ANSWER, .epoch = 1, .seq = 1, .pos = N_ROWS - 1);
    assert_int_equal(end_asking(&a), 0);
    port->ops->close(port);
    expect_frame(FRAME_CLOSE, 1, 1);
    assert_int_equal(open_sequence(NULL), 0);
    expect_rejoin(1, 0);
    TELL(UP, .epoch = 2);
    assert_int_equal(port->ops->put_states(port, 0, N_ROWS, some_rows, NULL), 0);
    expect_frame(FRAME_OPEN, 2, 3);
}

/* Refused for now: somewhere else, or later, as the cloud says. */
static void
refused_for_now(void **state)
{
    struct asking a = { .deadline_ms = 20000 };

    (void)state;
    with_rows();
    begin_asking(&a);
    expect_frame(FRAME_INFER, 1, 1);
    TELL(SEQ_ERROR, .seq = 1, .again = true, .retry_ms = 1500, WHY(CE_EQUOTA));
    assert_int_equal(expect_rejoin(1, 0).retry_ms, 1500);
    TELL(UP, .epoch = 2);
    expect_frame(FRAME_OPEN, 2, 2);
    expect_frame(FRAME_INFER, 2, 2);
    TELL(SEQ_ERROR, .seq = 2, WHY(CE_EINVAL)); /* and this is for good */
    assert_int_equal(end_asking(&a), CE_EINVAL);
    assert_string_equal(a.err.text, "why");
}

static void
no_other_session(void **state)
{
    struct asking a = { .deadline_ms = 20000 };

    (void)state;
    with_rows();
    begin_asking(&a);
    expect_frame(FRAME_INFER, 1, 1);
    TELL(LOST, .epoch = 1, WHY(CE_ECLOSED));
    expect_rejoin(1, 0);
    TELL(GONE, .epoch = 4, WHY(CE_EIO));
    assert_int_equal(end_asking(&a), CE_EIO);
    port->ops->close(port);
    expect_frame(FRAME_CLOSE, 1, 1);
    /* The user asks once more: so does the port. */
    assert_int_equal(open_sequence(NULL), 0);
    expect_rejoin(1, 0);
}

static void
it_does_not_move_for_ever(void **state)
{
    struct asking a = { .deadline_ms = 60000 };

    (void)state;
    with_rows();
    begin_asking(&a);
    expect_frame(FRAME_INFER, 1, 1);
    for (uint32_t i = 0; i <= REMOTE_MOVES; i++) {
        TELL(LOST, .epoch = 1 + i, WHY(CE_ECLOSED));
        expect_rejoin(1 + i, i);
        TELL(UP, .epoch = 2 + i);
        if (i == REMOTE_MOVES)
            break;
        expect_frame(FRAME_OPEN, 2 + i, 2 + i);
        expect_frame(FRAME_INFER, 2 + i, 2 + i);
    }
    assert_int_equal(end_asking(&a), CE_ECLOSED);
    assert_non_null(strstr(a.err.text, "why (the 9th session in a row"));
}

static void
no_session_in_time(void **state)
{
    struct asking a = { .deadline_ms = 1 };
    int64_t began = clock_us();

    (void)state;
    with_rows();
    TELL(LOST, .epoch = 1, WHY(CE_ECLOSED));
    begin_asking(&a);
    assert_int_equal(end_asking(&a), CE_ETIMEOUT);
    assert_true(clock_us() - began < 10000000);
    assert_non_null(strstr(a.err.text, "after: why"));
}

static void
an_interrupt_ends_the_wait(void **state)
{
    struct asking a = { .deadline_ms = 0 };

    (void)state;
    with_rows();
    begin_asking(&a);
    expect_frame(FRAME_INFER, 1, 1);
    TELL(LOST, .epoch = 1, WHY(CE_ECLOSED));
    expect_rejoin(1, 0);
    remote_interrupt(port);
    assert_int_equal(end_asking(&a), CE_EAGAIN);
    /* Also one that comes while the edge computes; but none of an earlier answer. */
    remote_interrupt(port);
    assert_int_equal(port->ops->put_states(port, N_ROWS, 1, some_rows, NULL), 0);
    begin_asking(&a);
    assert_int_equal(end_asking(&a), CE_EAGAIN);
    port->ops->close(port);
    remote_interrupt(port);
    assert_int_equal(open_sequence(NULL), 0);
    TELL(UP, .epoch = 2);
    expect_frame(FRAME_CLOSE, 1, 1);
    begin_asking(&a);
    expect_frame(FRAME_OPEN, 2, 3);
    expect_frame(FRAME_INFER, 2, 3);
    TELL(ANSWER, .epoch = 2, .seq = 3, .pos = N_ROWS - 1);
    assert_int_equal(end_asking(&a), 0);
}

/* Whoever does not wait is told at once, while another session is looked for; and may
 * go on there, with the rows that were put meanwhile. */
static void
not_waiting(void **state)
{
    struct asking a = { .deadline_ms = 20000 };

    (void)state;
    remote_free(port);
    start(false);
    with_rows();
    TELL(LOST, .epoch = 1, WHY(CE_ECLOSED));
    begin_asking(&a);
    assert_int_equal(end_asking(&a), CE_ECLOSED);
    expect_rejoin(1, 0);
    assert_int_equal(port->ops->back(port), 0);
    assert_int_equal(port->ops->put_states(port, N_ROWS, 1, some_rows, NULL), 0);
    expect_rows(CLOUD_MSG_ROWS, 1, N_ROWS);
    TELL(UP, .epoch = 2);
    assert_int_equal(port->ops->back(port), 1);
    expect_rows(CLOUD_MSG_REOPEN, 2, 0);
    expect_frame(FRAME_OPEN, 2, 2);
    begin_asking(&a);
    expect_frame(FRAME_INFER, 2, 2);
    TELL(ANSWER, .epoch = 2, .seq = 2, .pos = N_ROWS - 1);
    assert_int_equal(end_asking(&a), 0);
    expect_rows(CLOUD_MSG_RELEASE, 2, N_ROWS);
    port->ops->close(port);
    expect_rows(CLOUD_MSG_CLOSE, 2, 0);
    expect_frame(FRAME_CLOSE, 2, 2);
    /* A new sequence begins also while there is none; when there will be none, it is
     * told so. */
    TELL(LOST, .epoch = 2, WHY(CE_ECLOSED));
    assert_int_equal(open_sequence(NULL), 0);
    expect_rejoin(2, 0);
    begin_asking(&a);
    assert_int_equal(end_asking(&a), CE_ECLOSED);
    assert_int_equal(port->ops->back(port), 0);
    TELL(GONE, .epoch = 5, WHY(CE_EIO));
    assert_int_equal(port->ops->back(port), -1);
}

/* Mode cloud: the next session goes on behind the tokens that have come. */
static void
generation_goes_on(void **state)
{
    const int32_t prompt[] = { 7, 8 };
    struct sampler_params sampling = { .temperature = 1, .seed = 9 };
    struct cloud_want want = { .deadline_ms = 20000 };
    struct cloud_answer answer;

    (void)state;
    assert_int_equal(open_sequence(NULL), 0);
    expect_frame(FRAME_OPEN, 1, 1);
    assert_int_equal(port->ops->generate(port, prompt, 2, 10, &sampling, &want, NULL), 0);
    expect_frame(FRAME_GENERATE, 1, 1);
    TELL(ANSWER, .epoch = 1, .seq = 1, .pos = 1, .n = 50);
    assert_int_equal(port->ops->next(port, &answer, NULL), 0);
    assert_int_equal(answer.token, 50);
    TELL(LOST, .epoch = 1, WHY(CE_ECLOSED)); /* `next` keeps the order */
    TELL(UP, .epoch = 2);
    TELL(ANSWER, .epoch = 2, .seq = 2, .pos = 2, .n = 51, .limit = 1);
    assert_int_equal(port->ops->next(port, &answer, NULL), 0);
    assert_int_equal(answer.token, 51);
    assert_true(answer.last);
    expect_rejoin(1, 0);
    expect_frame(FRAME_OPEN, 2, 2);
    struct cloud_msg *m = next_of(channel, &channel_taken, 0);
    assert_non_null(m);
    assert_int_equal(m->frame.type, FRAME_GENERATE);
    assert_int_equal(m->frame.u.generate.max_tokens, 9);
    assert_int_equal(m->frame.u.generate.seed, 9);
    const unsigned char ids[] = { 7, 0, 0, 0, 8, 0, 0, 0, 50, 0, 0, 0 };
    assert_int_equal(m->data_size, sizeof(ids));
    assert_memory_equal(m->data, ids, sizeof(ids));
    cloud_msg_free(m);
}

int
main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, begin, end)
    const struct CMUnitTest tests[] = {
        CASE(a_lost_session_is_replaced),
        CASE(lost_between_questions),
        CASE(lost_while_idle),
        CASE(draining),
        CASE(refused_for_now),
        CASE(no_other_session),
        CASE(it_does_not_move_for_ever),
        CASE(no_session_in_time),
        CASE(an_interrupt_ends_the_wait),
        CASE(not_waiting),
        CASE(generation_goes_on),
    };
    if (mailbox_new(&channel, NULL) < 0 || mailbox_new(&rows_box, NULL) < 0)
        return 99;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    mailbox_free(channel);
    mailbox_free(rows_box);
    return failed;
}
