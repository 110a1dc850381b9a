/* SPDX-License-Identifier: Apache-2.0
 * policy.h - where a token comes from: a pure function of confidences, thresholds
 * and mode.
 *
 * The paper's rule (sections 4.1, 4.4): exit where the confidence reaches the
 * threshold, else go deeper, and past the last exit ask the cloud. Around it: the
 * modes, what happens without a cloud, and which hidden states travel when.
 *
 * An exit whose threshold is 1 or more lets no token out; it is skipped, its head
 * is not even computed, unless its confidence is needed for something else.
 *
 * Thread: any; nothing here has state.
 */
#ifndef CE_AGENT_POLICY_H
#define CE_AGENT_POLICY_H

#include <stdbool.h>

#include "common/error.h"
#include "engine/model.h"

enum policy_mode {
    POLICY_STANDALONE,    /* the last exit decides, no cloud */
    POLICY_COLLABORATIVE, /* the paper's algorithm */
    POLICY_CLOUD,         /* baseline: the cloud runs the whole model */
    POLICY_NAIVE,         /* baseline: every token by the cloud, all states each time */
    POLICY_EDGE_FULL,     /* baseline: the whole model here */
    POLICY_N_MODES
};

/* Names of the modes, then NULL; indexed by enum policy_mode. */
extern const char *const policy_mode_names[];

enum policy_upload {
    POLICY_UPLOAD_ALWAYS,     /* as soon as a row exists */
    POLICY_UPLOAD_BELOW,      /* once exit 1's confidence is below upload_theta */
    POLICY_UPLOAD_ON_REQUEST, /* with the next request */
};

enum policy_loss {                   /* the cloud failed in the middle of an answer */
                   POLICY_LOSS_FAIL, /* the answer ends with an error */
                   POLICY_LOSS_EDGE, /* the last exit goes on; its unsure tokens are
                                        marked */
};

struct policy {
    enum policy_mode mode;
    int n_exits;
    double theta[MODEL_MAX_EXITS]; /* per exit, shallowest first */
    enum policy_upload upload;
    double upload_theta;
    enum policy_loss on_loss;
    bool screens; /* let the exits' screens turn tokens away, where that is enough */
};

enum policy_step {
    POLICY_EMIT,     /* this exit's token */
    POLICY_DEEPER,   /* compute exit `exit` next */
    POLICY_ASK,      /* the cloud's token */
    POLICY_FALLBACK, /* this exit's token, for want of a cloud */
};

/* What to do at a new position. Returns POLICY_DEEPER with the first exit to
 * compute in *exit, or POLICY_ASK. alone: the cloud is lost. Not for the modes
 * cloud and edge-full, which have no choice to make. */
enum policy_step policy_begin(const struct policy *p, bool alone, int *exit);

/* What to do after exit `done` came out at `confidence`. */
enum policy_step policy_next(const struct policy *p, bool alone, int done,
                             double confidence, int *exit);

/* The confidence below which exit `done` need not say more than "below": a screen may
 * then end its check (batch.screen_theta). 0: all of its result matters. Whether a row
 * is below decides the same steps and releases as its confidence would. */
double policy_screen(const struct policy *p, bool alone, int done);

/* May rows up to and including a generated position travel, knowing exit 1's
 * confidence there? (have_confidence false: not computed yet.) Prompt rows ask with
 * in_prompt. Held rows go with the next ones that may, or with a request. */
bool policy_release(const struct policy *p, bool in_prompt, bool have_confidence,
                    double confidence);

/* Stages of the edge that this policy can ever need, at least 1: stage k runs the
 * blocks up to exit k. Deeper ones need not keep what they would catch up. */
int policy_n_stages(const struct policy *p);

bool policy_uses_cloud(const struct policy *p);
bool policy_uses_edge(const struct policy *p);

/* Set theta from text: "0.9" for every exit, or "18=0.98,24=0.9" by layer (others
 * keep theirs). layers: [n_exits] of the exits. CE_EINVAL with a text. */
int policy_parse_theta(struct policy *p, const int *layers, const char *text,
                       struct err *err) CE_MUSTCHECK;

/* "always", "below:X" or "on-request". */
int policy_parse_upload(struct policy *p, const char *text, struct err *err) CE_MUSTCHECK;

/* Index of a mode's name, or -1. */
int policy_find_mode(const char *name);

#endif
