/* SPDX-License-Identifier: Apache-2.0
 * backoff.c - see backoff.h.
 */
#include "agent/backoff.h"

#include <string.h>

#include "common/random.h"

/* A number from 0 to n, n included. */
static int64_t
draw(struct backoff *b, int64_t n)
{
    return n > 0 ? (int64_t)(random_next(&b->random) % ((uint64_t)n + 1)) : 0;
}

static void
grow(struct backoff *b)
{
    b->wait_us = b->wait_us > b->limits.most_us / 2 ? b->limits.most_us : b->wait_us * 2;
}

void
backoff_begin(struct backoff *b, const struct backoff_limits *limits, int level,
              uint64_t seed, int64_t now_us)
{
    memset(b, 0, sizeof(*b));
    b->limits = *limits;
    b->random = seed;
    b->began_us = now_us;
    b->wait_us = limits->first_us;
    for (int i = 0; i < level && b->wait_us < limits->most_us; i++)
        grow(b);
}

bool
backoff_next(struct backoff *b, int64_t now_us, int64_t retry_us, int64_t *at_us)
{
    int64_t wait = b->n_tries == 0
                       ? draw(b, b->wait_us)
                       : b->wait_us / 2 + draw(b, b->wait_us - b->wait_us / 2);
    int64_t end_us = b->began_us + b->limits.total_us;

    if (retry_us > 0 && wait < retry_us)
        wait = retry_us + draw(b, retry_us / 4);
    if (b->n_tries >= b->limits.tries || now_us + wait > end_us)
        return false;
    if (b->n_tries > 0)
        grow(b);
    b->n_tries++;
    *at_us = now_us + wait;
    return true;
}
