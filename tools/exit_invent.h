/* SPDX-License-Identifier: Apache-2.0
 * exit_invent.h - instructions that a chat model writes itself.
 *
 * The chat template is cut off where a user's words would begin, a few words of a given
 * prompt are put there, and the model goes on, sampled, until the turn ends. What comes
 * out is much like what its users were imagined to ask when it was trained.
 *
 * Thread: the backend's owner.
 */
#ifndef CE_TOOLS_EXIT_INVENT_H
#define CE_TOOLS_EXIT_INVENT_H

#include <signal.h>

#include "common/error.h"
#include "engine/chat_template.h"
#include "engine/tokenizer.h"
#include "tools/exit_prompts.h"
#include "tools/staged.h"

struct exit_invent {
    struct staged *staged; /* its last stop is the final head */
    int width;             /* answers together */
    const struct tokenizer *vocab;
    const struct chat_template *chat;
    uint64_t seed;
    const volatile sig_atomic_t *stop; /* not 0: end early, well; may be NULL */
};

/* Add n more prompts that are not there yet, as far as the model has so many ideas. */
int exit_invent_run(const struct exit_invent *e, struct exit_prompts *p, size_t n,
                    struct err *err) CE_MUSTCHECK;

#endif
