/* SPDX-License-Identifier: Apache-2.0
 * test_threads.c - regions run on every thread, stages order what is written, an
 * idle pool sleeps, and the number of cores is read rightly.
 */
#include "engine/threads.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define MAX_N  9
#define ROUNDS 200

/* Each cell adds its neighbour's last value to its own, in stages of writing aside and
 * copying back: the outcome is that of the same steps on one thread. */
struct ring {
    struct threads *pool;
    int n;
    unsigned long cells[MAX_N], next[MAX_N];
};

static void
ring_turn(void *arg, int tid, int n_threads)
{
    struct ring *r = arg;

    (void)n_threads;
    for (int i = 0; i < ROUNDS; i++) {
        size_t n = (size_t)r->n, from, to;

        while (threads_take(r->pool, tid, n, 1, &from, &to)) {
            for (size_t c = from; c < to; c++)
                r->next[c] = r->cells[c] * 3 + r->cells[(c + 1) % n];
        }
        while (threads_take(r->pool, tid, 0, 1, &from, &to))
            abort();
        while (threads_take(r->pool, tid, n, 2, &from, &to)) {
            if (from % 2 != 0)
                abort();
            for (size_t c = from; c < to; c++)
                r->cells[c] = r->next[c];
        }
    }
}

static void
test_stages(void **state)
{
    unsigned long want[MAX_N] = { 0 };

    (void)state;
    for (int n = 1; n <= 5; n++) {
        struct ring r = { .n = MAX_N };
        struct err err;

        assert_int_equal(threads_new(&r.pool, n, &err), 0);
        assert_int_equal(threads_count(r.pool), n);
        for (int c = 0; c < MAX_N; c++)
            r.cells[c] = (unsigned long)c + 1;
        for (int i = 0; i < 20; i++)
            threads_run(r.pool, ring_turn, &r);
        if (n == 1)
            memcpy(want, r.cells, sizeof(want));
        assert_memory_equal(want, r.cells, sizeof(want));
        threads_free(r.pool);
    }
}

static void
mark(void *arg, int tid, int n_threads)
{
    int *marks = arg;

    marks[tid] += n_threads;
}

/* What a region wrote is visible to the caller, region after region. */
static void
test_regions(void **state)
{
    struct threads *pool;
    int marks[4] = { 0 };

    (void)state;
    assert_int_equal(threads_new(&pool, 4, NULL), 0);
    for (int i = 1; i <= 500; i++) {
        threads_run(pool, mark, marks);
        for (int t = 0; t < 4; t++)
            assert_int_equal(marks[t], 4 * i);
    }
    threads_free(pool);
    threads_free(NULL);
}

/* An idle pool uses next to no processor time. */
static void
test_idle(void **state)
{
    struct threads *pool;
    struct timespec a, b, pause = { .tv_nsec = 60000000 };
    int marks[3] = { 0 };
    double used;

    (void)state;
    assert_int_equal(threads_new(&pool, 3, NULL), 0);
    threads_run(pool, mark, marks);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
    nanosleep(&pause, NULL); /* the thing under test is what happens meanwhile */
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
    used = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) * 1e-9;
    assert_true(used < 0.02);
    threads_free(pool);
}

static void
test_share(void **state)
{
    (void)state;
    for (size_t n = 0; n < 70; n++) {
        for (int k = 1; k < 6; k++) {
            size_t at = 0, from, to;

            for (int t = 0; t < k; t++) {
                threads_share(n, 4, t, k, &from, &to);
                assert_int_equal(from, at);
                assert_true(to >= from && (to == n || to % 4 == 0));
                at = to;
            }
            assert_int_equal(at, n);
        }
    }
}

static void
test_bad_counts(void **state)
{
    struct threads *pool;
    struct err err;

    (void)state;
    assert_int_equal(threads_new(&pool, -1, &err), CE_EINVAL);
    assert_null(pool);
    assert_int_equal(threads_new(&pool, THREADS_MAX + 1, &err), CE_EINVAL);
    assert_int_equal(threads_new(&pool, 0, &err), 0);
    assert_int_equal(threads_count(pool), threads_default_count());
    assert_true(threads_default_count() >= 1);
    threads_free(pool);
}

/* ---- control groups ---- */

static void
put(const char *dir, const char *file, const char *text)
{
    char path[512];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", dir, file);
    f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void
make_dir(char *out, size_t size, const char *parent, const char *name)
{
    snprintf(out, size, "%s/%s", parent, name);
    assert_int_equal(mkdir(out, 0700), 0);
}

static void
drop(const char *dir)
{
    static const char *files[] = { "cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us" };
    char path[512];

    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, files[i]);
        unlink(path);
    }
    assert_int_equal(rmdir(dir), 0);
}

static void
test_cgroup(void **state)
{
    char root[] = "test_threads.XXXXXX", outer[64], inner[96], cpu[64], old[96];

    (void)state;
    assert_non_null(mkdtemp(root));
    make_dir(outer, sizeof(outer), root, "outer");
    make_dir(inner, sizeof(inner), outer, "inner");
    make_dir(cpu, sizeof(cpu), root, "cpu");
    make_dir(old, sizeof(old), cpu, "old");

    assert_int_equal(threads_cgroup_limit("0::/outer/inner\n", root), 0);
    put(inner, "cpu.max", "max 100000\n");
    assert_int_equal(threads_cgroup_limit("0::/outer/inner\n", root), 0);
    put(outer, "cpu.max", "250000 100000\n");
    assert_int_equal(threads_cgroup_limit("0::/outer/inner\n", root), 3);
    put(inner, "cpu.max", "50000 100000\n");
    assert_int_equal(threads_cgroup_limit("0::/outer/inner\n", root), 1);
    put(inner, "cpu.max", "nonsense");
    assert_int_equal(threads_cgroup_limit("0::/outer/inner", root), 3);

    put(old, "cpu.cfs_quota_us", "-1\n");
    put(old, "cpu.cfs_period_us", "100000\n");
    assert_int_equal(threads_cgroup_limit("4:cpuset:/x\n3:cpu,cpuacct:/old\n", root), 0);
    put(old, "cpu.cfs_quota_us", "200000\n");
    assert_int_equal(threads_cgroup_limit("4:cpuset:/x\n3:cpu,cpuacct:/old\n", root), 2);
    assert_int_equal(threads_cgroup_limit("3:cpuacct:/old\n", root), 0);
    assert_int_equal(threads_cgroup_limit("", root), 0);
    assert_int_equal(threads_cgroup_limit("garbage\n::\n:", root), 0);

    drop(old);
    drop(cpu);
    drop(inner);
    drop(outer);
    assert_int_equal(rmdir(root), 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stages),     cmocka_unit_test(test_regions),
        cmocka_unit_test(test_idle),       cmocka_unit_test(test_share),
        cmocka_unit_test(test_bad_counts), cmocka_unit_test(test_cgroup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
