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

/* The question that is open, to be put again in another session. */
struct question {
    bool asked, stream; /* stream: GENERATE */
    uint32_t pos;
    struct cloud_want want;
    int64_t deadline_us; /* of the answer; INT64_MAX: none */
    struct sampler_params sampling;
    int32_t *ids; /* [n]: prompt and tokens so far; owned */
    size_t n;
    int n_left; /* tokens that may still come */
};

struct remote {
    struct cloud_port base;
    struct remote_config config;
    struct mailbox *inbox;
    struct mailbox_msg *taken; /* from the inbox, not looked at yet */

    /* the session */
    uint32_t epoch;
    bool up;
    bool asked;       /* another one was asked for */
    struct err lost;  /* why this one is no more, or of no use */
    struct err drain; /* no new sequences in it */
    struct err gone;  /* there will be no other */

    /* the sequence; seq 0: none yet */
    uint32_t seq, branch;
    uint32_t max_pos;
    enum states_codec codec;
    bool open;
    bool known;      /* some session was told of it */
    bool woken;      /* remote_interrupt, since the sequence began */
    int moves;       /* since the last answer */
    struct err dead; /* it ended */
    struct question question;

    int n_moves; /* in all */
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
        m->epoch = r->epoch;
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

static int reopen(struct remote *r, struct err *err);

/* This session is of no use, or no more: ask for another one, once. */
static void
leave_session(struct remote *r, const struct err *why, uint32_t retry_ms)
{
    struct cloud_msg *m = r->asked ? NULL : message(r, CLOUD_MSG_REJOIN, NULL, 0);

    r->up = false;
    r->lost = *why;
    if (m == NULL)
        return; /* without memory the deadline will end the wait */
    memset(&r->gone, 0, sizeof(r->gone));
    r->asked = true;
    m->err = *why;
    m->retry_ms = retry_ms;
    m->n = (uint32_t)r->moves;
    cloud_msg_post(r->config.link, m);
}

static void
on_sequence_error(struct remote *r, const struct cloud_msg *m)
{
    /* The upload channel does not know the epoch's number, but the sequence's, and
     * no two sequences of a run have the same. */
    if (!r->open || m->seq != r->seq)
        return;
    if (!m->again)
        r->dead = m->err;
    else if (r->up)
        leave_session(r, &m->err, m->retry_ms);
}

/* A new session: the live sequence begins again in it. */
static void
on_up(struct remote *r, const struct cloud_msg *m)
{
    struct err why = r->lost;

    r->epoch = m->epoch;
    r->up = true;
    r->asked = false;
    memset(&r->lost, 0, sizeof(r->lost));
    memset(&r->drain, 0, sizeof(r->drain));
    if (!r->open || r->dead.code != 0)
        return;
    if (r->known && ++r->moves > REMOTE_MOVES) {
        err_set(&r->dead, why.code, "%s (the %dth session in a row without a token)",
                why.text, REMOTE_MOVES + 1);
        return;
    }
    r->n_moves += r->known;
    (void)reopen(r, &r->dead);
}

/* Note what a message says; true when it is an answer for the current sequence. */
static bool
note(struct remote *r, const struct cloud_msg *m)
{
    switch (m->kind) {
    case CLOUD_MSG_LOST:
        if (m->epoch != r->epoch)
            return false;
        r->up = false;
        r->lost = m->err;
        if (r->open)
            leave_session(r, &m->err, m->retry_ms);
        return false;
    case CLOUD_MSG_DRAIN:
        if (m->epoch == r->epoch)
            r->drain = m->err;
        return false;
    case CLOUD_MSG_UP:
        on_up(r, m);
        return false;
    case CLOUD_MSG_GONE:
        r->gone = m->err;
        r->asked = false;
        return false;
    case CLOUD_MSG_SEQ_ERROR:
        on_sequence_error(r, m);
        return false;
    case CLOUD_MSG_WAKE:
        r->woken = true;
        return false;
    case CLOUD_MSG_ANSWER:
        return r->open && m->epoch == r->epoch && m->seq == r->seq &&
               m->branch == r->branch;
    default:
        return false;
    }
}

/* Look at what has come meanwhile. */
static void
note_all(struct remote *r)
{
    struct cloud_msg *m;

    while ((m = next_message(r, 0)) != NULL) {
        note(r, m);
        cloud_msg_free(m);
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

/* Why no answer will come, if so. */
static int
hopeless(struct remote *r, struct err *err)
{
    if (r->dead.code != 0)
        return failed(&r->dead, err);
    if (r->gone.code != 0)
        return failed(&r->gone, err);
    /* Not up: another session is on its way; some wait for it. */
    if (!r->up && !r->config.wait)
        return failed(&r->lost, err);
    return 0;
}

static int
too_late(struct remote *r, struct err *err)
{
    if (r->up || r->lost.code == 0)
        err_set(&r->dead, CE_ETIMEOUT, "the cloud did not answer in time");
    else
        err_set(&r->dead, CE_ETIMEOUT, "no other cloud in time after: %s", r->lost.text);
    return failed(&r->dead, err);
}

/* Wait for the answer to the question that is open. */
static int
wait_answer(struct remote *r, struct cloud_answer *out, struct err *err)
{
    const struct question *q = &r->question;

    for (;;) {
        int rc = hopeless(r, err);
        if (rc < 0)
            return rc;
        if (r->woken) {
            r->woken = false;
            return err_set(err, CE_EAGAIN, "interrupted");
        }
        struct cloud_msg *m = next_message(r, q->deadline_us);
        if (m == NULL)
            return too_late(r, err);
        bool mine = note(r, m) && (q->stream || m->pos == q->pos);
        if (mine)
            read_answer(&m->frame.u.token, out);
        cloud_msg_free(m);
        if (mine) {
            r->moves = 0;
            return 0;
        }
    }
}

static int64_t
deadline_after(uint32_t ms)
{
    return ms == 0 ? INT64_MAX : clock_us() + (int64_t)ms * 1000 + REMOTE_GRACE_US;
}

/* What is left of the deadline, for the cloud; 0: none was set. */
static uint32_t
ms_left(const struct question *q)
{
    if (q->deadline_us == INT64_MAX)
        return 0;
    int64_t left = (q->deadline_us - REMOTE_GRACE_US - clock_us()) / 1000;
    return left > 1 ? (uint32_t)left : 1;
}

/* ---- frames ---- */

static int
send_open(struct remote *r, struct err *err)
{
    const char *name = states_codec_name(r->codec);
    struct frame f = { .type = FRAME_OPEN };

    f.u.open = (struct frame_open){ .epoch = r->epoch,
                                    .seq = r->seq,
                                    .codec = frame_str_of(name, strlen(name)),
                                    .max_pos = r->max_pos,
                                    .keep_kv = !r->config.naive || r->config.keep_kv };
    return send_frame(r, &f, 0, err);
}

static int
send_infer(struct remote *r, struct err *err)
{
    const struct question *q = &r->question;
    enum cloud_msg_kind kind = r->config.naive ? CLOUD_MSG_REWIND : CLOUD_MSG_RELEASE;
    struct frame f = { .type = FRAME_INFER };
    int rc = tell_rows(r, kind, q->pos + 1, err);

    f.u.infer = (struct frame_infer){ .epoch = r->epoch,
                                      .seq = r->seq,
                                      .branch = r->branch,
                                      .pos = q->pos,
                                      .deadline_ms = ms_left(q),
                                      .n_top = (uint32_t)q->want.n_top,
                                      .want_hash = q->want.want_hash };
    return rc == 0 ? send_frame(r, &f, q->pos, err) : rc;
}

static int
send_generate(struct remote *r, struct err *err)
{
    const struct question *q = &r->question;
    const struct sampler_params *s = &q->sampling;
    struct cloud_msg *m = message(r, CLOUD_MSG_FRAME, NULL, q->n * 4);

    if (m == NULL)
        return no_memory(err);
    for (size_t i = 0; i < q->n; i++)
        for (int b = 0; b < 4; b++)
            m->data[i * 4 + (size_t)b] = (unsigned char)((uint32_t)q->ids[i] >> (8 * b));
    m->frame.type = FRAME_GENERATE;
    m->frame.u.generate = (struct frame_generate){ .epoch = r->epoch,
                                                   .seq = r->seq,
                                                   .max_tokens = (uint32_t)q->n_left,
                                                   .temperature = (float)s->temperature,
                                                   .top_k = (uint32_t)s->top_k,
                                                   .top_p = (float)s->top_p,
                                                   .min_p = (float)s->min_p,
                                                   .seed = s->seed,
                                                   .deadline_ms = q->want.deadline_ms,
                                                   .want_hash = q->want.want_hash };
    cloud_msg_post(r->config.link, m);
    return 0;
}

static int
send_question(struct remote *r, struct err *err)
{
    const struct question *q = &r->question;

    if (!q->asked)
        return 0;
    return q->stream ? send_generate(r, err) : send_infer(r, err);
}

/* The live sequence in the session that has just come up: under a new number, since
 * what is still on its way names the old one. */
static int
reopen(struct remote *r, struct err *err)
{
    struct cloud_msg *m;

    r->seq++;
    r->branch = 0;
    m = message(r, CLOUD_MSG_REOPEN, NULL, 0);
    if (m == NULL)
        return no_memory(err);
    cloud_msg_post(r->config.rows, m); /* first: the answer to OPEN is credit for them */
    r->known = true;
    int rc = send_open(r, err);
    return rc == 0 ? send_question(r, err) : rc;
}

/* ---- the port ---- */

/* A session for a new sequence: the one there is, or one that is on its way. */
static void
find_session(struct remote *r)
{
    note_all(r);
    if (r->up && r->drain.code != 0)
        leave_session(r, &r->drain, 0);
    else if (!r->up)
        leave_session(r, &r->lost, 0);
}

static int
remote_open(struct cloud_port *c, int32_t max_pos, struct err *err)
{
    struct remote *r = of(c);
    enum states_codec codec = r->config.naive ? STATES_F32 : r->config.codec;
    size_t bytes = (size_t)max_pos * states_row_bytes(codec, r->config.d_model);

    r->open = false;
    r->moves = 0;
    memset(&r->dead, 0, sizeof(r->dead));
    find_session(r);
    if (bytes > r->config.retain_bytes)
        return err_set(err, CE_EQUOTA,
                       "hidden states of %d positions may take %zu bytes, retain_limit "
                       "is %zu",
                       max_pos, bytes, r->config.retain_bytes);
    r->seq++;
    r->branch = 0;
    r->woken = false;
    r->known = r->up;
    r->max_pos = (uint32_t)max_pos;
    r->codec = codec;
    /* Rows first: the answer to OPEN is credit for them. */
    int rc = tell_rows(r, CLOUD_MSG_OPEN, (uint32_t)max_pos, err);
    if (rc == 0 && r->up)
        rc = send_open(r, err);
    r->open = rc == 0;
    return rc;
}

static int
remote_put_states(struct cloud_port *c, int32_t pos, int n, const float *rows,
                  struct err *err)
{
    struct remote *r = of(c);

    note_all(r); /* a lost session is replaced while the edge computes on */
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
    struct question *q = &r->question;

    note_all(r);
    int rc = hopeless(r, err);
    if (rc < 0)
        return rc;
    q->asked = true;
    q->stream = false;
    q->pos = (uint32_t)pos;
    q->want = *want;
    q->deadline_us = deadline_after(want->deadline_ms);
    if (r->up)
        rc = send_infer(r, err);
    if (rc == 0)
        rc = wait_answer(r, out, err);
    q->asked = false;
    return rc;
}

static int
remote_generate(struct cloud_port *c, const int32_t *ids, size_t n, int max_tokens,
                const struct sampler_params *sampling, const struct cloud_want *want,
                struct err *err)
{
    struct remote *r = of(c);
    struct question *q = &r->question;
    size_t room = n + (size_t)max_tokens;

    mem_free(q->ids);
    q->ids = mem_array_alloc(room, sizeof(*q->ids));
    if (q->ids == NULL)
        return no_memory(err);
    memcpy(q->ids, ids, n * sizeof(*ids));
    q->n = n;
    q->n_left = max_tokens;
    q->sampling = *sampling;
    q->want = *want;
    q->asked = q->stream = true;
    return r->up ? send_generate(r, err) : 0;
}

static int
remote_next(struct cloud_port *c, struct cloud_answer *out, struct err *err)
{
    struct remote *r = of(c);
    struct question *q = &r->question;

    q->deadline_us = deadline_after(q->want.deadline_ms);
    int rc = wait_answer(r, out, err);
    if (rc == 0 && q->n_left > 0) { /* so that another cloud could go on from here */
        q->ids[q->n++] = out->token;
        q->n_left--;
    }
    return rc;
}

static int
remote_truncate(struct cloud_port *c, int32_t n_positions, struct err *err)
{
    struct remote *r = of(c);
    struct frame f = { .type = FRAME_TRUNCATE };

    r->branch++;
    f.u.truncate = (struct frame_truncate){ .epoch = r->epoch,
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

    r->question.asked = false;
    if (!r->open)
        return;
    f.u.close = (struct frame_close){ .epoch = r->epoch, .seq = r->seq };
    (void)tell_rows(r, CLOUD_MSG_CLOSE, 0, NULL);
    (void)send_frame(r, &f, 0, NULL);
    r->open = false;
}

static int
remote_back(struct cloud_port *c)
{
    struct remote *r = of(c);

    note_all(r);
    if (!r->open || r->dead.code != 0 || r->gone.code != 0)
        return -1;
    return r->up;
}

static uint64_t
remote_bytes_up(const struct cloud_port *c)
{
    const struct remote *r = (const struct remote *)(const void *)c;

    return r->config.bytes_up != NULL ? r->config.bytes_up(r->config.ctx) : 0;
}

static int
remote_n_moves(const struct cloud_port *c)
{
    return ((const struct remote *)(const void *)c)->n_moves;
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
    .back = remote_back,
    .bytes_up = remote_bytes_up,
    .n_moves = remote_n_moves,
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
    struct remote *r = of(c);

    r->config = *config;
    r->epoch = config->epoch;
    r->up = true;
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
    mem_free(r->question.ids);
    mem_free(r);
}
