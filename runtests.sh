#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# runtests.sh [STAGE...] - set up what is missing, then run the whole test suite.
#
# Stages, in this order when none is named:
#   check      the suite, with the real model where it can be had
#   asan       the suite without the real model, under the address and
#              undefined-behaviour sanitizers (build-asan/)
#   arm64      the engine for ARM under qemu, its bits compared with this machine's
#   fuzz       each fuzz target for FUZZ_SECONDS (20) with clang (build-fuzz/)
#   style      formatting, lint, manual pages
#   dist       make distcheck: the tarball builds, passes, installs, cleans up
#   coverage   lines that the suite runs (build-coverage/)
#
# The last line counts test cases, not programs. Exits with 1 when one failed.
set -u
cd "$(dirname "$0")" || exit 1
. build-aux/setup.sh

all_stages='check asan arm64 fuzz style dist coverage'
for s in "$@"; do
    case " $all_stages " in
    *" $s "*) ;;
    *)
        echo "usage: sh runtests.sh [$(echo "$all_stages" | tr ' ' '|')]..." >&2
        exit 2
        ;;
    esac
done

passed=0
failed=0
skipped=0
jobs=$(nproc)
export MAKEFLAGS=--no-print-directory
logs=build/runtests
ended=no
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' HUP TERM

# The last line is always the sum; a step that stops everything is one failure.
finish()
{
    setup_cleanup
    [ $ended = yes ] || failed=$((failed + 1))
    echo "$passed passed, $failed failed, $skipped skipped"
}

heading() # text
{
    if [ -t 1 ]; then printf '\n\033[1m== %s\033[m\n' "$1"; else printf '\n== %s\n' "$1"; fi
}

one() # what it is, status: a stage's part that counts as one case
{
    case $2 in
    0)
        passed=$((passed + 1))
        echo "PASS: $1"
        ;;
    77)
        skipped=$((skipped + 1))
        echo "SKIP: $1"
        ;;
    *)
        failed=$((failed + 1))
        echo "FAIL: $1"
        ;;
    esac
}

# The same, for a command whose output is of interest only when it fails.
one_try() # what it is, command...
{
    what=$1
    shift
    setup_log=$logs/$(echo "$what" | tr -c 'A-Za-z0-9.\n' '-').log
    setup_try "$what" "$@"
    status=$?
    one "$what" $status
    [ $status -eq 0 ] || [ $status -eq 77 ] || tail -n 60 "$setup_log" | sed 's/^/    /'
    return $status
}

cases() # file.trs: prints "passed failed skipped"
{
    awk -v result="$(sed -n 's/^:test-result: *\([A-Z]*\).*/\1/p' "$1" | head -n 1)" \
        -f build-aux/test-cases.awk "${1%.trs}.log"
}

# Add the cases of every program that a folder's suite ran; show the end of the
# log of those that failed.
add_cases() # folder, count skipped cases (yes|no)
{
    for trs in $(find "$1" -name build-coverage -prune -o -name '*.trs' -print | sort); do
        programs=$((programs + 1))
        read -r p f s <<END
$(cases "$trs")
END
        passed=$((passed + p))
        failed=$((failed + f))
        [ "$2" = no ] || skipped=$((skipped + s))
        [ "$f" -eq 0 ] || {
            printf -- '---- %s\n' "${trs%.trs}.log"
            tail -n 60 "${trs%.trs}.log" | sed 's/^/    /'
        }
    done
}

# make check in a folder, with a line for each program as it ends.
suite() # folder, count skipped cases (yes|no), minutes at most
{
    find "$1" -name build-coverage -prune -o -name '*.trs' -exec rm -f {} +
    setup_log=$logs/suite-$1.log
    if ! setup_try "Building the tests in $1" make -C "$1" -k -j "$jobs" check TESTS=; then
        tail -n 40 "$setup_log" | sed 's/^/    /'
        one "the tests in $1 build" 1
    fi
    {
        CMOCKA_MESSAGE_OUTPUT=TAP timeout --foreground "$(($3 * 60))" make -C "$1" -k check 2>&1
        echo "suite: status $?"
    } </dev/null | tee "$setup_log" | sed -n -u -E '/^(PASS|FAIL|SKIP|XFAIL|XPASS|ERROR): /p'
    failed_before=$failed
    programs=0
    add_cases "$1" "$2"
    # Whatever went wrong outside the programs counts too.
    if [ $failed -eq "$failed_before" ] &&
        { [ $programs -eq 0 ] || ! grep -q '^suite: status 0$' "$setup_log"; }; then
        tail -n 40 "$setup_log" | sed 's/^/    /'
        one "make check in $1 ends well, within $3 minutes" 1
    fi
}

# The suites after the first one leave out what takes the real model long.
hide_model()
{
    model=${CECOLLM_MODEL-}
    data=${CECOLLM_DATA-}
    export CECOLLM_MODEL=/nonexistent CECOLLM_DATA=/nonexistent
}

show_model()
{
    unset CECOLLM_MODEL CECOLLM_DATA
    [ -z "$model" ] || export CECOLLM_MODEL="$model"
    [ -z "$data" ] || export CECOLLM_DATA="$data"
}

stage_check()
{
    suite build yes 20
}

stage_asan()
{
    setup_log=$logs/build-asan.log
    setup_build build-asan --enable-sanitizers=address,undefined
    hide_model
    suite build-asan no 30
    show_model
}

# Each program of the stage is a case; without the cross compiler it is one skipped.
stage_arm64()
{
    setup_log=$logs/arm64.log
    make -C build tests/backend/digest >"$setup_log" 2>&1
    setup_try 'The engine on an emulated ARM processor' sh build-aux/check-arm64.sh . build
    status=$?
    [ $status -ne 77 ] || { one 'arm64 (needs gcc-aarch64-linux-gnu, libc6-dev-arm64-cross, qemu-user)' 77; return; }
    grep -E '^(PASS|FAIL): ' "$setup_log"
    passed=$((passed + $(grep -c '^PASS: ' "$setup_log")))
    failed_here=$(grep -c '^FAIL: ' "$setup_log")
    failed=$((failed + failed_here))
    [ $status -eq 0 ] && return
    [ "$failed_here" -gt 0 ] || one 'arm64 builds and ends well' 1
    tail -n 60 "$setup_log" | sed 's/^/    /'
}

stage_fuzz()
{
    command -v clang >/dev/null || { one 'fuzzing (needs clang)' 77; return; }
    setup_log=$logs/build-fuzz.log
    setup_prepare build-fuzz CC=clang --enable-fuzzing
    one_try 'fuzz targets build' make -C build-fuzz -j "$jobs" fuzz-targets || return
    for target in build-fuzz/tests/fuzz/fuzz_*; do
        [ -f "$target" ] && [ -x "$target" ] || continue
        name=${target##*/fuzz_}
        found=build-fuzz/found/$name
        mkdir -p "$found"
        one_try "fuzz $name, ${FUZZ_SECONDS:-20} s" "$target" -timeout=10 -rss_limit_mb=2048 \
            "-max_total_time=${FUZZ_SECONDS:-20}" "-artifact_prefix=$found-" \
            "$found" "tests/fuzz/corpus/$name"
    done
}

stage_style()
{
    one_try 'formatting' make -C build format-check
    one_try 'lint' make -C build lint
    for page in man/*.[1-8]; do
        [ -f "$page" ] || continue
        if command -v mandoc >/dev/null; then
            one_try "$page" mandoc -T lint -W warning "$page"
        else
            one "$page (needs mandoc)" 77
        fi
    done
}

stage_dist()
{
    hide_model
    one_try 'distcheck' timeout --foreground 1200 make -C build -j "$jobs" distcheck
    show_model
}

stage_coverage()
{
    hide_model # counting makes it slow, and the rest covers the lines
    one_try 'coverage' timeout --foreground 1800 make -C build coverage
    show_model
    grep 'the bar is' "$setup_log"
}

began=$(date +%s)
setup_packages test
setup_build build
setup_python
setup_model
setup_certs
mkdir -p "$logs"
for stage in ${*:-$all_stages}; do
    stage_began=$(date +%s)
    heading "$stage"
    "stage_$stage"
    echo "$stage took $(($(date +%s) - stage_began)) s"
done

heading "$(($(date +%s) - began)) s in all"
ended=yes
[ $failed -eq 0 ]
