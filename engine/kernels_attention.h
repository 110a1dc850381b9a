/* SPDX-License-Identifier: Apache-2.0
 * kernels_attention.h - the way of queries over the tiles, which is the same for
 * every instruction set (doc/NUMERICS.md section 7).
 *
 * Up to ATTENTION_QUERIES queries (rows x heads of the group) pass over the cache
 * together, so that a tile of K or V is widened to float once for all of them. Per
 * tile of 64 positions: scores (a lane is a position), softmax, values (a lane is a
 * dimension). The three are static functions of the file that includes this header.
 *
 * Positions that a query does not see may hold anything: their scores may be
 * computed and thrown away, their values are never read for it.
 */
#ifndef CE_ENGINE_KERNELS_ATTENTION_H
#define CE_ENGINE_KERNELS_ATTENTION_H

#include <math.h>

#include "engine/kernels.h"

/* At a time. With more, no set has the registers for their sums. */
#define ATTENTION_QUERIES 6

/* Call template(..., R) with the constant R that is `count`. */
#define CALL_FOR_COUNT(count, template, ...)                                             \
    switch (count) {                                                                     \
    case 1:                                                                              \
        template(__VA_ARGS__, 1);                                                        \
        break;                                                                           \
    case 2:                                                                              \
        template(__VA_ARGS__, 2);                                                        \
        break;                                                                           \
    case 3:                                                                              \
        template(__VA_ARGS__, 3);                                                        \
        break;                                                                           \
    case 4:                                                                              \
        template(__VA_ARGS__, 4);                                                        \
        break;                                                                           \
    case 5:                                                                              \
        template(__VA_ARGS__, 5);                                                        \
        break;                                                                           \
    default:                                                                             \
        template(__VA_ARGS__, ATTENTION_QUERIES);                                        \
    }

struct query {
    float q[KV_MAX_HEAD_DIM]; /* scaled */
    float o[KV_MAX_HEAD_DIM];
    float p[KV_PAGE]; /* scores, then their exponentials */
    float m, l;
    int32_t position;
    float *out;
};

/* Scores of at least the first `most` positions of a tile, for `count` queries. */
static void scores(struct query *queries, const uint16_t *keys, int most, int head_dim,
                   int count);

/* Turn the first n scores into exponentials; bring m, l and o up to the new maximum. */
static void soften(struct query *q, int n, bool first, int head_dim);

/* o += p V over positions [from, to) of a tile, for `count` queries. */
static void values_sum(struct query *queries, const uint16_t *values, int from, int to,
                       int head_dim, int count);

#define ASK_LINES 8

/* Ask for the start of what is read after the present step. The hardware follows a stream
 * once it has seen a few of its lines; that costs two or three trips to memory in a row
 * each time, as much as a tile's arithmetic for three queries. */
static inline void
ask_for(const uint16_t *start)
{
    for (int line = 0; start && line < ASK_LINES; line++)
        __builtin_prefetch(start + 32 * line);
}

/* Positions of the tile that starts at `from` which a query sees. */
static inline int
visible(const struct query *q, int32_t from)
{
    int32_t n = q->position - from + 1;

    return n < KV_PAGE ? (int)n : KV_PAGE;
}

/* `count` queries, by position ascending, the first of which sees the tile. */
static inline void
attend_tile(struct query *queries, int count, const uint16_t *keys, int32_t from,
            int head_dim, const uint16_t *next)
{
    const uint16_t *values = keys + (size_t)head_dim * KV_PAGE;
    int fewest = visible(&queries[0], from), most = visible(&queries[count - 1], from);

    ask_for(values);
    scores(queries, keys, most, head_dim, count);
    ask_for(next);
    for (int i = 0; i < count; i++)
        soften(&queries[i], visible(&queries[i], from), from == 0, head_dim);
    values_sum(queries, values, 0, fewest, head_dim, count);
    for (int i = 0; i < count; i++) {
        int n = visible(&queries[i], from);

        if (n > fewest)
            values_sum(&queries[i], values, fewest, n, head_dim, 1);
    }
}

static inline void
attend(struct query *queries, int count, const struct attention_job *job)
{
    int32_t last = queries[count - 1].position;

    for (int32_t from = 0; from <= last; from += KV_PAGE) {
        const uint16_t *next = job->next;
        int skip = 0;

        while (queries[skip].position < from)
            skip++;
        if (from + KV_PAGE <= last)
            next = job->pages[from / KV_PAGE + 1] + job->part;
        attend_tile(queries + skip, count - skip, job->pages[from / KV_PAGE] + job->part,
                    from, job->head_dim, next);
    }
    for (int r = 0; r < count; r++) {
        float inverse = 1.0f / queries[r].l;

        for (int i = 0; i < job->head_dim; i++)
            queries[r].out[i] = queries[r].o[i] * inverse;
    }
}

/* The kernel of the table. */
static inline void
attention(const struct attention_job *job)
{
    struct query queries[ATTENTION_QUERIES];
    float scale = 1.0f / sqrtf((float)job->head_dim);
    int count = 0, h = job->head_dim;

    for (int r = 0; r < job->n_rows; r++) {
        for (int g = 0; g < job->n_group; g++) {
            struct query *query = &queries[count++];
            const float *q = job->q + (size_t)r * job->q_stride + g * h;

            query->l = query->m = 0.0f;
            query->position = job->pos + r;
            query->out = job->out + (size_t)r * job->out_stride + g * h;
            for (int i = 0; i < h; i++) {
                query->q[i] = q[i] * scale;
                query->o[i] = 0.0f;
            }
            if (count == ATTENTION_QUERIES ||
                (r == job->n_rows - 1 && g == job->n_group - 1)) {
                attend(queries, count, job);
                count = 0;
            }
        }
    }
}

#endif
