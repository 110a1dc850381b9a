#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# suite_parts.sh - the parts of quickstart.sh and runtests.sh that can be tried
# without a machine to set up: counting cases, finding packages, judging a model.
cd "${CECOLLM_SRCDIR:-.}" || exit 99
tmp=$(mktemp -d) || exit 99
trap 'rm -rf "$tmp"' EXIT
n=0
failed=0

is() # what it is, expected, got
{
    n=$((n + 1))
    if [ "$2" = "$3" ]; then
        echo "ok $n - $1"
    else
        printf 'not ok %d - %s\n# expected "%s", got "%s"\n' $n "$1" "$2" "$3"
        failed=1
    fi
}

count() # result; log on standard input
{
    awk -v result="$1" -f build-aux/test-cases.awk
}

is 'TAP' '2 1 1' "$(printf '1..4\nok 1 - a\nnot ok 2 - b\nnot ok 3 # SKIP c\nok 4 - d\n' | count FAIL)"
is 'a crash after two cases' '2 1 0' "$(printf 'ok 1 - a\nok 2 - b\n' | count FAIL)"
is 'unittest, all well' '5 0 0' "$(printf 'Ran 5 tests in 0.1s\n\nOK\n' | count PASS)"
is 'unittest, some skipped' '3 0 2' "$(printf 'Ran 5 tests in 0.1s\n\nOK (skipped=2)\n' | count PASS)"
is 'unittest, some failed' '1 3 1' \
    "$(printf 'Ran 5 tests in 9s\n\nFAILED (failures=1, errors=2, skipped=1)\n' | count FAIL)"
is 'silence that passed' '1 0 0' "$(echo fine | count PASS)"
is 'silence that failed' '0 1 0' "$(echo bad | count ERROR)"
is 'silence that skipped' '0 0 1' "$(echo no model | count SKIP)"
is 'an empty log' '0 1 0' "$(count FAIL </dev/null)"

. build-aux/setup.sh
setup_log=$tmp/log
if command -v dpkg-query >/dev/null; then
    is 'a package that is there' '' "$(setup_missing dpkg)"
    is 'a package that is not' 'no-such-package ' "$(setup_missing dpkg no-such-package)"
fi
echo 'not a model' >"$tmp/model"
setup_model_is_right "$tmp/model"
is 'another file is not the model' 1 $?
setup_model_is_right "$tmp/none"
is 'no file is not the model' 1 $?
is 'a model named by hand is taken' "$tmp/model" \
    "$(CECOLLM_MODEL=$tmp/model; setup_model; echo "$setup_model_file")"
is 'a model that is not there is refused' 1 "$( (CECOLLM_MODEL=$tmp/none; setup_model) 2>"$tmp/err"; echo $?)"
is 'with one line' 1 "$(grep -c 'cannot read' "$tmp/err")"
is 'a quick step says nothing' '' "$(setup_step 'A quick step' true 2>&1)"
is 'a failed step says why' 1 "$( (setup_step 'A bad step' sh -c 'echo because; exit 3') 2>&1 | grep -c '^    because')"
is 'and ends' 1 "$( (setup_step 'A bad step' false) >"$tmp/out" 2>&1; echo $?)"
is 'quick steps do not wait for their progress line' 200 "$(
    trap 'exit 143' TERM
    i=0
    while [ $i -lt 200 ]; do setup_try quick true && i=$((i + 1)); done
    echo $i)"
exit $failed
