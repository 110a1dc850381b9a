/* SPDX-License-Identifier: Apache-2.0
 * uploader.c - see uploader.h.
 */
#include "agent/uploader.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "agent/cloud_msg.h"
#include "agent/rows.h"
#include "agent/wire.h"
#include "common/clock.h"
#include "common/frame.h"
#include "common/log.h"
#include "common/memory.h"

#define UPLOADER_RETRIES 3 /* new channels for one sequence */

struct uploader {
    struct uploader_config config;
    struct mailbox *in;
    pthread_t thread;
    _Atomic uint64_t bytes;
    _Atomic uint32_t epoch; /* of the newest session that was posted */
    atomic_bool ending;

    /* the thread's own */
    struct dial_stop stop;
    struct cloud_session session;
    bool have_session, quit;
    bool failed; /* the worker was told; until the next sequence */
    int retries; /* left for this sequence */
    struct rows rows;
    struct wire *wire; /* NULL: not attached */
    int64_t last_sent_us;
};

/* ---- the channel ---- */

/* Is this session over, whatever the thread waits for? */
static bool
is_over(void *ctx)
{
    const struct uploader *u = ctx;

    return atomic_load(&u->ending) || atomic_load(&u->epoch) != u->session.epoch;
}

static int
attach(struct uploader *u, struct err *err)
{
    struct dial_address where;
    struct frame f = { .type = FRAME_ATTACH };
    uint64_t sent = 0;
    int rc = dial_node(&where, &u->config.where, u->session.node, err);

    if (rc == 0)
        rc = wire_open(&u->wire, u->config.ctx, &where, u->config.connect_timeout_us,
                       &u->stop, err);
    if (rc < 0)
        return rc;
    memcpy(f.u.attach.session, u->session.session, sizeof(f.u.attach.session));
    memcpy(f.u.attach.secret, u->session.secret, sizeof(f.u.attach.secret));
    f.u.attach.epoch = u->session.epoch;
    rc = wire_send(u->wire, &f, u->config.connect_timeout_us, &sent, err);
    if (rc == 0)
        rc = wire_receive(u->wire, FRAME_AT_AGENT_UPLOAD_NEW,
                          u->config.connect_timeout_us, &f, err);
    if (rc == CE_EAGAIN)
        rc = err_set(err, CE_ETIMEOUT, "no answer to ATTACH in time");
    if (rc == 0 && f.type == FRAME_ERROR)
        rc = err_set(err, -(int)f.u.error.code, "%.*s", (int)f.u.error.text.len,
                     f.u.error.text.data);
    atomic_fetch_add(&u->bytes, sent);
    u->last_sent_us = clock_us();
    if (rc < 0) {
        wire_close(u->wire, false);
        u->wire = NULL;
        return rc;
    }
    log_debug("upload state=ATTACHED host=%s port=%s name=%s", where.host, where.port,
              dial_name(&where));
    return 0;
}

/* Tell the worker that rows will not arrive any more. again: it is this channel's
 * fault, another session would have another one. */
static void
give_up(struct uploader *u, const struct err *why, bool again)
{
    struct cloud_msg *m = cloud_msg_new(CLOUD_MSG_SEQ_ERROR, NULL, 0);

    u->failed = true;
    if (m == NULL)
        return; /* the worker's deadline will end the wait */
    m->seq = u->rows.seq;
    m->again = again;
    m->err = *why;
    err_prefix(&m->err, "cloud %s:%s: upload channel", u->config.where.host,
               u->config.where.port);
    cloud_msg_post(u->config.worker, m);
}

/* The channel broke: everything goes again over a new one, a few times; then another
 * session may do better, if `again`. */
static void
channel_lost(struct uploader *u, const struct err *why, bool again)
{
    log_debug("upload state=LOST reason=\"%s\"", why->text);
    wire_close(u->wire, false);
    u->wire = NULL;
    rows_rewind(&u->rows);
    if (u->rows.open && u->retries-- <= 0)
        give_up(u, why, again);
}

static void
send_frame(struct uploader *u, const struct frame *f)
{
    struct err err = { 0 };
    uint64_t sent = 0;
    int rc = wire_send(u->wire, f, u->config.stall_timeout_us, &sent, &err);

    atomic_fetch_add(&u->bytes, sent);
    u->last_sent_us = clock_us();
    if (rc < 0)
        channel_lost(u, &err, true);
}

/* Whatever the cloud says here: little. */
static void
receive(struct uploader *u)
{
    struct err err = { 0 };
    struct frame f;

    while (u->wire != NULL) {
        bool again = true;
        int rc = wire_receive(u->wire, FRAME_AT_AGENT_UPLOAD, 0, &f, &err);
        if (rc == CE_EAGAIN)
            return;
        if (rc == 0 && f.type == FRAME_PING) {
            f.type = FRAME_PONG;
            send_frame(u, &f);
            continue;
        }
        if (rc == 0 && f.type == FRAME_PONG)
            continue;
        if (rc == 0 && f.type == FRAME_ERROR) {
            err_set(&err, -(int)f.u.error.code, "%.*s", (int)f.u.error.text.len,
                    f.u.error.text.data);
            u->retries = 0; /* it was refused, not lost */
            again = cloud_may_pass(err.code, f.u.error.retry_ms);
        } else if (rc == 0) {
            err_set(&err, CE_ECLOSED, "closed by the cloud");
        }
        channel_lost(u, &err, again);
    }
}

/* ---- the thread ---- */

static void
begin_session(struct uploader *u, const struct cloud_msg *m)
{
    memcpy(&u->session, m->data, sizeof(u->session));
    wire_close(u->wire, true);
    u->wire = NULL;
    rows_session(&u->rows, u->session.epoch);
    u->failed = u->have_session; /* nothing more before REOPEN, or the next OPEN */
    u->have_session = true;
}

static void
take(struct uploader *u, struct cloud_msg *m)
{
    struct err err = { 0 };

    if (m->kind == CLOUD_MSG_QUIT) {
        u->quit = true;
    } else if (m->kind == CLOUD_MSG_SESSION && m->data_size == sizeof(u->session)) {
        begin_session(u, m);
    } else {
        if (m->kind == CLOUD_MSG_OPEN || m->kind == CLOUD_MSG_REOPEN) {
            u->failed = false;
            u->retries = UPLOADER_RETRIES;
        }
        if (rows_take(&u->rows, m, &err) < 0)
            give_up(u, &err, false);
    }
    cloud_msg_free(m);
}

static void
take_all(struct uploader *u)
{
    struct mailbox_msg *m = mailbox_take_all(u->in);

    while (m != NULL) {
        struct mailbox_msg *next = m->next;
        take(u, cloud_msg_of(m));
        m = next;
    }
}

/* Send what may be sent, looking at the mailbox between frames. */
static void
pump(struct uploader *u)
{
    struct err err = { 0 };
    struct frame f;

    while (!u->quit && !u->failed && u->rows.open && u->have_session) {
        if (u->wire == NULL && attach(u, &err) < 0) {
            give_up(u, &err, true);
            return;
        }
        if (!rows_next(&u->rows, &f))
            return;
        send_frame(u, &f);
        take_all(u);
    }
}

/* A third of the cloud's patience: with a sequence the channel is kept by PING,
 * without one it is closed. Returns when to look again, in ms. */
static int
mind_idling(struct uploader *u)
{
    if (u->wire == NULL || u->session.idle_ms == 0)
        return -1;
    int64_t third_us = (int64_t)u->session.idle_ms * 1000 / 3;
    int64_t left = u->last_sent_us + third_us - clock_us();
    if (left <= 0 && u->rows.open) {
        struct frame ping = { .type = FRAME_PING };
        send_frame(u, &ping);
        left = third_us;
    } else if (left <= 0) {
        wire_close(u->wire, true);
        u->wire = NULL;
        log_debug("upload state=CLOSED reason=idle");
        return -1;
    }
    return (int)(left / 1000) + 1;
}

static void *
run(void *arg)
{
    struct uploader *u = arg;

    while (!u->quit) {
        struct pollfd p[2] = { { .fd = mailbox_fd(u->in), .events = POLLIN },
                               { .fd = -1, .events = POLLIN } };
        int timeout_ms = mind_idling(u);
        if (u->wire != NULL)
            p[1].fd = wire_fd(u->wire);
        if (poll(p, 2, timeout_ms) < 0 && errno != EINTR)
            log_error("upload poll: %s", strerror(errno));
        take_all(u);
        receive(u);
        pump(u);
    }
    wire_close(u->wire, true);
    u->wire = NULL;
    return NULL;
}

int
uploader_start(struct uploader **out, const struct uploader_config *config,
               struct err *err)
{
    struct uploader *u = mem_array_alloc(1, sizeof(*u));

    *out = NULL;
    if (u == NULL)
        return err_set(err, CE_ENOMEM, "uploader: out of memory");
    u->config = *config;
    u->stop = (struct dial_stop){ is_over, u };
    rows_init(&u->rows, config->d_model, config->epoch);
    int rc = mailbox_new(&u->in, err);
    if (rc < 0) {
        mem_free(u);
        return rc;
    }
    rc = pthread_create(&u->thread, NULL, run, u);
    if (rc != 0) {
        mailbox_free(u->in);
        mem_free(u);
        return err_set(err, CE_ENOMEM, "uploader: %s", strerror(rc));
    }
    *out = u;
    return 0;
}

int
uploader_session(struct uploader *u, const struct cloud_session *s, struct err *err)
{
    struct cloud_msg *m = cloud_msg_new(CLOUD_MSG_SESSION, s, sizeof(*s));

    if (m == NULL)
        return err_set(err, CE_ENOMEM, "out of memory");
    cloud_msg_post(u->in, m);
    atomic_store(&u->epoch, s->epoch);
    return 0;
}

void
uploader_stop(struct uploader *u)
{
    struct cloud_msg *m;

    if (u == NULL)
        return;
    m = cloud_msg_new(CLOUD_MSG_QUIT, NULL, 0);
    if (m == NULL)
        return; /* no memory even for this: leave the thread to the process's end */
    cloud_msg_post(u->in, m);
    atomic_store(&u->ending, true);
    pthread_join(u->thread, NULL);
    cloud_msg_drop_all(u->in);
    mailbox_free(u->in);
    rows_fini(&u->rows);
    mem_free(u);
}

struct mailbox *
uploader_mailbox(const struct uploader *u)
{
    return u->in;
}

uint64_t
uploader_bytes(const struct uploader *u)
{
    return atomic_load(&u->bytes);
}
