/* SPDX-License-Identifier: Apache-2.0
 * session_world.h - sessions without sockets, TLS or threads: channels whose
 * network is a buffer, and the content manager with a cache that only counts,
 * called directly where the server would post to its thread. For the tests of
 * sessions and the fuzz target.
 *
 * Replies wait in a list until world_replies, as they would in the mailbox.
 * A broken promise of the server's parts aborts.
 */
#ifndef CE_TESTS_SESSION_WORLD_H
#define CE_TESTS_SESSION_WORLD_H

#include <stdlib.h>
#include <string.h>

#include "common/bytebuf.h"
#include "common/memory.h"
#include "server/channel.h"
#include "server/content.h"
#include "server/session.h"

#define WORLD_D        4
#define WORLD_LAYERS   6
#define WORLD_VOCAB    100
#define WORLD_CTX      200
#define WORLD_WINDOW   32
#define WORLD_CHANNELS 6
#define WORLD_KV       8
#define WORLD_STEP     64

struct world_channel {
    struct channel *channel; /* NULL: never opened */
    bool closed, paused;     /* what the server asked of its io */
    bool deaf;               /* sending fails, as to a peer that does not read */
    struct bytebuf out;      /* what the server sent */
};

struct world {
    struct server srv;
    struct content *content;
    struct mailbox_msg *replies, **replies_end;
    struct world_channel channels[WORLD_CHANNELS];
    bool kv_open[WORLD_KV];
    uint32_t kv_n[WORLD_KV];
    int64_t now_us;
    bool hold; /* keep work instead of handling it: the backend is busy */
    struct mailbox_msg *held, **held_end;
};

static inline void
world_must(bool promise)
{
    if (!promise)
        abort();
}

/* ---- a network ---- */

static int
world_send(void *arg, const uint8_t *data, size_t n)
{
    struct world_channel *wc = arg;

    if (wc->deaf)
        return CE_EQUOTA;
    bytebuf_put_bytes(&wc->out, data, n);
    return bytebuf_status(&wc->out);
}

static void
world_pause(void *arg, bool paused)
{
    ((struct world_channel *)arg)->paused = paused;
}

static void
world_finish(void *arg)
{
    ((struct world_channel *)arg)->closed = true;
}

static inline struct channel *
world_connect(struct world *w, int i, uint8_t certificate)
{
    struct world_channel *wc = &w->channels[i];
    struct channel_io io = { wc, world_send, world_pause, world_finish, world_finish };
    struct tls_peer peer = { .has_cert = true, .name = "tester", .sans = "Dtester" };

    memset(peer.sha256, certificate, sizeof(peer.sha256));
    memset(peer.key_sha256, certificate, sizeof(peer.key_sha256));
    memset(wc, 0, sizeof(*wc));
    bytebuf_init(&wc->out, (size_t)1 << 20);
    wc->channel = channel_new(&w->srv, &io, &peer, "test", w->now_us);
    world_must(wc->channel != NULL);
    return wc->channel;
}

/* The connection is really gone. */
static inline void
world_drop(struct world *w, int i)
{
    struct world_channel *wc = &w->channels[i];

    if (!wc->channel)
        return;
    channel_free(wc->channel);
    bytebuf_fini(&wc->out);
    wc->channel = NULL;
}

static inline size_t
world_input(struct world *w, int i, const uint8_t *data, size_t n)
{
    struct world_channel *wc = &w->channels[i];

    return wc->channel && !wc->closed ? channel_input(wc->channel, data, n, w->now_us)
                                      : n;
}

static inline void
world_frame(struct world *w, int i, const struct frame *f)
{
    struct bytebuf b;

    bytebuf_init(&b, (size_t)1 << 20);
    frame_encode(&b, f);
    world_must(bytebuf_status(&b) == 0);
    (void)world_input(w, i, bytebuf_data(&b), bytebuf_len(&b));
    bytebuf_fini(&b);
}

/* ---- a backend ---- */

static void
world_reply(void *arg, uint64_t session, const struct frame *f)
{
    struct world *w = arg;
    struct reply_msg *r = reply_msg_new((struct session_link *)(uintptr_t)session, f);

    if (!r)
        return;
    r->msg.next = NULL;
    *w->replies_end = &r->msg;
    w->replies_end = &r->msg.next;
}

static int
world_kv_open(void *arg, int *kv, struct err *err)
{
    struct world *w = arg;

    for (*kv = 0; *kv < WORLD_KV; ++*kv)
        if (!w->kv_open[*kv]) {
            w->kv_open[*kv] = true;
            w->kv_n[*kv] = 0;
            return 0;
        }
    return err_set(err, CE_ENOMEM, "full");
}

static void
world_kv_truncate(void *arg, int kv, uint32_t n)
{
    struct world *w = arg;

    world_must(w->kv_open[kv]);
    if (w->kv_n[kv] > n)
        w->kv_n[kv] = n;
}

static void
world_kv_close(void *arg, int kv)
{
    struct world *w = arg;

    world_must(w->kv_open[kv]);
    w->kv_open[kv] = false;
}

static int32_t
world_pick(void *arg, const struct content_sampling *how, const struct head_result *row,
           const int32_t *ids, size_t n, bool *end)
{
    (void)arg;
    (void)how;
    (void)ids;
    *end = n % 13 == 0;
    return row->argmax;
}

static inline void
world_handle(struct world *w, struct work_msg *m)
{
    uint64_t session = (uint64_t)(uintptr_t)m->link;
    struct content *c = w->content;

    if (m->kind == WORK_OPEN)
        content_open(c, session, &m->u.open, m->layer_from, w->now_us);
    else if (m->kind == WORK_STATES)
        content_states(c, session, m->chunk, w->now_us), m->chunk = NULL;
    else if (m->kind == WORK_INFER)
        content_infer(c, session, &m->u.infer, w->now_us);
    else if (m->kind == WORK_TRUNCATE)
        content_truncate(c, session, &m->u.truncate, w->now_us);
    else if (m->kind == WORK_CANCEL)
        content_cancel(c, session, &m->u.cancel, w->now_us);
    else if (m->kind == WORK_CLOSE)
        content_close(c, session, m->u.close.seq);
    else if (m->kind == WORK_GENERATE)
        content_generate(c, session, &m->u.generate, w->now_us);
    else
        content_session_gone(c, session);
    work_msg_free(m);
}

static void
world_post(void *arg, struct work_msg *m)
{
    struct world *w = arg;

    if (w->hold) {
        m->msg.next = NULL;
        *w->held_end = &m->msg;
        w->held_end = &m->msg.next;
    } else {
        world_handle(w, m);
    }
}

static inline void
world_release(struct world *w)
{
    struct mailbox_msg *m = w->held, *next;

    w->hold = false;
    w->held = NULL;
    w->held_end = &w->held;
    for (; m; m = next) {
        next = m->next;
        world_handle(w, (struct work_msg *)m);
    }
}

/* One step of everything runnable. */
static inline void
world_step(struct world *w, uint32_t max_rows)
{
    struct content_work work[WORLD_KV];
    struct head_result results[WORLD_STEP];
    float hidden[WORLD_STEP * WORLD_D];
    int32_t tokens[WORLD_STEP];
    size_t n, i, j;

    (void)content_settle(w->content, w->now_us);
    n = content_runnable(w->content, work, WORLD_KV);
    for (i = 0; i < n; i++) {
        struct content_run run;
        uint32_t rows = work[i].n_rows < max_rows ? work[i].n_rows : max_rows;

        world_must(work[i].n_rows > 0);
        if (rows > WORLD_STEP)
            rows = WORLD_STEP;
        if (content_run_begin(w->content, work[i].seq, rows, hidden, tokens, &run) < 0)
            continue;
        world_must(run.n_rows > 0 && run.n_rows <= rows && run.head_rows <= run.n_rows);
        world_must(w->kv_open[run.kv] && w->kv_n[run.kv] == run.pos);
        world_must(run.pos + run.n_rows <= WORLD_CTX);
        w->kv_n[run.kv] += run.n_rows;
        memset(results, 0, sizeof(results));
        for (j = 0; j < run.head_rows; j++)
            results[j].argmax =
                (int32_t)((run.pos + run.n_rows - run.head_rows + j) % WORLD_VOCAB);
        content_run_done(w->content, &run, results, w->now_us, w->now_us);
    }
}

static inline void
world_replies(struct world *w)
{
    struct mailbox_msg *m = w->replies, *next;

    w->replies = NULL;
    w->replies_end = &w->replies;
    for (; m; m = next) {
        next = m->next;
        server_reply(&w->srv, (struct reply_msg *)m, w->now_us);
    }
}

/* ---- begin and end ---- */

/* scarce: memory for a page of each block or two, and a few rows. */
static inline void
world_init_with(struct world *w, bool scarce)
{
    struct content_config config = { .d_model = WORLD_D,
                                     .n_vocab = WORLD_VOCAB,
                                     .n_ctx = WORLD_CTX,
                                     .window = WORLD_WINDOW,
                                     .n_layers = WORLD_LAYERS,
                                     .kv_page_bytes = 1,
                                     .kv_budget = scarce ? 2 * WORLD_LAYERS : 0,
                                     .states_budget = scarce ? 2048 : 0 };
    struct content_hooks hooks = { .arg = w,
                                   .reply = world_reply,
                                   .kv_open = world_kv_open,
                                   .kv_truncate = world_kv_truncate,
                                   .kv_close = world_kv_close,
                                   .pick = world_pick };
    memset(w, 0, sizeof(*w));
    w->replies_end = &w->replies;
    w->held_end = &w->held;
    w->now_us = 1;
    memset(w->srv.fingerprint, 7, sizeof(w->srv.fingerprint));
    w->srv.n_layers = WORLD_LAYERS;
    w->srv.d_model = WORLD_D;
    w->srv.n_vocab = WORLD_VOCAB;
    w->srv.n_ctx = WORLD_CTX;
    w->srv.layer_from = 2;
    w->srv.whole_model = true;
    strcpy(w->srv.numerics, "test");
    w->srv.max_seqs = 4;
    w->srv.max_sessions = 3;
    w->srv.window = WORLD_WINDOW;
    w->srv.max_queued = 4096;
    w->srv.first_frame_us = 10000000;
    w->srv.idle_us = 60000000;
    w->srv.post = world_post;
    w->srv.post_arg = w;
    world_must(server_init(&w->srv, NULL) == 0);
    world_must(content_new(&w->content, &config, &hooks, NULL) == 0);
}

static inline void
world_init(struct world *w)
{
    world_init_with(w, false);
}

/* Everything ends; nothing may be left. */
static inline void
world_fini(struct world *w)
{
    int i;

    world_release(w);
    for (i = 0; i < WORLD_CHANNELS; i++)
        world_drop(w, i);
    world_replies(w);
    world_must(w->srv.n_sessions == 0 && w->srv.n_channels == 0 && w->srv.n_paused == 0);
    world_must(content_n_seqs(w->content) == 0 && content_bytes(w->content) == 0);
    world_must(content_kv_bytes(w->content) == 0 && content_row_bytes(w->content) == 0);
    for (i = 0; i < WORLD_KV; i++)
        world_must(!w->kv_open[i]);
    content_free(w->content);
    server_fini(&w->srv);
}

static inline struct frame
world_hello(void)
{
    struct frame f = { .type = FRAME_HELLO };

    f.u.hello.proto = 1;
    f.u.hello.epoch = 1;
    memset(f.u.hello.fingerprint, 7, sizeof(f.u.hello.fingerprint));
    f.u.hello.layer_from = 2;
    f.u.hello.n_layers = WORLD_LAYERS;
    f.u.hello.d_model = WORLD_D;
    f.u.hello.n_vocab = WORLD_VOCAB;
    f.u.hello.n_codecs = 1;
    f.u.hello.codecs[0] = frame_str_of("f32", 3);
    f.u.hello.numerics = frame_str_of("test", 4);
    f.u.hello.agent = frame_str_of("world", 5);
    return f;
}

/* ATTACH for the newest session, which must exist. */
static inline struct frame
world_attach(const struct world *w)
{
    struct frame f = { .type = FRAME_ATTACH };
    const struct session *s = w->srv.sessions;

    memcpy(f.u.attach.session, s->id, sizeof(s->id));
    memcpy(f.u.attach.secret, s->secret, sizeof(s->secret));
    f.u.attach.epoch = s->epoch;
    return f;
}

#endif
