/* SPDX-License-Identifier: Apache-2.0
 * swarm_vandal.c - connections that no agent would make: garbage, and peers that vanish.
 *
 * A vandal does one deed after another. What it sends may be no TLS, no frames, frames
 * that lie, or frames of an honest session with bits turned over; or it stops in the
 * middle of something and never reads or writes again, as a machine does whose network
 * is gone. A server should end each of these connections in its own time, and nobody
 * else should notice. Tried, ended by the server and given up are counted.
 */
#include <math.h>
#include <string.h>

#include "bench/swarm.h"
#include "common/clock.h"

#define GARBAGE_WAIT_US 3000000  /* for the server to end it */
#define SILENT_WAIT_US  60000000 /* its time-outs take longer */
#define PAUSE_US        50000    /* between two deeds */
#define NOISE           600

enum deed {
    /* garbage */
    DEED_NOT_TLS,
    DEED_NOISE,
    DEED_LONG_FRAME,
    DEED_BAD_MAP,
    DEED_BOMB,
    DEED_LATE_NOISE,
    DEED_TURNED_BITS,
    DEED_NOT_FINITE,
    DEED_OVER_CREDIT,
    DEED_N_GARBAGE,
    /* silence */
    DEED_SILENT_TCP = DEED_N_GARBAGE,
    DEED_SILENT_TLS,
    DEED_HALF_FRAME,
    DEED_SILENT_SESSION,
    DEED_HALF_ROWS,
    DEED_END
};

static bool
silent(const struct vandal *v)
{
    return v->deed >= DEED_N_GARBAGE;
}

static void
deed_done(struct vandal *v)
{
    v->done = true;
    if (silent(v) && v->conn)
        conn_pause(v->conn, true);
}

static void
send_noise(struct vandal *v, size_t n)
{
    uint8_t noise[NOISE];

    for (size_t i = 0; i < n; i++)
        noise[i] = (uint8_t)swarm_random(v->swarm, 256);
    conn_send_bytes(v->conn, noise, n);
    deed_done(v);
}

/* A good header, then a map of noise or of one well-known bomb. */
static void
send_map(struct vandal *v, enum frame_type type, const uint8_t *map, size_t n)
{
    struct bytebuf b;

    bytebuf_init(&b, 65536);
    bytebuf_put_u16(&b, FRAME_MAGIC);
    bytebuf_put_u8(&b, FRAME_VERSION);
    bytebuf_put_u8(&b, (uint8_t)type);
    bytebuf_put_u16(&b, 0);
    bytebuf_put_u16(&b, (uint16_t)n);
    bytebuf_put_u32(&b, 0);
    for (size_t i = 0; i < n; i++)
        bytebuf_put_u8(&b, map ? map[i] : (uint8_t)swarm_random(v->swarm, 256));
    conn_send_bytes(v->conn, bytebuf_data(&b), bytebuf_len(&b));
    bytebuf_fini(&b);
    deed_done(v);
}

static void
send_long_frame(struct vandal *v)
{
    static const uint8_t head[] = { 0x43, 0x45, 1,    FRAME_HELLO, 0,    0,
                                    0xff, 0xff, 0xff, 0xff,        0xff, 0xff };

    conn_send_bytes(v->conn, head, sizeof(head));
    deed_done(v);
}

static void
send_hello(struct vandal *v)
{
    const struct traffic_model *m = &v->swarm->traffic.model;
    const char *codec = states_codec_name(m->codec);
    struct frame f = { .type = FRAME_HELLO };
    struct frame_hello *h = &f.u.hello;

    h->proto = FRAME_VERSION;
    h->epoch = 1;
    memcpy(h->fingerprint, m->fingerprint, sizeof(h->fingerprint));
    h->layer_from = m->layer_from;
    h->n_layers = m->n_layers;
    h->d_model = m->d_model;
    h->n_vocab = m->n_vocab;
    h->n_codecs = 1;
    h->codecs[0] = frame_str_of(codec, strlen(codec));
    h->agent = frame_str_of("vandal", 6);
    conn_send(v->conn, &f);
}

/* ---- in a session ---- */

static void
put_open(struct bytebuf *b, const struct vandal *v, const char *codec)
{
    struct frame f = { .type = FRAME_OPEN };

    f.u.open = (struct frame_open){ .epoch = 1,
                                    .seq = 1,
                                    .codec = frame_str_of(codec, strlen(codec)),
                                    .max_pos = v->swarm->traffic.seqs[0].n_rows,
                                    .keep_kv = true };
    frame_encode(b, &f);
}

static void
put_infer(struct bytebuf *b, uint32_t pos)
{
    struct frame f = { .type = FRAME_INFER };

    f.u.infer = (struct frame_infer){ .epoch = 1, .seq = 1, .pos = pos };
    frame_encode(b, &f);
}

static void
put_states(struct bytebuf *b, uint32_t pos, const uint8_t *row, size_t size)
{
    struct frame f = { .type = FRAME_STATES };

    f.u.states = (struct frame_states){
        .epoch = 1, .seq = 1, .pos = pos, .n = 1, .rows = row, .rows_size = size
    };
    frame_encode(b, &f);
}

/* Frames of a good session in which a few bits are turned over. */
static void
turn_bits(struct vandal *v, struct bytebuf *b)
{
    uint64_t n = 1 + swarm_random(v->swarm, 8);

    for (uint64_t i = 0; i < n; i++) {
        size_t at = (size_t)swarm_random(v->swarm, bytebuf_len(b));

        b->mem[b->off + at] ^= (uint8_t)(1u << swarm_random(v->swarm, 8));
    }
}

static void
put_not_finite(struct bytebuf *b, uint32_t d)
{
    static uint8_t row[4 * 16384];
    float bad = NAN;

    memset(row, 0, sizeof(row));
    memcpy(row + 4 * (d - 1), &bad, sizeof(bad));
    put_states(b, 0, row, 4 * (size_t)d);
}

static void
misbehave(struct vandal *v)
{
    const struct traffic *t = &v->swarm->traffic;
    const char *codec =
        v->deed == DEED_NOT_FINITE ? "f32" : states_codec_name(t->model.codec);
    struct bytebuf b;

    if (v->deed == DEED_LATE_NOISE) {
        send_noise(v, NOISE);
        return;
    }
    if (v->deed == DEED_SILENT_SESSION) {
        deed_done(v);
        return;
    }
    bytebuf_init(&b, 1 << 20);
    put_open(&b, v, codec);
    if (v->deed == DEED_NOT_FINITE) {
        put_not_finite(&b, t->model.d_model);
    } else if (v->deed == DEED_OVER_CREDIT) {
        put_states(&b, UINT32_MAX - 1, t->seqs[0].rows, t->row_bytes);
    } else {
        put_states(&b, 0, t->seqs[0].rows, t->row_bytes);
        put_infer(&b, t->seqs[0].n_rows - 1);
    }
    if (v->deed == DEED_TURNED_BITS)
        turn_bits(v, &b);
    conn_send_bytes(v->conn, bytebuf_data(&b), bytebuf_len(&b));
    bytebuf_fini(&b);
    deed_done(v);
}

/* ---- the connection ---- */

static void
on_ready(void *arg)
{
    static const uint8_t bomb[] = { 0xdf, 0xdf, 0xdf, 0x0a, 0x0a };
    static const uint8_t half[] = { 0x43, 0x45, 1, FRAME_HELLO, 0, 0, 0, 90 };
    struct vandal *v = arg;

    switch (v->deed) {
    case DEED_NOT_TLS:
    case DEED_NOISE:
        send_noise(v, NOISE);
        break;
    case DEED_LONG_FRAME:
        send_long_frame(v);
        break;
    case DEED_BAD_MAP:
        send_map(v, FRAME_HELLO, NULL, 200);
        break;
    case DEED_BOMB:
        send_map(v, FRAME_HELLO, bomb, sizeof(bomb));
        break;
    case DEED_HALF_FRAME:
        conn_send_bytes(v->conn, half, sizeof(half));
        deed_done(v);
        break;
    case DEED_SILENT_TCP:
    case DEED_SILENT_TLS:
        deed_done(v);
        break;
    default:
        send_hello(v);
        break;
    }
}

static void
next_deed(struct vandal *v, bool by_server)
{
    v->conn = NULL;
    v->next_us = clock_us() + PAUSE_US;
    if (by_server)
        v->swarm->vandal_closed++;
    else
        v->swarm->vandal_ignored++;
}

static void
on_frame(void *arg, const struct frame *f)
{
    struct vandal *v = arg;

    if (f->type == FRAME_WELCOME && !v->done) {
        conn_set_place(v->conn, FRAME_AT_AGENT_INFER);
        misbehave(v);
    } else if (f->type == FRAME_BYE || (f->type == FRAME_ERROR && !f->u.error.has_seq)) {
        conn_finish(v->conn);
        next_deed(v, true);
    }
}

static void
on_lost(void *arg, const char *why)
{
    (void)why;
    next_deed(arg, true);
}

static const struct conn_events events = { on_ready, on_frame, on_lost };

static void
start(struct vandal *v, int64_t now_us)
{
    struct swarm *w = v->swarm;
    bool plain, half_open = w->config.scenario == SWARM_HALF_OPEN;
    int from = half_open ? DEED_N_GARBAGE : 0, to = half_open ? DEED_END : DEED_N_GARBAGE;
    struct err err;

    v->deed = from + (int)swarm_random(w, (uint64_t)(to - from));
    plain = v->deed == DEED_NOT_TLS || v->deed == DEED_SILENT_TCP;
    v->done = false;
    v->since_us = now_us;
    w->vandal_tries++;
    if (conn_open(&v->conn, w->base, plain ? NULL : w->ctx[SWARM_OTHERS], &w->target,
                  w->config.sources > 1 ? (uint32_t)w->config.sources : 0,
                  FRAME_AT_AGENT_INFER_NEW, &events, v, &err) < 0)
        v->next_us = now_us + 20 * PAUSE_US;
}

void
vandal_tick(struct vandal *v, int64_t now_us)
{
    int64_t wait = silent(v) ? SILENT_WAIT_US : GARBAGE_WAIT_US;

    if (!v->conn) {
        if (now_us >= v->next_us && swarm_working(v->swarm))
            start(v, now_us);
        return;
    }
    if (silent(v) && v->done && conn_peer_gone(v->conn)) {
        conn_abort(v->conn);
        next_deed(v, true);
    } else if (now_us - v->since_us > wait) {
        conn_abort(v->conn);
        next_deed(v, false);
    }
}

void
vandal_end(struct vandal *v)
{
    conn_abort(v->conn);
    v->conn = NULL;
}
