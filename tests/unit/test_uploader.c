/* SPDX-License-Identifier: Apache-2.0
 * test_uploader.c - the upload thread against a cloud made of one blocking TLS
 * socket: attaching, credit, replay, a lost channel, a refusal, the end.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "agent/cloud_msg.h"
#include "agent/uploader.h"
#include "common/tls.h"

enum { D = 8 };

static char dir[] = "test_uploader.XXXXXX";
static SSL_CTX *server_ctx, *client_ctx;
static int listener = -1;
static struct mailbox *worker;
static struct uploader *uploader;

/* ---- the cloud's side ---- */

struct peer {
    int fd;
    SSL *ssl;
    uint8_t body[FRAME_MAX_MAP + FRAME_MAX_STATES]; /* of the last frame read */
};

static void
read_exactly(struct peer *p, void *out, size_t n)
{
    for (size_t done = 0; done < n;) {
        size_t got = 0;
        assert_int_equal(SSL_read_ex(p->ssl, (char *)out + done, n - done, &got), 1);
        done += got;
    }
}

static struct frame
read_frame(struct peer *p)
{
    uint8_t head[FRAME_HEADER_SIZE];
    struct frame_header h;
    struct frame f;

    read_exactly(p, head, sizeof(head));
    assert_int_equal(frame_header_decode(&h, head, sizeof(head), NULL), 0);
    read_exactly(p, p->body, frame_body_size(&h));
    assert_int_equal(frame_decode(&f, &h, p->body, NULL), 0);
    return f;
}

static void
write_frame(struct peer *p, const struct frame *f)
{
    struct bytebuf b;
    size_t n;

    bytebuf_init(&b, 4096);
    frame_encode(&b, f);
    assert_int_equal(SSL_write_ex(p->ssl, bytebuf_data(&b), bytebuf_len(&b), &n), 1);
    bytebuf_fini(&b);
}

/* Take the connection and the ATTACH, which must carry the session of this epoch. */
static struct peer *
accept_epoch(uint32_t epoch)
{
    struct peer *p = calloc(1, sizeof(*p));
    struct timeval limit = { 20, 0 };
    struct frame attached = { .type = FRAME_ATTACHED };

    assert_non_null(p);
    p->fd = accept(listener, NULL, NULL);
    assert_true(p->fd >= 0);
    setsockopt(p->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    p->ssl = SSL_new(server_ctx);
    SSL_set_fd(p->ssl, p->fd);
    assert_int_equal(SSL_accept(p->ssl), 1);
    struct frame f = read_frame(p);
    assert_int_equal(f.type, FRAME_ATTACH);
    assert_int_equal(f.u.attach.epoch, epoch);
    for (int i = 0; i < 16; i++) {
        assert_int_equal(f.u.attach.session[i], i);
        assert_int_equal(f.u.attach.secret[i], 100 + i);
    }
    write_frame(p, &attached);
    return p;
}

static struct peer *
accept_attach(void)
{
    return accept_epoch(1);
}

static void
drop(struct peer *p)
{
    SSL_free(p->ssl);
    close(p->fd);
    free(p);
}

static void
expect_states(struct peer *p, uint32_t pos, uint32_t n, uint32_t id)
{
    struct frame f = read_frame(p);

    assert_int_equal(f.type, FRAME_STATES);
    assert_int_equal(f.u.states.pos, pos);
    assert_int_equal(f.u.states.n, n);
    assert_int_equal(f.u.states.id, id);
    assert_int_equal(f.u.states.rows_size, n * states_row_bytes(STATES_F16, D));
    float rows[16 * D];
    assert_int_equal(states_decode(STATES_F16, f.u.states.rows, n, D, rows), 0);
    for (uint32_t i = 0; i < n; i++)
        assert_true(rows[i * D] == (float)(pos + i + 1));
}

/* ---- the worker's and the link's side ---- */

static void
tell(struct cloud_msg fields)
{
    struct cloud_msg *m = cloud_msg_new(fields.kind, NULL, 0);

    assert_non_null(m);
    m->seq = fields.seq;
    m->pos = fields.pos;
    m->id = fields.id;
    m->limit = fields.limit;
    m->codec = STATES_F16;
    cloud_msg_post(uploader_mailbox(uploader), m);
}
#define TELL(what, ...)                                                                  \
    tell((struct cloud_msg){ .kind = CLOUD_MSG_##what, .seq = 1, __VA_ARGS__ })

static void
put(uint32_t pos, uint32_t n)
{
    struct cloud_msg *m = cloud_msg_new(CLOUD_MSG_ROWS, NULL, n * D * sizeof(float));

    assert_non_null(m);
    for (uint32_t i = 0; i < n * D; i++)
        ((float *)(void *)m->data)[i] = (float)(pos + i / D + 1);
    m->seq = 1;
    m->pos = pos;
    m->n = n;
    cloud_msg_post(uploader_mailbox(uploader), m);
}

/* The thread ends, and says so to the cloud. */
static void
quit(struct peer *p)
{
    struct cloud_msg *m = cloud_msg_new(CLOUD_MSG_QUIT, NULL, 0);

    assert_non_null(m);
    cloud_msg_post(uploader_mailbox(uploader), m);
    assert_int_equal(read_frame(p).type, FRAME_BYE);
    drop(p);
}

static void
tell_session(uint32_t epoch, const char *node)
{
    struct cloud_session session = { .epoch = epoch };

    for (int i = 0; i < 16; i++) {
        session.session[i] = (uint8_t)i;
        session.secret[i] = (uint8_t)(100 + i);
    }
    snprintf(session.node, sizeof(session.node), "%s", node);
    assert_int_equal(uploader_session(uploader, &session, NULL), 0);
}

static int
begin(void **state)
{
    struct uploader_config config = { .ctx = client_ctx,
                                      .where = { .host = "127.0.0.1" },
                                      .connect_timeout_us = 10000000,
                                      .stall_timeout_us = 10000000,
                                      .d_model = D,
                                      .epoch = 1,
                                      .worker = worker };
    struct sockaddr_in at;
    socklen_t len = sizeof(at);

    (void)state;
    assert_int_equal(getsockname(listener, (struct sockaddr *)&at, &len), 0);
    snprintf(config.where.port, sizeof(config.where.port), "%d", ntohs(at.sin_port));
    assert_int_equal(uploader_start(&uploader, &config, NULL), 0);
    tell_session(1, "");
    TELL(OPEN, .pos = 100);
    return 0;
}

static int
end(void **state)
{
    (void)state;
    uploader_stop(uploader);
    uploader = NULL;
    cloud_msg_drop_all(worker);
    return 0;
}

static void
credit_then_replay(void **state)
{
    struct peer *p = accept_attach();

    (void)state;
    put(0, 10);
    TELL(RELEASE, .pos = 10);
    TELL(CREDIT, .limit = 6);
    expect_states(p, 0, 6, 0);
    TELL(NEED, .pos = 2, .id = 1, .limit = 8);
    expect_states(p, 2, 6, 1);
    TELL(CREDIT, .limit = 100);
    expect_states(p, 8, 2, 1);
    put(10, 1); /* not released: nothing; then with the next */
    put(11, 1);
    TELL(RELEASE, .pos = 12);
    expect_states(p, 10, 2, 1);
    struct frame ping = { .type = FRAME_PING, .u.ping.nonce = 5 };
    write_frame(p, &ping);
    struct frame f = read_frame(p);
    assert_int_equal(f.type, FRAME_PONG);
    assert_int_equal(f.u.ping.nonce, 5);
    assert_true(uploader_bytes(uploader) > 20 * states_row_bytes(STATES_F16, D));
    TELL(CLOSE, .pos = 0);
    quit(p);
}

static void
lost_channel(void **state)
{
    struct peer *p = accept_attach();

    (void)state;
    put(0, 3);
    TELL(RELEASE, .pos = 3);
    TELL(CREDIT, .limit = 100);
    expect_states(p, 0, 3, 0);
    drop(p); /* without BYE */
    p = accept_attach();
    expect_states(p, 0, 3, 0); /* all of it again */
    put(3, 1);
    TELL(RELEASE, .pos = 4);
    expect_states(p, 3, 1, 0);
    drop(p);
    /* It tries three times in all, then says so. */
    drop(accept_attach());
    drop(accept_attach());
    struct mailbox_msg *m = mailbox_wait(worker, 20000000);
    assert_non_null(m);
    assert_int_equal(cloud_msg_of(m)->kind, CLOUD_MSG_SEQ_ERROR);
    assert_int_equal(cloud_msg_of(m)->seq, 1);
    assert_non_null(strstr(cloud_msg_of(m)->err.text, "upload channel"));
    cloud_msg_free(cloud_msg_of(m));
    /* The next sequence may have a channel again. */
    tell((struct cloud_msg){ .kind = CLOUD_MSG_OPEN, .seq = 2, .pos = 100 });
    quit(accept_attach());
}

static void
refused(void **state)
{
    struct peer *p = accept_attach();
    struct frame f = { .type = FRAME_ERROR };

    (void)state;
    f.u.error.code = (uint32_t)-CE_EQUOTA;
    f.u.error.text = frame_str_of("too much", 8);
    write_frame(p, &f);
    struct mailbox_msg *m = mailbox_wait(worker, 20000000);
    assert_non_null(m);
    assert_int_equal(cloud_msg_of(m)->err.code, CE_EQUOTA);
    assert_non_null(strstr(cloud_msg_of(m)->err.text, "too much"));
    cloud_msg_free(cloud_msg_of(m));
    drop(p);
}

/* Another session: the old channel is left, the new one gets all rows again, under the
 * sequence's new number. Its node has a name of its own behind the same address. */
static void
moved(void **state)
{
    struct peer *p = accept_attach();

    (void)state;
    put(0, 5);
    TELL(RELEASE, .pos = 4);
    TELL(CREDIT, .limit = 3);
    expect_states(p, 0, 3, 0);
    tell_session(2, "localhost");
    assert_int_equal(read_frame(p).type, FRAME_BYE);
    drop(p);
    put(5, 1);
    tell((struct cloud_msg){ .kind = CLOUD_MSG_REOPEN, .seq = 2 });
    tell((struct cloud_msg){ .kind = CLOUD_MSG_CREDIT, .seq = 2, .limit = 100 });
    p = accept_epoch(2);
    assert_string_equal(SSL_get_servername(p->ssl, TLSEXT_NAMETYPE_host_name),
                        "localhost");
    expect_states(p, 0, 4, 0);
    /* A node that is nowhere: this session is of no use, another one may be. */
    tell_session(3, "no node:x");
    assert_int_equal(read_frame(p).type, FRAME_BYE);
    drop(p);
    tell((struct cloud_msg){ .kind = CLOUD_MSG_REOPEN, .seq = 3 });
    struct mailbox_msg *m = mailbox_wait(worker, 20000000);
    assert_non_null(m);
    assert_int_equal(cloud_msg_of(m)->kind, CLOUD_MSG_SEQ_ERROR);
    assert_int_equal(cloud_msg_of(m)->seq, 3);
    assert_true(cloud_msg_of(m)->again);
    assert_non_null(strstr(cloud_msg_of(m)->err.text, "neither NAME nor HOST:PORT"));
    cloud_msg_free(cloud_msg_of(m));
}

/* ---- certificates ---- */

static char paths[5][64];

static const char *
in_dir(int i, const char *name)
{
    snprintf(paths[i], sizeof(paths[i]), "%s/%s", dir, name);
    return paths[i];
}

static int
set_up(void **state)
{
    const char *src = getenv("CECOLLM_SRCDIR");
    char command[4200];
    struct err err = { 0 };
    struct sockaddr_in at = { .sin_family = AF_INET };

    (void)state;
    signal(SIGPIPE, SIG_IGN);
    assert_non_null(mkdtemp(dir));
    snprintf(command, sizeof(command), "sh '%s/build-aux/dev-certs.sh' %s >/dev/null",
             src != NULL ? src : ".", dir);
    assert_int_equal(system(command), 0);
    struct tls_files cloud = { in_dir(0, "ca.crt"), in_dir(1, "cloudd.crt"),
                               in_dir(2, "cloudd.key"), NULL };
    struct tls_files agent = { in_dir(0, "ca.crt"), in_dir(3, "agent.crt"),
                               in_dir(4, "agent.key"), NULL };
    assert_int_equal(tls_server_new(&server_ctx, &cloud, &err), 0);
    assert_int_equal(tls_client_new(&client_ctx, &agent, &err), 0);
    assert_int_equal(mailbox_new(&worker, NULL), 0);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listener = socket(AF_INET, SOCK_STREAM, 0);
    struct timeval limit = { 20, 0 };
    setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    assert_int_equal(bind(listener, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(listener, 8), 0);
    return 0;
}

static int
tear_down(void **state)
{
    char command[64];

    (void)state;
    SSL_CTX_free(server_ctx);
    SSL_CTX_free(client_ctx);
    mailbox_free(worker);
    close(listener);
    snprintf(command, sizeof(command), "rm -r %s", dir);
    return system(command);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(credit_then_replay, begin, end),
        cmocka_unit_test_setup_teardown(lost_channel, begin, end),
        cmocka_unit_test_setup_teardown(refused, begin, end),
        cmocka_unit_test_setup_teardown(moved, begin, end),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
