#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# bench_kernels.sh - every kernel that engine/kernels.h names is timed, for the table
# that was asked for.
bench=${CECOLLM_BUILDDIR:-.}/bench/bench_kernels
dir=$(mktemp -d) || exit 99
trap 'rm -rf "$dir"' EXIT
. "${CECOLLM_SRCDIR:-.}/tests/run/check.sh"

fails_with() # status, command...
{
    want=$1
    shift
    "$@"
    [ $? -eq "$want" ]
}

check 'runs' sh -c '"$1" auto 0.001 >"$2"' sh "$bench" "$dir/out"
for kernel in $(sed -n 's/^    [a-z_]* (\*\([a-z_]*\)[^a-z_].*/\1/p' \
    "${CECOLLM_SRCDIR:-.}/engine/kernels.h"); do
    check "times $kernel" grep -E "^[a-z0-9-]+ +$kernel .* (GB/s|GMAC/s)" "$dir/out"
done
check 'found the kernels in the header' [ $n -ge 11 ]
check 'refuses unknown kernels' fails_with 1 "$bench" z80
check 'refuses a wrong command line' fails_with 2 "$bench" auto soon
echo "1..$n"
exit $failed
