/* SPDX-License-Identifier: Apache-2.0
 * memory.h - allocation with checked sizes and a count of the bytes held.
 *
 * Every allocation may fail, and failing means CE_ENOMEM for one request, not
 * the end of the process: all functions return NULL and set nothing else. What
 * comes from here goes back by mem_free, so that mem_used_bytes stays true.
 *
 * Thread: any.
 */
#ifndef CE_COMMON_MEMORY_H
#define CE_COMMON_MEMORY_H

#include <stddef.h>

#define MEM_ALIGN 64 /* a cache line, and the widest vector */

/* n elements of `size` bytes, zeroed. NULL when the product overflows or
 * memory is out; never NULL for n = 0. */
void *mem_array_alloc(size_t n, size_t size) __attribute__((malloc));

/* The same, not zeroed, aligned to MEM_ALIGN; for tensors and large buffers. */
void *mem_aligned_alloc(size_t n, size_t size) __attribute__((malloc));

/* Resize to n elements, keeping what fits; new elements are not zeroed. On
 * failure the old array stays valid. Not for aligned memory. */
void *mem_array_resize(void *ptr, size_t n, size_t size);

/* Copies that end with a NUL. s may be NULL when len is 0. */
char *mem_strdup(const char *s) __attribute__((malloc));
char *mem_strndup(const char *s, size_t len) __attribute__((malloc));

void mem_free(void *ptr); /* accepts NULL */

/* Bytes now held through these functions, as the allocator rounds them. */
size_t mem_used_bytes(void);

/* For tests: the nth allocation from now (1 is the next one) fails, and every
 * later one, until called with 0. */
void mem_test_fail_from(long nth);

#endif
