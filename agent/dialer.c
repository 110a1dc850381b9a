/* SPDX-License-Identifier: Apache-2.0
 * dialer.c - see dialer.h.
 *
 * The struct belongs to both threads; who lets go last frees it. So an attempt that
 * hangs in the resolver keeps nobody waiting.
 */
#include "agent/dialer.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/memory.h"

struct dialer {
    /* constant */
    struct dial_address where;
    int64_t timeout_us;
    int event_fd;

    pthread_mutex_t lock; /* of what follows; held for a few instructions */
    int refs;
    bool done;
    int rc, fd; /* fd: -1 when taken or none */
    struct err err;
};

static void
unref(struct dialer *d)
{
    pthread_mutex_lock(&d->lock);
    bool last = --d->refs == 0;
    pthread_mutex_unlock(&d->lock);
    if (!last)
        return;
    if (d->fd >= 0)
        close(d->fd);
    if (d->event_fd >= 0)
        close(d->event_fd);
    pthread_mutex_destroy(&d->lock);
    mem_free(d);
}

static void *
run(void *arg)
{
    struct dialer *d = arg;
    struct err err = { 0 };
    int fd, rc = dial(&d->where, d->timeout_us, NULL, &fd, &err);

    pthread_mutex_lock(&d->lock);
    d->rc = rc;
    d->fd = fd;
    d->err = err;
    d->done = true;
    pthread_mutex_unlock(&d->lock);
    (void)eventfd_write(d->event_fd, 1);
    unref(d);
    return NULL;
}

int
dialer_start(struct dialer **out, const struct dial_address *where, int64_t timeout_us,
             struct err *err)
{
    struct dialer *d = mem_array_alloc(1, sizeof(*d));
    pthread_t thread;

    *out = NULL;
    if (d == NULL)
        return err_set(err, CE_ENOMEM, "out of memory");
    d->where = *where;
    d->timeout_us = timeout_us;
    d->fd = -1;
    d->refs = 2;
    d->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_mutex_init(&d->lock, NULL);
    int error = d->event_fd >= 0 ? pthread_create(&thread, NULL, run, d) : -1;
    if (error != 0) {
        d->refs = 1;
        unref(d);
        return err_set(err, CE_ENOMEM, "no thread to connect with");
    }
    pthread_detach(thread);
    *out = d;
    return 0;
}

int
dialer_fd(const struct dialer *d)
{
    return d->event_fd;
}

int
dialer_take(struct dialer *d, int *fd, struct err *err)
{
    *fd = -1;
    pthread_mutex_lock(&d->lock);
    int rc = d->done ? d->rc : CE_EAGAIN;
    if (rc == 0) {
        *fd = d->fd;
        d->fd = -1;
    } else if (d->done && err != NULL) {
        *err = d->err;
    }
    pthread_mutex_unlock(&d->lock);
    return rc;
}

void
dialer_drop(struct dialer *d)
{
    if (d != NULL)
        unref(d);
}
