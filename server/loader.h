/* SPDX-License-Identifier: Apache-2.0
 * loader.h - one long piece of work beside the event loop: loading the model, while
 * the loop answers /healthz and heeds signals.
 *
 * Thread: the event loop's, but for `work`.
 */
#ifndef CE_SERVER_LOADER_H
#define CE_SERVER_LOADER_H

#include <event2/event.h>

#include "common/error.h"

struct loader;

struct loader_job {
    void *arg;
    /* In a thread of its own; what it writes is seen by `done` and after free. */
    int (*work)(void *arg, struct err *err);
    /* In the loop, when `work` has returned rc. May free the loader. */
    void (*done)(void *arg, int rc, const struct err *err);
};

/* base is borrowed. */
int loader_start(struct loader **out, struct event_base *base,
                 const struct loader_job *job, struct err *err) CE_MUSTCHECK;

/* Waits for `work` to return; `done` is not called any more. Accepts NULL. */
void loader_free(struct loader *l);

#endif
