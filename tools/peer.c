/* SPDX-License-Identifier: Apache-2.0
 * peer.c - run llama.cpp's programs; see peer.h.
 *
 * The same work as cases.c: a prompt of 512; 128 tokens from an empty cache; batches
 * of sequences with prompts of 128 that decode 32 tokens each.
 *
 * The requantised file has no name: it is unlinked as soon as it is made, and the
 * programs reach it through our descriptor in /proc. So it is gone when we are, however
 * we end.
 */
#include "tools/peer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/program.h"

#define PATH_TEXT 4096

/* A number as an argument. */
struct number {
    char text[16];
};

static struct number
number(int n)
{
    struct number a;

    snprintf(a.text, sizeof(a.text), "%d", n);
    return a;
}

static int
program_path(char out[PATH_TEXT], const char *dir, const char *name, struct err *err)
{
    int n = snprintf(out, PATH_TEXT, "%s/%s", dir, name);

    if (n < 0 || n >= PATH_TEXT)
        return err_set(err, CE_EINVAL, "the path of %s is too long", name);
    if (!program_exists(out))
        return err_set(err, CE_ENOTFOUND, "%s: %s", out, strerror(errno));
    return 0;
}

int
peer_check(const char *dir, struct err *err)
{
    char path[PATH_TEXT];
    int rc = program_path(path, dir, "llama-bench", err);

    return rc != 0 ? rc : program_path(path, dir, "llama-batched-bench", err);
}

bool
peer_can_quantise(const char *dir)
{
    char path[PATH_TEXT];

    return program_path(path, dir, "llama-quantize", NULL) == 0;
}

static int
run_program(struct peer *p, char *const argv[],
            int (*reader)(struct peer *, const char *, struct err *), struct err *err)
{
    char *text;
    int rc = program_capture(argv, &text, err);

    if (rc == 0)
        rc = reader(p, text, err);
    free(text);
    return rc;
}

int
peer_run(struct peer *out, const char *dir, const char *model, int n_threads, int repeats,
         struct err *err)
{
    struct number threads = number(n_threads), times = number(repeats);
    char bench[PATH_TEXT], batched[PATH_TEXT], *file = (char *)(uintptr_t)model;
    char *bench_argv[] = { bench, "-m",  file, "-t",       threads.text, "-p",   "512",
                           "-n",  "128", "-r", times.text, "-o",         "json", NULL };
    char *batched_argv[] = { batched,
                             "-m",
                             file,
                             "-t",
                             threads.text,
                             "-c",
                             "16384",
                             "-npp",
                             "128",
                             "-ntg",
                             "32",
                             "-npl",
                             "2,4,8,16,32,64",
                             "--output-format",
                             "jsonl",
                             NULL };
    int rc;

    *out = (struct peer){ 0 };
    if ((rc = program_path(bench, dir, "llama-bench", err)) ||
        (rc = program_path(batched, dir, "llama-batched-bench", err)) ||
        (rc = run_program(out, bench_argv, peer_read_bench, err)))
        return rc;
    return run_program(out, batched_argv, peer_read_batched, err);
}

/* ---- in its best format ---- */

/* An empty file without a name, that only its owner may open. */
static int
open_temporary(int *fd, struct err *err)
{
    const char *dir = getenv("TMPDIR");
    char path[PATH_TEXT];
    int n;

    if (!dir || dir[0] == '\0')
        dir = "/tmp";
    n = snprintf(path, sizeof(path), "%s/cecollm-bench-XXXXXX", dir);
    if (n < 0 || n >= PATH_TEXT)
        return err_set(err, CE_EINVAL, "TMPDIR is too long");
    *fd = mkostemp(path, O_CLOEXEC);
    if (*fd < 0)
        return err_set(err, CE_EIO, "a temporary file in %s: %s", dir, strerror(errno));
    unlink(path);
    return 0;
}

static int
quantise(const char *dir, const char *model, char *to, int n_threads, struct err *err)
{
    struct number threads = number(n_threads);
    char path[PATH_TEXT];
    char *argv[] = {
        path, "--allow-requantize", (char *)(uintptr_t)model, to, "Q4_0", threads.text,
        NULL
    };
    int rc = program_path(path, dir, "llama-quantize", err);

    return rc != 0 ? rc : program_capture(argv, NULL, err);
}

int
peer_run_q4_0(struct peer *out, const char *dir, const char *model, int n_threads,
              int repeats, struct err *err)
{
    char path[64];
    int fd, rc = open_temporary(&fd, err);

    *out = (struct peer){ 0 };
    if (rc != 0)
        return rc;
    snprintf(path, sizeof(path), "/proc/%ld/fd/%d", (long)getpid(), fd);
    rc = quantise(dir, model, path, n_threads, err);
    if (rc == 0)
        rc = peer_run(out, dir, path, n_threads, repeats, err);
    close(fd);
    return rc;
}
