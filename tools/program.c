/* SPDX-License-Identifier: Apache-2.0
 * program.c - see program.h.
 */
#include "tools/program.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_OUTPUT ((size_t)1 << 20)

extern char **environ;

bool
program_exists(const char *path)
{
    return access(path, X_OK) == 0;
}

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

/* What became of the program: its status as people count it. */
static int
wait_for(pid_t pid, const char *name, struct err *err)
{
    int status = 0;

    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (WIFSIGNALED(status))
        return err_set(err, CE_EIO, "%s failed (signal %d)", name, WTERMSIG(status));
    if (WEXITSTATUS(status) != 0)
        return err_set(err, CE_EIO, "%s failed (status %d)", name, WEXITSTATUS(status));
    return 0;
}

int
program_capture(char *const argv[], char **text, struct err *err)
{
    int fds[2], rc;
    char *output;
    pid_t pid;

    if (text)
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
    output = read_all(fds[0]);
    close(fds[0]);
    rc = wait_for(pid, argv[0], err);
    if (rc == 0 && text && !output)
        rc = err_set(err, CE_ENOMEM, "no memory for the output of %s", argv[0]);
    if (rc != 0 || !text) {
        free(output);
        return rc;
    }
    *text = output;
    return 0;
}
