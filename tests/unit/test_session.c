/* SPDX-License-Identifier: Apache-2.0
 * test_session.c - sessions and channels without a network: handshake, refusals,
 * credit at the door, pausing, idle times, lost connections, draining, memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/log.h"
#include "tests/unit/session_world.h"

static struct world w;
static struct frame f; /* the last frame read */

static int
set_up(void **state)
{
    (void)state;
    log_set_level(LOG_LEVEL_ERROR);
    world_init(&w);
    return 0;
}

static int
tear_down(void **state)
{
    (void)state;
    world_fini(&w);
    return 0;
}

/* The next frame that the server sent on a channel. Its texts stay valid until
 * the next read of that channel. */
static const struct frame *
read_frame(int i)
{
    static size_t used[WORLD_CHANNELS];
    struct bytebuf *out = &w.channels[i].out;
    struct frame_header h;

    bytebuf_consume(out, used[i]);
    used[i] = 0;
    assert_int_equal(frame_header_decode(&h, bytebuf_data(out), bytebuf_len(out), NULL),
                     0);
    assert_true(bytebuf_len(out) >= FRAME_HEADER_SIZE + frame_body_size(&h));
    assert_int_equal(frame_decode(&f, &h, bytebuf_data(out) + FRAME_HEADER_SIZE, NULL),
                     0);
    bytebuf_consume(out, FRAME_HEADER_SIZE + frame_body_size(&h));
    return &f;
}

static const struct frame *
expect(int i, enum frame_type type)
{
    assert_int_equal(read_frame(i)->type, type);
    return &f;
}

static void
expect_end(int i, int code)
{
    if (code < 0) {
        assert_int_equal(expect(i, FRAME_ERROR)->u.error.code, -code);
        assert_false(f.u.error.has_seq);
        assert_true(f.u.error.text.len > 0);
    }
    expect(i, FRAME_BYE);
    assert_true(w.channels[i].closed);
    assert_int_equal(bytebuf_len(&w.channels[i].out), 0);
}

static void
expect_seq_error(int i, uint32_t seq, int code)
{
    assert_int_equal(expect(i, FRAME_ERROR)->u.error.code, -code);
    assert_true(f.u.error.has_seq);
    assert_int_equal(f.u.error.seq, seq);
}

static void
say_hello(int i)
{
    struct frame hello = world_hello();

    world_connect(&w, i, 1);
    world_frame(&w, i, &hello);
    expect(i, FRAME_WELCOME);
}

static void
pair(int infer, int upload)
{
    struct frame attach;

    say_hello(infer);
    attach = world_attach(&w);
    world_connect(&w, upload, 1);
    world_frame(&w, upload, &attach);
    expect(upload, FRAME_ATTACHED);
}

static void
open_seq(int i, uint32_t seq)
{
    struct frame open = { .type = FRAME_OPEN };

    open.u.open = (struct frame_open){ 1, seq, frame_str_of("f32", 3), 100, true };
    world_frame(&w, i, &open);
    world_replies(&w);
}

static void
send_rows(int i, uint32_t seq, uint32_t pos, uint32_t n)
{
    static const uint8_t zeros[64 * WORLD_D * 4];
    struct frame states = { .type = FRAME_STATES };

    states.u.states =
        (struct frame_states){ 1, seq, 0, 0, pos, n, zeros, n * WORLD_D * 4 };
    world_frame(&w, i, &states);
}

static void
ask(int i, uint32_t seq, uint32_t pos)
{
    struct frame infer = { .type = FRAME_INFER };

    infer.u.infer = (struct frame_infer){ .epoch = 1, .seq = seq, .pos = pos };
    world_frame(&w, i, &infer);
}

static void
test_welcome(void **state)
{
    struct frame hello = world_hello();

    (void)state;
    world_connect(&w, 0, 1);
    world_frame(&w, 0, &hello);
    expect(0, FRAME_WELCOME);
    assert_int_equal(f.u.welcome.window, WORLD_WINDOW);
    assert_int_equal(f.u.welcome.n_ctx, WORLD_CTX);
    assert_int_equal(f.u.welcome.max_seqs, 4);
    assert_int_equal(f.u.welcome.idle_ms, 60000);
    assert_int_equal(f.u.welcome.n_codecs, STATES_N_CODECS);
    assert_true(frame_str_equal(f.u.welcome.numerics, "test"));
    assert_memory_equal(f.u.welcome.session, w.srv.sessions->id, 16);
    assert_memory_not_equal(f.u.welcome.session, f.u.welcome.secret, 16);
}

static void
test_hello_refused(void **state)
{
    struct frame hello[8];
    int codes[8] = { CE_EMISMATCH, CE_EMISMATCH, CE_EMISMATCH,    CE_EMISMATCH,
                     CE_EMISMATCH, CE_EMISMATCH, CE_EUNSUPPORTED, CE_EUNSUPPORTED };
    int i;

    (void)state;
    for (i = 0; i < 8; i++)
        hello[i] = world_hello();
    hello[0].u.hello.fingerprint[31] ^= 1;
    hello[1].u.hello.n_layers++;
    hello[2].u.hello.d_model++;
    hello[3].u.hello.layer_from = 1;
    hello[4].u.hello.layer_from = WORLD_LAYERS;
    hello[5].u.hello.codecs[0] = frame_str_of("zip", 3);
    hello[6].u.hello.proto = 2;
    hello[7].u.hello.whole_model = true;
    w.srv.whole_model = false;
    for (i = 0; i < 8; i++) {
        world_connect(&w, 0, 1);
        world_frame(&w, 0, &hello[i]);
        expect_end(0, codes[i]);
        world_drop(&w, 0);
    }
    assert_int_equal(w.srv.n_sessions, 0);
}

static void
test_sessions_are_limited(void **state)
{
    struct frame hello = world_hello();

    (void)state;
    say_hello(0);
    say_hello(1);
    say_hello(2);
    world_connect(&w, 3, 1);
    world_frame(&w, 3, &hello);
    expect_end(3, CE_EQUOTA);
    world_drop(&w, 0);
    say_hello(0); /* room again */
}

static void
test_attach_refused(void **state)
{
    struct frame attach[4];
    int i;

    (void)state;
    say_hello(0);
    for (i = 0; i < 4; i++)
        attach[i] = world_attach(&w);
    attach[0].u.attach.secret[0] ^= 1;
    attach[1].u.attach.session[15] ^= 1;
    attach[2].u.attach.epoch = 2;
    for (i = 0; i < 4; i++) {
        world_connect(&w, 1, i == 3 ? 2 : 1); /* the last: another certificate */
        world_frame(&w, 1, &attach[i]);
        expect_end(1, CE_EAUTH);
        world_drop(&w, 1);
    }
    assert_int_equal(w.srv.sessions->state, SESSION_READY);
}

static void
test_upload_channel_comes_and_goes(void **state)
{
    struct frame attach, bye = { .type = FRAME_BYE };

    (void)state;
    pair(0, 1);
    assert_int_equal(w.srv.sessions->state, SESSION_PAIRED);
    attach = world_attach(&w);
    world_connect(&w, 2, 1); /* again: the old one was half open */
    world_frame(&w, 2, &attach);
    expect(2, FRAME_ATTACHED);
    expect_end(1, 0);
    world_frame(&w, 2, &bye);
    expect_end(2, 0);
    assert_int_equal(w.srv.sessions->state, SESSION_READY);
    world_connect(&w, 3, 1);
    world_frame(&w, 3, &attach);
    expect(3, FRAME_ATTACHED);
    world_drop(&w, 3); /* breaks */
    assert_int_equal(w.srv.n_sessions, 1);
    assert_int_equal(w.srv.sessions->state, SESSION_READY);
}

static void
test_a_token(void **state)
{
    (void)state;
    pair(0, 1);
    open_seq(0, 5);
    assert_int_equal(expect(0, FRAME_CREDIT)->u.credit.limit, WORLD_WINDOW);
    ask(0, 5, 2);
    send_rows(1, 5, 0, 3);
    world_step(&w, 9);
    world_replies(&w);
    assert_int_equal(expect(0, FRAME_TOKEN)->u.token.token, 2);
    assert_int_equal(f.u.token.seq, 5);
    assert_int_equal(f.u.token.rows, 3);
    send_rows(0, 5, 3, 1); /* on the infer channel, as well */
    ask(0, 5, 3);
    world_step(&w, 9);
    world_replies(&w);
    assert_int_equal(expect(0, FRAME_TOKEN)->u.token.pos, 3);
}

static void
test_states_past_credit(void **state)
{
    (void)state;
    pair(0, 1);
    send_rows(1, 1, 0, 1); /* not open: dropped */
    open_seq(0, 1);
    expect(0, FRAME_CREDIT);
    send_rows(1, 1, 0, WORLD_WINDOW);
    send_rows(1, 1, WORLD_WINDOW, 1);
    expect_end(1, CE_EPROTO);
    expect_end(0, CE_EPROTO);
    assert_int_equal(content_n_seqs(w.content), 0);
}

/* After NEED has lowered the limit, rows on their way are judged by the old one. */
static void
test_need_lowers_the_limit(void **state)
{
    struct session *s;

    (void)state;
    pair(0, 1);
    open_seq(0, 1);
    expect(0, FRAME_CREDIT);
    send_rows(1, 1, 0, 20);
    ask(0, 1, 19);
    world_step(&w, 32);
    world_replies(&w);
    expect(0, FRAME_TOKEN);
    assert_int_equal(expect(0, FRAME_CREDIT)->u.credit.limit, WORLD_WINDOW + 20);
    s = w.srv.sessions;
    content_lost(w.content, (uint64_t)(uintptr_t)s->link, 1, 4, w.now_us);
    world_replies(&w);
    assert_int_equal(expect(0, FRAME_NEED)->u.need.limit, WORLD_WINDOW + 4);
    send_rows(1, 1, WORLD_WINDOW + 4, 16); /* id 0: was allowed when it was sent */
    assert_int_equal(w.srv.n_sessions, 1);
    send_rows(1, 1, WORLD_WINDOW + 20, 1); /* was never allowed */
    expect_end(0, CE_EPROTO);
}

static void
test_sequences_are_limited(void **state)
{
    struct frame close = { .type = FRAME_CLOSE };
    uint32_t seq;

    (void)state;
    say_hello(0);
    for (seq = 1; seq <= 4; seq++) {
        open_seq(0, seq);
        expect(0, FRAME_CREDIT);
    }
    open_seq(0, 5);
    expect_seq_error(0, 5, CE_EQUOTA);
    close.u.close = (struct frame_close){ 1, 2 };
    world_frame(&w, 0, &close);
    open_seq(0, 6);
    expect(0, FRAME_CREDIT);
    open_seq(0, 6);
    expect_end(0, CE_EPROTO);
}

static void
test_generate_refused_frees_the_sequence(void **state)
{
    static const uint8_t id[4] = { 1 };
    struct frame g = { .type = FRAME_GENERATE };

    (void)state;
    say_hello(0);
    open_seq(0, 1);
    expect(0, FRAME_CREDIT);
    g.u.generate = (struct frame_generate){
        .epoch = 1, .seq = 1, .max_tokens = 3, .top_p = 1, .ids = id, .n_ids = 1
    };
    w.srv.whole_model = false;
    world_frame(&w, 0, &g);
    expect_seq_error(0, 1, CE_EUNSUPPORTED);
    assert_int_equal(content_n_seqs(w.content), 0);
    open_seq(0, 1);
    expect(0, FRAME_CREDIT);
    w.srv.whole_model = true;
    world_frame(&w, 0, &g);
    world_step(&w, 9);
    world_replies(&w);
    assert_int_equal(expect(0, FRAME_TOKEN)->u.token.pos, 0);
}

static void
test_another_epoch_is_dropped(void **state)
{
    struct frame infer = { .type = FRAME_INFER };

    (void)state;
    say_hello(0);
    open_seq(0, 1);
    expect(0, FRAME_CREDIT);
    infer.u.infer = (struct frame_infer){ .epoch = 2, .seq = 1, .pos = 5000 };
    world_frame(&w, 0, &infer);
    world_replies(&w);
    assert_int_equal(bytebuf_len(&w.channels[0].out), 0);
}

static void
test_byte_by_byte(void **state)
{
    struct frame hello = world_hello(), ping = { .type = FRAME_PING };
    struct bytebuf b;
    size_t i, begin = 0;

    (void)state;
    bytebuf_init(&b, 10000);
    frame_encode(&b, &hello);
    ping.u.ping.nonce = 77;
    frame_encode(&b, &ping);
    world_connect(&w, 0, 1);
    for (i = 1; i <= bytebuf_len(&b); i++) /* what is not used comes again */
        begin += world_input(&w, 0, bytebuf_data(&b) + begin, i - begin);
    assert_int_equal(begin, bytebuf_len(&b));
    expect(0, FRAME_WELCOME);
    assert_int_equal(expect(0, FRAME_PONG)->u.ping.nonce, 77);
    bytebuf_fini(&b);
}

static void
test_a_flood_is_paused(void **state)
{
    int i;

    (void)state;
    pair(0, 1);
    open_seq(0, 1);
    expect(0, FRAME_CREDIT);
    w.hold = true; /* the backend is in a long step */
    for (i = 0; i < 100 && !w.channels[1].paused; i++)
        send_rows(1, 1, 0, 4);
    assert_true(i > 10 && i < 100);
    assert_int_equal(w.srv.n_paused, 1);
    server_resume(&w.srv, w.now_us);
    assert_true(w.channels[1].paused); /* not yet */
    world_release(&w);
    server_resume(&w.srv, w.now_us);
    assert_false(w.channels[1].paused);
    assert_int_equal(content_rows(w.content), 4);
}

static void
test_a_deaf_peer_is_dropped(void **state)
{
    (void)state;
    pair(0, 1);
    open_seq(0, 1);
    expect(0, FRAME_CREDIT);
    w.channels[0].deaf = true;
    ask(0, 1, 500); /* past max_pos: an ERROR that cannot be sent */
    world_replies(&w);
    assert_true(w.channels[0].closed);
    assert_int_equal(w.srv.n_sessions, 0);
    expect_end(1, 0);
}

static void
test_idle_times(void **state)
{
    struct frame ping = { .type = FRAME_PING };

    (void)state;
    pair(0, 1);
    world_connect(&w, 2, 1);
    w.now_us += 9999999;
    server_tick(&w.srv, w.now_us);
    assert_false(w.channels[2].closed);
    w.now_us += 1;
    server_tick(&w.srv, w.now_us);
    expect_end(2, CE_ETIMEOUT); /* no first frame */
    w.now_us += 49999999;
    world_frame(&w, 0, &ping);
    expect(0, FRAME_PONG);
    w.now_us += 1;
    server_tick(&w.srv, w.now_us);
    expect_end(1, 0); /* the upload channel alone */
    assert_int_equal(w.srv.n_sessions, 1);
    w.now_us += 60000000;
    server_tick(&w.srv, w.now_us);
    expect_end(0, CE_ETIMEOUT);
    assert_int_equal(w.srv.n_sessions, 0);
}

static void
test_drain(void **state)
{
    struct frame close = { .type = FRAME_CLOSE };

    (void)state;
    pair(0, 1);
    open_seq(0, 1);
    expect(0, FRAME_CREDIT);
    say_hello(2); /* without a sequence */
    world_connect(&w, 3, 1);
    server_drain(&w.srv, 5000, "bye");
    expect(2, FRAME_GOAWAY);
    expect_end(2, 0);
    expect_end(3, 0);
    assert_int_equal(expect(0, FRAME_GOAWAY)->u.goaway.deadline_ms, 5000);
    open_seq(0, 2);
    expect_seq_error(0, 2, CE_ECLOSED);
    send_rows(1, 1, 0, 1); /* the running one goes on */
    ask(0, 1, 0);
    world_step(&w, 1);
    world_replies(&w);
    expect(0, FRAME_TOKEN);
    close.u.close = (struct frame_close){ 1, 1 };
    world_frame(&w, 0, &close);
    expect_end(0, 0);
    assert_int_equal(w.srv.n_sessions, 0);
}

static void
test_replies_to_the_dead_are_dropped(void **state)
{
    (void)state;
    pair(0, 1);
    open_seq(0, 1);
    expect(0, FRAME_CREDIT);
    send_rows(1, 1, 0, 1);
    ask(0, 1, 0);
    world_step(&w, 1); /* the TOKEN is on its way ... */
    world_drop(&w, 0); /* ... and its session gone */
    world_replies(&w);
    expect_end(1, 0);
}

/* Every allocation fails in turn; whatever then happens, nothing leaks. */
static void
test_without_memory(void **state)
{
    struct frame first = world_hello();
    struct bytebuf hello;
    long nth;

    (void)state;
    bytebuf_init(&hello, 1000);
    frame_encode(&hello, &first);
    for (nth = 1; nth < 40; nth++) {
        world_connect(&w, 0, 1);
        mem_test_fail_from(nth);
        (void)world_input(&w, 0, bytebuf_data(&hello), bytebuf_len(&hello));
        mem_test_fail_from(0);
        if (w.srv.n_sessions == 1) {
            open_seq(0, 1);
            w.hold = true;
            send_rows(0, 1, 0, 2);
            ask(0, 1, 1);
            mem_test_fail_from(nth % 7 + 1);
            world_release(&w);
            world_step(&w, 4);
            mem_test_fail_from(0);
            world_replies(&w);
        }
        world_drop(&w, 0);
        world_replies(&w);
        assert_int_equal(w.srv.n_sessions, 0);
        assert_int_equal(content_bytes(w.content), 0);
    }
    bytebuf_fini(&hello);
}

int
main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_welcome),
        TEST(test_hello_refused),
        TEST(test_sessions_are_limited),
        TEST(test_attach_refused),
        TEST(test_upload_channel_comes_and_goes),
        TEST(test_a_token),
        TEST(test_states_past_credit),
        TEST(test_need_lowers_the_limit),
        TEST(test_sequences_are_limited),
        TEST(test_generate_refused_frees_the_sequence),
        TEST(test_another_epoch_is_dropped),
        TEST(test_byte_by_byte),
        TEST(test_a_flood_is_paused),
        TEST(test_a_deaf_peer_is_dropped),
        TEST(test_idle_times),
        TEST(test_drain),
        TEST(test_replies_to_the_dead_are_dropped),
        TEST(test_without_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
