/* SPDX-License-Identifier: Apache-2.0
 * test_mailbox.c - order, wake-ups, and several threads posting at once.
 */
#include "common/mailbox.h"

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>

#include <cmocka.h>

#include "common/memory.h"

#define N_THREADS 4
#define N_EACH    20000

struct note {
    struct mailbox_msg msg;
    int thread;
    int number;
};

static int
readable(const struct mailbox *m)
{
    struct pollfd pfd = { .fd = mailbox_fd(m), .events = POLLIN };

    return poll(&pfd, 1, 0) == 1;
}

static void
test_order_and_wake(void **state)
{
    struct note notes[3] = { { .number = 0 }, { .number = 1 }, { .number = 2 } };
    struct mailbox *m;
    struct mailbox_msg *all;
    eventfd_t written;

    (void)state;
    assert_int_equal(mailbox_new(&m, NULL), 0);
    assert_false(readable(m));
    assert_null(mailbox_take_all(m));
    assert_null(mailbox_wait(m, 0));
    assert_null(mailbox_wait(m, 1000));

    for (int i = 0; i < 3; i++)
        mailbox_post(m, &notes[i].msg);
    assert_true(readable(m));
    /* one wake-up for three posts: the eventfd was written once */
    assert_int_equal(eventfd_read(mailbox_fd(m), &written), 0);
    assert_int_equal(written, 1);
    all = mailbox_take_all(m);
    for (int i = 0; i < 3; i++, all = all->next)
        assert_int_equal(((struct note *)all)->number, i);
    assert_null(all);
    assert_false(readable(m));

    mailbox_post(m, &notes[1].msg); /* used again, after it was taken */
    assert_true(readable(m));
    all = mailbox_wait(m, -1);
    assert_ptr_equal(all, &notes[1].msg);
    assert_null(all->next);
    assert_false(readable(m));
    mailbox_free(m);
    mailbox_free(NULL);
}

struct poster {
    struct mailbox *m;
    struct note *notes;
    pthread_t thread;
};

static void *
post_all(void *arg)
{
    struct poster *p = arg;

    for (int i = 0; i < N_EACH; i++)
        mailbox_post(p->m, &p->notes[i].msg);
    return NULL;
}

static void
test_threads(void **state)
{
    struct poster posters[N_THREADS];
    int next[N_THREADS] = { 0 };
    struct mailbox *m;
    int left = N_THREADS * N_EACH;

    (void)state;
    assert_int_equal(mailbox_new(&m, NULL), 0);
    for (int t = 0; t < N_THREADS; t++) {
        posters[t].m = m;
        posters[t].notes = calloc(N_EACH, sizeof(struct note));
        assert_non_null(posters[t].notes);
        for (int i = 0; i < N_EACH; i++) {
            posters[t].notes[i].thread = t;
            posters[t].notes[i].number = i;
        }
        assert_int_equal(pthread_create(&posters[t].thread, NULL, post_all, &posters[t]),
                         0);
    }
    while (left > 0) {
        struct mailbox_msg *msg = mailbox_wait(m, 10000000);

        assert_non_null(msg); /* nothing for ten seconds: a wake-up was lost */
        for (; msg != NULL; msg = msg->next, left--) {
            struct note *note = (struct note *)msg;

            assert_int_equal(note->number, next[note->thread]);
            next[note->thread]++;
        }
    }
    for (int t = 0; t < N_THREADS; t++) {
        pthread_join(posters[t].thread, NULL);
        free(posters[t].notes);
    }
    assert_false(readable(m));
    mailbox_free(m);
}

static void
test_out_of_memory(void **state)
{
    struct mailbox *m;
    struct err err;

    (void)state;
    mem_test_fail_from(1);
    assert_int_equal(mailbox_new(&m, &err), CE_ENOMEM);
    mem_test_fail_from(0);
    assert_null(m);
    assert_string_equal(err.text, "mailbox: out of memory");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_and_wake),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_out_of_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
