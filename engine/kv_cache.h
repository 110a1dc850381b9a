/* SPDX-License-Identifier: Apache-2.0
 * kv_cache.h - pages of keys and values, and which sequence holds which.
 *
 * A page holds KV_PAGE positions of one block (layout: kernels.h). Every sequence
 * has, for each block, its own length and page table: a deeper block may have seen
 * fewer positions than a shallow one, and catches up later.
 *
 * Memory comes in slabs, taken from the system when first needed, up to a budget.
 * Every free page is all zero bytes: what a sequence wrote is gone before anybody
 * else can hold the page.
 *
 * Thread: one owner. Between reserve and advance, threads of a step may write the
 * reserved positions' slots; page tables do not move meanwhile.
 */
#ifndef CE_ENGINE_KV_CACHE_H
#define CE_ENGINE_KV_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct kv_config {
    int layer_from, layer_to; /* blocks that have a cache */
    int max_seqs;             /* >= 1 */
    size_t page_bytes;        /* > 0 */
    size_t budget_bytes;      /* of pages; 0: no limit */
};

/* One sequence's wish in a step. */
struct kv_need {
    int seq;
    int n_rows; /* new positions, >= 1 */
};

struct kv_cache;

int kv_cache_new(struct kv_cache **out, const struct kv_config *config,
                 struct err *err) CE_MUSTCHECK;
void kv_cache_free(struct kv_cache *kv); /* accepts NULL */

/* A handle within 0 .. max_seqs-1 with no positions; CE_ENOMEM when all are open. */
int kv_cache_open(struct kv_cache *kv, int *seq) CE_MUSTCHECK;
void kv_cache_close(struct kv_cache *kv, int seq); /* ignores what is not open */
bool kv_cache_is_open(const struct kv_cache *kv, int seq);

/* Keep the first n positions of every block that has more. CE_ENOTFOUND when the
 * sequence is not open, CE_EINVAL for n < 0. */
int kv_cache_truncate(struct kv_cache *kv, int seq, int32_t n);

/* Positions in one block; CE_ENOTFOUND for a sequence or block that is not there. */
int32_t kv_cache_n_past(const struct kv_cache *kv, int seq, int layer);

/* Bytes of pages of one sequence; of all when seq is -1. */
size_t kv_cache_bytes(const struct kv_cache *kv, int seq);

/* Make room for the next n_rows positions of each open sequence in blocks
 * [layer_from, layer_to). All or nothing: CE_ENOMEM leaves everything as it was. */
int kv_cache_reserve(struct kv_cache *kv, const struct kv_need *needs, int n_needs,
                     int layer_from, int layer_to) CE_MUSTCHECK;

/* The reserved positions have been written: count them. */
void kv_cache_advance(struct kv_cache *kv, const struct kv_need *needs, int n_needs,
                      int layer_from, int layer_to);

/* Page table of one block: page i holds positions 64 i .. 64 i + 63. Borrowed until
 * the next reserve, truncate or close of this sequence. */
uint16_t *const *kv_cache_pages(const struct kv_cache *kv, int seq, int layer);

#endif
