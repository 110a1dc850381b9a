/* SPDX-License-Identifier: Apache-2.0
 * remote.c - see remote.h.
 */
#include "agent/remote.h"

#include <string.h>

#include "agent/cloud_msg.h"
#include "common/clock.h"
#include "common/memory.h"

/* Beyond the deadline that the cloud keeps itself, so that its words can arrive. */
#define REMOTE_GRACE_US 1000000

struct remote {
    struct cloud_port base;
    struct remote_config config;
    struct mailbox *inbox;
    struct mailbox_msg *taken; /* from the inbox, not looked at yet */
    uint32_t seq, branch;      /* of the current sequence; seq 0: none yet */
    enum states_codec codec;   /* of it */
    bool open;
    struct err dead;     /* the sequence ended */
    struct err lost;     /* the cloud is gone */
    struct err drain;    /* no new sequences */
    int64_t deadline_us; /* of each token of a GENERATE; 0: none */
};

static struct remote *
of(struct cloud_port *c)
{
    return (struct remote *)(void *)c;
}

/* ---- messages out ---- */

static struct cloud_msg *
message(const struct remote *r, enum cloud_msg_kind kind, const void *data, size_t size)
{
    struct cloud_msg *m = cloud_msg_new(kind, data, size);

    if (m != NULL) {
        m->seq = r->seq;
        m->branch = r->branch;
    }
    return m;
}

static int
no_memory(struct err *err)
{
    return err_set(err, CE_ENOMEM, "no memory for a message");
}

/* A message about rows with one number in it. */
static int
tell_rows(struct remote *r, enum cloud_msg_kind kind, uint32_t pos, struct err *err)
{
    struct cloud_msg *m = message(r, kind, NULL, 0);

    if (m == NULL)
        return no_memory(err);
    m->pos = pos;
    m->codec = r->codec;
    cloud_msg_post(r->config.rows, m);
    return 0;
}

static int
send_frame(struct remote *r, const struct frame *f, uint32_t pos, struct err *err)
{
    struct cloud_msg *m = message(r, CLOUD_MSG_FRAME, NULL, 0);

    if (m == NULL)
        return no_memory(err);
    m->frame = *f;
    m->pos = pos;
    cloud_msg_post(r->config.link, m);
    return 0;
}

/* ---- messages in ---- */

/* The next message, or NULL when deadline_us passed. */
static struct cloud_msg *
next_message(struct remote *r, int64_t deadline_us)
{
    if (r->taken == NULL) {
        int64_t left = deadline_us == INT64_MAX ? -1 : deadline_us - clock_us();
        if (deadline_us != INT64_MAX && left < 0)
            left = 0;
        r->taken = mailbox_wait(r->inbox, left);
    }
    struct mailbox_msg *m = r->taken;
    if (m != NULL)
        r->taken = m->next;
    return m != NULL ? cloud_msg_of(m) : NULL;
}

static int
failed(const struct err *why, struct err *err)
{
    if (err != NULL)
        *err = *why;
    return why->code;
}

/* Note what a message says; true when it is an answer for the current sequence. */
static bool
note(struct remote *r, const struct cloud_msg *m)
{
    switch (m->kind) {
    case CLOUD_MSG_LOST:
        r->lost = m->err;
        return false;
    case CLOUD_MSG_DRAIN:
        r->drain = m->err;
        return false;
    case CLOUD_MSG_SEQ_ERROR:
        if (r->open && m->seq == r->seq)
            r->dead = m->err;
        return false;
    case CLOUD_MSG_ANSWER:
        return r->open && m->seq == r->seq && m->branch == r->branch;
    default:
        return false;
    }
}

static void
read_answer(const struct frame_token *t, struct cloud_answer *out)
{
    memset(out, 0, sizeof(*out));
    out->pos = (int32_t)t->pos;
    out->token = (int32_t)t->token;
    out->queue_us = t->queue_us;
    out->compute_us = t->compute_us;
    out->rows = t->rows;
    out->last = t->last;
    out->head.argmax = (int32_t)t->token;
    out->head.max_logit = t->logit;
    out->head.lse = t->lse;
    out->head.confidence = t->confidence;
    out->head.hash = t->has_hash ? t->hash : 0;
    out->head.n_top = t->n_top;
    for (int i = 0; i < t->n_top; i++) {
        out->head.top[i].id = (int32_t)t->top[i].id;
        out->head.top[i].logit = t->top[i].logit;
    }
}

/* Wait for an answer: to position pos, or to any when pos is negative. */
static int
wait_answer(struct remote *r, int32_t pos, int64_t deadline_us, struct cloud_answer *out,
            struct err *err)
{
    for (;;) {
        if (r->lost.code != 0)
            return failed(&r->lost, err);
        if (r->dead.code != 0)
            return failed(&r->dead, err);
        struct cloud_msg *m = next_message(r, deadline_us);
        if (m == NULL) {
            err_set(&r->dead, CE_ETIMEOUT, "the cloud did not answer in time");
            return failed(&r->dead, err);
        }
        bool wake = m->kind == CLOUD_MSG_WAKE;
        bool mine = note(r, m) && (pos < 0 || m->pos == (uint32_t)pos);
        if (mine)
            read_answer(&m->frame.u.token, out);
        cloud_msg_free(m);
        if (mine)
            return 0;
        if (wake)
            return err_set(err, CE_EAGAIN, "interrupted");
    }
}

static int64_t
deadline_after(uint32_t ms)
{
    return ms == 0 ? INT64_MAX : clock_us() + (int64_t)ms * 1000 + REMOTE_GRACE_US;
}

/* ---- the port ---- */

/* Is there a cloud for a new sequence? Looks at what has come meanwhile. */
static int
check_cloud(struct remote *r, struct err *err)
{
    struct cloud_msg *m;

    r->open = false;
    while ((m = next_message(r, 0)) != NULL) {
        note(r, m);
        cloud_msg_free(m);
    }
    if (r->lost.code != 0)
        return failed(&r->lost, err);
    if (r->drain.code != 0)
        return failed(&r->drain, err);
    return 0;
}

static int
remote_open(struct cloud_port *c, int32_t max_pos, struct err *err)
{
    struct remote *r = of(c);
    enum states_codec codec = r->config.naive ? STATES_F32 : r->config.codec;
    size_t bytes = (size_t)max_pos * states_row_bytes(codec, r->config.d_model);
    const char *name = states_codec_name(codec);
    struct frame f = { .type = FRAME_OPEN };
    int rc = check_cloud(r, err);

    if (rc < 0)
        return rc;
    if (bytes > r->config.retain_bytes)
        return err_set(err, CE_EQUOTA,
                       "hidden states of %d positions may take %zu bytes, retain_limit "
                       "is %zu",
                       max_pos, bytes, r->config.retain_bytes);
    r->seq++;
    r->branch = 0;
    memset(&r->dead, 0, sizeof(r->dead));
    r->codec = codec;
    /* Rows first: the answer to OPEN is credit for them. */
    rc = tell_rows(r, CLOUD_MSG_OPEN, (uint32_t)max_pos, err);
    f.u.open = (struct frame_open){ .epoch = r->config.epoch,
                                    .seq = r->seq,
                                    .codec = frame_str_of(name, strlen(name)),
                                    .max_pos = (uint32_t)max_pos,
                                    .keep_kv = !r->config.naive || r->config.keep_kv };
    if (rc == 0)
        rc = send_frame(r, &f, 0, err);
    r->open = rc == 0;
    return rc;
}

static int
remote_put_states(struct cloud_port *c, int32_t pos, int n, const float *rows,
                  struct err *err)
{
    struct remote *r = of(c);
    struct cloud_msg *m =
        message(r, CLOUD_MSG_ROWS, rows, (size_t)n * r->config.d_model * sizeof(float));

    if (m == NULL)
        return no_memory(err);
    m->pos = (uint32_t)pos;
    m->n = (uint32_t)n;
    cloud_msg_post(r->config.rows, m);
    return 0;
}

static void
remote_release(struct cloud_port *c, int32_t n_positions)
{
    struct remote *r = of(c);

    /* Naive: rows travel with the request only. */
    if (!r->config.naive)
        (void)tell_rows(r, CLOUD_MSG_RELEASE, (uint32_t)n_positions, NULL);
}

static int
remote_infer(struct cloud_port *c, int32_t pos, const struct cloud_want *want,
             struct cloud_answer *out, struct err *err)
{
    struct remote *r = of(c);
    enum cloud_msg_kind kind = r->config.naive ? CLOUD_MSG_REWIND : CLOUD_MSG_RELEASE;
    struct frame f = { .type = FRAME_INFER };
    int rc = tell_rows(r, kind, (uint32_t)pos + 1, err);

    f.u.infer = (struct frame_infer){ .epoch = r->config.epoch,
                                      .seq = r->seq,
                                      .branch = r->branch,
                                      .pos = (uint32_t)pos,
                                      .deadline_ms = want->deadline_ms,
                                      .n_top = (uint32_t)want->n_top,
                                      .want_hash = want->want_hash };
    if (rc == 0)
        rc = send_frame(r, &f, (uint32_t)pos, err);
    if (rc == 0)
        rc = wait_answer(r, pos, deadline_after(want->deadline_ms), out, err);
    return rc;
}

static int
remote_generate(struct cloud_port *c, const int32_t *ids, size_t n, int max_tokens,
                const struct sampler_params *sampling, const struct cloud_want *want,
                struct err *err)
{
    struct remote *r = of(c);
    struct cloud_msg *m = message(r, CLOUD_MSG_FRAME, NULL, n * 4);

    if (m == NULL)
        return no_memory(err);
    for (size_t i = 0; i < n; i++)
        for (int b = 0; b < 4; b++)
            m->data[i * 4 + (size_t)b] = (unsigned char)((uint32_t)ids[i] >> (8 * b));
    m->frame.type = FRAME_GENERATE;
    m->frame.u.generate =
        (struct frame_generate){ .epoch = r->config.epoch,
                                 .seq = r->seq,
                                 .max_tokens = (uint32_t)max_tokens,
                                 .temperature = (float)sampling->temperature,
                                 .top_k = (uint32_t)sampling->top_k,
                                 .top_p = (float)sampling->top_p,
                                 .min_p = (float)sampling->min_p,
                                 .seed = sampling->seed,
                                 .deadline_ms = want->deadline_ms,
                                 .want_hash = want->want_hash };
    cloud_msg_post(r->config.link, m);
    r->deadline_us = (int64_t)want->deadline_ms * 1000;
    return 0;
}

static int
remote_next(struct cloud_port *c, struct cloud_answer *out, struct err *err)
{
    struct remote *r = of(c);

    return wait_answer(r, -1, deadline_after((uint32_t)(r->deadline_us / 1000)), out,
                       err);
}

static int
remote_truncate(struct cloud_port *c, int32_t n_positions, struct err *err)
{
    struct remote *r = of(c);
    struct frame f = { .type = FRAME_TRUNCATE };

    r->branch++;
    f.u.truncate = (struct frame_truncate){ .epoch = r->config.epoch,
                                            .seq = r->seq,
                                            .branch = r->branch,
                                            .pos = (uint32_t)n_positions };
    int rc = tell_rows(r, CLOUD_MSG_TRUNCATE, (uint32_t)n_positions, err);
    return rc == 0 ? send_frame(r, &f, (uint32_t)n_positions, err) : rc;
}

static void
remote_close(struct cloud_port *c)
{
    struct remote *r = of(c);
    struct frame f = { .type = FRAME_CLOSE };

    if (!r->open)
        return;
    f.u.close = (struct frame_close){ .epoch = r->config.epoch, .seq = r->seq };
    (void)tell_rows(r, CLOUD_MSG_CLOSE, 0, NULL);
    if (r->lost.code == 0)
        (void)send_frame(r, &f, 0, NULL);
    r->open = false;
}

static uint64_t
remote_bytes_up(const struct cloud_port *c)
{
    const struct remote *r = (const struct remote *)(const void *)c;

    return r->config.bytes_up != NULL ? r->config.bytes_up(r->config.ctx) : 0;
}

static const struct cloud_port_ops remote_ops = {
    .open = remote_open,
    .put_states = remote_put_states,
    .release = remote_release,
    .infer = remote_infer,
    .generate = remote_generate,
    .next = remote_next,
    .truncate = remote_truncate,
    .close = remote_close,
    .bytes_up = remote_bytes_up,
};

int
remote_new(struct cloud_port **out, struct err *err)
{
    struct remote *r = mem_array_alloc(1, sizeof(*r));

    *out = NULL;
    if (r == NULL)
        return no_memory(err);
    int rc = mailbox_new(&r->inbox, err);
    if (rc < 0) {
        mem_free(r);
        return rc;
    }
    r->base.ops = &remote_ops;
    *out = &r->base;
    return 0;
}

struct mailbox *
remote_inbox(const struct cloud_port *c)
{
    return ((const struct remote *)(const void *)c)->inbox;
}

void
remote_connect(struct cloud_port *c, const struct remote_config *config)
{
    of(c)->config = *config;
}

void
remote_interrupt(struct cloud_port *c)
{
    struct cloud_msg *m = cloud_msg_new(CLOUD_MSG_WAKE, NULL, 0);

    if (m != NULL)
        cloud_msg_post(of(c)->inbox, m);
}

void
remote_free(struct cloud_port *c)
{
    struct remote *r;

    if (c == NULL)
        return;
    r = of(c);
    while (r->taken != NULL) {
        struct mailbox_msg *next = r->taken->next;
        cloud_msg_free(cloud_msg_of(r->taken));
        r->taken = next;
    }
    cloud_msg_drop_all(r->inbox);
    mailbox_free(r->inbox);
    mem_free(r);
}
