/* SPDX-License-Identifier: Apache-2.0
 * channel.c - bytes to frames and back; see channel.h.
 *
 * Every way in which a frame can be wrong ends here or in a handler the same
 * way: one ERROR that says what and where, BYE, close. What comes after that
 * on the connection is not looked at.
 */
#include "server/channel.h"

#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "common/memory.h"
#include "server/session.h"
#include "server/session_tenant.h"

/* The longest frame we send is a TOKEN or WELCOME. */
#define MAX_OUT_FRAME (FRAME_HEADER_SIZE + FRAME_MAX_MAP + 8 * FRAME_MAX_TOP)

struct channel *
channel_new(struct server *srv, const struct channel_io *io, const struct tls_peer *peer,
            const char *address, int64_t now_us)
{
    struct channel *ch = mem_array_alloc(1, sizeof(*ch));

    if (ch)
        ch->peer = mem_array_alloc(1, sizeof(*ch->peer));
    if (!ch || !ch->peer) {
        mem_free(ch);
        return NULL;
    }
    *ch->peer = *peer;
    ch->srv = srv;
    ch->io = *io;
    ch->place = FRAME_AT_CLOUD_NEW;
    ch->since_us = ch->last_us = now_us;
    ch->idle_us = srv->idle_us;
    memcpy(ch->cert, peer->sha256, sizeof(ch->cert));
    snprintf(ch->name, sizeof(ch->name), "%s", peer->name);
    snprintf(ch->address, sizeof(ch->address), "%s", address);
    ch->next = srv->channels;
    if (ch->next)
        ch->next->prev = ch;
    srv->channels = ch;
    srv->n_channels++;
    return ch;
}

void
channel_forget_peer(struct channel *ch)
{
    mem_free(ch->peer);
    ch->peer = NULL;
}

static void
paused_add(struct channel *ch)
{
    struct server *srv = ch->srv;

    ch->paused_prev = NULL;
    ch->paused_next = srv->paused;
    if (ch->paused_next)
        ch->paused_next->paused_prev = ch;
    srv->paused = ch;
    srv->n_paused++;
}

static void
paused_remove(struct channel *ch)
{
    struct server *srv = ch->srv;

    if (ch->paused_prev)
        ch->paused_prev->paused_next = ch->paused_next;
    else
        srv->paused = ch->paused_next;
    if (ch->paused_next)
        ch->paused_next->paused_prev = ch->paused_prev;
    srv->n_paused--;
}

void
channel_free(struct channel *ch)
{
    struct server *srv = ch->srv;

    if (!ch->closed)
        channel_lost(ch, "closed");
    if (ch->paused)
        paused_remove(ch);
    if (ch->prev)
        ch->prev->next = ch->next;
    else
        srv->channels = ch->next;
    if (ch->next)
        ch->next->prev = ch->prev;
    srv->n_channels--;
    mem_free(ch->peer);
    mem_free(ch);
}

/* Refuse what arrived: the session, or this channel if it has none, ends. */
static void
channel_refuse(struct channel *ch, const struct err *err)
{
    log_info_limited("peer=%s refused: %s", ch->address, err->text);
    if (ch->session) {
        session_end(ch->session, err->code, err->text);
        return;
    }
    channel_send_error(ch, err->code, err->text);
    channel_close(ch);
}

/* What can be said against a header before its body is waited for. */
static int
header_check(const struct channel *ch, const struct frame_header *h, struct err *err)
{
    int rc = frame_allowed(h, ch->place, err);

    if (rc < 0)
        return rc;
    if (h->type == FRAME_GENERATE && h->payload_size / 4 > ch->srv->n_ctx)
        return err_set(err, CE_ECONTEXT,
                       "GENERATE: a prompt of %u tokens, the context here is %u",
                       h->payload_size / 4, ch->srv->n_ctx);
    return 0;
}

static void
count_in(struct channel *ch, int type, size_t bytes)
{
    if (ch->session)
        ch->session->bytes_in += bytes;
    metrics_frame_in(ch->srv->metrics, ch->session ? ch->session->usage : NULL, type,
                     bytes);
}

/* What ends a session is said on both its channels, and counted once. */
static void
count_out(struct channel *ch, const struct frame *f, size_t bytes)
{
    struct tenant_usage *t = ch->session ? ch->session->usage : NULL;

    if (ch->session)
        ch->session->bytes_out += bytes;
    metrics_frame_out(ch->srv->metrics, t, f->type, bytes);
    if (f->type == FRAME_ERROR && ch->place != FRAME_AT_CLOUD_UPLOAD)
        metrics_refused(ch->srv->metrics, t, (int)f->u.error.code);
}

/* Take one frame off the front. Returns its size, 0 when it is incomplete or
 * wrong. */
static size_t
channel_frame(struct channel *ch, const uint8_t *data, size_t len, int64_t now_us)
{
    struct frame_header h;
    struct frame f;
    struct err err;
    int rc = frame_header_decode(&h, data, len, &err);

    if (rc == CE_EAGAIN)
        return 0;
    if (rc == 0)
        rc = header_check(ch, &h, &err);
    if (rc == 0) {
        if (len < FRAME_HEADER_SIZE + frame_body_size(&h))
            return 0;
        rc = frame_decode(&f, &h, data + FRAME_HEADER_SIZE, &err);
    }
    if (rc < 0) {
        channel_refuse(ch, &err);
        return 0;
    }
    ch->last_us = now_us;
    count_in(ch, h.type, FRAME_HEADER_SIZE + frame_body_size(&h));
    if (log_enabled(LOG_LEVEL_DEBUG)) {
        char text[256];

        frame_text(&f, text, sizeof(text));
        log_debug("peer=%s in %s", ch->address, text);
    }
    session_frame(ch, &f);
    session_tenant_frame(ch, h.type, FRAME_HEADER_SIZE + frame_body_size(&h), now_us);
    return FRAME_HEADER_SIZE + frame_body_size(&h);
}

size_t
channel_input(struct channel *ch, const uint8_t *data, size_t len, int64_t now_us)
{
    size_t used = 0;

    while (!ch->closed && !ch->paused && used < len) {
        size_t n = channel_frame(ch, data + used, len - used, now_us);

        if (n == 0)
            break;
        used += n;
    }
    return ch->closed ? len : used;
}

void
channel_send(struct channel *ch, const struct frame *f)
{
    struct bytebuf b;
    int rc;

    if (ch->closed)
        return;
    bytebuf_init(&b, MAX_OUT_FRAME);
    frame_encode(&b, f);
    rc = bytebuf_status(&b);
    if (rc == 0)
        count_out(ch, f, bytebuf_len(&b));
    if (rc == 0)
        rc = ch->io.send(ch->io.arg, bytebuf_data(&b), bytebuf_len(&b));
    bytebuf_fini(&b);
    if (log_enabled(LOG_LEVEL_DEBUG)) {
        char text[256];

        frame_text(f, text, sizeof(text));
        log_debug("peer=%s out %s", ch->address, text);
    }
    if (rc < 0) {
        struct channel_io io = ch->io;

        channel_lost(ch,
                     rc == CE_EQUOTA ? "the peer does not read" : "no memory to send");
        io.abort(io.arg);
    }
}

void
channel_send_error(struct channel *ch, int code, const char *text)
{
    struct frame f = { .type = FRAME_ERROR };

    f.u.error.code = (uint32_t)-code;
    f.u.error.text = frame_str_of(text, strnlen(text, FRAME_MAX_TEXT));
    f.u.error.retry_ms = ch->retry_ms;
    channel_send(ch, &f);
}

void
channel_close(struct channel *ch)
{
    struct frame bye = { .type = FRAME_BYE };

    channel_send(ch, &bye);
    if (ch->closed)
        return;
    ch->closed = true;
    ch->io.finish(ch->io.arg);
}

void
channel_lost(struct channel *ch, const char *why)
{
    struct session *s = ch->session;

    if (ch->closed)
        return;
    ch->closed = true;
    log_debug("peer=%s lost: %s", ch->address, why);
    if (!s)
        return;
    ch->session = NULL;
    if (s->infer == ch) {
        s->infer = NULL;
        session_end(s, 0, why);
    } else {
        s->upload = NULL;
        session_set_state(s, SESSION_READY);
    }
}

void
channel_pause(struct channel *ch, bool paused)
{
    if (ch->paused == paused || ch->closed)
        return;
    ch->paused = paused;
    if (paused)
        paused_add(ch);
    else
        paused_remove(ch);
    ch->io.pause(ch->io.arg, paused);
}
