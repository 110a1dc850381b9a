/* SPDX-License-Identifier: Apache-2.0
 * privileges.c - see privileges.h.
 *
 * Order when dropping: groups while we may, then the user for good (real, effective
 * and saved at once); then a try to come back, which must fail.
 */
#include "server/privileges.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/log.h"

struct identity {
    uid_t uid;
    gid_t gid;
};

static int
look_up(const char *user, const char *group, struct identity *out, struct err *err)
{
    const struct passwd *pw;
    const struct group *gr;

    errno = 0;
    pw = getpwnam(user);
    if (!pw)
        return err_set(err, CE_EINVAL, "user = %s: %s", user,
                       errno ? strerror(errno) : "there is no such user");
    out->uid = pw->pw_uid;
    out->gid = pw->pw_gid;
    if (!group[0])
        return 0;
    errno = 0;
    gr = getgrnam(group);
    if (!gr)
        return err_set(err, CE_EINVAL, "group = %s: %s", group,
                       errno ? strerror(errno) : "there is no such group");
    out->gid = gr->gr_gid;
    return 0;
}

int
privileges_check(const char *user, const char *group, struct err *err)
{
    struct identity who;

    if (!user[0])
        return group[0] ? err_set(err, CE_EINVAL, "group = %s: without user", group) : 0;
    return look_up(user, group, &who, err);
}

static int
become(const char *user, const struct identity *who, struct err *err)
{
    if (setgroups(1, &who->gid) < 0 || setresgid(who->gid, who->gid, who->gid) < 0 ||
        setresuid(who->uid, who->uid, who->uid) < 0)
        return err_set(err, CE_EIO, "user = %s: %s", user, strerror(errno));
    if (who->uid != 0 && (setuid(0) == 0 || seteuid(0) == 0))
        return err_set(err, CE_EINTERNAL, "user = %s: root's rights came back", user);
    return 0;
}

int
privileges_drop(const char *user, const char *group, struct err *err)
{
    struct identity who;
    int rc = privileges_check(user, group, err);

    if (rc < 0)
        return rc;
    if (!user[0]) {
        if (geteuid() == 0)
            log_warn("running as root; set user to become somebody else");
        return 0;
    }
    rc = look_up(user, group, &who, err);
    if (rc < 0)
        return rc;
    if (geteuid() == 0)
        rc = become(user, &who, err);
    else if (geteuid() != who.uid)
        rc =
            err_set(err, CE_EINVAL, "user = %s: only root can become another user", user);
    if (rc == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        log_warn("no_new_privs: %s", strerror(errno));
    return rc;
}

void
privileges_core_dumps(bool allowed)
{
    /* Changing the user cleared it, so yes must be said too. */
    if (prctl(PR_SET_DUMPABLE, allowed ? 1 : 0, 0, 0, 0) < 0)
        log_warn("core_dumps: %s", strerror(errno));
}

int64_t
privileges_open_files(int64_t wanted)
{
    struct rlimit limit, more;
    rlim_t want = (rlim_t)wanted;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return wanted; /* nobody knows; accept says it when it is too little */
    if (limit.rlim_cur >= want)
        return (int64_t)(limit.rlim_cur < INT64_MAX ? limit.rlim_cur : INT64_MAX);
    more.rlim_cur = want;
    more.rlim_max = limit.rlim_max < want ? want : limit.rlim_max; /* root may */
    if (setrlimit(RLIMIT_NOFILE, &more) == 0)
        return wanted;
    more = limit;
    more.rlim_cur = limit.rlim_max;
    return (int64_t)(setrlimit(RLIMIT_NOFILE, &more) == 0 ? limit.rlim_max
                                                          : limit.rlim_cur);
}
