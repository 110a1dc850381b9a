#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# lint.sh SRCDIR PREPROCESSOR-FLAGS... - clang-tidy, cppcheck and the tree's
# rules over every C file. Each tool's findings fail the run; a tool that is
# not installed is named and fails it too, so that silence means "clean".
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

isa_flags() # file: what the compiler gets in the build
{
    case $1 in
    *_avx2.c) echo "-mavx2 -mfma -mf16c" ;;
    *_avx512.c) echo "-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mfma -mf16c" ;;
    esac
}

files=$(cd "$srcdir" && find common engine server agent tools bench tests -name '*.c' |
    grep -v '_neon\.c$' | sort)

if need "$CLANG_TIDY" clang-tidy; then
    for f in $files; do
        "$CLANG_TIDY" --quiet "$srcdir/$f" -- -std=gnu11 "$@" $(isa_flags "$f") \
            2>/dev/null || failed=1
    done
fi
if need "$CPPCHECK" cppcheck; then
    (cd "$srcdir" && "$CPPCHECK" --quiet --std=c11 --error-exitcode=1 --inline-suppr \
        --enable=warning,portability --suppress=missingIncludeSystem -I. $files) || failed=1
fi
sh "$srcdir/build-aux/check-includes.sh" || failed=1
sh "$srcdir/build-aux/check-length.sh" || failed=1
exit $failed
