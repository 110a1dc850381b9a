/* SPDX-License-Identifier: Apache-2.0
 * memory.c - memory.h over the C library's allocator, which is jemalloc's when
 * the program links with it.
 *
 * The count asks the allocator for the size it really gave, so mem_free needs
 * no size from its caller and memory from before a resize is counted right.
 */
#include "common/memory.h"

#include <malloc.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static atomic_size_t used_bytes;
static atomic_long fail_countdown; /* 0: off; else fails when it is down to 1 */

static int
fails_on_purpose(void)
{
    long left = atomic_load_explicit(&fail_countdown, memory_order_relaxed);

    if (left == 0)
        return 0;
    if (left == 1)
        return 1;
    atomic_compare_exchange_strong(&fail_countdown, &left, left - 1);
    return 0;
}

static void *
count(void *ptr)
{
    if (ptr != NULL)
        atomic_fetch_add_explicit(&used_bytes, malloc_usable_size(ptr),
                                  memory_order_relaxed);
    return ptr;
}

static void
uncount(void *ptr)
{
    if (ptr != NULL)
        atomic_fetch_sub_explicit(&used_bytes, malloc_usable_size(ptr),
                                  memory_order_relaxed);
}

/* n * size, at least 1; 0 when it overflows or is past half the address space. */
static size_t
product(size_t n, size_t size)
{
    size_t bytes;

    if (__builtin_mul_overflow(n, size, &bytes) || bytes > SIZE_MAX / 2)
        return 0;
    return bytes > 0 ? bytes : 1;
}

void *
mem_array_alloc(size_t n, size_t size)
{
    size_t bytes = product(n, size);

    if (bytes == 0 || fails_on_purpose())
        return NULL;
    return count(calloc(1, bytes));
}

void *
mem_aligned_alloc(size_t n, size_t size)
{
    size_t bytes = product(n, size);

    if (bytes == 0 || fails_on_purpose())
        return NULL;
    bytes = (bytes + MEM_ALIGN - 1) / MEM_ALIGN * MEM_ALIGN;
    return count(aligned_alloc(MEM_ALIGN, bytes));
}

void *
mem_array_resize(void *ptr, size_t n, size_t size)
{
    size_t bytes = product(n, size);
    size_t old = ptr != NULL ? malloc_usable_size(ptr) : 0;
    void *now;

    if (bytes == 0 || fails_on_purpose())
        return NULL;
    now = realloc(ptr, bytes);
    if (now == NULL)
        return NULL;
    atomic_fetch_sub_explicit(&used_bytes, old, memory_order_relaxed);
    return count(now);
}

char *
mem_strndup(const char *s, size_t len)
{
    char *copy = len < SIZE_MAX ? mem_array_alloc(len + 1, 1) : NULL;

    if (copy != NULL && len > 0) /* s may be NULL when there is nothing to copy */
        memcpy(copy, s, len);
    return copy;
}

char *
mem_strdup(const char *s)
{
    return mem_strndup(s, strlen(s));
}

void
mem_free(void *ptr)
{
    uncount(ptr);
    free(ptr);
}

size_t
mem_used_bytes(void)
{
    return atomic_load_explicit(&used_bytes, memory_order_relaxed);
}

void
mem_test_fail_from(long nth)
{
    atomic_store(&fail_countdown, nth);
}
