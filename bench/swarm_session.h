/* SPDX-License-Identifier: Apache-2.0
 * swarm_session.h - one recorded agent: its connections and its dialog.
 *
 * Thread: the loop's.
 */
#ifndef CE_BENCH_SWARM_SESSION_H
#define CE_BENCH_SWARM_SESSION_H

#include "bench/swarm.h"

enum session_state {
    SESSION_OFF,        /* not yet started, or over */
    SESSION_CONNECTING, /* until WELCOME */
    SESSION_READY,      /* idle */
    SESSION_ATTACHING,  /* until ATTACHED */
    SESSION_OPENING,    /* until CREDIT */
    SESSION_ASKING,     /* until TOKEN */
    SESSION_THINKING,
    SESSION_BACKING_OFF, /* will connect again, or open again */
};

/* How a session of the others differs from an honest one. */
struct session_habits {
    bool may_be_cut; /* losing a connection is part of the plan */
    bool slow;       /* reads seldom, asks for much */
    bool no_think;
};

struct session {
    struct swarm *swarm;
    int number, group;
    bool active; /* runs sequences; else only keeps its connection */
    struct session_habits habits;
    enum session_state state;
    bool welcomed, answered, ended; /* once at least; for good */
    struct conn *infer, *upload;
    bool attached, going; /* going: GOAWAY came */
    struct event *timer;
    const struct conn_target *node;
    uint8_t id[16], secret[16];
    int64_t idle_us;
    uint32_t epoch, seq;

    uint32_t index; /* of its sequence in the traffic */
    uint32_t next_request, sent, limit, replay;
    uint32_t attempts; /* to connect, since the last welcome */
    int64_t connect_us, asked_us, lost_us, infer_us, upload_us, read_us;
    int64_t return_us; /* GOAWAY: not before this while */
    uint64_t nonce;
};

int session_init(struct session *s, struct swarm *swarm, int number, int group,
                 struct err *err) CE_MUSTCHECK;
void session_start(struct session *s);
/* Begin to work, when it is idle and has work. */
void session_wake(struct session *s);
/* Once a tick: pings, patience, habits. */
void session_tick(struct session *s, int64_t now_us);
/* Break both connections, as a storm does, and come back. */
void session_cut(struct session *s);
/* Say BYE and be over. */
void session_end(struct session *s);
void session_fini(struct session *s);

/* ---- between swarm_session.c and swarm_dialog.c ---- */

void session_set_state(struct session *s, enum session_state to);
void session_set_timer(struct session *s, int64_t us);
struct stats_group *session_stats(struct session *s);
bool session_counted(const struct session *s); /* is this the measured time? */
void session_send(struct session *s, const struct frame *f); /* infer channel */
/* Say BYE to a server that stops, and come back when it said. */
void session_leave(struct session *s);
void session_attach(struct session *s); /* open the upload channel */
/* Come back after least_us and a while that grows with every failure. */
void session_back_off(struct session *s, int64_t least_us);

/* With the next request of the present sequence, over a new OPEN. */
void dialog_begin(struct session *s);
void dialog_open(struct session *s);
void dialog_ask(struct session *s);
/* True when the frame was one of a sequence. */
bool dialog_frame(struct session *s, const struct frame *f);

#endif
