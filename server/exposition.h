/* SPDX-License-Identifier: Apache-2.0
 * exposition.h - Prometheus' text format, version 0.0.4, into a buffer.
 *
 *     exposition_family(b, "cecollm_sessions", "gauge", "Sessions now open.");
 *     exposition_int(b, "cecollm_sessions", NULL, NULL, 42);
 *
 * Names and types are the program's own; help texts and label values are escaped,
 * so a label value may be anything a certificate says. The samples of a family
 * follow it directly. Errors are the buffer's (bytebuf_status).
 *
 * Thread: any.
 */
#ifndef CE_SERVER_EXPOSITION_H
#define CE_SERVER_EXPOSITION_H

#include <stdint.h>

#include "common/bytebuf.h"
#include "server/histogram.h"

#define EXPOSITION_TYPE "text/plain; version=0.0.4; charset=utf-8"

/* type: "counter", "gauge" or "histogram". */
void exposition_family(struct bytebuf *b, const char *name, const char *type,
                       const char *help);

/* One sample; label may be NULL, then the value is looked at as little. */
void exposition_int(struct bytebuf *b, const char *name, const char *label,
                    const char *value, int64_t v);
void exposition_double(struct bytebuf *b, const char *name, double v);

/* A family of one sample without labels. */
void exposition_gauge(struct bytebuf *b, const char *name, const char *help, int64_t v);
void exposition_counter(struct bytebuf *b, const char *name, const char *help, int64_t v);

/* A whole family: buckets, sum and count. */
void exposition_histogram(struct bytebuf *b, const char *name, const char *help,
                          const struct histogram *h);

/* A gauge that is 1 and whose labels say something; pairs of label and value, then
 * NULL. */
void exposition_info(struct bytebuf *b, const char *name, const char *help,
                     const char *const *pairs);

#endif
