/* SPDX-License-Identifier: Apache-2.0
 * kernels.h - the table of arithmetic kernels, and the types they share.
 *
 * doc/NUMERICS.md defines the bits of every result; section numbers below are its.
 * Scalar kernels fill the whole table; each instruction set then replaces what it
 * does faster (kernels.c). They are interchangeable to the bit, so a caller may
 * split work by tile, row, head or chunk as it likes.
 *
 * Thread: kernels keep no state; any number of threads may run them on disjoint
 * outputs. No kernel fails, allocates or needs aligned activations.
 */
#ifndef CE_ENGINE_KERNELS_H
#define CE_ENGINE_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "engine/packed.h"

/* ---- activations ---- */

#define ACT_GROUP 32

/* Numbers added to integers below so that their bits, read as a float, are the
 * integer plus 1.5 * 2^23: one fma then converts and scales. */
#define ACT_MAGIC   0x4b400000
#define ACT_MAGIC_F 12582912.0f

/* 32 activations as int8 (section 2). */
struct act_group {
    int8_t q[ACT_GROUP]; /* -127 .. 127 */
    float d;             /* scale */
    float e;             /* d * sum of q */
    int32_t bias8;       /* ACT_MAGIC - 8 * sum of q, for nibbles without a minimum */
    int32_t bias128;     /* ACT_MAGIC - 128 * sum of q, for bytes made unsigned */
    float half_sum[2];   /* sums of the first and the last 16 of q */
};

/* What follows from the scale and the sums of the first and the last 16 of q. Sums of
 * activations that are not finite are any numbers, so they wrap. */
static inline void
act_group_sums(struct act_group *g, int32_t first, int32_t last)
{
    uint32_t s = (uint32_t)first + (uint32_t)last;

    g->half_sum[0] = (float)first;
    g->half_sum[1] = (float)last;
    g->e = g->d * (float)(int32_t)s;
    g->bias8 = (int32_t)(ACT_MAGIC - 8 * s);
    g->bias128 = (int32_t)(ACT_MAGIC - 128 * s);
}

/* What a matrix product reads. Which pointer is used depends on the matrix
 * (packed_is_quantised); the other one may be NULL. Rows lie one after another. */
struct activations {
    const struct act_group *groups; /* [n_rows, n_in / 32] */
    const float *x;                 /* [n_rows, n_in] */
    size_t n_rows;
};

/* ---- KV pages ----
 * A page holds KV_PAGE positions of one block: for each KV head its K, transposed in
 * strips of 16 positions, and its V, as half floats:
 *
 *   K[KV_PAGE / 16][head_dim][16], then V[KV_PAGE][head_dim]
 *
 * A page that is filled in part is read in part then: with K[head_dim][KV_PAGE] a few
 * positions took a line per dimension, and 144 positions from memory twice as long as 128
 * (3.2 and 1.5 us; Zen 4, three heads of 64). */

#define KV_PAGE          64
#define KV_STRIP         16 /* positions of K side by side */
#define KV_MAX_HEAD_DIM  256
#define KV_HEAD_DIM_STEP 16 /* head_dim is a multiple of this */

/* Half floats of one KV head's part of a page; head h starts at h times this. */
static inline size_t
kv_part_len(int head_dim)
{
    return (size_t)head_dim * KV_PAGE * 2;
}

/* Where K of a position stands in a part: dimension i is KV_STRIP * i further on. */
static inline size_t
kv_key_at(int head_dim, int slot)
{
    return (size_t)(slot / KV_STRIP) * (size_t)head_dim * KV_STRIP +
           (size_t)(slot % KV_STRIP);
}

/* The query heads that share one KV head, of consecutive rows of one sequence. Row
 * r stands at position pos + r and sees positions 0 .. pos + r. */
struct attention_job {
    const float *q;  /* after rope; row r's heads at q + r * q_stride */
    size_t q_stride; /* floats between rows */
    float *out;      /* likewise */
    size_t out_stride;
    int n_rows;  /* >= 1 */
    int n_group; /* query heads per KV head; [n_group, head_dim] are contiguous */
    int head_dim;
    int32_t pos;
    const uint16_t *const *pages; /* page i: positions 64 i .. 64 i + 63 */
    size_t part;                  /* this KV head's part starts at pages[i] + part */
    const uint16_t
        *next; /* the part read after this job, to be asked for early; or NULL */
};

/* ---- logits ---- */

#define LOGIT_CHUNK 1024 /* ids summed together (section 9) */

struct logit_chunk {
    float max;      /* the largest logit, that of `argmax` */
    float sum;      /* of exp(logit - max) */
    int32_t argmax; /* lowest id with it, counted from the start of the chunk */
};

/* ---- the table ---- */

struct kernels {
    const char *name; /* "scalar", "avx2", "neon-dotprod"; kernels.c has them all */

    /* Section 2. out: [n / 32] groups; n is a multiple of 32. */
    void (*quantise)(struct act_group *out, const float *x, size_t n);

    /* Section 3, by enum packed_format. y[r * y_stride + o] for every row r of `a`
     * and every output o of tiles [tile_from, tile_to), less the padding. */
    void (*matmul[PACKED_N_FORMATS])(float *y, size_t y_stride, const struct packed *w,
                                     size_t tile_from, size_t tile_to,
                                     const struct activations *a);

    /* Section 4. weight: [n], or NULL for none. y may be x. */
    void (*rmsnorm)(float *y, const float *x, const float *weight, size_t n, float eps);

    /* x[i] += y[i]. */
    void (*add)(float *x, const float *y, size_t n);

    /* Section 5: out[i] = silu(gate[i]) * up[i]. out may be gate or up. */
    void (*swiglu)(float *out, const float *gate, const float *up, size_t n);

    /* Section 6, one row in place: x [n_heads, head_dim]; cos, sin [n_rot / 2]. */
    void (*rope)(float *x, const float *cos, const float *sin, int n_heads, int head_dim,
                 int n_rot);

    /* The same of pairs (i, i + n_rot / 2) instead of neighbours. */
    void (*rope_halves)(float *x, const float *cos, const float *sin, int n_heads,
                        int head_dim, int n_rot);

    /* One position's K and V of one KV head into slot 0 .. KV_PAGE-1 of its part of
     * a page. k (after rope), v: [head_dim]. */
    void (*kv_append)(uint16_t *part, int slot, const float *k, const float *v,
                      int head_dim);

    /* Section 7. */
    void (*attention)(const struct attention_job *job);

    /* Section 9, one chunk of n <= LOGIT_CHUNK logits. A chunk with a NaN has a sum
     * that is not finite. */
    void (*logit_chunk)(struct logit_chunk *out, const float *x, size_t n);

    /* The first i in [from, n) with x[i] > threshold, or n. */
    size_t (*find_above)(const float *x, size_t from, size_t n, float threshold);
};

/* The kernels for `cpu`: NULL or "auto" takes the best this CPU runs; a name takes
 * that one, or is CE_EUNSUPPORTED with a text that says what the CPU lacks, or
 * CE_EINVAL when it is no name of kernels. The table is constant and static. */
int kernels_choose(const struct kernels **out, const char *cpu,
                   struct err *err) CE_MUSTCHECK;

/* Every table this CPU runs, scalar first; NULL past the last. For tests. */
const struct kernels *kernels_at(int i);

/* Who fills what; only kernels.c and tests call these. */
void kernels_scalar_install(struct kernels *k);
void kernels_avx2_install(struct kernels *k);
void kernels_avxvnni_install(struct kernels *k);
void kernels_avx512_install(struct kernels *k);
void kernels_neon_install(struct kernels *k);
void kernels_neon_dotprod_install(struct kernels *k);
void kernels_neon_i8mm_install(struct kernels *k);

#endif
