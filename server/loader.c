/* SPDX-License-Identifier: Apache-2.0
 * loader.c - see loader.h. The thread's end is told through an eventfd.
 */
#include "server/loader.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/memory.h"

struct loader {
    struct loader_job job;
    pthread_t thread;
    bool runs; /* the thread is not joined */
    int fd;
    struct event *event;
    int rc; /* of the work; after the join */
    struct err err;
};

static void *
thread_main(void *arg)
{
    struct loader *l = arg;
    uint64_t one = 1;

    l->rc = l->job.work(l->job.arg, &l->err);
    while (write(l->fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
    return NULL;
}

static void
on_end(evutil_socket_t fd, short what, void *arg)
{
    struct loader *l = arg;
    struct err err;
    int rc;

    (void)fd;
    (void)what;
    pthread_join(l->thread, NULL);
    l->runs = false;
    err = l->err;
    rc = l->rc;
    l->job.done(l->job.arg, rc, &err);
}

int
loader_start(struct loader **out, struct event_base *base, const struct loader_job *job,
             struct err *err)
{
    struct loader *l = mem_array_alloc(1, sizeof(*l));
    int rc = 0;

    *out = NULL;
    if (!l)
        return err_set(err, CE_ENOMEM, "loader: no memory");
    l->job = *job;
    l->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (l->fd >= 0)
        l->event = event_new(base, l->fd, EV_READ, on_end, l);
    if (!l->event || event_add(l->event, NULL) < 0)
        rc = err_set(err, CE_ENOMEM, "loader: no memory");
    if (rc == 0 && pthread_create(&l->thread, NULL, thread_main, l) != 0)
        rc = err_set(err, CE_ENOMEM, "loader: cannot start a thread");
    if (rc < 0) {
        loader_free(l);
        return rc;
    }
    l->runs = true;
    *out = l;
    return 0;
}

void
loader_free(struct loader *l)
{
    if (!l)
        return;
    if (l->runs)
        pthread_join(l->thread, NULL);
    if (l->event)
        event_free(l->event);
    if (l->fd >= 0)
        close(l->fd);
    mem_free(l);
}
