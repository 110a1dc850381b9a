/* SPDX-License-Identifier: Apache-2.0
 * test_packed_cache.c - files of packed weights: what is written is what is mapped;
 * whatever was done to a file in between, it is either whole or refused, and says why;
 * writers do not disturb readers.
 */
#include "engine/packed_cache.h"

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/memory.h"
#include "engine/gguf.h"

#define N         5
#define FILE_NAME "test.packed"
#define HEAD      65536 /* where the data begins */

static char dir[] = "test_packed_cache.XXXXXX";
static char path[sizeof(dir) + sizeof(FILE_NAME)];
static struct threads *pool;
static uint8_t *data; /* of all matrices */
static size_t data_bytes;
static struct packed want[N], got[N];
static struct packed_matrix matrices[N], asked[N]; /* those written, those to map */
static uint8_t id[32] = { 1, 2, 3 };
static struct packed_cache cache = { dir, FILE_NAME, id, matrices, N };
static struct packed_cache again = { dir, FILE_NAME, id, asked, N };
static struct err err;

/* Five matrices of all formats and fixed bytes, one after another; the second is longer
 * than what one thread sums at once. */
static int
set_up(void **state)
{
    static const uint32_t types[N] = { GGUF_Q4_1, GGUF_F32, GGUF_Q8_0, GGUF_F16,
                                       GGUF_Q4_0 };
    static const char *const names[N] = { "blk.0.attn_q.weight", "blk.0.ffn_up.weight",
                                          "blk.1.attn_q.weight", "b", "output.weight" };
    size_t at = 0;

    (void)state;
    for (int i = 0; i < N; i++) {
        if (packed_shape(&want[i], types[i], i == 1 ? 8000 : 40, 96, NULL) != 0)
            return -1;
        got[i] = want[i];
        data_bytes += packed_bytes(&want[i]);
        matrices[i] = (struct packed_matrix){ names[i], &want[i] };
        asked[i] = (struct packed_matrix){ names[i], &got[i] };
    }
    data = mem_aligned_alloc(data_bytes, 1);
    if (!data || !mkdtemp(dir) || threads_new(&pool, 2, NULL) != 0)
        return -1;
    for (size_t i = 0; i < data_bytes; i++)
        data[i] = (uint8_t)((i * 2654435761u) >> 13);
    for (int i = 0; i < N; at += packed_bytes(&want[i]), i++)
        want[i].data = data + at;
    snprintf(path, sizeof(path), "%s/%s", dir, FILE_NAME);
    return 0;
}

static int
tear_down(void **state)
{
    (void)state;
    unlink(path);
    rmdir(dir);
    mem_free(data);
    threads_free(pool);
    return 0;
}

static void
write_good(void)
{
    if (packed_cache_write(&cache, data, pool, &err) != 0)
        fail_msg("%s", err.text);
}

/* Map it as the other side would; 0 means that all of it is there. */
static int
map(void)
{
    void *base = NULL;
    size_t bytes = 0;
    int rc;

    for (int i = 0; i < N; i++)
        got[i].data = NULL;
    err.text[0] = '\0';
    rc = packed_cache_map(&again, pool, &base, &bytes, &err);
    for (int i = 0; i < N; i++) {
        if (rc != 0)
            assert_null(got[i].data);
        else
            assert_memory_equal(got[i].data, want[i].data, packed_bytes(&want[i]));
    }
    if (rc != 0)
        assert_null(base);
    else
        munmap(base, bytes);
    return rc;
}

static void
refused(int code, const char *text)
{
    assert_int_equal(map(), code);
    if (!strstr(err.text, text) || !strstr(err.text, path))
        fail_msg("\"%s\" instead of \"%s\"", err.text, text);
}

static void
poke(off_t at, const void *bytes, size_t n)
{
    int fd = open(path, O_WRONLY);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, n, at), n);
    close(fd);
}

static void
flip(off_t at)
{
    int fd = open(path, O_RDONLY);
    uint8_t byte;

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    close(fd);
    byte ^= 0x10;
    poke(at, &byte, 1);
}

static int
n_files(void)
{
    DIR *d = opendir(dir);
    int n = 0;

    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n - 2;
}

/* ---- tests ---- */

static void
test_round_trip(void **state)
{
    struct stat st;

    (void)state;
    assert_int_equal(map(), CE_ENOTFOUND);
    write_good();
    assert_int_equal(map(), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, HEAD + data_bytes);
    assert_int_equal(st.st_mode & 022, 0);
    write_good(); /* over one that is there */
    assert_int_equal(map(), 0);
    assert_int_equal(n_files(), 1);
}

static void
test_sizes(void **state)
{
    static const long sizes[] = { 0, 1, 8, 100, 128, 700, HEAD - 1, HEAD, HEAD + 1 };

    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        write_good();
        assert_int_equal(truncate(path, sizes[i]), 0);
        refused(CE_EFORMAT, sizes[i] < HEAD ? "ends after" : "bytes instead of");
    }
    for (int off = -4096; off <= 4096; off += 4096 - 1) {
        write_good();
        assert_int_equal(truncate(path, (off_t)(HEAD + data_bytes) + off + 1), 0);
        assert_int_equal(map(), off == -1 ? 0 : CE_EFORMAT);
    }
}

static void
test_damage(void **state)
{
    const off_t end = (off_t)(HEAD + data_bytes);

    (void)state;
    for (off_t at = 0; at < end; at += at < 1000 ? 7 : end / 50) {
        write_good();
        flip(at);
        assert_int_equal(map(), CE_EFORMAT);
        flip(at);
        assert_int_equal(map(), 0);
    }
    write_good();
    flip(end - 1);
    refused(CE_EFORMAT, "damaged");
    write_good();
    poke(HEAD + (1 << 20), data, 1 << 20); /* one piece in the place of another */
    refused(CE_EFORMAT, "damaged");
    flip(2);
    refused(CE_EFORMAT, "does not hold packed weights");
    write_good();
    flip(8);
    refused(CE_EFORMAT, "of layout 18, but 2 is wanted");
    write_good();
    flip(HEAD - 1);
    refused(CE_EFORMAT, "before the data");
}

static void
test_other_model(void **state)
{
    (void)state;
    write_good();
    id[31] ^= 1;
    refused(CE_EFORMAT, "made for other weights");
    id[31] ^= 1;
    asked[3].name = "c";
    refused(CE_EFORMAT, "matrix c is not the model's");
    asked[3].name = matrices[3].name;
    again.n_matrices = N - 1;
    refused(CE_EFORMAT, "sizes are not the model's");
    again.n_matrices = N;
    asked[0].w = &got[2]; /* the same sizes in another order */
    asked[2].w = &got[0];
    refused(CE_EFORMAT, "matrix blk.0.attn_q.weight is not the model's");
    asked[0].w = &got[0];
    asked[2].w = &got[2];
    got[4].n_out--;
    refused(CE_EFORMAT, "matrix output.weight");
    got[4].n_out++;
    assert_int_equal(map(), 0);
}

static void
test_trust(void **state)
{
    (void)state;
    write_good();
    assert_int_equal(chmod(path, 0664), 0);
    refused(CE_EAUTH, "others than its owner may write");
    assert_int_equal(chmod(path, 0602), 0);
    refused(CE_EAUTH, "others than its owner may write");
    assert_int_equal(chmod(path, 0600), 0);
    assert_int_equal(map(), 0);
    if (geteuid() == 0 && chown(path, 12345, (gid_t)-1) == 0)
        refused(CE_EAUTH, "owned by user 12345");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink("elsewhere", path), 0);
    refused(CE_EIO, "");
    write_good(); /* replaces the link, not what it leads to */
    assert_int_equal(map(), 0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0); /* nobody waits for a writer */
    refused(CE_EAUTH, "not a plain file");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    refused(CE_EAUTH, "not a plain file");
    assert_int_equal(packed_cache_write(&cache, data, pool, &err), CE_EIO);
    assert_int_equal(n_files(), 1);
    assert_int_equal(rmdir(path), 0);
}

static void
test_cannot_write(void **state)
{
    struct rlimit old, small = { HEAD + 1000, HEAD + 1000 };
    struct packed_cache c = cache;

    (void)state;
    c.dir = "test_packed_cache.is.not.there";
    assert_int_equal(packed_cache_write(&c, data, pool, &err), CE_EIO);
    assert_non_null(strstr(err.text, "No such file"));
    write_good();
    c.dir = path; /* no folder */
    assert_int_equal(packed_cache_write(&c, data, pool, &err), CE_EIO);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small.rlim_max = old.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0); /* the disk is full */
    assert_int_equal(packed_cache_write(&cache, data, pool, &err), CE_EIO);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(n_files(), 1);
    assert_int_equal(map(), 0); /* the one from before */
    if (geteuid() != 0) {
        assert_int_equal(chmod(dir, 0500), 0);
        assert_int_equal(packed_cache_write(&cache, data, pool, &err), CE_EIO);
        assert_int_equal(chmod(dir, 0700), 0);
    }
}

/* Each writer in a process of its own, with a pool of its own. */
static pid_t
start_writer(void)
{
    pid_t pid = fork();
    bool good = true;

    if (pid != 0)
        return pid;
    good = threads_new(&pool, 1, NULL) == 0;
    for (int i = 0; good && i < 15; i++)
        good = packed_cache_write(&cache, data, pool, NULL) == 0;
    _exit(good ? 0 : 1);
}

static void
test_writers(void **state)
{
    int running = 3, n = 0, status;

    (void)state;
    write_good();
    for (int i = 0; i < 3; i++)
        assert_true(start_writer() > 0);
    while (running > 0) {
        assert_int_equal(map(), 0);
        n++;
        while (running > 0 && waitpid(-1, &status, WNOHANG) > 0) {
            assert_int_equal(status, 0);
            running--;
        }
    }
    print_message("%d times mapped\n", n);
    assert_int_equal(n_files(), 1);
}

static void
test_mutations(void **state)
{
    uint32_t h = 2463534242u;

    (void)state;
    write_good();
    for (int i = 0; i < 400; i++) {
        uint8_t old[16], new[16];
        size_t n, at;
        int fd = open(path, O_RDONLY);

        h = h * 1664525 + 1013904223;
        at = (h >> 8) % (128 + N * 128 + 64);
        n = 1 + (h >> 4) % sizeof(new);
        assert_int_equal(pread(fd, old, sizeof(old), (off_t)at), sizeof(old));
        close(fd);
        memcpy(new, old, sizeof(new));
        for (size_t j = 0; j < n; j++) {
            h = h * 1664525 + 1013904223;
            new[j] = i % 3 == 0 ? 0xff : (uint8_t)(h >> 24);
        }
        poke((off_t)at, new, sizeof(new));
        assert_int_equal(map(), memcmp(old, new, sizeof(new)) ? CE_EFORMAT : 0);
        poke((off_t)at, old, sizeof(old));
    }
    assert_int_equal(map(), 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_damage),     cmocka_unit_test(test_other_model),
        cmocka_unit_test(test_trust),      cmocka_unit_test(test_cannot_write),
        cmocka_unit_test(test_writers),    cmocka_unit_test(test_mutations),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
