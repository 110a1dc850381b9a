#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# lint.sh SRCDIR PREPROCESSOR-FLAGS... - clang-tidy, cppcheck and the tree's
# rules over every C file of the product (tests are read by the compiler and by
# sanitizers: analysers do not know that a failing assertion of cmocka leaves the
# function). Findings fail the run; so does a tool that is missing.
srcdir=$1
shift
failed=0

need() # tool, Debian package
{
    [ "$1" != : ] && return 0
    echo "lint: $2 is not installed (apt install $2, then configure)" >&2
    failed=1
    return 1
}

# The flags of the build for one file, then clang-tidy. Called by xargs.
tidy='f=$1; shift
    case $f in
    */kernels_avx2*) set -- "$@" -mavx2 -mfma -mf16c ;;
    */kernels_avxvnni*) set -- "$@" -mavx2 -mfma -mf16c -mavxvnni ;;
    */kernels_avx512*) set -- "$@" -mavx512f -mavx512bw -mavx512vl -mavx512dq \
        -mavx512vnni -mfma -mf16c ;;
    esac
    exec "$CLANG_TIDY" --quiet "$f" -- -std=gnu11 "$@" 2>/dev/null'

cd "$srcdir" || exit 1
files=$(find common engine server agent tools bench -name '*.c' | grep -v '_neon' | sort)

if need "$CLANG_TIDY" clang-tidy; then
    for f in $files; do echo "$f"; done |
        CLANG_TIDY=$CLANG_TIDY xargs -P 2 -I FILE sh -c "$tidy" tidy FILE "$@" || failed=1
fi
if need "$CPPCHECK" cppcheck; then
    # NULL for a struct err is documented, so not a finding
    "$CPPCHECK" --quiet --std=c11 --error-exitcode=1 --inline-suppr -j 2 -I. \
        --enable=warning,portability --suppress=missingIncludeSystem \
        --suppress=ctunullpointer $files || failed=1
fi
sh build-aux/check-includes.sh || failed=1
sh build-aux/check-length.sh || failed=1
exit $failed
