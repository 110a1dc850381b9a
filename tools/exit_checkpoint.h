/* SPDX-License-Identifier: Apache-2.0
 * exit_checkpoint.h - the whole state of a training run in a file, so that it goes on as
 * if it had never ended.
 *
 * A GGUF file with a vector for each exit's numbers, moments and best numbers; it is
 * replaced by renaming. It carries a digest of all that decides what the run's steps are;
 * a file with another one is refused.
 *
 * Thread: one owner.
 */
#ifndef CE_TOOLS_EXIT_CHECKPOINT_H
#define CE_TOOLS_EXIT_CHECKPOINT_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "engine/model.h"

struct exit_checkpoint {
    uint8_t identity[32];
    uint32_t step;  /* done */
    uint32_t stale; /* held-out checks since the last better one */
    int n_exits;
    struct {
        size_t n;
        float *p, *m, *v, *best; /* [n], the caller's */
        float best_loss;
    } exits[MODEL_MAX_EXITS];
};

int exit_checkpoint_save(const struct exit_checkpoint *c, const char *path,
                         struct err *err) CE_MUSTCHECK;

/* Fill step, stale and the exits' vectors from the file; identity, n_exits and each n
 * are given. CE_EINVAL when it is another run's, CE_EFORMAT when it is damaged; then
 * vectors may be filled in part. */
int exit_checkpoint_load(struct exit_checkpoint *c, const char *path,
                         struct err *err) CE_MUSTCHECK;

#endif
