/* SPDX-License-Identifier: Apache-2.0
 * service.h - what the service manager, systemd, gives a server and is told by it.
 *
 * It may hand over sockets that it listens on already (socket activation), wants to
 * know when the server is ready, reloads and stops, shows one line of status, and
 * restarts a server whose watchdog is not fed. All of it is optional: without a
 * manager, or in a build without libsystemd, nothing is there and telling is free.
 *
 * Thread: the main thread's; service_sockets once, before there are others.
 */
#ifndef CE_SERVER_SERVICE_H
#define CE_SERVER_SERVICE_H

#include <stdint.h>

#include "common/error.h"

/* Listening sockets that were handed over; -1: none. The caller closes them. */
struct service_sockets {
    int agents;
    int metrics; /* the one that the socket unit names "metrics" */
};

/* Non-blocking and closed by exec. More than one of a kind, or something that is not
 * a listening TCP socket, is an error; then *out holds none. */
int service_sockets(struct service_sockets *out, struct err *err) CE_MUSTCHECK;

/* The interval that the watchdog must be fed in, in microseconds; 0: there is none. */
int64_t service_watchdog_us(void);

/* What sd_notify takes: "READY=1\nSTATUS=..." */
void service_notify(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
