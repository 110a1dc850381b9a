/* SPDX-License-Identifier: Apache-2.0
 * status_json.h - the same figures as JSON: for the status page, and the list of
 * sessions.
 *
 * Thread: the I/O thread's.
 */
#ifndef CE_SERVER_STATUS_JSON_H
#define CE_SERVER_STATUS_JSON_H

#include "server/metrics.h"
#include "server/server.h"

#define STATUS_MAX_SESSIONS 500 /* listed; the others are counted as "more" */

/* Text that the caller frees with free(); NULL without memory. */
char *status_json(const struct metrics *m, const struct metrics_view *v);
char *status_json_sessions(const struct server *srv, int64_t now_us);

#endif
