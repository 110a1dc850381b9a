/* SPDX-License-Identifier: Apache-2.0
 * test_kv_cache.c - pages: all or nothing, per-block lengths, wiped when freed.
 */
#include "engine/kv_cache.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define PAGE 256 /* bytes */

static struct kv_cache *
cache(int layer_from, int layer_to, int max_seqs, size_t n_pages)
{
    struct kv_config c = { layer_from, layer_to, max_seqs, PAGE, n_pages * PAGE };
    struct kv_cache *kv;

    assert_int_equal(kv_cache_new(&kv, &c, NULL), 0);
    return kv;
}

static int
reserve(struct kv_cache *kv, int seq, int n_rows, int from, int to)
{
    struct kv_need need = { seq, n_rows };
    int rc = kv_cache_reserve(kv, &need, 1, from, to);

    if (rc == 0)
        kv_cache_advance(kv, &need, 1, from, to);
    return rc;
}

static void
test_handles(void **state)
{
    struct kv_cache *kv = cache(0, 1, 2, 0);
    int a, b, c;

    (void)state;
    assert_int_equal(kv_cache_open(kv, &a), 0);
    assert_int_equal(kv_cache_open(kv, &b), 0);
    assert_int_not_equal(a, b);
    assert_int_equal(kv_cache_open(kv, &c), CE_ENOMEM);
    kv_cache_close(kv, a);
    kv_cache_close(kv, a);
    kv_cache_close(kv, -1);
    kv_cache_close(kv, 99);
    assert_false(kv_cache_is_open(kv, a));
    assert_int_equal(kv_cache_n_past(kv, a, 0), CE_ENOTFOUND);
    assert_int_equal(kv_cache_truncate(kv, a, 0), CE_ENOTFOUND);
    assert_int_equal(kv_cache_open(kv, &c), 0);
    assert_int_equal(c, a);
    kv_cache_free(kv);
    kv_cache_free(NULL);
}

static void
test_lengths(void **state)
{
    struct kv_cache *kv = cache(2, 6, 4, 0);
    int s;

    (void)state;
    assert_int_equal(kv_cache_open(kv, &s), 0);
    assert_int_equal(reserve(kv, s, 65, 2, 4), 0);
    assert_int_equal(reserve(kv, s, 10, 4, 6), 0);
    assert_int_equal(kv_cache_n_past(kv, s, 2), 65);
    assert_int_equal(kv_cache_n_past(kv, s, 3), 65);
    assert_int_equal(kv_cache_n_past(kv, s, 4), 10);
    assert_int_equal(kv_cache_n_past(kv, s, 1), CE_ENOTFOUND);
    assert_int_equal(kv_cache_n_past(kv, s, 6), CE_ENOTFOUND);
    assert_int_equal(kv_cache_bytes(kv, s), (2 + 2 + 1 + 1) * PAGE);
    assert_int_equal(kv_cache_truncate(kv, s, 64), 0);
    assert_int_equal(kv_cache_bytes(kv, s), 4 * PAGE);
    assert_int_equal(kv_cache_n_past(kv, s, 2), 64);
    assert_int_equal(kv_cache_n_past(kv, s, 5), 10);
    assert_int_equal(kv_cache_truncate(kv, s, 1000), 0);
    assert_int_equal(kv_cache_n_past(kv, s, 2), 64);
    assert_int_equal(kv_cache_truncate(kv, s, -1), CE_EINVAL);
    assert_int_equal(kv_cache_truncate(kv, s, 0), 0);
    assert_int_equal(kv_cache_bytes(kv, -1), 0);
    kv_cache_free(kv);
}

static void
test_budget(void **state)
{
    struct kv_cache *kv = cache(0, 2, 3, 7);
    struct kv_need both[2];
    int a, b;

    (void)state;
    assert_int_equal(kv_cache_open(kv, &a), 0);
    assert_int_equal(kv_cache_open(kv, &b), 0);
    assert_int_equal(reserve(kv, a, 128, 0, 2), 0); /* 4 of 7 pages */
    both[0] = (struct kv_need){ a, 1 };             /* 2 more */
    both[1] = (struct kv_need){ b, 1 };             /* and 2: one too many */
    assert_int_equal(kv_cache_reserve(kv, both, 2, 0, 2), CE_ENOMEM);
    assert_int_equal(kv_cache_bytes(kv, a), 4 * PAGE);
    assert_int_equal(kv_cache_bytes(kv, b), 0);
    assert_int_equal(kv_cache_n_past(kv, a, 0), 128);
    assert_int_equal(reserve(kv, b, 1, 0, 2), 0);
    assert_int_equal(reserve(kv, a, 1, 0, 2), CE_ENOMEM);
    assert_int_equal(reserve(kv, a, 1, 0, 1), 0); /* the last page */
    assert_int_equal(kv_cache_bytes(kv, -1), 7 * PAGE);
    kv_cache_close(kv, a);
    assert_int_equal(kv_cache_bytes(kv, -1), 2 * PAGE);
    assert_int_equal(reserve(kv, b, 128, 0, 2), 0);
    assert_int_equal(reserve(kv, b, INT32_MAX, 0, 2), CE_ENOMEM);
    kv_cache_free(kv);
}

/* A reservation that was not advanced is used by the next one, not lost. */
static void
test_unused_reservation(void **state)
{
    struct kv_cache *kv = cache(0, 1, 1, 2);
    struct kv_need need;
    int s;

    (void)state;
    assert_int_equal(kv_cache_open(kv, &s), 0);
    need = (struct kv_need){ s, 100 };
    assert_int_equal(kv_cache_reserve(kv, &need, 1, 0, 1), 0);
    assert_int_equal(kv_cache_n_past(kv, s, 0), 0);
    assert_int_equal(reserve(kv, s, 128, 0, 1), 0);
    assert_int_equal(kv_cache_bytes(kv, s), 2 * PAGE);
    kv_cache_free(kv);
}

static int
all_zero(const void *p, size_t n)
{
    const unsigned char *c = p;

    for (size_t i = 0; i < n; i++) {
        if (c[i] != 0)
            return 0;
    }
    return 1;
}

/* What a sequence wrote is gone when its pages are freed, also by truncation. */
static void
test_wiped(void **state)
{
    struct kv_cache *kv = cache(0, 2, 2, 4);
    int a, b;

    (void)state;
    assert_int_equal(kv_cache_open(kv, &a), 0);
    assert_int_equal(reserve(kv, a, 128, 0, 2), 0);
    for (int layer = 0; layer < 2; layer++) {
        for (int i = 0; i < 2; i++)
            memset(kv_cache_pages(kv, a, layer)[i], 0xa5, PAGE);
    }
    assert_int_equal(kv_cache_truncate(kv, a, 64), 0);
    assert_int_equal(kv_cache_open(kv, &b), 0);
    assert_int_equal(reserve(kv, b, 64, 0, 2), 0); /* the two freed ones */
    for (int layer = 0; layer < 2; layer++)
        assert_true(all_zero(kv_cache_pages(kv, b, layer)[0], PAGE));
    kv_cache_close(kv, b);
    kv_cache_close(kv, a);
    assert_int_equal(kv_cache_open(kv, &b), 0);
    assert_int_equal(reserve(kv, b, 128, 0, 2), 0); /* all four */
    for (int layer = 0; layer < 2; layer++) {
        for (int i = 0; i < 2; i++) {
            assert_true(all_zero(kv_cache_pages(kv, b, layer)[i], PAGE));
            assert_int_equal((uintptr_t)kv_cache_pages(kv, b, layer)[i] % 64, 0);
        }
    }
    kv_cache_free(kv);
}

static void
test_bad_config(void **state)
{
    struct kv_config c = { 0, 1, 1, PAGE, 0 };
    struct kv_cache *kv;

    (void)state;
    c.page_bytes = 0;
    assert_int_equal(kv_cache_new(&kv, &c, NULL), CE_EINVAL);
    c.page_bytes = PAGE;
    c.max_seqs = 0;
    assert_int_equal(kv_cache_new(&kv, &c, NULL), CE_EINVAL);
    assert_null(kv);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_handles), cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_budget),  cmocka_unit_test(test_unused_reservation),
        cmocka_unit_test(test_wiped),   cmocka_unit_test(test_bad_config),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
