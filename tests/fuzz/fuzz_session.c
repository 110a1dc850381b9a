/* SPDX-License-Identifier: Apache-2.0
 * fuzz_session.c - any bytes as a history of connections: frames in, steps of the
 * backend, lost rows, time, broken connections, in any order.
 *
 * The input is a program. One byte says what happens and to which channel; raw
 * bytes and well-formed frames of small numbers are both among it, so that the
 * fuzzer gets past HELLO and ATTACH by itself. At the end everything must be
 * freed and every promise of session_world.h kept.
 */
#include "tests/unit/session_world.h"

#include "common/log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct program {
    const uint8_t *data;
    size_t size, at;
};

static uint8_t
take(struct program *p)
{
    return p->at < p->size ? p->data[p->at++] : 0;
}

/* Small mostly; sometimes far out. */
static uint32_t
number(struct program *p)
{
    uint8_t b = take(p);

    return b < 0xf8 ? b % 64 : b < 0xfe ? UINT32_MAX - (b & 7) : (uint32_t)b << 8;
}

static void
put_states(struct program *p, struct frame *f, uint8_t *rows)
{
    uint32_t i, n = 1 + take(p) % 16;

    f->type = FRAME_STATES;
    f->u.states.epoch = 1;
    f->u.states.seq = take(p) % 4;
    f->u.states.branch = take(p) % 8;
    f->u.states.id = take(p) % 4;
    f->u.states.pos = number(p);
    f->u.states.n = n;
    if (f->u.states.pos > UINT32_MAX - n)
        f->u.states.pos = 0;
    f->u.states.rows = rows;
    f->u.states.rows_size = n * WORLD_D * 4;
    for (i = 0; i < n * WORLD_D * 4; i++)
        rows[i] = (uint8_t)(i % 4 == 3 ? 0x3f : i);
}

static void
put_generate(struct program *p, struct frame *f, uint8_t *ids)
{
    f->type = FRAME_GENERATE;
    f->u.generate.epoch = 1;
    f->u.generate.seq = take(p) % 4;
    f->u.generate.max_tokens = take(p);
    f->u.generate.top_p = 1;
    f->u.generate.ids = ids;
    f->u.generate.n_ids = 1 + take(p) % 31;
    memset(ids, 0, f->u.generate.n_ids * 4);
}

static void
put_frame(struct world *w, struct program *p, int channel)
{
    struct frame f = { 0 };
    uint8_t room[16 * WORLD_D * 4];

    switch (take(p) % 9) {
    case 0:
        f.type = FRAME_OPEN;
        f.u.open = (struct frame_open){ 1, take(p) % 4, frame_str_of("f32", 3), number(p),
                                        take(p) % 4 != 0 };
        break;
    case 1:
    case 2:
        put_states(p, &f, room);
        break;
    case 3:
        f.type = FRAME_INFER;
        f.u.infer = (struct frame_infer){
            .epoch = 1, .seq = take(p) % 4, .branch = take(p) % 8, .pos = number(p)
        };
        f.u.infer.deadline_ms = take(p) % 2 ? take(p) : 0;
        f.u.infer.has_draft = take(p) % 2;
        break;
    case 4:
        f.type = FRAME_TRUNCATE;
        f.u.truncate = (struct frame_truncate){ 1, take(p) % 4, take(p) % 8, number(p) };
        break;
    case 5:
        f.type = FRAME_CLOSE;
        f.u.close = (struct frame_close){ 1, take(p) % 4 };
        break;
    case 6:
        f.type = FRAME_CANCEL;
        f.u.cancel = (struct frame_cancel){ 1, take(p) % 4, number(p) };
        break;
    case 7:
        put_generate(p, &f, room);
        break;
    default:
        f.type = take(p) % 2 ? FRAME_PING : FRAME_BYE;
    }
    world_frame(w, channel, &f);
}

static void
put_raw(struct world *w, struct program *p, int channel)
{
    size_t n = take(p);

    if (n > p->size - p->at)
        n = p->size - p->at;
    (void)world_input(w, channel, p->data + p->at, n);
    p->at += n;
}

static void
connect_as(struct world *w, struct program *p, int channel)
{
    struct frame f;

    world_drop(w, channel);
    world_connect(w, channel, take(p) % 4 == 0);
    if (channel % 2 == 0)
        f = world_hello();
    else if (w->srv.sessions)
        f = world_attach(w);
    else
        return;
    world_frame(w, channel, &f);
}

static void
event(struct world *w, struct program *p)
{
    uint8_t op = take(p);
    int channel = op / 16 % WORLD_CHANNELS;

    w->now_us += 1000;
    switch (op % 16) {
    case 0:
        connect_as(w, p, channel);
        break;
    case 1:
        world_drop(w, channel);
        break;
    case 2:
        put_raw(w, p, channel);
        break;
    case 3:
        world_step(w, 1 + take(p) % WORLD_STEP);
        break;
    case 4:
        world_replies(w);
        break;
    case 5:
        if (w->srv.sessions)
            content_lost(w->content, (uint64_t)(uintptr_t)w->srv.sessions->link,
                         take(p) % 4, number(p), w->now_us);
        break;
    case 6:
        w->now_us += (int64_t)take(p) * 1000000;
        (void)content_expire(w->content, w->now_us);
        server_tick(&w->srv, w->now_us);
        break;
    case 7:
        w->channels[channel].deaf = true;
        break;
    case 8:
        w->hold = true;
        break;
    case 9:
        world_release(w);
        server_resume(&w->srv, w->now_us);
        break;
    case 10:
        if (take(p) == 99)
            server_drain(&w->srv, 1000, "test");
        break;
    default:
        put_frame(w, p, channel);
    }
}

/* With plenty of memory, or with so little that sequences are evicted. */
static void
play(const uint8_t *data, size_t size, bool scarce)
{
    struct program p = { data, size, 0 };
    size_t before = mem_used_bytes();
    struct world w;

    world_init_with(&w, scarce);
    while (p.at < p.size) {
        event(&w, &p);
        world_must(!scarce || (content_kv_bytes(w.content) <= 2 * WORLD_LAYERS &&
                               content_row_bytes(w.content) <= 2048));
    }
    world_fini(&w);
    world_must(mem_used_bytes() == before);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    log_set_level(LOG_LEVEL_ERROR);
    play(data, size, false);
    play(data, size, true);
    return 0;
}
