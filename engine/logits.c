/* SPDX-License-Identifier: Apache-2.0
 * logits.c - merging chunks of logits, the largest few, the hash.
 *
 * The largest few are kept in a heap whose root is the entry to beat. Ids are
 * visited in ascending order, so an equal logit that comes later never wins, and a
 * chunk whose maximum does not beat the root is skipped without being read. Where some
 * hundreds of many are wanted in no order, and there are no chunks, a sample tells first
 * which are worth it: of 49,152 ids 256 take 5 us instead of 26 (Zen 4).
 */
#include "engine/logits.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/mathfn.h"

void
logits_chunks(const struct kernels *k, struct logit_chunk *chunks, const float *x,
              size_t n, size_t from, size_t to)
{
    for (size_t c = from; c < to; c++) {
        size_t first = c * LOGIT_CHUNK;

        k->logit_chunk(&chunks[c], x + first,
                       n - first < LOGIT_CHUNK ? n - first : LOGIT_CHUNK);
    }
}

int
logits_merge(struct logit_summary *out, const struct logit_chunk *chunks, size_t n_chunks)
{
    size_t best = 0;
    float sum = 0.0f;

    for (size_t c = 1; c < n_chunks; c++)
        if (chunks[c].max > chunks[best].max)
            best = c;
    out->max = chunks[best].max;
    out->argmax = (int32_t)(best * LOGIT_CHUNK) + chunks[best].argmax;
    for (size_t c = 0; c < n_chunks; c++)
        sum = fmaf(mathfn_expf(chunks[c].max - out->max), chunks[c].sum, sum);
    out->lse = (float)((double)out->max + mathfn_ln((double)sum));
    out->confidence = 1.0f / sum;
    return isfinite(out->max) && isfinite(sum) ? 0 : CE_EINTERNAL;
}

/* Order of the result: does a come before b? */
static int
ahead(const struct logit_entry *a, const struct logit_entry *b)
{
    return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

static int
by_rank(const void *a, const void *b)
{
    return ahead(a, b) ? -1 : 1;
}

/* Put `entry` into the empty place `hole` of a heap of n whose root is last in order. */
static void
heap_sink(struct logit_entry *heap, int n, int hole, struct logit_entry entry)
{
    for (;;) {
        int child = 2 * hole + 1;

        if (child >= n)
            break;
        if (child + 1 < n && ahead(&heap[child], &heap[child + 1]))
            child++;
        if (ahead(&heap[child], &entry))
            break;
        heap[hole] = heap[child];
        hole = child;
    }
    heap[hole] = entry;
}

static void
heap_make(struct logit_entry *heap, int n)
{
    for (int at = n / 2 - 1; at >= 0; at--)
        heap_sink(heap, n, at, heap[at]);
}

/* The n_top first in order of all n, looking at each. `chunks`, if any, tell which parts
 * have nothing to offer. */
static void
largest_of_all(const struct kernels *k, struct logit_entry *top, int n_top,
               const float *x, size_t n, const struct logit_chunk *chunks)
{
    size_t i = 0;

    for (; i < (size_t)n_top; i++)
        top[i] = (struct logit_entry){ (int32_t)i, x[i] };
    heap_make(top, n_top);
    while (i < n) {
        size_t chunk = i / LOGIT_CHUNK;
        size_t end = (chunk + 1) * LOGIT_CHUNK < n ? (chunk + 1) * LOGIT_CHUNK : n;

        if (chunks && !(chunks[chunk].max > top[0].logit)) {
            i = end;
            continue;
        }
        i = k->find_above(x, i, end, top[0].logit);
        if (i < end) {
            heap_sink(top, n_top, 0, (struct logit_entry){ (int32_t)i, x[i] });
            i++;
        }
    }
}

#define SAMPLE_STEP  16
#define MOST_LARGEST 1024
#define FEW          4 /* times as many as wanted may be looked at closely */

/* A threshold that probably a few more than n_top of the n exceed: a large one among
 * every sixteenth. */
static float
guess_threshold(int n_top, const float *x, size_t n)
{
    struct logit_entry top[MOST_LARGEST / SAMPLE_STEP * 5 / 4 + 8] = { 0 };
    int want = n_top / SAMPLE_STEP * 5 / 4 + 8;
    size_t i = 0;

    for (int at = 0; at < want; at++, i += SAMPLE_STEP)
        top[at] = (struct logit_entry){ (int32_t)i, x[i] };
    heap_make(top, want);
    for (; i < n; i += SAMPLE_STEP) {
        if (x[i] > top[0].logit)
            heap_sink(top, want, 0, (struct logit_entry){ (int32_t)i, x[i] });
    }
    return top[0].logit;
}

void
logits_largest(const struct kernels *k, struct logit_entry *top, int n_top,
               const float *x, size_t n)
{
    struct logit_entry near[FEW * MOST_LARGEST];
    size_t most = FEW * (size_t)n_top, n_near = 0;
    float threshold;

    if (n_top > MOST_LARGEST || n < 2 * SAMPLE_STEP * ((size_t)n_top + 8)) {
        largest_of_all(k, top, n_top, x, n, NULL);
        return;
    }
    threshold = guess_threshold(n_top, x, n);
    for (size_t i = k->find_above(x, 0, n, threshold); i < n && n_near <= most;
         i = k->find_above(x, i + 1, n, threshold)) {
        if (n_near < most)
            near[n_near] = (struct logit_entry){ (int32_t)i, x[i] };
        n_near++;
    }
    if (n_near < (size_t)n_top || n_near > most) { /* a bad guess */
        largest_of_all(k, top, n_top, x, n, NULL);
        return;
    }
    memcpy(top, near, (size_t)n_top * sizeof(*top));
    heap_make(top, n_top);
    for (size_t i = (size_t)n_top; i < n_near; i++) {
        if (ahead(&near[i], &top[0]))
            heap_sink(top, n_top, 0, near[i]);
    }
}

int
logits_top(const struct kernels *k, struct logit_entry *top, int n_top, const float *x,
           size_t n, const struct logit_chunk *chunks)
{
    if (n_top <= 0 || n == 0)
        return 0;
    if ((size_t)n_top > n)
        n_top = (int)n;
    largest_of_all(k, top, n_top, x, n, chunks);
    qsort(top, (size_t)n_top, sizeof(*top), by_rank);
    return n_top;
}

uint64_t
logits_hash(const float *x, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u;

    for (size_t i = 0; i < n; i++) {
        uint32_t bits;

        memcpy(&bits, &x[i], sizeof(bits));
        h = (h ^ bits) * 0x100000001b3u;
    }
    return h;
}
