/* SPDX-License-Identifier: Apache-2.0
 * server.h - what all connections of the I/O thread have in common: the facts
 * told to agents, the limits, the list of sessions and the way to the backend.
 *
 * main.c fills one from the settings and the model; tests fill one by hand,
 * with a post function that keeps the messages.
 *
 * Thread: the I/O thread's.
 */
#ifndef CE_SERVER_SERVER_H
#define CE_SERVER_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/handover.h"
#include "server/tenant.h"

struct channel;
struct metrics;

struct server {
    /* Facts of the model and the backend. */
    uint8_t fingerprint[32];
    uint32_t n_layers, d_model, n_vocab, n_ctx;
    uint32_t layer_from; /* the first block held: agents may start here or above */
    bool whole_model;    /* GENERATE is offered */
    char numerics[64];
    char node[256]; /* told to agents for the upload channel; "" = same address */

    /* Limits. */
    uint32_t max_seqs; /* of one session */
    uint32_t max_sessions;
    uint32_t window;
    size_t max_queued; /* bytes of one session's work not yet taken */
    int64_t first_frame_us, idle_us;

    struct tenants *tenants; /* owned; NULL: no file, names are tenants without limits */

    struct metrics *metrics; /* borrowed; NULL: nothing is counted */

    /* The way to the backend; takes the message. */
    void (*post)(void *arg, struct work_msg *w);
    void *post_arg;

    /* State, owned by session.c and channel.c. Zero at start. */
    struct session *sessions; /* list */
    uint32_t n_sessions, next_number;
    struct channel *channels; /* list */
    uint32_t n_channels, n_paused;
    struct channel *paused;          /* list */
    struct session *held;            /* list: credit is held back by a rate */
    struct tenant_registry registry; /* tenants that are here */
    bool draining;
    float *row; /* [d_model] scratch to check rows */
};

/* Allocate what the facts ask for; call after they are set. */
int server_init(struct server *srv, struct err *err) CE_MUSTCHECK;
void server_fini(struct server *srv); /* every session and channel is gone by then */

/* A reply from the backend thread: sends it, frees it. */
void server_reply(struct server *srv, struct reply_msg *r, int64_t now_us);

/* Close what is past its time; about twice a second. */
void server_tick(struct server *srv, int64_t now_us);

/* Let paused channels read again whose work has been taken and whose tenant is within
 * its rates, and grant credit that was held back; every few milliseconds, as long as
 * server_is_holding. */
void server_resume(struct server *srv, int64_t now_us);
bool server_is_holding(const struct server *srv);

/* No new sessions and sequences from now on; GOAWAY to everybody, BYE to who has
 * no sequence open. */
void server_drain(struct server *srv, uint32_t deadline_ms, const char *reason);

/* End every session and channel now, with BYE. */
void server_end_all(struct server *srv);

#endif
