#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# check-arm64.sh SRCDIR BUILDDIR - the NEON kernels on an emulated ARM processor.
#
# Cross-compiles the engine with the tests of its numerics (tests/arm64/Makefile) in
# BUILDDIR/build-arm64 and runs them under qemu-user, as processors with and without
# dot products and int8 matrix products. Every table is compared with scalar, the
# choice at run time is looked at, and whole models must give the bits that
# BUILDDIR/tests/backend/digest gives on this machine. Exits with 77 when the cross
# compiler or qemu is missing; on Debian: apt install gcc-aarch64-linux-gnu
# libc6-dev-arm64-cross qemu-user.
#
#   ARM64_JOBS=N   run N programs at a time (as many as there are cores)
set -u
[ $# -eq 2 ] || { sed -n '3s/^# \([^-]*\) -.*/usage: \1/p' "$0" >&2; exit 2; }
src=$(cd "$1" && pwd) && build=$(cd "$2" && pwd) || exit 2
jobs=${ARM64_JOBS:-$(nproc)}
prefix=${ARM64_PREFIX:-aarch64-linux-gnu-}

qemu=$(command -v qemu-aarch64 || command -v qemu-aarch64-static)
if [ -z "$qemu" ] || ! command -v "${prefix}gcc" >/dev/null; then
    echo "check-arm64: skipped: needs ${prefix}gcc and qemu-aarch64 (on Debian: apt install" \
        'gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)'
    exit 77
fi
[ -x "$build/tests/backend/digest" ] || {
    echo "check-arm64: $build/tests/backend/digest is not built" >&2
    exit 1
}
mkdir -p "$build/build-arm64" && cd "$build/build-arm64" || exit 1
make -s --no-print-directory -j "$jobs" -f "$src/tests/arm64/Makefile" SRC="$src" CC="${prefix}gcc" \
    AR="${prefix}ar" || exit 1

# Name of a run, kind of processor, tests wanted (- for all), program and arguments.
# The suite of backends and every number of threads are left to native tests: under
# emulation they take minutes, and digests of whole models say the same.
cat >runs <<'END'
tables              max         - test_tables
reference           max         - test_reference
mathfn              max         - test_mathfn
half                max         - test_half
quant               max         - test_quant
threads             max         - test_threads
kv-cache            max         - test_kv_cache
backend             max         test_plain,test_not_finite,test_options test_backend_cpu
digest-scalar       max         - digest scalar
digest-neon         cortex-a53  - digest auto 1
digest-neon-dotprod neoverse-n1 - digest auto 2
digest-neon-i8mm    max         - digest auto 3
refused-neon-i8mm   neoverse-n1 - digest neon-i8mm
END
rm -f ./*.out ./*.err ./*.status
xargs -P "$jobs" -L 1 sh -c 'qemu=$0 name=$1 cpu=$2 only=$3 program=$4
    shift 4
    [ "$only" = - ] || export ONLY_TESTS="$only"
    timeout 600 "$qemu" -cpu "$cpu" "./$program" "$@" >"$name.out" 2>"$name.err"
    echo $? >"$name.status"' "$qemu" <runs
"$build/tests/backend/digest" >native.digest 2>native.err || exit 1

failed=0
verdict() # name, status
{
    if [ "$2" -eq 0 ]; then
        echo "PASS: arm64 $1"
    else
        echo "FAIL: arm64 $1"
        failed=1
        tail -n 20 "$1.out" "$1.err" 2>/dev/null | sed 's/^/    /'
    fi
}

while read -r name cpu only program arguments; do
    status=$(cat "$name.status")
    case $name in
    digest-*) # the same bits as here, by the kernels that this processor is to choose
        [ "$status" -ne 0 ] || { cmp "$name.out" native.digest >>"$name.err" 2>&1 &&
            grep -qx "computed by cpu/${name#digest-}" "$name.err"; } || status=1
        ;;
    refused-*)
        if [ "$status" -eq 1 ] && grep -q 'lacks i8mm$' "$name.err"; then status=0; else status=1; fi
        ;;
    esac
    verdict "$name" "$status"
done <runs
for table in scalar neon neon-dotprod neon-i8mm; do
    grep -qx "comparing $table" tables.out
    verdict "table $table is there" $?
done
sed 's/^computed by cpu/the same bits as on this machine, cpu/' native.err
exit $failed
