/* SPDX-License-Identifier: Apache-2.0
 * exit_spread.h - some of the rows kept for exits, evenly of all, and what an exit says
 * of them.
 *
 * Thread: the backend's owner.
 */
#ifndef CE_TOOLS_EXIT_SPREAD_H
#define CE_TOOLS_EXIT_SPREAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "engine/backend.h"
#include "tools/exit_rows.h"

struct exit_spread {
    const struct exit_rows *rows;
    bool held_out; /* which kind */
    size_t n;      /* how many are taken, at most as many as there are */
};

struct exit_spread_out {
    float *states;               /* [n, d_model] after the exit's blocks */
    int32_t *final;              /* [n] the final head's argmax, or NULL */
    struct head_result *results; /* [n] of the exit */
    float *head_in;              /* [n, d_model] what its output matrix reads, or NULL */
};

/* Of those taken, n from `from`: states and final alone. */
int exit_spread_read(const struct exit_spread *s, int exit, size_t d, size_t from,
                     size_t n, const struct exit_spread_out *out,
                     struct err *err) CE_MUSTCHECK;

/* And through exit `exit` of b, which is the rows' too. */
int exit_spread_run(const struct exit_spread *s, struct backend *b, int exit, size_t from,
                    size_t n, const struct exit_spread_out *out,
                    struct err *err) CE_MUSTCHECK;

#endif
