# SPDX-License-Identifier: Apache-2.0
# check.sh - one case of a test script, which sources this: a command that must end well.
# The script has a folder $dir, prints its own plan if it wants one, and ends with $failed.
n=0
failed=0

check() # what it is, command...
{
    what=$1
    shift
    n=$((n + 1))
    if "$@" >"$dir/checked" 2>&1; then
        echo "ok $n - $what"
    else
        echo "not ok $n - $what"
        sed 's/^/# /' "$dir/checked"
        failed=1
    fi
}
