/* SPDX-License-Identifier: Apache-2.0
 * peer.c - see peer.h.
 *
 * The same work as cases.c: a prompt of 512; 128 tokens from an empty cache; batches
 * of sequences with prompts of 128 that decode 32 tokens each. Programs are run by
 * path with an argument list, never through a shell.
 */
#include "tools/peer.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/median.h"

#define MAX_OUTPUT  ((size_t)1 << 20)
#define MAX_SAMPLES 64

extern char **environ;

/* ---- figures ---- */

static void
add_figure(struct peer *p, const char *kind, int n, double tokens_per_second)
{
    struct peer_figure *f = &p->figures[p->n_figures];

    if (p->n_figures == PEER_MAX_FIGURES)
        return;
    snprintf(f->name, sizeof(f->name), "%s_%d", kind, n);
    f->tokens_per_second = tokens_per_second;
    if (peer_find(p, f->name) == 0)
        p->n_figures++;
}

double
peer_find(const struct peer *p, const char *name)
{
    for (int i = 0; i < p->n_figures; i++) {
        if (strcmp(p->figures[i].name, name) == 0)
            return p->figures[i].tokens_per_second;
    }
    return 0;
}

static double
median_of(const json_t *samples)
{
    double v[MAX_SAMPLES];
    size_t n = json_array_size(samples);

    if (n > MAX_SAMPLES)
        n = MAX_SAMPLES;
    for (size_t i = 0; i < n; i++)
        v[i] = json_number_value(json_array_get(samples, i));
    return median(v, n);
}

int
peer_read_bench(struct peer *p, const char *text, struct err *err)
{
    json_error_t at;
    json_t *all = json_loads(text, 0, &at), *test;
    int before = p->n_figures;
    size_t i;

    json_array_foreach(all, i, test)
    {
        json_int_t n_prompt = json_integer_value(json_object_get(test, "n_prompt"));
        json_int_t n_gen = json_integer_value(json_object_get(test, "n_gen"));
        double speed = median_of(json_object_get(test, "samples_ts"));
        const char *commit = json_string_value(json_object_get(test, "build_commit"));

        if (commit)
            snprintf(p->build, sizeof(p->build), "llama.cpp %.40s", commit);
        if (n_prompt > 0 && n_gen == 0 && speed > 0)
            add_figure(p, "prefill", (int)n_prompt, speed);
        if (n_prompt == 0 && n_gen > 0 && speed > 0)
            add_figure(p, "decode", 1, speed);
    }
    json_decref(all);
    if (p->n_figures == before)
        return err_set(err, CE_EFORMAT, "no figures in llama-bench's output");
    return 0;
}

int
peer_read_batched(struct peer *p, const char *text, struct err *err)
{
    int before = p->n_figures;

    while (*text != '\0') {
        size_t len = strcspn(text, "\n");
        json_t *line = json_loadb(text, len, 0, NULL); /* other lines are chatter */
        json_int_t n = json_integer_value(json_object_get(line, "pl"));
        double speed = json_number_value(json_object_get(line, "speed_tg"));

        if (n > 1 && n < 1000 && speed > 0)
            add_figure(p, "decode", (int)n, speed);
        json_decref(line);
        text += len + (text[len] == '\n');
    }
    if (p->n_figures == before)
        return err_set(err, CE_EFORMAT, "no figures in llama-batched-bench's output");
    return 0;
}

/* ---- running a program ---- */

/* Everything that comes out of fd, NUL-terminated; NULL when memory ends. What is
 * over the limit is read and dropped, so that the writer does not hang. */
static char *
read_all(int fd)
{
    char *text = malloc(MAX_OUTPUT + 1), drop[4096];
    size_t n = 0;

    for (;;) {
        size_t room = text ? MAX_OUTPUT - n : 0;
        ssize_t got = room > 0 ? read(fd, text + n, room) : read(fd, drop, sizeof(drop));

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        n += room > 0 ? (size_t)got : 0;
    }
    if (text)
        text[n] = '\0';
    return text;
}

static int
spawn(pid_t *pid, const char *path, char *const argv[], int out, int close_too)
{
    posix_spawn_file_actions_t actions;
    int rc;

    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addclose(&actions, out);
    posix_spawn_file_actions_addclose(&actions, close_too);
    rc = posix_spawn(pid, path, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    return rc;
}

/* Run argv[0] and give what it prints, allocated. */
static int
capture(char *const argv[], char **text, struct err *err)
{
    int fds[2], status = 0, rc;
    pid_t pid;

    *text = NULL;
    if (pipe2(fds, O_CLOEXEC) != 0)
        return err_set(err, CE_EIO, "pipe: %s", strerror(errno));
    rc = spawn(&pid, argv[0], argv, fds[1], fds[0]);
    close(fds[1]);
    if (rc != 0) {
        close(fds[0]);
        return err_set(err, rc == ENOENT ? CE_ENOTFOUND : CE_EIO, "%s: %s", argv[0],
                       strerror(rc));
    }
    *text = read_all(fds[0]);
    close(fds[0]);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (!*text)
        return err_set(err, CE_ENOMEM, "no memory for the output of %s", argv[0]);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        free(*text);
        *text = NULL;
        return err_set(err, CE_EIO, "%s failed (status %d)", argv[0], status);
    }
    return 0;
}

static int
run_program(struct peer *p, char *const argv[],
            int (*reader)(struct peer *, const char *, struct err *), struct err *err)
{
    char *text;
    int rc = capture(argv, &text, err);

    if (rc == 0)
        rc = reader(p, text, err);
    free(text);
    return rc;
}

int
peer_run(struct peer *out, const char *dir, const char *model, int n_threads, int repeats,
         struct err *err)
{
    char bench[4096], batched[4096], file[4096], threads[16], times[16];
    char *bench_argv[] = { bench, "-m",  file, "-t",  threads, "-p",   "512",
                           "-n",  "128", "-r", times, "-o",    "json", NULL };
    char *batched_argv[] = {
        batched, "-m",  file,   "-t", threads, "-c",          "8192",
        "-npp",  "128", "-ntg", "32", "-npl",  "2,4,8,16,32", "--output-format",
        "jsonl", NULL
    };
    int rc;

    *out = (struct peer){ 0 };
    snprintf(bench, sizeof(bench), "%s/llama-bench", dir);
    snprintf(batched, sizeof(batched), "%s/llama-batched-bench", dir);
    snprintf(file, sizeof(file), "%s", model);
    snprintf(threads, sizeof(threads), "%d", n_threads);
    snprintf(times, sizeof(times), "%d", repeats);
    if ((rc = run_program(out, bench_argv, peer_read_bench, err)))
        return rc;
    return run_program(out, batched_argv, peer_read_batched, err);
}
