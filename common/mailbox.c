/* SPDX-License-Identifier: Apache-2.0
 * mailbox.c - a locked list and an eventfd.
 *
 * The descriptor is written and read under the lock, so it is readable exactly
 * while the list is not empty, and a poster that has left mailbox_post never
 * touches the mailbox again: the reader may free it after the last message.
 * A lock-free list was not worth it: the lock is held for a dozen instructions,
 * and the write that wakes costs more than the rest together.
 */
#include "common/mailbox.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/memory.h"

struct mailbox {
    pthread_mutex_t lock;
    struct mailbox_msg *first; /* oldest */
    struct mailbox_msg **last; /* where the next one is linked */
    int fd;
};

int
mailbox_new(struct mailbox **out, struct err *err)
{
    struct mailbox *m = mem_array_alloc(1, sizeof(*m));

    *out = NULL;
    if (m == NULL)
        return err_set(err, CE_ENOMEM, "mailbox: %s", err_name(CE_ENOMEM));
    m->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (m->fd < 0) {
        err_set(err, CE_EIO, "eventfd: %s", strerror(errno));
        mem_free(m);
        return CE_EIO;
    }
    pthread_mutex_init(&m->lock, NULL);
    m->last = &m->first;
    *out = m;
    return CE_OK;
}

void
mailbox_free(struct mailbox *m)
{
    if (m == NULL)
        return;
    pthread_mutex_destroy(&m->lock);
    close(m->fd);
    mem_free(m);
}

void
mailbox_post(struct mailbox *m, struct mailbox_msg *msg)
{
    int was_empty;

    msg->next = NULL;
    pthread_mutex_lock(&m->lock);
    was_empty = m->first == NULL;
    *m->last = msg;
    m->last = &msg->next;
    if (was_empty)
        (void)!eventfd_write(m->fd, 1); /* from 0 to 1: cannot fail */
    pthread_mutex_unlock(&m->lock);
}

struct mailbox_msg *
mailbox_take_all(struct mailbox *m)
{
    struct mailbox_msg *all;
    eventfd_t ignored;

    pthread_mutex_lock(&m->lock);
    all = m->first;
    m->first = NULL;
    m->last = &m->first;
    if (all != NULL)
        (void)!eventfd_read(m->fd, &ignored);
    pthread_mutex_unlock(&m->lock);
    return all;
}

struct mailbox_msg *
mailbox_wait(struct mailbox *m, int64_t timeout_us)
{
    int64_t deadline_us = timeout_us >= 0 ? clock_us() + timeout_us : 0;

    for (;;) {
        struct mailbox_msg *all = mailbox_take_all(m);
        struct pollfd pfd = { .fd = m->fd, .events = POLLIN };
        struct timespec left = { 0 };

        if (all != NULL)
            return all;
        if (timeout_us >= 0) {
            int64_t left_us = deadline_us - clock_us();

            if (left_us <= 0)
                return NULL;
            left.tv_sec = left_us / 1000000;
            left.tv_nsec = left_us % 1000000 * 1000;
        }
        (void)!ppoll(&pfd, 1, timeout_us >= 0 ? &left : NULL, NULL);
    }
}

int
mailbox_fd(const struct mailbox *m)
{
    return m->fd;
}
