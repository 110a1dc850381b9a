/* SPDX-License-Identifier: Apache-2.0
 * exit_net.h - an exit's adapter while it learns: numbers, their gradient, and the rows
 * that pass through.
 *
 * It is kept in coordinates in which all inputs are of order one, because states have a
 * few dimensions that are hundreds of times larger than the others, and one rate has to
 * suit all:
 *
 *     z = map s + bias + down (silu(gate t) * (up t))
 *     s = (x - mean) / sigma,  t = rms(x) / tau
 *
 * exit_net_fold gives the adapter as it is stored (exit_tune.h). gate and up have no bias
 * there, so t is only scaled.
 *
 * Thread: functions on rows [from, from + n) may run for disjoint rows at once, and
 * exit_net_gradient for different tiles. BLAS must run single-threaded.
 */
#ifndef CE_TOOLS_EXIT_NET_H
#define CE_TOOLS_EXIT_NET_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "engine/kernels.h"
#include "tools/exit_tune.h"

struct exit_net {
    size_t d, w;               /* w: of the hidden layer; 0: there is none */
    size_t n;                  /* numbers in p */
    float *p;                  /* map, bias, gate, up, down one after another */
    float *mean, *sigma, *tau; /* [d] each */
};

/* Where the parts of p, or of its gradient, begin. */
static inline size_t
exit_net_bias_at(const struct exit_net *e)
{
    return e->d * e->d;
}

static inline size_t
exit_net_gate_at(const struct exit_net *e)
{
    return e->d * e->d + e->d;
}

static inline size_t
exit_net_up_at(const struct exit_net *e)
{
    return exit_net_gate_at(e) + e->w * e->d;
}

static inline size_t
exit_net_down_at(const struct exit_net *e)
{
    return exit_net_gate_at(e) + 2 * e->w * e->d;
}

/* All zeros, sigma and tau ones. CE_ENOMEM. *e is empty on failure. */
int exit_net_init(struct exit_net *e, size_t d, size_t w) CE_MUSTCHECK;
void exit_net_fini(struct exit_net *e); /* accepts an empty one */

/* What a batch needs at each layer; [max, d] and [max, w]. */
struct exit_net_rows {
    float *s, *t;
    float *gate, *up, *mid;
    float *z;
};

int exit_net_rows_init(struct exit_net_rows *r, const struct exit_net *e,
                       size_t max) CE_MUSTCHECK; /* CE_ENOMEM */
void exit_net_rows_fini(struct exit_net_rows *r);

/* Row i := the state x [d]. */
void exit_net_put(const struct exit_net *e, const struct kernels *k,
                  const struct exit_net_rows *r, size_t i, const float *x);

/* Dropout (Srivastava et al., 2014): a share of the hidden layer's numbers is 0 in a step
 * and the others grow for it, so that no number can rely on another. Which they are is a
 * function of salt and row. */
struct exit_net_drop {
    uint64_t salt;
    unsigned n_of_256; /* how many are dropped; 0: none */
};

/* z of rows [from, from + n). */
void exit_net_forward(const struct exit_net *e, const struct kernels *k,
                      const struct exit_net_rows *r, size_t from, size_t n,
                      struct exit_net_drop drop);

/* After forward with the same drop, and after z of these rows was replaced by the loss's
 * gradient with respect to it: gate and up likewise. room: [2 * n, w]. */
void exit_net_backward(const struct exit_net *e, const struct kernels *k,
                       const struct exit_net_rows *r, size_t from, size_t n, float *room,
                       struct exit_net_drop drop);

/* After backward of rows [0, n): grad [e->n] := scale * gradient, in pieces. A tile
 * writes its piece and returns the sum of its squares. */
size_t exit_net_n_tiles(const struct exit_net *e);
double exit_net_gradient(const struct exit_net *e, const struct exit_net_rows *r,
                         size_t n, size_t tile, float scale, float *grad);

/* The same function in the coordinates of files. out: empty; CE_ENOMEM. */
int exit_net_fold(const struct exit_net *e, const float *p,
                  struct exit_adapter *out) CE_MUSTCHECK;

#endif
